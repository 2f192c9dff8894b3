"""The stream routes of the stand-in upstream over HTTP: status codes, headers, cursors, ends, and live reads."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tailrace.model import Wire
from tailrace.serve.entries import V1Id
from tailrace.serve.records import Draft
from tailrace.serve.timing import Timing
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore
from tests.wirecases import load_case, load_steps, plain_client

QUICK = Timing().scaled(0.01)  # a second is 10 ms, a v1 block 50 ms

V1 = "/realtime/v1/streams/run_v1"
V2 = "/realtime/v1/streams/run_v2"
UNCHECKED = frozenset({"connection", "keep-alive", "transfer-encoding", "date"})


@pytest.fixture(scope="module")
def store() -> LiveStore:
    """Runs whose streams no test of this module changes, but for those that it makes itself."""
    store = LiveStore()
    store.create_run("run_v1", Wire.V1)
    store.create_run("run_v2", Wire.V2)
    for number in range(4):
        store.append_entry("run_v1", "s", f'{{"n":{number}}}\n', V1Id(1000, number))
    store.append_records("run_v2", "s", [Draft(b'{"data":%d,"id":"r"}' % number, (), 1000) for number in range(4)])
    return store


@pytest.fixture(scope="module")
def server(store: LiveStore) -> Iterator[RunningServer]:
    with running(create_app(store, timing=QUICK)) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with plain_client(server.url) as client:
        yield client


def numbers(body: bytes) -> list[int]:
    """The numbers of the chunks in a v1 body, or of the records in a v2 body."""
    return [int(found) for found in re.findall(rb'"(?:n|seq_num)":(\d+)(?=}\n|,"timestamp":\d+,"body)', body)]


# Headers and status codes


@pytest.mark.parametrize(("path", "case"), [(V1, "v1_a_text_delta_50"), (V2, "v2_a_replay_then_done")])
def test_the_headers_are_the_recorded_ones(client: httpx.Client, path: str, case: str) -> None:
    response = client.get(f"{path}/s", headers={"Timeout-Seconds": "1"})
    shown = {name: value for name, value in response.headers.items() if name not in UNCHECKED}
    assert shown == dict(load_case(case).headers)
    assert response.headers["transfer-encoding"] == "chunked"


@pytest.mark.parametrize("row", [row for row in load_steps("v1_k_status_codes")["rows"] if "timeout_seconds" in row])
def test_timeouts_are_checked_as_upstream_checks_them(client: httpx.Client, row: dict[str, str | int]) -> None:
    asked = str(row["timeout_seconds"])
    with client.stream("GET", f"{V1}/s", headers={"Timeout-Seconds": asked}) as response:
        assert response.status_code == row["status"]
        if response.status_code == 400:
            assert response.read().decode() == row["body"]
            assert response.headers["content-type"].startswith("text/plain")


def case_of(name: str) -> dict[str, object]:
    return next(row for row in load_steps("v1_k_status_codes")["rows"] if row.get("case") == name)


@pytest.mark.parametrize(
    ("case", "key", "path"),
    [
        ("no key", None, f"{V1}/s"),
        ("bad key", "tr_dev_other", f"{V1}/s"),
        ("unknown run", "tr_dev_replay", "/realtime/v1/streams/run_other/s"),
    ],
)
def test_refusals_are_the_recorded_ones(server: RunningServer, case: str, key: str | None, path: str) -> None:
    expected = case_of(case)
    with plain_client(server.url, key) as client:
        response = client.get(path)
    assert (response.status_code, response.text) == (expected["status"], expected["body"])
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    assert response.headers.get("x-should-retry") == ("false" if case == "unknown run" else None)


def test_a_token_that_is_not_allowed_is_refused_as_recorded(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").answer(403)
    response = client.get(f"{V1}/s")
    assert (response.status_code, response.text) == (403, case_of("under-scoped token")["body"])


def test_other_methods_and_paths(client: httpx.Client) -> None:
    assert client.post(f"{V1}/s").status_code == 405
    assert client.get("/realtime/v1/streams/run_v1").status_code == 404
    assert client.get("/").status_code == 404


# Names


@pytest.mark.parametrize("name", ["a/b", "a b?c#d", "input", "ä%2F", "\n", "$trigger.input:x", "..", ".", "a//b"])
def test_names_are_one_encoded_segment(server: RunningServer, store: LiveStore, name: str) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    store.create_run(f"run {name}", Wire.V1)
    store.append_entry(f"run {name}", name, "1\n", V1Id(5, 0))
    # Not httpx: it would resolve the dots.
    with socket.create_connection(server.address) as connection:
        request = f"GET /realtime/v1/streams/run%20{encoded}/{encoded} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(f"{request}Authorization: Bearer tr_dev_replay\r\nTimeout-Seconds: 1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"id: 5-0\ndata: 1\n\n" in answer


@pytest.mark.parametrize("run_id", ["run_v1", "run_v2"])
def test_an_input_stream_has_a_route_and_a_stored_name(client: httpx.Client, store: LiveStore, run_id: str) -> None:
    store.append_chunk(run_id, "$trigger.input:approval", '"{\\"ok\\":true}"')
    base = f"/realtime/v1/streams/{run_id}"
    headers = {"Timeout-Seconds": "1"}
    by_route = client.get(f"{base}/input/approval", headers=headers)
    by_name = client.get(f"{base}/%24trigger.input%3Aapproval", headers=headers)
    assert by_route.status_code == by_name.status_code == 200
    assert rb"\"ok" in by_route.content
    assert numbers(by_route.content) == numbers(by_name.content)


@pytest.mark.parametrize(("asked", "status"), [("0", 400), ("abc", 400), ("601", 400), ("-1", 400), ("1", 200)])
def test_the_input_route_is_strict_about_timeouts(client: httpx.Client, asked: str, status: int) -> None:
    assert client.get(f"{V1}/input/approval", headers={"Timeout-Seconds": asked}).status_code == status


# Cursors


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ("0", [0, 1, 2, 3]),
        ("0-0", [0, 1, 2, 3]),
        ("9", [0, 1, 2, 3]),
        ("1000", [1, 2, 3]),
        ("1000-1", [2, 3]),
        ("1000-3", []),
        ("999999", []),
        ("$", []),
    ],
)
def test_v1_cursors(client: httpx.Client, cursor: str | None, expected: list[int]) -> None:
    headers = {"Timeout-Seconds": "1"} | ({} if cursor is None else {"Last-Event-ID": cursor})
    assert numbers(client.get(f"{V1}/s", headers=headers).content) == expected


@pytest.mark.parametrize(
    ("cursor", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", [0, 1, 2, 3]),
        ("0", [1, 2, 3]),
        ("-1", [1, 2, 3]),
        ("2", [3]),
        ("3", []),
        ("1000", []),
        ("1763000000000-0", []),
        ("3,4,100", [0, 1, 2, 3]),
        ("abc", [0, 1, 2, 3]),
    ],
)
def test_v2_cursors(client: httpx.Client, cursor: str | None, expected: list[int]) -> None:
    headers = {"Timeout-Seconds": "1"} | ({} if cursor is None else {"Last-Event-ID": cursor})
    body = client.get(f"{V2}/s", headers=headers).content
    assert numbers(body) == expected
    assert b'"tail":{"seq_num":4,"timestamp":1000}' in body
    assert body.endswith(b"\n\ndata: [DONE]\n\n")


def test_a_cursor_that_redis_refuses_is_answered_200_and_then_breaks_off(client: httpx.Client) -> None:
    with client.stream("GET", f"{V1}/s", headers={"Last-Event-ID": "not-an-id"}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            response.read()


@pytest.mark.parametrize("headers", [{"Last-Event-ID": "1.5"}, {"Timeout-Seconds": "abc"}])
def test_what_the_storage_behind_v2_refuses_is_a_500(client: httpx.Client, headers: dict[str, str]) -> None:
    response = client.get(f"{V2}/s", headers=headers)
    assert (response.status_code, response.content) == (500, load_case("v2_a_timeout_not_a_number").body)


def test_a_missing_v2_stream_is_made_by_reading_or_is_a_500() -> None:
    store = LiveStore(create_on_read=False)
    store.create_run("run_v2")
    with running(create_app(store, timing=QUICK)) as server, plain_client(server.url) as client:
        response = client.get(f"{V2}/never")
        assert (response.status_code, response.content) == (500, load_case("v2_j_deletion_pending_500").body)
        store.open_stream("run_v2", "never")
        body = client.get(f"{V2}/never", headers={"Timeout-Seconds": "1"}).content
        assert body.startswith(b"event: ping\n")
        assert b'"tail":{"seq_num":0,"timestamp":0}' in body


# Ends


def test_v1_pings_and_closes_cleanly_with_the_unfinished_line(client: httpx.Client, store: LiveStore) -> None:
    store.append_entry("run_v1", "half", '{"n":7}\n{"n":8', V1Id(1, 0))
    body = client.get(f"{V1}/half", headers={"Timeout-Seconds": "60"}).content
    assert body.startswith(b'id: 1-0\ndata: {"n":7}\n\n: ping\n\n')
    assert body.endswith(b': ping\n\nid: 1-0\ndata: {"n":8\n\n')


def test_v2_drains_at_once_with_a_timeout_of_zero(client: httpx.Client) -> None:
    drained = client.get(f"{V2}/s", headers={"Timeout-Seconds": "0"}).content
    assert (numbers(drained), drained.count(b"event: ping")) == ([0, 1, 2, 3], 0)
    at_tail = client.get(f"{V2}/s", headers={"Timeout-Seconds": "0", "Last-Event-ID": "3"}).content
    assert at_tail == b"data: [DONE]\n\n"


# Live


@pytest.mark.parametrize("run_id", ["run_v1", "run_v2"])
def test_a_reader_gets_each_chunk_as_it_is_written(
    server: RunningServer, client: httpx.Client, store: LiveStore, run_id: str
) -> None:
    """The writer waits for the reader each time: neither a poll nor a buffer is in between."""
    with client.stream("GET", f"/realtime/v1/streams/{run_id}/live", headers={"Timeout-Seconds": "600"}) as response:
        lines = response.iter_lines()
        assert server.traffic.wait_until(lambda: server.traffic.reading(run_id, "live") == 1)
        for number in range(20):
            store.append_chunk(run_id, "live", f'{{"n":{number}}}')
            assert any(f'n":{number}}}' in line.replace("\\", "") for line in lines)
    assert server.traffic.wait_until(lambda: server.traffic.reading(run_id, "live") == 0)


def test_writers_in_many_threads_reach_many_readers(server: RunningServer, store: LiveStore) -> None:
    got: list[list[int]] = []

    def read() -> None:
        with (
            plain_client(server.url) as client,
            client.stream("GET", f"{V2}/many", headers={"Timeout-Seconds": "600"}) as response,
        ):
            body = b""
            for part in response.iter_raw():
                body += part
                if body.count(b'"timestamp":1,"body') == 400:
                    break
            got.append(numbers(body))

    def write() -> None:
        for _ in range(100):
            store.append_records("run_v2", "many", [Draft(b"x", (), 1)])

    readers = [threading.Thread(target=read) for _ in range(8)]
    writers = [threading.Thread(target=write) for _ in range(4)]
    for reader in readers:
        reader.start()
    assert server.traffic.wait_until(lambda: server.traffic.reading("run_v2", "many") == 8)
    for writer in writers:
        writer.start()
    for thread in [*writers, *readers]:
        thread.join(10)
    assert got == [list(range(400))] * 8


def test_small_events_are_sent_without_delay(server: RunningServer, client: httpx.Client) -> None:
    with client.stream("GET", f"{V1}/s"):
        transports = server.upstream.connections.transports()
        sockets = [transport.get_extra_info("socket") for transport in transports]
        assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in sockets)
        assert sockets


def test_a_stream_that_is_recreated_under_a_reader_ends_with_an_error_event(
    server: RunningServer, client: httpx.Client, store: LiveStore
) -> None:
    store.append_chunks("run_v2", "again", ["1", "2"])
    with client.stream("GET", f"{V2}/again", headers={"Timeout-Seconds": "600"}) as response:
        chunks = response.iter_raw()
        assert b"event: batch" in next(chunks)
        store.recreate_stream("run_v2", "again")
        rest = b"".join(chunks)
    assert re.search(rb'event: error\ndata: {"code":"unavailable"', rest)
    assert b"[DONE]" not in rest
    store.append_chunk("run_v2", "again", "3")
    assert numbers(client.get(f"{V2}/again", headers={"Timeout-Seconds": "0"}).content) == [0]


def test_a_client_that_leaves_is_noticed_at_once_even_in_upstreams_long_waits(store: LiveStore) -> None:
    with running(create_app(store)) as server, plain_client(server.url) as client:
        with client.stream("GET", f"{V1}/s") as response:
            chunks = response.iter_raw()
            assert next(chunks).startswith(b"id: ")
            assert server.traffic.streams_read() == 1
        assert server.traffic.wait_until(lambda: server.traffic.streams_read() == 0, timeout_s=2)


def test_a_client_that_does_not_read_stops_the_sending_and_nobody_else(store: LiveStore) -> None:
    big = LiveStore(v1_max_entries=None)
    big.create_run("run_v1", Wire.V1)
    big.append_entries("run_v1", "big", ["x" * 65_535 + "\n"] * 1000)
    app = create_app(big, timing=QUICK)
    with running(app) as server, socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        lazy.connect(server.address)
        lazy.sendall(f"GET {V1}/big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tr_dev_replay\r\n\r\n".encode())
        assert lazy.recv(1)
        with plain_client(server.url) as client:
            read = client.get(f"{V1}/big", headers={"Timeout-Seconds": "1"}).content
        assert len(read) > 65_000_000
        held = [transport.get_write_buffer_size() for transport in server.upstream.connections.transports()]
        assert 0 < max(held) < 1_000_000


# Compression


def test_v1_is_compressed_for_a_client_that_offers_it_and_v2_never(client: httpx.Client) -> None:
    headers = {"Accept-Encoding": "gzip, deflate", "Timeout-Seconds": "1"}
    with client.stream("GET", f"{V1}/s", headers=headers) as response:
        assert response.headers["content-encoding"] == "gzip"
        raw = b"".join(response.iter_raw())
    assert numbers(zlib.decompress(raw, wbits=31)) == [0, 1, 2, 3]
    assert "content-encoding" not in client.get(f"{V2}/s", headers=headers).headers
    assert "content-encoding" not in client.get(f"{V1}/s", headers={"Timeout-Seconds": "1"}).headers


def test_compressed_chunks_are_flushed_one_by_one(
    server: RunningServer, client: httpx.Client, store: LiveStore
) -> None:
    headers = {"Accept-Encoding": "gzip", "Timeout-Seconds": "600"}
    with client.stream("GET", f"{V1}/zipped", headers=headers) as response:
        chunks = (found for part in response.iter_bytes() if (found := numbers(part)))  # without pings
        for number in range(3):
            store.append_chunk("run_v1", "zipped", f'{{"n":{number}}}')
            assert next(chunks) == [number]


# What tests see


def test_requests_are_kept_without_the_key(server: RunningServer, client: httpx.Client) -> None:
    before, began_s = server.traffic.total, time.monotonic()
    client.get(f"{V1}/a%2Fb?x=1", headers={"Timeout-Seconds": "1", "Last-Event-ID": "7-0"})
    assert server.traffic.total == before + 1
    seen = server.traffic.requests(f"{V1}/a%2Fb")[-1]
    assert (seen.method, seen.path, seen.query, seen.last_event_id) == ("GET", f"{V1}/a%2Fb", "x=1", "7-0")
    assert seen.headers["authorization"] == "[not kept]"
    assert "tr_dev_replay" not in json.dumps(seen.headers)
    assert began_s <= seen.at_s <= time.monotonic()
    assert server.traffic.connections >= 1
