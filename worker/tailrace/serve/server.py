"""Runs a stand-in upstream: an application of any kind, or recordings as a command."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from tailrace.serve.app import create_app
from tailrace.serve.connections import Connections
from tailrace.serve.recorded import RecordedStore
from tailrace.serve.recording import read_recording

_STOP_TIMEOUT_S = 10.0
_MANY_FILES = 65_536
_KEEP_ALIVE_S = 65  # upstream's own


def serve(app: Starlette, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM. Port 0 takes a free one. The URL is printed as the first line of output."""
    allow_many_connections()
    listener = listen(host, port)
    sys.stdout.write(url_of(listener) + "\n")
    sys.stdout.flush()
    # Once it has stopped for SIGINT, uvicorn raises the signal again for whoever started it.
    with suppress(KeyboardInterrupt):
        asyncio.run(Server(app, connections_of(app)).serve(sockets=[listener]))


def main(recordings: list[Path], port: int, speed: float, key: str) -> None:
    """Serve recordings on 127.0.0.1 until a signal comes: what ``tailrace replay`` does.

    Args:
        recordings: files as `recording.read_recording` reads them.
        port: 0 takes a free one; the URL is printed on the first line of output.
        speed: 1 is the pace of the recording, 2 twice as fast; 0 has everything there from the start.
        key: the bearer token that clients have to send.

    Raises:
        MalformedRecord: a file is not a recording.
    """
    store = RecordedStore([read_recording(path) for path in recordings], speed=speed)
    serve(create_app(store, api_key=key), "127.0.0.1", port)


class Server(uvicorn.Server):
    """uvicorn, told to stop at once and from any thread, and without waiting for open streams to end."""

    def __init__(self, app: Starlette, connections: Connections) -> None:
        config = uvicorn.Config(
            app,
            http=connections.protocol(),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # a broken-off body is no error here
            server_header=False,
            proxy_headers=False,  # a client is who connects: the console believes a proxy by its address
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        super().__init__(config)
        self.ready = threading.Event()
        self._connections = connections
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked: asyncio.Event | None = None

    def stop(self) -> None:
        """From any thread, also before the start and after the end."""
        self.should_exit = True
        if self._loop is not None and self._stop_asked is not None:
            try:
                self._loop.call_soon_threadsafe(self._stop_asked.set)
            except RuntimeError:  # it has ended by itself, and its loop is closed
                return

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_asked = asyncio.Event()
        await super().startup(sockets)
        await self.on_tick(0)  # sets the headers that every answer carries
        self.ready.set()

    async def main_loop(self) -> None:
        assert self._stop_asked is not None
        counter = 0
        while not await self.on_tick(counter):
            counter += 1
            try:
                await asyncio.wait_for(self._stop_asked.wait(), 0.1)
            except TimeoutError:
                continue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._connections.abort_all()
        # Every answer ends by itself when its client is gone.
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_STOP_TIMEOUT_S / 2)
        for server in self.servers:
            await server.wait_closed()


def connections_of(app: Starlette) -> Connections:
    """Return the connections that the parts of an application look in; new ones for an application of another kind."""
    connections: Any = getattr(app.state, "connections", None)
    return connections if isinstance(connections, Connections) else Connections()


def allow_many_connections() -> None:
    """Raise this process' limit of open files, of which each connection is one: the usual 1024 is soon reached."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if most == resource.RLIM_INFINITY else min(most, _MANY_FILES)
    if now != resource.RLIM_INFINITY and now < wanted:
        with suppress(ValueError, OSError):  # then the limit stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def listen(host: str, port: int) -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only on sockets that say they are TCP; without it Nagle's
    # algorithm and a delayed acknowledgement hold a small event back for 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on clients can connect; they are answered as soon as the server runs.
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
