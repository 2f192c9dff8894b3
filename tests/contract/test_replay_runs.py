"""The run feed and the retrieve route of the stand-in upstream over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tailrace.serve.app import FeedFormat
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.timing import Timing
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore
from tests.upstream.rate_limit import RateLimit
from tests.wirecases import plain_client

FEED = "/realtime/v1/runs/run_1"
API = "/api/v3/runs/run_1"
MODERN = {"x-trigger-electric-version": "1.0.0-beta.1", "x-trigger-api-version": "2025-07-16"}
SHORT_POLLS = Timing(live_poll_s=0.05)
LONG_POLLS = Timing(live_poll_s=30)


@pytest.fixture
def store() -> LiveStore:
    store = LiveStore()
    store.create_run("run_1", tags=["b", "a"])
    return store


@pytest.fixture
def server(store: LiveStore) -> Iterator[RunningServer]:
    with running(create_app(store, timing=LONG_POLLS)) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with plain_client(server.url) as client:
        client.headers.update(MODERN)
        yield client


def test_the_feed_answers_at_once(client: httpx.Client) -> None:
    response = client.get(FEED, params={"offset": "-1", "skipColumns": "payload,output"})
    row, control = response.json()
    assert (row["value"]["status"], row["value"]["realtimeStreams"]) == ("EXECUTING", "{}")
    assert control == {"headers": {"control": "up-to-date"}}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["electric-handle"].startswith("run-cm")


@pytest.mark.parametrize("feed", list(FeedFormat))
def test_a_held_request_is_answered_when_the_run_changes(store: LiveStore, feed: FeedFormat) -> None:
    with running(create_app(store, timing=LONG_POLLS, feed=feed)) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        first = client.get(FEED, params={"offset": "-1"})
        params = {
            "live": "true",
            "handle": first.headers["electric-handle"],
            "offset": first.headers["electric-offset"],
        }
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(client.get, FEED, params=params)
            assert server.traffic.wait_until(lambda: server.traffic.total == 2)
            store.open_stream("run_1", "ai")
            row, control = held.result(5).json()
    assert row["value"]["realtimeStreams"] == '{"ai"}'
    assert ("status" in row["value"]) == (feed is FeedFormat.NATIVE)
    assert control == {"headers": {"control": "up-to-date"}}


@pytest.mark.parametrize("feed", list(FeedFormat))
def test_a_held_request_without_a_change_gets_only_up_to_date(store: LiveStore, feed: FeedFormat) -> None:
    with running(create_app(store, timing=SHORT_POLLS, feed=feed)) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        first = client.get(FEED, params={"offset": "-1"})
        handle, offset = first.headers["electric-handle"], first.headers["electric-offset"]
        response = client.get(FEED, params={"live": "true", "handle": handle, "offset": offset})
    assert response.json()[0]["headers"]["control"] == "up-to-date"
    assert response.headers["electric-offset"] == offset
    assert "electric-cursor" in response.headers


def test_electric_must_refetch_on_demand(store: LiveStore) -> None:
    app = create_app(store, feed=FeedFormat.ELECTRIC)
    with running(app) as server, plain_client(server.url) as client:
        client.headers.update(MODERN)
        first = client.get(FEED, params={"offset": "-1"})
        feed = server.upstream.feed
        assert isinstance(feed, ElectricFeed)
        feed.rotate("run_1")
        again = client.get(FEED, params={"offset": "0_0", "handle": first.headers["electric-handle"]})
        assert (again.status_code, again.json()) == (409, [{"headers": {"control": "must-refetch"}}])
        assert client.get(FEED, params={"offset": "-1"}).status_code == 200


def test_a_client_that_names_no_version_gets_the_old_header_names(server: RunningServer) -> None:
    with plain_client(server.url) as client:
        headers = client.get(FEED, params={"offset": "-1"}).headers
    assert {"electric-shape-id", "electric-chunk-last-offset"} <= set(headers)
    assert "electric-handle" not in headers


def test_retrieve_has_the_names_of_the_api(client: httpx.Client, store: LiveStore) -> None:
    store.finish_run("run_1", "COMPLETED_WITH_ERRORS")
    run = client.get(API).json()
    assert (run["id"], run["status"], run["isCompleted"], run["tags"]) == ("run_1", "FAILED", True, ["a", "b"])
    assert "finishedAt" in run
    assert not [name for name in run if "tream" in name]


def test_an_unknown_run_is_a_404_that_differs_by_route(client: httpx.Client) -> None:
    feed, api = client.get("/realtime/v1/runs/run_2"), client.get("/api/v3/runs/run_2")
    assert (feed.status_code, feed.json(), feed.headers["x-should-retry"]) == (404, {"error": "Not found"}, "false")
    assert (api.status_code, api.json(), api.headers["x-should-retry"]) == (404, {"error": "Not found"}, "true")


def test_a_deleted_run_is_unknown(client: httpx.Client, store: LiveStore) -> None:
    store.delete_run("run_1")
    assert client.get(FEED).status_code == 404


def test_refusals_of_keys(server: RunningServer) -> None:
    with plain_client(server.url, None) as client:
        assert client.get(FEED).json() == {"error": "Invalid or Missing API key"}
        limiter = client.get(API)
        assert (limiter.status_code, limiter.headers["content-type"]) == (401, "application/problem+json")
        assert client.get(FEED, headers={"Authorization": "Basic abc"}).status_code == 401
    with plain_client(server.url, "tr_dev_other") as client:
        assert client.get(FEED).json() == client.get(API).json() == {"error": "Invalid API key"}


def test_only_api_paths_are_rate_limited(store: LiveStore) -> None:
    app = create_app(store, rate_limit=RateLimit(burst=2, refill=1, interval_s=3600))
    with running(app) as server, plain_client(server.url) as client:
        assert client.get(API).headers["x-ratelimit-remaining"] == "1"
        client.get(API)
        refused = client.get(API)
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        assert "retry-after" not in refused.headers
        assert int(refused.headers["x-ratelimit-reset"]) == refused.json()["reset"] > 1_700_000_000_000
        assert client.get(FEED).status_code == 200
        assert "x-ratelimit-limit" not in client.get(FEED).headers


def test_faults_for_a_run_do_not_touch_its_streams(server: RunningServer, client: httpx.Client) -> None:
    server.faults.feed("run_1").answer(503, times=2)
    server.faults.api("run_1").cut(after_bytes=5)
    assert [client.get(FEED).status_code for _ in range(3)] == [503, 503, 200]
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(API)
    assert json.loads(client.get(API).content)["id"] == "run_1"
    stream = client.get("/realtime/v1/streams/run_1/s", headers={"Timeout-Seconds": "0"})
    assert stream.status_code == 200
    assert server.faults.waiting() == 0


def test_many_runs_change_while_they_are_watched(server: RunningServer, store: LiveStore) -> None:
    def watch(run_id: str) -> str:
        path = f"/realtime/v1/runs/{run_id}"
        with plain_client(server.url) as client:
            client.headers.update(MODERN)
            response = client.get(path, params={"offset": "-1"})
            while True:
                row = response.json()[0]
                if row.get("value", {}).get("completedAt"):
                    return str(row["value"]["status"])
                params = {"live": "true", "handle": response.headers["electric-handle"]}
                response = client.get(path, params=params | {"offset": response.headers["electric-offset"]})

    run_ids = [f"run_many_{number}" for number in range(10)]
    for run_id in run_ids:
        store.create_run(run_id)

    def end_all() -> None:
        for run_id in run_ids:
            store.open_stream(run_id, "ai")
            store.finish_run(run_id)

    with ThreadPoolExecutor(10) as pool:
        watched = [pool.submit(watch, run_id) for run_id in run_ids]
        writer = threading.Thread(target=end_all)
        writer.start()
        assert [result.result(10) for result in watched] == ["COMPLETED_SUCCESSFULLY"] * 10
        writer.join()
