"""Piping a stream into a response: whatever a client does, upstream is left when it leaves."""

from __future__ import annotations

import contextlib
import socket
import threading
import wsgiref.simple_server
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from wsgiref.validate import validator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tailrace import streams
from tailrace.model import Wire
from tailrace.streams import aio
from tests.streamcases import LONG_S, World, running_wsgi
from tests.upstream import running

HEARTBEAT_S = 0.05


@contextlib.contextmanager
def asgi(world: World) -> Iterator[str]:
    """An ASGI server that pipes whatever run is asked for."""

    async def stream(request: Request) -> StreamingResponse:
        body = aio.as_sse(
            request.path_params["run"],
            "ai",
            client=world.client,
            heartbeat_in_seconds=HEARTBEAT_S,
            last_event_id=request.headers.get("last-event-id"),
        )
        return StreamingResponse(body, headers=body.headers)

    with running(Starlette(routes=[Route("/{run}", stream)])) as server:
        yield server.url


@contextlib.contextmanager
def wsgi(world: World) -> Iterator[str]:
    """A WSGI server that does the same."""

    def stream(environ: dict[str, Any], start_response: Any) -> Any:
        body = streams.as_sse(
            environ["PATH_INFO"][1:],
            "ai",
            client=world.client,
            heartbeat_in_seconds=HEARTBEAT_S,
            last_event_id=environ.get("HTTP_LAST_EVENT_ID"),
        )
        start_response("200 OK", list(body.headers.items()))
        return body

    with running_wsgi(stream) as url:
        yield url


@pytest.fixture(params=["asgi", "wsgi"])
def url(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    with (asgi if request.param == "asgi" else wsgi)(world) as url:
        yield url


@contextlib.contextmanager
def asking(url: str, run_id: str, headers: str = "", receive_bytes: int = 0) -> Iterator[socket.socket]:
    """A plain client, whose pace and end are in the test's hand."""
    parts = urlsplit(url)
    with socket.socket() as client:
        if receive_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.settimeout(LONG_S)
        client.connect((parts.hostname, parts.port))
        client.sendall(f"GET /{run_id} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        yield client


def until(client: socket.socket, text: bytes) -> bytes:
    """Read until the text has come."""
    found = b""
    while text not in found:
        block = client.recv(65_536)
        assert block, found[-500:]
        found += block
    return found


def test_a_client_that_leaves_between_chunks_closes_the_upstream_read(world: World, url: str) -> None:
    place = world.place(Wire.V2)
    place.write("ai", ["1"])
    with asking(url, place.run_id) as client:
        head = until(client, b'{"chunk":1}')
        assert b"200 OK" in head
        assert b"content-type: text/event-stream" in head.lower()
        assert place.begun("ai")
    assert place.left("ai")


def test_a_client_that_leaves_a_silent_stream_closes_the_upstream_read(world: World, url: str) -> None:
    place = world.place(Wire.V2)
    with asking(url, place.run_id) as client:
        until(client, b": ping")
        assert place.begun("ai")
    assert place.left("ai")


def test_a_client_that_does_not_read_and_leaves(world: World, url: str) -> None:
    """The server waits for its client to take what was sent; the stream is left all the same."""
    place = world.place(Wire.V2)
    place.write("ai", ['"' + "x" * 100_000 + '"'] * 200)
    with asking(url, place.run_id, receive_bytes=4096) as client:
        until(client, b"xxx")
        assert place.begun("ai")
    assert place.left("ai")


def test_a_client_that_comes_back_goes_on(world: World, url: str) -> None:
    place = world.place(Wire.V1)
    place.write("ai", ["1", "2", "3"])
    with asking(url, place.run_id) as client:
        found = until(client, b'{"chunk":3}')
    last = next(line for line in found.split(b"\n") if line.startswith(b"id: 1:")).removeprefix(b"id: ").decode()
    assert place.left("ai")
    place.write("ai", ["4"])
    place.finish()
    with asking(url, place.run_id, f"Last-Event-ID: {last}\r\nConnection: close\r\n") as client:
        rest = until(client, b'{"chunk":4}')
    assert b'{"chunk":3}' in rest
    assert b'{"chunk":2}' not in rest


def test_the_response_ends_with_the_run(world: World, url: str) -> None:
    place = world.place(Wire.V2)
    place.write("ai", ["1"])
    with asking(url, place.run_id, "Connection: close\r\n") as client:
        until(client, b'{"chunk":1}')
        place.write("ai", ["2"])
        place.finish()
        until(client, b'{"chunk":2}')
        while client.recv(65_536):
            pass
    assert place.left("ai")


def test_a_strict_wsgi_server_takes_the_body_and_its_headers(world: World) -> None:
    """wsgiref refuses headers that PEP 3333 leaves to the server, and its validator looks at every step."""
    place = world.place(Wire.V2)
    place.write("ai", ["1"])
    place.finish()

    def stream(environ: dict[str, Any], start_response: Any) -> Any:
        body = streams.as_sse(place.run_id, "ai", client=world.client, ids=False)
        start_response("200 OK", list(body.wsgi_headers.items()))
        return body

    with wsgiref.simple_server.make_server("127.0.0.1", 0, validator(stream), handler_class=Silent) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        answer = httpx.get(f"http://127.0.0.1:{server.server_port}/", trust_env=False)
        thread.join(LONG_S)
    assert (answer.status_code, answer.text) == (200, 'data: {"chunk":1}\n\n')
    assert answer.headers["content-type"] == "text/event-stream"
    assert place.left("ai")


class Silent(wsgiref.simple_server.WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
        pass
