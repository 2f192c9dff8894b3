"""The run feed in both formats, compared with the recorded one; the retrieve route; the rate limit."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tailrace.model import Wire
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.feed import FeedAnswer, array_literal, feed_request, row_value
from tailrace.serve.native import NativeFeed
from tailrace.serve.retrieve import run_body
from tailrace.serve.runs import Run
from tailrace.serve.statuses import CURRENT_API_VERSION, api_flags, api_status
from tailrace.serve.timing import Timing
from tests.unit.serve.virtual_time import now_s, run_virtually
from tests.upstream.live import LiveStore
from tests.wirecases import load_steps

MODERN = {"x-trigger-electric-version": "1.0.0-beta.1", "x-trigger-api-version": CURRENT_API_VERSION}
EPOCH = datetime.fromtimestamp(0, UTC)
CREATED_MS = 1795325491766
OF_THE_CONNECTION = {"Date", "Connection", "Keep-Alive", "Transfer-Encoding"}

Feed = NativeFeed | ElectricFeed


class Clock:
    now_ms = CREATED_MS

    def __call__(self) -> int:
        return self.now_ms


def recorded_run() -> tuple[LiveStore, Clock]:
    clock = Clock()
    store = LiveStore(now_ms=clock)
    store.create_run("run_rf1795325489", Wire.V1, row_id="cm000001")
    return store, clock


async def ask(feed: Feed, store: LiveStore, query: str, headers: dict[str, str] = MODERN) -> FeedAnswer:
    run = await store.run("run_rf1795325489")
    assert run is not None
    return await feed.answer(run, feed_request(dict(parse_qsl(query)), headers))


def assert_recorded(answer: FeedAnswer, step: dict[str, Any]) -> None:
    """Equal but for the second half of the offset and the cursor, which count answers."""
    expected = {name: value for name, value in step["headers"] if name not in OF_THE_CONNECTION}
    shown = dict(answer.headers)
    for headers in (expected, shown):
        headers.pop("electric-cursor", None)
        for name in ("electric-offset", "electric-chunk-last-offset"):
            if name in headers:
                headers[name] = headers[name].split("_")[0]
    assert (answer.status, answer.body.decode()) == (step["status"], step["body"])
    assert shown == expected


def test_the_native_feed_is_the_recorded_one() -> None:
    first, woken, timed_out, ended, legacy = load_steps("run_feed_native")["steps"]
    store, clock = recorded_run()
    feed = NativeFeed(store, Timing(), random.Random(1))

    def query(step: dict[str, Any]) -> str:
        return urlsplit(str(step["path"])).query

    def open_stream() -> None:
        clock.now_ms = 1795325492373
        store.open_stream("run_rf1795325489", "ai")

    async def follow() -> None:
        assert_recorded(await ask(feed, store, query(first)), first)
        asyncio.get_running_loop().call_later(0.6, open_stream)
        assert_recorded(await ask(feed, store, query(woken)), woken)
        assert now_s() == pytest.approx(0.6, abs=0.001)
        assert_recorded(await ask(feed, store, query(timed_out)), timed_out)
        assert 17 <= now_s() - 0.6 <= 23.001
        clock.now_ms = 1795325495383
        store.set_stream_keys("run_rf1795325489", ["ai", 'odd "key", {x} \\ y'])
        clock.now_ms = 1795325495384
        store.finish_run("run_rf1795325489")
        assert_recorded(await ask(feed, store, query(ended)), ended)
        assert_recorded(await ask(feed, store, query(legacy), {}), legacy)

    run_virtually(follow())


def test_a_live_request_that_missed_a_change_is_answered_at_once() -> None:
    store, clock = recorded_run()
    feed = NativeFeed(store, Timing(), random.Random(1))
    clock.now_ms += 5
    store.set_status("run_rf1795325489", "DEQUEUED")

    async def follow() -> None:
        query = f"live=true&handle=run-cm000001&offset={CREATED_MS}_1"
        assert '"status":"DEQUEUED"' in (await ask(feed, store, query)).body.decode()
        old = await ask(feed, store, query, {"x-trigger-electric-version": "1"})
        assert '"status":"EXECUTING"' in old.body.decode()
        assert now_s() < 0.001

    run_virtually(follow())


def test_input_streams_are_never_listed_and_needed_columns_cannot_be_skipped() -> None:
    run = Run("r", Wire.V1, "EXECUTING", "t", EPOCH, EPOCH, tags=("a",), stream_keys=("$trigger.input:x", "y"))
    value = row_value(run, feed_request({"skipColumns": "id,status,metadata,payload"}, MODERN), "T")
    assert (value["realtimeStreams"], value["runTags"], value["friendlyId"]) == ('{"y"}', '{"a"}', "r")
    assert "metadata" not in value
    assert value["status"] == "EXECUTING"


def test_an_array_literal_quotes_every_element() -> None:
    assert array_literal(["ai", 'a "b"', "c\\"]) == '{"ai","a \\"b\\"","c\\\\"}'
    assert array_literal([]) == "{}"


def test_the_electric_feed_is_a_log_with_updates_that_carry_what_changed() -> None:
    store, clock = recorded_run()
    feed = ElectricFeed(store, Timing(), random.Random(1))

    def open_stream() -> None:
        clock.now_ms += 1000
        store.open_stream("run_rf1795325489", 'odd "key"')

    async def follow() -> None:
        first = await ask(feed, store, "offset=-1")
        insert, up_to_date = json.loads(first.body)
        assert insert["headers"] == {"operation": "insert", "relation": ["public", "TaskRun"]}
        assert insert["value"]["createdAt"] == "2026-11-22 05:31:31.766"
        assert up_to_date == {"headers": {"control": "up-to-date"}}
        assert first.headers["electric-up-to-date"] == ""
        assert first.headers["cache-control"].startswith("public, max-age=60")

        asyncio.get_running_loop().call_later(3, open_stream)
        handle = first.headers["electric-handle"]
        live = await ask(feed, store, f"live=true&handle={handle}&offset={first.headers['electric-offset']}")
        update, _ = json.loads(live.body)
        assert update["key"] == insert["key"]
        assert update["value"] == {
            "id": "cm000001",
            "updatedAt": "2026-11-22 05:31:32.766",
            "realtimeStreams": '{"odd \\"key\\""}',
        }
        assert update["headers"]["operation"] == "update"
        assert "electric-cursor" in live.headers
        assert now_s() == pytest.approx(3, abs=0.001)

        again = await ask(feed, store, "offset=-1")
        assert json.loads(again.body) == [insert, update, up_to_date]
        quiet = await ask(feed, store, f"live=true&handle={handle}&offset={live.headers['electric-offset']}")
        assert json.loads(quiet.body) == [up_to_date]
        assert quiet.headers["electric-offset"] == live.headers["electric-offset"]

    run_virtually(follow())


def test_an_electric_answer_that_is_cut_short_lacks_up_to_date() -> None:
    store, clock = recorded_run()
    feed = ElectricFeed(store, Timing(), random.Random(1), page_messages=1)

    async def follow() -> None:
        await ask(feed, store, "offset=-1")
        clock.now_ms += 1
        store.set_status("run_rf1795325489", "CANCELED")
        first = await ask(feed, store, "offset=-1")
        assert [message["headers"]["operation"] for message in json.loads(first.body)] == ["insert"]
        assert "electric-up-to-date" not in first.headers
        handle, offset = first.headers["electric-handle"], first.headers["electric-offset"]
        second = await ask(feed, store, f"handle={handle}&offset={offset}")
        assert [message["headers"].get("operation") for message in json.loads(second.body)] == ["update", None]
        assert "electric-up-to-date" in second.headers

    run_virtually(follow())


def test_a_rotated_shape_must_be_fetched_again() -> None:
    store, _ = recorded_run()
    feed = ElectricFeed(store, Timing(), random.Random(1))

    async def follow() -> None:
        first = await ask(feed, store, "offset=-1")
        handle = first.headers["electric-handle"]
        asyncio.get_running_loop().call_later(1, feed.rotate, "run_rf1795325489")
        held = await ask(feed, store, f"live=true&handle={handle}&offset=0_0")
        refused = await ask(feed, store, f"handle={handle}&offset=0_0")
        for answer in (held, refused):
            assert (answer.status, json.loads(answer.body)) == (409, [{"headers": {"control": "must-refetch"}}])
            assert answer.headers["electric-handle"] != handle
        fresh = await ask(feed, store, "offset=-1")
        assert fresh.headers["electric-handle"] == refused.headers["electric-handle"]

    run_virtually(follow())


def test_the_retrieve_route_uses_the_names_of_the_api_and_tells_no_keys() -> None:
    run = Run("r", Wire.V1, "TIMED_OUT", "t", EPOCH, EPOCH, EPOCH, EPOCH, ("b", "a"), ("ai",), '{"x":1.10}')
    body = run_body(run, CURRENT_API_VERSION)
    fields = json.loads(body)
    assert (fields["status"], fields["isCompleted"], fields["tags"]) == ("TIMED_OUT", False, ["a", "b"])
    assert (fields["createdAt"], fields["finishedAt"]) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z")
    assert b'"metadata":{"x":1.10}' in body
    assert b'"ai"' not in body
    unfinished = json.loads(run_body(Run("r", Wire.V1, "PENDING", "t", EPOCH, EPOCH), None))
    assert "finishedAt" not in unfinished
    assert "startedAt" not in unfinished


@pytest.mark.parametrize(
    ("database", "current", "legacy"),
    [
        ("COMPLETED_SUCCESSFULLY", "COMPLETED", "COMPLETED"),
        ("COMPLETED_WITH_ERRORS", "FAILED", "FAILED"),
        ("INTERRUPTED", "FAILED", "INTERRUPTED"),
        ("CANCELED", "CANCELED", "CANCELED"),
        ("EXPIRED", "EXPIRED", "EXPIRED"),
        ("PENDING", "QUEUED", "QUEUED"),
        ("WAITING_FOR_DEPLOY", "PENDING_VERSION", "WAITING_FOR_DEPLOY"),
        ("PENDING_VERSION", "PENDING_VERSION", "PENDING_VERSION"),
        ("PAUSED", "WAITING", "FROZEN"),
        ("WAITING_TO_RESUME", "WAITING", "FROZEN"),
        ("RETRYING_AFTER_FAILURE", "EXECUTING", "REATTEMPTING"),
        ("DEQUEUED", "DEQUEUED", "EXECUTING"),
        ("DELAYED", "DELAYED", "DELAYED"),
        ("EXECUTING", "EXECUTING", "EXECUTING"),
    ],
)
def test_a_status_has_two_names(database: str, current: str, legacy: str) -> None:
    assert (api_status(database, CURRENT_API_VERSION), api_status(database, None)) == (current, legacy)


def test_expired_and_timed_out_runs_are_never_completed() -> None:
    completed = [name for name in ("COMPLETED", "CANCELED", "FAILED", "CRASHED") if api_flags(name)["isCompleted"]]
    assert completed == ["COMPLETED", "CANCELED", "FAILED", "CRASHED"]
    assert not api_flags("EXPIRED")["isCompleted"]
    assert not api_flags("TIMED_OUT")["isFailed"]
