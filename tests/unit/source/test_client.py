"""HTTP: what is asked of upstream, and what its answers mean (protocol §7)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from json import dumps
from typing import Any

import httpx
import pytest

from tailrace.config.settings import Settings
from tailrace.errors import (
    MalformedRecord,
    NotFound,
    RequestRefused,
    SourceUnavailable,
    StreamStalled,
    TransientError,
    Unauthorized,
    WorkerError,
)
from tailrace.model import StreamRef, Wire
from tailrace.source import answers, client
from tailrace.source import feed as source_feed
from tailrace.source.client import Endpoint, Upstream
from tailrace.source.connection import Tail, date_ms, wire_of
from tailrace.source.elements import Elements
from tailrace.source.feed import FEED_PAGES, FeedCursor, segment
from tests.decoding import EVENT_STREAM, Blocks
from tests.wirecases import load_steps

KEY = "tr_dev_verysecretindeed"
Handler = Callable[[httpx.Request], httpx.Response]


def said(status: int, *, json: Any = None, text: str = "", headers: dict[str, str] | None = None) -> httpx.Response:
    """An answer whose body has not been read, as it comes from the network."""
    body = text if json is None else dumps(json)
    return httpx.Response(status, headers=headers, stream=Blocks([body.encode()]))


@pytest.fixture
def upstream_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Handler], Upstream]:
    options = client.client_options

    def make(handler: Handler, **more: Any) -> Upstream:
        transport = httpx.MockTransport(handler)
        monkeypatch.setattr(client, "client_options", lambda *each: {**options(*each), "transport": transport})
        return Upstream(Endpoint("http://upstream.test", lambda: KEY, **more))

    return make


@pytest.fixture
def asked(upstream_with: Callable[..., Upstream]) -> Callable[..., httpx.Request]:
    """Open a stream and return the request that was sent for it."""

    def ask(ref: StreamRef, last_event_id: str | None = None, wait_s: int = 60, **more: Any) -> httpx.Request:
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, headers=EVENT_STREAM)

        with upstream_with(answer, **more).stream(ref) as source, source.open(last_event_id, wait_s):
            pass
        return seen[0]

    return ask


@pytest.mark.trap(20)
@pytest.mark.trap(41)
def test_a_stream_is_asked_for_uncompressed_and_with_a_wait(asked: Callable[..., httpx.Request]) -> None:
    request = asked(StreamRef("run_1", "ai"), None, 60)
    assert str(request.url) == "http://upstream.test/realtime/v1/streams/run_1/ai"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["timeout-seconds"] == "60"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "x-trigger-branch" not in request.headers


@pytest.mark.trap(7)
@pytest.mark.trap(11)
@pytest.mark.parametrize("last_event_id", [None, "41", "1795-0"])
def test_the_beginning_is_no_header_at_all(asked: Callable[..., httpx.Request], last_event_id: str | None) -> None:
    assert asked(StreamRef("run_1", "ai"), last_event_id).headers.get("last-event-id") == last_event_id


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("ai", "ai"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("v1.2", "v1.2"),
        ("$trigger.input:x", "%24trigger.input%3Ax"),
        ("ä 😀%", "%C3%A4%20%F0%9F%98%80%25"),
    ],
)
def test_a_key_is_one_segment_of_the_path(asked: Callable[..., httpx.Request], text: str, encoded: str) -> None:
    assert segment(text) == encoded
    assert asked(StreamRef("run_1", text)).url.raw_path == f"/realtime/v1/streams/run_1/{encoded}".encode()


def test_a_preview_branch_is_named(asked: Callable[..., httpx.Request]) -> None:
    assert asked(StreamRef("run_1", "ai"), preview_branch="feature").headers["x-trigger-branch"] == "feature"


@pytest.mark.trap(40)
def test_silence_is_borne_for_longer_than_upstream_pings() -> None:
    options = client.client_options(Endpoint("http://upstream.test", lambda: KEY), None)
    assert options["timeout"].read >= 45
    assert options["timeout"].connect == 10


# protocol §7, "For an archiver".
ANSWERS: list[tuple[int, type[WorkerError]]] = [
    (400, RequestRefused),
    (401, Unauthorized),
    (403, Unauthorized),
    (404, NotFound),
    (408, SourceUnavailable),
    (409, RequestRefused),
    (410, RequestRefused),
    (418, SourceUnavailable),
    (422, RequestRefused),
    (429, SourceUnavailable),
    (500, SourceUnavailable),
    (502, SourceUnavailable),
    (503, SourceUnavailable),
    (504, SourceUnavailable),
    (301, SourceUnavailable),
    (204, SourceUnavailable),
]


@pytest.mark.trap(42)
@pytest.mark.trap(45)
@pytest.mark.parametrize(("status", "error"), ANSWERS)
def test_an_answer_is_what_the_protocol_says(
    upstream_with: Callable[..., Upstream], status: int, error: type[WorkerError]
) -> None:
    upstream = upstream_with(lambda request: said(status, text='{"error":"said upstream"}'))
    with upstream.stream(StreamRef("run_1", "ai")) as source, pytest.raises(error) as caught, source.open(None, 1):
        pass
    assert "said upstream" in str(caught.value)
    assert KEY not in str(caught.value)
    assert getattr(caught.value, "status", status) == status


@pytest.mark.trap(20)
def test_the_waits_we_ask_for_are_those_that_upstream_takes() -> None:
    """1 to 600 s; 0 and what is no number pass its check by accident and mean something else."""
    allowed = Settings.model_fields["wait_seconds"].metadata
    assert {(type(each).__name__, each.ge if hasattr(each, "ge") else each.le) for each in allowed} == {
        ("Ge", 1),
        ("Le", 600),
    }
    for row in load_steps("v1_k_status_codes")["rows"]:
        asked = row.get("timeout_seconds", "")
        if asked.isdecimal() and 1 <= int(asked) <= 600:
            assert row["status"] == 200
        elif row["status"] != 200:
            with pytest.raises(RequestRefused if row["status"] == 400 else WorkerError):
                answers.refuse(row["status"], row["body"], "x")


@pytest.mark.trap(44)
def test_an_answer_of_too_many_requests_is_retried_by_our_own_clock(upstream_with: Callable[..., Upstream]) -> None:
    """`Retry-After` is never sent, so nothing waits for it; the paths we ask have no rate limit but this answer."""
    answer = said(429, headers={"x-ratelimit-reset": "1795000000000"}, json={"error": "Too many"})
    with pytest.raises(TransientError) as caught:
        upstream_with(lambda request: answer).run("run_1")
    assert getattr(caught.value, "retry_after_s", None) is None


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (httpx.ReadTimeout("x"), StreamStalled),
        (httpx.ConnectTimeout("x"), SourceUnavailable),
        (httpx.ConnectError("x"), SourceUnavailable),
        (httpx.RemoteProtocolError("x"), SourceUnavailable),
        (httpx.ReadError("x"), SourceUnavailable),
        (httpx.TooManyRedirects("x"), SourceUnavailable),
        (ConnectionResetError("x"), SourceUnavailable),
    ],
)
@pytest.mark.trap(13)
def test_a_broken_body_is_a_fault_and_never_an_end(
    upstream_with: Callable[..., Upstream], raised: Exception, error: type[WorkerError]
) -> None:
    body = Blocks([b"id: 5-0\ndata: 1\n\n"], raised)
    upstream = upstream_with(lambda request: httpx.Response(200, headers=EVENT_STREAM, stream=body))
    records: list[Any] = []

    def read() -> None:
        with upstream.stream(StreamRef("run_1", "ai")) as source, Tail(source, 1 << 20).connect(None, 1) as connection:
            for arrival in connection.arrivals:
                records.extend(arrival.records)

    with pytest.raises(error):
        read()
    assert len(records) == 1


@pytest.mark.parametrize(
    ("headers", "wire"),
    [
        ({}, Wire.V1),
        ({"X-Stream-Version": "v1"}, Wire.V1),
        ({"x-stream-version": "v2"}, Wire.V2),
        ({"content-type": "text/event-stream; charset=utf-8"}, Wire.V1),
    ],
)
def test_the_version_is_in_a_header(headers: dict[str, str], wire: Wire) -> None:
    assert wire_of(httpx.Response(200, headers={**EVENT_STREAM, **headers})) is wire


@pytest.mark.parametrize("headers", [{"X-Stream-Version": "v3"}, {"content-type": "text/html"}, {"content-type": ""}])
def test_what_is_no_stream_that_we_know_is_a_fault(headers: dict[str, str]) -> None:
    with pytest.raises(SourceUnavailable):
        wire_of(httpx.Response(200, headers={**EVENT_STREAM, **headers}))


@pytest.mark.parametrize(
    ("date", "ms"),
    [
        ("Sun, 22 Nov 2026 05:17:27 GMT", 1_795_324_647_000),
        ("yesterday", None),
        (None, None),
    ],
)
def test_upstreams_clock_is_its_date(date: str | None, ms: int | None) -> None:
    assert date_ms(httpx.Response(200, headers={"date": date} if date else {})) == ms


def feed_row(**columns: Any) -> dict[str, Any]:
    return {"key": "k", "value": {"friendlyId": "run_1", "status": "EXECUTING", **columns}, "headers": {}}


UP_TO_DATE = {"headers": {"control": "up-to-date"}}


@pytest.fixture
def feed(upstream_with: Callable[..., Upstream]) -> Callable[..., tuple[Any, list[dict[str, str]]]]:
    """Ask for a run of a feed that gives these answers; return what came of it, and the queries."""

    def ask(*answers: httpx.Response) -> tuple[Any, list[dict[str, str]]]:
        waiting: Iterator[httpx.Response] = iter(answers)
        queries: list[dict[str, str]] = []

        def answer(request: httpx.Request) -> httpx.Response:
            queries.append(dict(request.url.params))
            assert request.url.path == "/realtime/v1/runs/run_1"
            return next(waiting)

        try:
            return upstream_with(answer).run("run_1"), queries
        except WorkerError as error:
            return error, queries

    return ask


@pytest.mark.trap(43)
def test_a_feed_is_read_until_it_is_up_to_date(feed: Callable[..., tuple[Any, list[dict[str, str]]]]) -> None:
    more = {"electric-handle": "h1", "electric-offset": "7_0"}
    view, queries = feed(
        said(200, headers=more, json=[feed_row(realtimeStreams="{ai}")]),
        said(200, headers={"electric-up-to-date": ""}, json=[feed_row(completedAt="2026-11-22 05:00:00")]),
    )
    assert (view.stream_keys, view.finished_at is not None) == (("ai",), True)
    assert [(query.get("handle"), query["offset"]) for query in queries] == [(None, "-1"), ("h1", "7_0")]


@pytest.mark.trap(43)
def test_must_refetch_drops_what_was_and_begins_again(feed: Callable[..., tuple[Any, list[dict[str, str]]]]) -> None:
    view, queries = feed(
        said(200, headers={"electric-handle": "h1", "electric-offset": "0_0"}, json=[feed_row(runTags="{old}")]),
        said(409, headers={"electric-handle": "h2"}, json=[{"headers": {"control": "must-refetch"}}]),
        said(200, json=[feed_row(realtimeStreams="{ai}"), UP_TO_DATE]),
    )
    assert (view.stream_keys, view.tags) == (("ai",), ())
    assert [(query.get("handle"), query["offset"]) for query in queries] == [(None, "-1"), ("h1", "0_0"), ("h2", "-1")]


def test_a_feed_that_is_never_up_to_date_is_not_believed(
    feed: Callable[..., tuple[Any, list[dict[str, str]]]],
) -> None:
    """What is missing could be the stream keys."""
    answers = [said(200, json=[feed_row()]) for _ in range(FEED_PAGES)]
    error, queries = feed(*answers)
    assert isinstance(error, SourceUnavailable)
    assert len(queries) == FEED_PAGES


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (said(404, json={"error": "Not found"}), NotFound),
        (said(200, json=[UP_TO_DATE]), NotFound),
        (said(200, json=[{**feed_row(), "value": {"friendlyId": "run_2", "status": "X"}}, UP_TO_DATE]), NotFound),
        (said(200, text="<html>"), MalformedRecord),
        (said(200, text="[" * 100_000), MalformedRecord),
        (said(200, json={}), MalformedRecord),
        (said(401, json={"error": "Invalid API key"}), Unauthorized),
    ],
)
def test_a_feed_without_the_run_is_an_error(
    feed: Callable[..., tuple[Any, list[dict[str, str]]]], answer: httpx.Response, error: type[WorkerError]
) -> None:
    assert type(feed(answer)[0]) is error


@pytest.mark.parametrize("text", ["", "<html>", "[" * 100_000, "9" * 5_000])
def test_a_followed_feed_that_is_no_json_is_malformed(text: str) -> None:
    with pytest.raises(MalformedRecord):
        FeedCursor.of_run("run_1").take(said(200, text=text))


def test_clients_that_have_been_idle_are_closed(
    upstream_with: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a burst most would never be used again, with a connection each that upstream has closed."""
    upstream = upstream_with(lambda request: said(200, json=[feed_row(), UP_TO_DATE]))
    with upstream._asking(), upstream._asking(), upstream._asking():
        pass
    burst = [idle for _, idle in upstream._idle]
    assert len(burst) == 3
    later = time.monotonic() + 61.0
    monkeypatch.setattr(client.time, "monotonic", lambda: later)
    upstream.run("run_1")
    assert [idle.is_closed for idle in burst].count(False) == 1
    with upstream._asking() as last:
        upstream.close()
    assert last.is_closed


@pytest.mark.trap(27)
@pytest.mark.trap(28)
def test_a_run_is_asked_for_by_its_name(feed: Callable[..., tuple[Any, list[dict[str, str]]]]) -> None:
    """Not looked for in lists, which forget and omit, and not in the run API, which does not say the stream keys."""
    _, (query,) = feed(said(200, json=[feed_row(), UP_TO_DATE]))
    assert query == {"offset": "-1", "skipColumns": "payload,payloadType,output,outputType,error"}


def test_an_answer_without_end_is_not_read_to_its_end(
    feed: Callable[..., tuple[Any, list[dict[str, str]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_feed, "Elements", partial(Elements, array_max_chars=1_000))
    error, _ = feed(said(200, text=dumps([feed_row(metadata="x" * 1_000), UP_TO_DATE])))
    assert isinstance(error, SourceUnavailable)
