"""The whole path over HTTP into Postgres: whatever goes wrong on the way, every chunk once, in order, as it was sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tailrace.model import Wire
from tailrace.service.key_check import NO_SUCH_RUN
from tests.ingestion import ingesting, numbered, store_with
from tests.upstream import RunningServer
from tests.upstream.faults import FaultSetter

TEXTS = numbered(40)
BYTES = [text.encode() for text in TEXTS]

FAULTS: dict[str, Callable[[FaultSetter], Any]] = {
    "none": lambda stream: None,
    "cut at the start": lambda stream: stream.cut(times=3),
    "cut in the middle": lambda stream: stream.cut(after_bytes=777, times=2),
    "cut again and again": lambda stream: [stream.cut(after_bytes=at) for at in range(50, 1_800, 130)],
    "reset": lambda stream: stream.reset(after_bytes=900, times=2),
    "refused": lambda stream: [stream.answer(status) for status in (503, 500, 502, 408, 429, 404)],
    "gzip": lambda stream: stream.gzip(times=9),
}
V2_FAULTS: dict[str, Callable[[FaultSetter], Any]] = {
    "error event": lambda stream: stream.error_event(after_events=1, times=3),
    "no done": lambda stream: stream.no_done(times=3),
}


@pytest.mark.trap(13)
@pytest.mark.trap(41)
@pytest.mark.trap(42)
@pytest.mark.parametrize(
    ("wire", "fault"),
    [*((wire, name) for wire in Wire for name in FAULTS), *((Wire.V2, name) for name in V2_FAULTS)],
)
def test_a_fault_costs_nothing(wire: Wire, fault: str, database_url: str) -> None:
    with ingesting(database_url, store_with(wire, TEXTS)) as (ingestion, server):
        (FAULTS | V2_FAULTS)[fault](server.faults.stream("run_1", "ai"))
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == BYTES
        assert ingestion.verdict("run_1") == "complete"
        assert (ingestion.holes(), ingestion.quarantine()) == ([], [])
        assert fault in ("none", "gzip") or len(stream_requests(server)) > 2


def stream_requests(server: RunningServer) -> list[Any]:
    return server.traffic.requests("/realtime/v1/streams/")


@pytest.mark.trap(9)
@pytest.mark.trap(31)
@pytest.mark.parametrize("wire", list(Wire))
def test_a_worker_that_dies_between_two_commits_loses_and_doubles_nothing(wire: Wire, database_url: str) -> None:
    """Its lease is taken over; what it had not committed is read again, and what it still sends changes nothing."""
    with ingesting(database_url, store_with(wire, TEXTS, over=False)) as (ingestion, server):
        ingestion.request("run_1")
        ingestion.watch()
        # A worker takes the stream, and is gone: its row in `workers` expires.
        (stream_id,) = ingestion.runtime.claim(1)
        (stream,) = ingestion.runtime.leases.acquire([stream_id])
        ingestion.run("UPDATE tailrace.streams SET hinted_until = NULL")
        ingestion.run("UPDATE tailrace.workers SET expires_at = now()")
        ingestion.restart()
        store = server.upstream.store
        store.finish_run("run_1")  # type: ignore[attr-defined]
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == BYTES
        assert ingestion.value("SELECT token FROM tailrace.streams") > stream.token


@pytest.mark.trap(1)
@pytest.mark.trap(6)
@pytest.mark.parametrize("wire", list(Wire))
def test_every_reconnect_asks_for_a_safe_place(wire: Wire, database_url: str) -> None:
    store = store_with(wire, TEXTS)
    with ingesting(database_url, store) as (ingestion, server):
        server.faults.stream("run_1", "ai").cut(after_bytes=1_400)
        ingestion.request("run_1")
        ingestion.until_sealed()
        cursors = [seen.last_event_id for seen in stream_requests(server)]
        assert cursors[0] is None
        if wire is Wire.V1:
            ids = [str(entry.id) for entry in store.entries("run_1", "ai")]
            assert set(cursors[2:]) == {ids[-3]}
            assert cursors[1] is None or cursors[1] in ids
        else:
            assert set(cursors[2:]) == {"38"}
        assert {seen.headers["accept-encoding"] for seen in stream_requests(server)} == {"identity"}


@pytest.mark.trap(29)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_writers_retry_is_known_after_a_restart(restarted: bool, database_url: str) -> None:
    """v2: chunk, its repeat, and the repeat of the repeat, each read by another worker; nothing is thrown away."""
    store = store_with(Wire.V2, ['"token"', '"token"'], over=False)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.turn()
        for _ in range(3):
            if restarted:
                ingestion.restart()
            store.repeat_record("run_1", "ai", 0)
            ingestion.turn()
        store.finish_run("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"token"', b'"token"']
        assert ingestion.holes() == [(0, n, n, "repeat") for n in (2, 3, 4)]
        body = store.records("run_1", "ai")[0].body
        assert ingestion.quarantine() == [("repeat", body)] * 3
        assert ingestion.verdict("run_1") == "complete"


@pytest.mark.trap(23)
@pytest.mark.parametrize("longer", [1, 3, 9])
def test_a_stream_made_anew_is_a_generation(longer: int, database_url: str) -> None:
    """Shorter than what we hold, as long, and longer: the last shows itself only by the record in our place."""
    store = store_with(Wire.V2, ['"a"', '"b"', '"c"'], over=False)
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.turn()
        store.recreate_stream("run_1", "ai")
        store.append_chunks("run_1", "ai", numbered(longer))
        store.finish_run("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"a"', b'"b"', b'"c"', *(text.encode() for text in numbered(longer))]
        assert ingestion.holes() == [(0, 3, None, "recreated")]
        assert ingestion.verdict("run_1") == "complete_with_gaps"


@pytest.mark.trap(10)
@pytest.mark.parametrize("was", list(Wire))
def test_another_wire_is_one_alarm_and_a_new_generation(was: Wire, database_url: str) -> None:
    now = Wire.V2 if was is Wire.V1 else Wire.V1
    with ingesting(database_url, store_with(was, ['"old"'], over=False)) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.turn()
    with ingesting(database_url, store_with(now, ['"new"', '"newer"'])) as (ingestion, _):
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"old"', b'"new"', b'"newer"']
        assert ingestion.holes() == [(0, 1, None, "recreated")]
        assert ingestion.verdict("run_1") == "complete_with_gaps"
        alarms = [each for each in ingestion.logs if each["log_level"] == "error"]  # type: ignore[attr-defined]
        assert [each["event"] for each in alarms] == ["stream_changed"]
        assert was in alarms[0]["reason"]


@pytest.mark.trap(22)
@pytest.mark.trap(24)
def test_a_trimmed_v2_stream_says_what_is_missing(database_url: str) -> None:
    store = store_with(Wire.V2, numbered(10), over=False)
    with ingesting(database_url, store) as (ingestion, _):
        store.trim_records("run_1", "ai", 3)
        ingestion.request("run_1")
        ingestion.turn()
        store.append_chunks("run_1", "ai", numbered(10))
        store.append_trim("run_1", "ai", 15)
        store.finish_run("run_1")
        ingestion.until_sealed()
        assert ingestion.holes() == [(0, 0, 2, "trimmed"), (0, 10, 14, "trimmed"), (0, 20, 20, "command")]
        assert len(ingestion.texts("run_1")) == 12
        assert ingestion.verdict("run_1") == "complete_with_gaps"


@pytest.mark.trap(36)
@pytest.mark.trap(37)
@pytest.mark.parametrize("wire", list(Wire))
def test_one_bad_chunk_stops_neither_its_stream_nor_another(wire: Wire, database_url: str) -> None:
    texts = ['"a"', '"\\u0000"', "NaN", '"\\ud800"', "1,2", "null", '""', "0", "false", "[" * 600 + "]" * 600, '"z"']
    bad = {"NaN", "1,2", "[" * 600 + "]" * 600}
    store = store_with(wire, texts, over=False)
    store.append_chunks("run_1", "other", ['"fine"'])
    store.finish_run("run_1")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [text.encode() for text in texts if text not in bad]
        assert ingestion.texts("run_1", "other") == [b'"fine"']
        kept = [raw for _, raw in ingestion.quarantine()]
        assert all(text.encode() in raw for text, raw in zip(sorted(bad), sorted(kept), strict=True))
        assert {ingestion.verdict("run_1"), ingestion.verdict("run_1", "other")} == {"complete"}


@pytest.mark.parametrize("wire", list(Wire))
def test_a_chunk_beyond_the_limit_is_kept_by_its_head_and_never_called_complete(wire: Wire, database_url: str) -> None:
    store = store_with(wire, ['"a"'], over=False)
    store.append_chunk("run_1", "ai", '"' + "x" * 40_000 + '"')
    store.append_chunk("run_1", "ai", '"z"')
    with ingesting(database_url, store, event_max_bytes=20_000) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.turn()
        store.append_chunk("run_1", "ai", '"after"')
        store.finish_run("run_1")
        ingestion.until_sealed()
        texts = ingestion.texts("run_1")
        assert texts[-1] == b'"after"'
        assert b'"a"' in texts or wire is Wire.V2  # a v2 batch is kept or left out as a whole
        ((reason, head),) = set(ingestion.quarantine())
        assert (reason, len(head)) == ("too_large", 4096)
        assert ingestion.verdict("run_1") == "complete_with_gaps"


@pytest.mark.trap(40)
def test_a_dead_socket_is_noticed_and_the_stream_goes_on(database_url: str) -> None:
    """Upstream hangs in the middle of a body, pings too."""
    with ingesting(database_url, store_with(Wire.V2, TEXTS), read_timeout_seconds=0.4) as (ingestion, server):
        server.faults.stream("run_1", "ai").hang(after_bytes=500)
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == BYTES


@pytest.mark.trap(45)
def test_a_stream_that_does_not_exist_is_given_up_when_its_run_is_over(database_url: str) -> None:
    """v2 without create-on-read: a 500 for ever."""
    store = store_with(Wire.V2, ['"a"'])
    with ingesting(database_url, store) as (ingestion, server):
        server.faults.stream("run_1", "ai").answer(500, times=99)
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert (ingestion.state("run_1"), ingestion.verdict("run_1")) == ("failed", "failed")
        assert "500" in ingestion.value("SELECT last_error FROM tailrace.streams")
        assert len(stream_requests(server)) == 20


def test_a_refused_key_stops_everything_once(database_url: str) -> None:
    store = store_with(Wire.V2, ['"a"'])
    with ingesting(database_url, store) as (ingestion, server):
        ingestion.request("run_1")
        ingestion.watch()
        server.faults.stream("run_1", "ai").answer(401, times=9)
        server.faults.feed(NO_SUCH_RUN).answer(401, times=9)
        for _ in range(3):
            ingestion.turn()
        assert len(stream_requests(server)) == 1
        errors = [each["event"] for each in ingestion.logs if each["log_level"] == "error"]  # type: ignore[attr-defined]
        assert errors == ["environment_halted"]
        environment = ingestion.runtime.environments.default
        assert not environment.key.probe()  # a minute is not over
        long_ago = "UPDATE tailrace.environments SET halted_at = now() - interval '61 seconds', probed_at = NULL"
        ingestion.run(long_ago)
        assert not environment.key.probe()  # still refused
        assert environment.runs.halted()
        server.faults.clear()
        assert not environment.key.probe()  # once a minute, whoever asks
        ingestion.run("UPDATE tailrace.environments SET probed_at = now() - interval '61 seconds'")
        environment.check_late(1)  # as workers do, now and then
        assert environment.runs.halted() is None
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"a"']


@pytest.mark.parametrize("status", [401, 403])
def test_one_refusal_of_one_stream_is_tried_again_and_stops_nothing_else(database_url: str, status: int) -> None:
    store = store_with(Wire.V2, ['"a"'])
    with ingesting(database_url, store) as (ingestion, server):
        ingestion.request("run_1")
        ingestion.watch()
        server.faults.stream("run_1", "ai").answer(status, times=3)
        for _ in range(3):
            ingestion.turn()
        assert ingestion.state("run_1") == "parked"
        told = [each for each in ingestion.logs if each["event"] == "refusal_doubted"]  # type: ignore[attr-defined]
        assert [(each["environment"], each["taken"]) for each in told] == [("default", True)]
        assert str(status) in ingestion.value("SELECT last_error FROM tailrace.streams")
        assert ingestion.runtime.environments.default.runs.halted() is None
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"a"']
