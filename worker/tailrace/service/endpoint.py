"""What a process answers over HTTP: ``/metrics`` for Prometheus, ``/live`` and ``/ready`` for probes. Nothing else.

A thread of its own for the server and one for each request, so that a probe is answered while all else waits.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app

from tailrace.errors import BadSettings

__all__ = ["Endpoint"]

TEXT: Final = [("Content-Type", "text/plain; charset=utf-8")]
REQUEST_S: Final = 10.0
"""A client that sends or takes nothing for so long is let go of."""

Complaints = Callable[[], Sequence[str]]
"""What is wrong, a sentence each; none: all is well."""


class Endpoint:
    """Answers on one port, from `start` to `stop`."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        live: Complaints,
        ready: Complaints,
        notes: Complaints = lambda: [],
    ) -> None:
        """Take the port (0: any that is free); nothing is answered yet.

        ``notes``: what who is ready adds, because somebody should know it.

        Raises:
            BadSettings: it can't be had.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._server = _server(family, (host, port), _app(registry, live, ready, notes))
        except OSError as error:
            raise BadSettings(f"Port {port} of {host} can't be had to show metrics on: {error.strerror}.") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="tailrace-endpoint", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give the port back; who asks at this moment is still answered."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        """Answer in this thread until it is interrupted."""
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()


def _app(registry: CollectorRegistry, live: Complaints, ready: Complaints, notes: Complaints) -> WSGIApplication:
    shown = make_wsgi_app(registry)
    probes = {"/live": live, "/ready": ready}

    def answer(request: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = request.get("PATH_INFO", "/")
        if request.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            start("405 Method Not Allowed", [*TEXT, ("Allow", "GET, HEAD")])
            return [b"only GET\n"]
        if path == "/metrics":
            return cast("Iterable[bytes]", shown(request, start))
        if path not in probes:
            start("404 Not Found", [*TEXT])
            return [b"/metrics, /live or /ready\n"]
        wrong = probes[path]()
        start("503 Service Unavailable" if wrong else "200 OK", [*TEXT])
        said = wrong or ["ok", *(notes() if path == "/ready" else ())]
        return ["\n".join([*said, ""]).encode()]

    return answer


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        # The standard one looks its own name up in the DNS, which can take minutes where there is none.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who asked is gone: nobody needs to know."""


class _Quiet(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name in the standard library
        """A probe every few seconds is no change of state."""


def _server(family: int, address: tuple[str, int], app: WSGIApplication) -> _Server:
    kind = type("Server", (_Server,), {"address_family": family})
    server: _Server = kind(address, _Quiet)
    server.set_app(app)
    return server
