"""The feed of many runs and the list of runs of the stand-in upstream over HTTP."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tailrace.serve.app import FeedFormat
from tailrace.serve.listing import Index
from tailrace.serve.timing import Timing
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore
from tests.upstream.rate_limit import RateLimit
from tests.wirecases import plain_client

FEED, LIST = "/realtime/v1/runs", "/api/v1/runs"
MODERN = {"x-trigger-electric-version": "1.0.0-beta.1", "x-trigger-api-version": "2025-07-16"}
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def now_ms() -> int:
    """Upstream's clock stands still, a second after `NOW`: no run's age depends on how long a test takes."""
    return int(NOW.timestamp() * 1000) + 1_000


@pytest.fixture
def store() -> LiveStore:
    """Sixty runs: run_000 is a minute old, run_059 an hour. Every third has tag a, every second failed."""
    store = LiveStore(now_ms=now_ms)
    for n in range(60):
        tags = ["all", *(["a"] if n % 3 == 0 else [])]
        store.create_run(
            f"run_{n:03}", tags=tags, task_identifier=f"task-{n % 2}", created_at=NOW - timedelta(minutes=n + 1)
        )
        store.open_stream(f"run_{n:03}", f"key-{n}")
        store.finish_run(f"run_{n:03}", "COMPLETED_WITH_ERRORS" if n % 2 else "COMPLETED_SUCCESSFULLY")
    store.create_run("run_old", created_at=NOW - timedelta(days=3))
    return store


@pytest.fixture
def server(store: LiveStore) -> Iterator[RunningServer]:
    with running(create_app(store, now_ms=now_ms)) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with plain_client(server.url) as client:
        client.headers.update(MODERN)
        yield client


def fed(client: httpx.Client, **query: str) -> list[dict[str, Any]]:
    messages = client.get(FEED, params={"offset": "-1", **query}).json()
    assert messages[-1] == {"headers": {"control": "up-to-date"}}
    return [message["value"] for message in messages[:-1]]


def flat(pages: list[list[str]]) -> list[str]:
    return [run_id for page in pages for run_id in page]


def walk(client: httpx.Client, **query: str) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = client.get(LIST, params={**query, **cursor}).json()
        pages.append([run["id"] for run in answer["data"]])
        if "next" not in answer["pagination"]:
            return pages
        cursor = {"page[after]": answer["pagination"]["next"]}


def test_the_feed_has_status_and_keys_of_every_young_run(client: httpx.Client) -> None:
    rows = fed(client, skipColumns="payload,output")
    assert [row["friendlyId"] for row in rows] == [f"run_{n:03}" for n in range(60)]
    assert (rows[1]["status"], rows[1]["realtimeStreams"]) == ("COMPLETED_WITH_ERRORS", '{"key-1"}')
    assert "payload" not in rows[0]


@pytest.mark.parametrize(("created", "expected"), [("10m", 9), ("1h", 59), ("24h", 60), ("7d", 60), ("nonsense", 60)])
def test_the_feed_goes_back_a_day_at_most(client: httpx.Client, created: str, expected: int) -> None:
    assert len(fed(client, createdAt=created)) == expected


def test_the_feed_wants_all_of_the_tags(client: httpx.Client) -> None:
    assert len(fed(client, tags="a")) == len(fed(client, tags="all,a")) == 20
    assert fed(client, tags="a,b") == []
    assert client.get(FEED, params={"tags": 'a"b'}).status_code == 400


def test_the_feed_leaves_out_what_is_beyond_a_thousand(client: httpx.Client, store: LiveStore) -> None:
    for n in range(1_200):
        store.create_run(f"run_many_{n}")
    rows = fed(client)
    assert len(rows) == 1_000
    assert all(row["friendlyId"].startswith("run_many") for row in rows)


def row_id(store: LiveStore, run_id: str) -> str:
    run = asyncio.run(store.run(run_id))
    assert run is not None
    return run.row_id


def follow(client: httpx.Client, answer: httpx.Response, **query: str) -> httpx.Response:
    """The next answer of a feed, held until there is something to tell."""
    tokens = {name: answer.headers[f"electric-{name}"] for name in ("handle", "offset")}
    return client.get(FEED, params={"live": "true", **tokens, **query})


@pytest.mark.parametrize("feed", list(FeedFormat))
def test_a_held_feed_of_many_runs_is_answered_when_one_of_them_changes(feed: FeedFormat) -> None:
    ticks = itertools.count(now_ms())
    store = LiveStore(now_ms=lambda: next(ticks))
    for n in range(4):
        store.create_run(f"run_{n}", tags=["a"] if n else [])
    app = create_app(store, now_ms=now_ms, timing=Timing(live_poll_s=30), feed=feed)
    with running(app) as server, plain_client(server.url) as client, ThreadPoolExecutor(1) as pool:
        client.headers.update(MODERN)
        answer = client.get(FEED, params={"offset": "-1", "tags": "a"})
        told = []
        for n, change in enumerate(
            (
                lambda: store.set_status("run_3", "CANCELED"),
                lambda: store.create_run("run_new", tags=["a", "b"]),
                lambda: store.set_stream_keys("run_new", ["ai"]),
            )
        ):
            held = pool.submit(follow, client, answer, tags="a")
            assert server.traffic.wait_until(lambda total=n + 2: server.traffic.total == total)
            store.set_status("run_0", f"STATUS_{n}")  # none of those that are asked for
            change()
            answer = held.result(5)
            *rows, control = answer.json()
            assert control == {"headers": {"control": "up-to-date"}}
            assert "electric-cursor" in answer.headers
            told.append([(row["headers"]["operation"], row["value"]["id"]) for row in rows])
    third, new = (row_id(store, run_id) for run_id in ("run_3", "run_new"))
    assert told == [[("update", third)], [("insert", new)], [("update", new)]]


@pytest.mark.parametrize("feed", list(FeedFormat))
def test_a_held_feed_of_many_runs_without_a_change_gets_only_up_to_date(store: LiveStore, feed: FeedFormat) -> None:
    app = create_app(store, now_ms=now_ms, timing=Timing(live_poll_s=0.05), feed=feed)
    with running(app) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        first = client.get(FEED, params={"offset": "-1"})
        second = follow(client, first)
        assert second.json() == [{"headers": {"control": "up-to-date"}}]
        assert [second.headers[f"electric-{name}"] for name in ("handle", "offset")] == [
            first.headers[f"electric-{name}"] for name in ("handle", "offset")
        ]


def test_nothing_is_told_twice_nor_missed_that_happened_at_one_moment(store: LiveStore) -> None:
    app = create_app(store, now_ms=now_ms, timing=Timing(live_poll_s=30))
    with running(app) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        answer = client.get(FEED, params={"offset": "-1"})
        for n in range(0, 60, 20):  # the clock stands still: all of them have the same time
            store.finish_run(f"run_{n:03}", "CRASHED")
            answer = follow(client, answer)
            assert [row["value"]["friendlyId"] for row in answer.json()[:-1]] == [f"run_{n:03}"]


def test_a_window_reaches_back_to_where_it_did_at_first(store: LiveStore) -> None:
    clock = [now_ms()]
    app = create_app(store, now_ms=lambda: clock[0], timing=Timing(live_poll_s=30))
    with running(app) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        answer = client.get(FEED, params={"offset": "-1", "createdAt": "1h"})
        clock[0] += 30 * 60_000
        store.set_status("run_057", "CANCELED")  # created 58 minutes before the first request
        answer = follow(client, answer, createdAt="1h")
        assert [row["value"]["friendlyId"] for row in answer.json()[:-1]] == ["run_057"]
        clock[0] += 24 * 3_600_000  # further than a day no handle goes
        store.set_status("run_057", "CRASHED")
        store.create_run("run_new", created_at=NOW + timedelta(hours=24))
        answer = follow(client, answer, createdAt="1h")
        assert [row["value"]["friendlyId"] for row in answer.json()[:-1]] == ["run_new"]


def test_a_reader_that_is_not_known_gets_what_was_updated_since_its_offset(store: LiveStore) -> None:
    store.create_run("run_later", tags=["a"], created_at=NOW + timedelta(milliseconds=500))
    query = {"live": "true", "offset": f"{now_ms() - 600}_7", "tags": "a"}
    with running(create_app(store, now_ms=now_ms)) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        for handle in ("another", "runs_0_1_0", f"runs_{'9' * 40}_1_0"):
            rows = client.get(FEED, params={**query, "handle": handle}).json()[:-1]
            assert "run_later" in {row["value"]["friendlyId"] for row in rows}


def test_pages_follow_one_another_newest_first(client: httpx.Client) -> None:
    pages = walk(client, **{"page[size]": "7", "filter[createdAt][period]": "1d"})
    assert flat(pages) == [f"run_{n:03}" for n in range(60)]
    assert [len(page) for page in pages] == [7] * 8 + [4]


def test_back_a_page(client: httpx.Client) -> None:
    first = client.get(LIST, params={"page[size]": "10"}).json()
    assert "previous" not in first["pagination"]
    second = client.get(LIST, params={"page[size]": "10", "page[after]": first["pagination"]["next"]}).json()
    back = client.get(LIST, params={"page[size]": "10", "page[before]": second["pagination"]["previous"]}).json()
    assert [run["id"] for run in back["data"]] == [run["id"] for run in first["data"]]


def test_back_a_page_as_the_client_asks(client: httpx.Client) -> None:
    """It sends the cursor that brought it to the page too, and upstream takes the one back."""
    first = client.get(LIST, params={"page[size]": "10"}).json()
    forth = {"page[size]": "10", "page[after]": first["pagination"]["next"]}
    second = client.get(LIST, params=forth).json()
    back = client.get(LIST, params={**forth, "page[before]": second["pagination"]["previous"]}).json()
    assert [run["id"] for run in back["data"]] == [run["id"] for run in first["data"]]


def test_a_listed_run_has_neither_keys_nor_payload(client: httpx.Client) -> None:
    run = client.get(LIST).json()["data"][1]
    assert (run["id"], run["status"], run["taskIdentifier"], run["tags"]) == ("run_001", "FAILED", "task-1", ["all"])
    assert not {"payload", "relatedRuns", "realtimeStreams"} & set(run)
    assert {"createdAt", "finishedAt", "env"} <= set(run)


def test_without_a_window_the_last_seven_days_are_listed(client: httpx.Client, store: LiveStore) -> None:
    store.create_run("run_ancient", created_at=NOW - timedelta(days=8))
    assert len(flat(walk(client, **{"page[size]": "100"}))) == 61
    since = str(int((NOW - timedelta(days=9)).timestamp() * 1000))
    assert flat(walk(client, **{"page[size]": "100", "filter[createdAt][from]": since}))[-1] == "run_ancient"


def test_filters(client: httpx.Client) -> None:
    until = str(int((NOW - timedelta(minutes=29.5)).timestamp() * 1000))
    everything = {"page[size]": "100"}
    assert len(flat(walk(client, **everything, **{"filter[tag]": "a"}))) == 20
    assert len(flat(walk(client, **everything, **{"filter[taskIdentifier]": "task-1,task-9"}))) == 30
    assert len(flat(walk(client, **everything, **{"filter[createdAt][to]": until}))) == 32


@pytest.mark.parametrize("name", ["schedule", "batch", "bulkAction", "queue", "machine", "region", "error"])
def test_a_filter_by_what_is_not_known_fits_no_run(client: httpx.Client, name: str) -> None:
    assert client.get(LIST, params={f"filter[{name}]": "x"}).json() == {"data": [], "pagination": {}}
    assert client.get(LIST, params={f"filter[{name}]": ""}).json()["data"] != []


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("isTest", "true", 0), ("isTest", "false", 25), ("version", "20990101.1", 0), ("version", "1,20261101.1", 25)],
)
def test_filters_by_what_is_the_same_for_all(client: httpx.Client, name: str, value: str, expected: int) -> None:
    assert len(client.get(LIST, params={f"filter[{name}]": value}).json()["data"]) == expected


def test_a_status_filter_leaves_short_and_empty_pages_with_a_next(client: httpx.Client, store: LiveStore) -> None:
    for n in range(20, 40):
        store.set_status(f"run_{n:03}", "EXECUTING")
    pages = walk(client, **{"page[size]": "10", "filter[status]": "FAILED"})
    assert [len(page) for page in pages] == [5, 5, 0, 0, 5, 5, 0]
    refused = client.get(LIST, params={"filter[status]": "COMPLETED_WITH_ERRORS"})
    assert (refused.status_code, refused.json()["error"]) == (400, "Query Error")


def test_new_runs_show_up_late(store: LiveStore) -> None:
    index = Index(lag_s=150)
    with running(create_app(store, index=index, now_ms=now_ms)) as server, plain_client(server.url) as client:
        assert client.get(LIST).json()["data"][0]["id"] == "run_002"
        index.lag_s = 0
        assert client.get(LIST).json()["data"][0]["id"] == "run_000"


@pytest.mark.parametrize(
    "query", [{"page[size]": "101"}, {"page[size]": "x"}, {"page[after]": "%%"}, {"filter[isTest]": "1"}]
)
def test_what_upstream_refuses(client: httpx.Client, query: dict[str, str]) -> None:
    assert client.get(LIST, params=query).status_code == 400


def test_only_the_list_is_rate_limited(store: LiveStore) -> None:
    app = create_app(store, rate_limit=RateLimit(burst=1, refill=1, interval_s=3600), now_ms=now_ms)
    with running(app) as server, plain_client(server.url) as client:
        assert client.get(LIST).headers["x-ratelimit-remaining"] == "0"
        refused = client.get(LIST)
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers
        assert client.get(FEED).status_code == 200


def test_faults_and_keys(server: RunningServer, client: httpx.Client) -> None:
    server.faults.runs_feed().answer(503)
    server.faults.run_list().answer(500)
    assert [client.get(FEED).status_code for _ in range(2)] == [503, 200]
    assert [client.get(LIST).status_code for _ in range(2)] == [500, 200]
    with plain_client(server.url, "tr_dev_other") as other:
        assert (other.get(FEED).status_code, other.get(LIST).status_code) == (401, 401)
