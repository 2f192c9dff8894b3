"""Misbehaviour of the stand-in upstream on demand, as a client sees it."""

from __future__ import annotations

import re
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tailrace.model import Wire
from tailrace.serve.entries import V1Id
from tailrace.serve.records import Draft
from tailrace.serve.timing import Timing
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore
from tests.wirecases import plain_client

V1 = "/realtime/v1/streams/run_v1/s"
V2 = "/realtime/v1/streams/run_v2/s"
V1_BODY = b'id: 1-0\ndata: {"n":0}\n\nid: 1-1\ndata: {"n":1}\n\n'
DRAIN = {"Timeout-Seconds": "1"}


@pytest.fixture(scope="module")
def plain_server() -> Iterator[RunningServer]:
    store = LiveStore()
    store.create_run("run_v1", Wire.V1)
    store.create_run("run_v2", Wire.V2)
    for number in range(2):
        store.append_entry("run_v1", "s", f'{{"n":{number}}}\n', V1Id(1, number))
    store.append_records("run_v2", "s", [Draft(b'{"data":%d,"id":"r"}' % number, (), 1) for number in range(2)])
    with running(create_app(store, timing=Timing().scaled(0.01))) as server:
        yield server


@pytest.fixture
def server(plain_server: RunningServer) -> Iterator[RunningServer]:
    yield plain_server
    assert plain_server.faults.waiting() == 0, "every fault has met its request"
    plain_server.faults.clear()


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with plain_client(server.url) as client:
        yield client


def received(client: httpx.Client, path: str) -> tuple[bytes, type[Exception] | None]:
    """What came of a body, and how it broke off."""
    got = b""
    with client.stream("GET", path, headers=DRAIN) as response:
        try:
            for part in response.iter_raw():
                got += part
        except httpx.HTTPError as error:
            return got, type(error)
    return got, None


def test_the_next_requests_are_answered_with_a_status(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").answer(500, times=2)
    server.faults.stream("run_v1", "s").answer(502, body=b"x", headers=(("x-a", "b"),))
    answers = [client.get(V1, headers=DRAIN) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [500, 500, 502, 200]
    assert answers[0].content == b'{"error":"Internal Server Error"}'
    assert (answers[2].content, answers[2].headers["x-a"]) == (b"x", "b")


def test_a_fault_is_for_its_own_stream_only(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").answer(404)
    assert client.get(V2, headers=DRAIN).status_code == 200
    assert client.get(V1, headers=DRAIN).status_code == 404


def test_a_fault_for_everything_meets_whatever_comes_next(server: RunningServer, client: httpx.Client) -> None:
    server.faults.everything().answer(429)
    assert client.get("/realtime/v1/runs/run_v1").status_code == 429
    assert client.get("/realtime/v1/runs/run_v1").status_code == 200


@pytest.mark.parametrize("after_bytes", range(0, len(V1_BODY), 5))
def test_a_body_is_cut_after_any_byte(server: RunningServer, client: httpx.Client, after_bytes: int) -> None:
    server.faults.stream("run_v1", "s").cut(after_bytes=after_bytes)
    assert received(client, V1) == (V1_BODY[:after_bytes], httpx.RemoteProtocolError)
    assert received(client, V1) == (V1_BODY, None)


def test_a_body_that_is_shorter_than_the_cut_ends_cleanly(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").cut(after_bytes=1000)
    assert received(client, V1) == (V1_BODY, None)


def test_a_connection_is_reset(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v2", "s").reset(after_bytes=3)
    got, error = received(client, V2)
    assert error is httpx.ReadError
    assert got in (b"", b"eve")


def test_a_reset_is_a_real_one(server: RunningServer) -> None:
    server.faults.stream("run_v2", "s").reset()
    with socket.create_connection(server.address) as connection:
        connection.sendall(f"GET {V2} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tr_dev_replay\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_hanging_body_sends_nothing_more(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").hang(after_bytes=4)
    client.timeout = httpx.Timeout(5, read=0.3)  # six idle closes long
    assert received(client, V1) == (V1_BODY[:4], httpx.ReadTimeout)
    assert server.traffic.wait_until(lambda: server.traffic.reading("run_v1", "s") == 0)


def test_a_silent_server_sends_not_even_headers(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").silence()
    client.timeout = httpx.Timeout(5, read=0.1)
    with pytest.raises(httpx.ReadTimeout):
        client.get(V1)


def test_an_error_event_ends_a_v2_body_without_done(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v2", "s").error_event(after_events=1, message="gone fishing")
    server.faults.stream("run_v2", "s").error_event()
    after_one, at_once = received(client, V2)[0], received(client, V2)[0]
    error = rb'event: error\ndata: {"code":"unavailable","message":"%b"}\n\n'
    assert re.fullmatch(rb"event: batch\n.*\n\n" + error % b"gone fishing", after_one, re.DOTALL)
    assert re.fullmatch(error % b"storage is unavailable", at_once)


def test_a_v2_body_ends_without_done(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v2", "s").no_done()
    without, error = received(client, V2)
    assert error is None
    assert without.startswith(b"event: batch")
    assert b"DONE" not in without
    assert received(client, V2)[0].endswith(b"data: [DONE]\n\n")


def test_a_compressed_body_that_nobody_asked_for(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v2", "s").gzip()
    with client.stream("GET", V2, headers=DRAIN) as response:
        assert response.headers["content-encoding"] == "gzip"
        assert b"[DONE]" in zlib.decompress(b"".join(response.iter_raw()), wbits=31)


def test_faults_can_be_taken_back(server: RunningServer, client: httpx.Client) -> None:
    server.faults.stream("run_v1", "s").answer(500, times=9)
    assert server.faults.waiting() == 9
    server.faults.clear()
    assert client.get(V1, headers=DRAIN).status_code == 200


def test_a_server_stops_quickly_whatever_its_clients_wait_for() -> None:
    store = LiveStore()
    store.create_run("run_v1", Wire.V1)
    feed = "/realtime/v1/runs/run_v1"
    with running(create_app(store)) as server, ExitStack() as clients:
        server.faults.stream("run_v1", "hung").hang()
        server.faults.feed("run_v1").silence()
        held = f"{feed}?live=true&shape_id=run-1&offset=9999999999999_0"
        streams = ["/realtime/v1/streams/run_v1/hung", "/realtime/v1/streams/run_v1/idle"]
        for path in [feed, held, *streams]:
            connection = clients.enter_context(socket.create_connection(server.address))
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer tr_dev_replay\r\n\r\n".encode()
            )
        assert server.traffic.wait_until(lambda: server.traffic.total == 4)
        assert server.traffic.wait_until(lambda: server.traffic.streams_read() == 2)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 15  # the held feed answers after 20 s, and a silent one never
