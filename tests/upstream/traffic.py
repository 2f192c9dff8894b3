"""What clients did: every request, and which streams are being read right now. Thread-safe; tests read it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.model import StreamRef
from tailrace.serve.body import StreamBody
from tailrace.serve.connections import Connections
from tailrace.serve.upstream import Target

_KEPT_REQUESTS = 10_000


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. ``path`` is as it was sent, still percent-encoded; header names are in lower case.

    The value of Authorization is not kept, only that there was one. ``at_s`` is `time.monotonic`.
    ``peer`` is the client's address: requests with the same one came over one connection.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    at_s: float
    peer: tuple[str, int] | None

    @property
    def last_event_id(self) -> str | None:
        """The cursor that the client sent."""
        return self.headers.get("last-event-id")


class Traffic:
    """The newest requests, oldest first, and counts of what is open."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._changed = threading.Condition()
        self._requests: deque[Seen] = deque(maxlen=_KEPT_REQUESTS)
        self._total = 0
        self._reading: Counter[StreamRef] = Counter()

    def requests(self, path_start: str = "") -> list[Seen]:
        """The kept requests whose path begins so."""
        with self._changed:
            return [seen for seen in self._requests if seen.path.startswith(path_start)]

    @property
    def total(self) -> int:
        """Requests ever made, forgotten ones too."""
        return self._total

    @property
    def connections(self) -> int:
        """Open TCP connections, idle ones too."""
        return len(self._connections)

    def reading(self, run_id: str, key: str) -> int:
        """Responses of this stream that have begun and not ended."""
        with self._changed:
            return self._reading[StreamRef(run_id, key)]

    def streams_read(self) -> int:
        """Stream responses that have begun and not ended, of all streams."""
        with self._changed:
            return self._reading.total()

    def wait_until(self, happened: Callable[[], bool], timeout_s: float = 5.0) -> bool:
        """Wait, in a thread other than the server's, for something this object can tell; False when it did not come.

        ``happened`` may use every method here. It is looked at after each request and each begin or end of a read.
        """
        with self._changed:
            return self._changed.wait_for(happened, timeout_s)

    def note(self, scope: Scope) -> None:
        """A request came."""
        shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if "authorization" in shown:
            shown["authorization"] = "[not kept]"
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        query: bytes = scope["query_string"]
        peer = (scope["client"][0], scope["client"][1]) if scope.get("client") else None
        seen = Seen(scope["method"], path.decode("latin-1"), query.decode("latin-1"), shown, time.monotonic(), peer)
        with self._changed:
            self._requests.append(seen)
            self._total += 1
            self._changed.notify_all()

    def counted(self, target: Target, response: Response) -> Response:
        """The same response; while a stream is sent it counts as being read."""
        if target.kind != "stream" or not isinstance(response, StreamBody):
            return response
        return CountedBody(response, self, StreamRef(target.run_id, target.key))

    @contextmanager
    def read_of(self, ref: StreamRef) -> Iterator[None]:
        """While a response of this stream is open."""
        self._count(ref, 1)
        try:
            yield
        finally:
            self._count(ref, -1)

    def _count(self, ref: StreamRef, change: int) -> None:
        with self._changed:
            self._reading[ref] += change
            if not self._reading[ref]:
                del self._reading[ref]
            self._changed.notify_all()


class CountedBody(Response):
    """A body that is being read for as long as it is sent."""

    def __init__(self, body: StreamBody, traffic: Traffic, ref: StreamRef) -> None:
        self._body = body
        self._traffic = traffic
        self._ref = ref
        self.status_code = body.status_code
        self.raw_headers = body.raw_headers
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._traffic.read_of(self._ref):
            await self._body(scope, receive, send)


class Noting:
    """ASGI middleware that notes each request before it is answered."""

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._traffic.note(scope)
        await self._app(scope, receive, send)
