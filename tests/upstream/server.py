"""Runs the stand-in upstream in a thread of its own while a test goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.applications import Starlette

from tailrace.serve.app import upstream_of
from tailrace.serve.server import Server, connections_of, listen, url_of
from tailrace.serve.upstream import Upstream
from tests.upstream.app import half_of
from tests.upstream.faults import Faults
from tests.upstream.rate_limit import Bucket
from tests.upstream.traffic import Traffic

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers. ``url`` has no slash at its end."""

    url: str
    app: Starlette

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a plain socket."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    @property
    def upstream(self) -> Upstream:
        return upstream_of(self.app)

    @property
    def faults(self) -> Faults:
        return half_of(self.app).faults

    @property
    def traffic(self) -> Traffic:
        return half_of(self.app).traffic

    @property
    def bucket(self) -> Bucket:
        return half_of(self.app).bucket


@contextmanager
def running(app: Starlette, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[RunningServer]:
    """Serve from a thread of its own while the block runs. Open connections are dropped at its end.

    ``app`` may be any Starlette application; only one made by `tests.upstream.create_app` has faults and traffic.
    """
    listener = listen(host, port)
    server = Server(app, connections_of(app))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])),
        name="replay-server",
        daemon=True,
    )
    url = url_of(listener)
    thread.start()
    try:
        if not server.ready.wait(_START_TIMEOUT_S):
            raise RuntimeError("the server did not start")
        yield RunningServer(url, app)
    finally:
        server.stop()
        thread.join(_STOP_TIMEOUT_S)
        if thread.is_alive():
            raise RuntimeError("the server did not stop")
