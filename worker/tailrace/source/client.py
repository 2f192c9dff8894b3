"""Talk to upstream over HTTP: open a stream, read a run's feed.

httpx is configured in this file only. Each stream has a client of its own (one shared pool scans all its connections
at every request: 5 000 streams took 35 s to open instead of 7), all with one TLS context.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tailrace.errors import SourceUnavailable
from tailrace.model import RunView, StreamRef
from tailrace.redaction import remember
from tailrace.source.answers import REFUSAL_MAX_CHARS, refuse, translated
from tailrace.source.asking import asked
from tailrace.source.body import read_text
from tailrace.source.feed import FeedCursor, segment

ANSWER_MAX_CHARS = 64 * 1_048_576  # of a page of the list: each of a hundred runs can have 256 kB of metadata
API_VERSION = "2025-07-16"  # else DEQUEUED shows as EXECUTING (protocol §5)
ELECTRIC_VERSION = "1.0.0-beta.1"  # any value selects the modern header names


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where upstream is and how long we wait for it. ``key`` gives the credential; it is never part of a repr."""

    api_url: str
    key: Callable[[], str]
    preview_branch: str | None = None
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 45.0


LATEST = "latest"
"""Where a stream begins that is asked for without a place: at its newest record, on v2 servers that know it.

Source: protocol §10."""

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For ``http://``. It trusts nobody; without it httpx would make one for each client, which costs most of the time."""


def client_options(endpoint: Endpoint, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Return how an httpx client for upstream is made, a blocking one or not. ``tls`` None: only for ``http://``."""
    key = endpoint.key()
    remember(key)
    headers = {
        "Authorization": f"Bearer {key}",
        "Accept-Encoding": "identity",  # v1 answers lack `no-transform`: gzip would be buffered on the way
        "User-Agent": "tailrace",
        "x-trigger-api-version": API_VERSION,
        "x-trigger-electric-version": ELECTRIC_VERSION,
    }
    if endpoint.preview_branch:
        headers["x-trigger-branch"] = endpoint.preview_branch
    return {
        "base_url": endpoint.api_url,
        "headers": headers,
        "verify": tls if tls is not None else _NO_TLS,
        "timeout": httpx.Timeout(endpoint.read_timeout_s, connect=endpoint.connect_timeout_s),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=1),
        "trust_env": False,
    }


IDLE_S = 60.0
"""Upstream keeps an idle connection for 65 s."""
QUESTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=1, keepalive_expiry=IDLE_S)
"""Of a client that asks about runs."""


class Upstream:
    """One Trigger.dev environment. Thread-safe."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tls = ssl.create_default_context() if endpoint.api_url.startswith("https:") else None
        # One for each question at a time: with each request httpcore looks at every connection of its pool.
        self._idle: deque[tuple[float, httpx.Client]] = deque()  # since when; the one that was used last is the last
        self._lock = threading.Lock()
        self._closed = False

    def _client(self, **other: Any) -> httpx.Client:
        return httpx.Client(**client_options(self._endpoint, self._tls) | other)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[httpx.Client]:
        """Lend a client that nobody else uses meanwhile, the one that was used last first."""
        with self._lock:
            client = self._idle.pop()[1] if self._idle else None
        if client is None:
            client = self._client(limits=QUESTIONS)
        try:
            yield client
        finally:
            with self._lock:
                self._idle.append((time.monotonic(), client))
            self._close_idle(0.0 if self._closed else IDLE_S)

    def _close_idle(self, longer_s: float) -> None:
        with self._lock:
            old = [client for since, client in self._idle if time.monotonic() - since >= longer_s]
            for _ in old:
                self._idle.popleft()
        for client in old:
            client.close()

    def close(self) -> None:
        self._closed = True
        self._close_idle(0.0)

    def stream(self, ref: StreamRef) -> StreamSource:
        """Return the source of one stream; nothing is sent yet."""
        return StreamSource(self._client(), ref)

    def run(self, run_id: str) -> RunView:
        """Ask the run feed for the status and the stream keys of a run.

        The feed is used, not the run API: only it names the keys, and it is outside the API's rate limit.

        Raises:
            NotFound: upstream does not know the run (yet: a run just triggered can take a while to show).
            Unauthorized, RequestRefused, MalformedRecord, SourceUnavailable.
        """
        cursor = FeedCursor.of_run(run_id)
        while not self.ask(cursor):
            pass
        return cursor.run(run_id)

    def ask(self, cursor: FeedCursor) -> bool:
        """Ask a feed once; see `source.feed.Answer.end`."""
        with (
            translated(cursor.name),
            self._asking() as client,
            asked(client, cursor.path, params=cursor.query()) as response,
        ):
            return cursor.take(response)

    def get(self, path: str, query: dict[str, str]) -> tuple[httpx.Response, str]:
        """Ask for a path; return the response and its whole body, whatever the status."""
        with translated(f"GET {path}"), self._asking() as client, asked(client, path, params=query) as response:
            body = read_text(response, ANSWER_MAX_CHARS)
        if body is None:
            raise SourceUnavailable(f"GET {path}: the answer is larger than {ANSWER_MAX_CHARS} characters")
        return response, body


class Interruptible:
    """Remembers the socket of the connection in use, so that another thread can wake whoever waits on it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def interrupt(self) -> None:
        """Wake whoever waits on the connection, from any thread: the socket is shut down, so its read ends at once.

        On an unframed body that looks like a clean end: the waker sets a flag first, which is looked at before any
        end is believed.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        # The only way to reach the socket before the answer has come.
        if name in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._remember(info.get("return_value"))

    def _remember(self, network_stream: Any) -> None:
        if network_stream is not None:
            self._socket = network_stream.get_extra_info("socket")


class StreamSource(Interruptible):
    """The upstream side of one stream: opens connections, one at a time. Use it as a context manager."""

    def __init__(self, client: httpx.Client, ref: StreamRef) -> None:
        super().__init__()
        self._client = client
        self._path = stream_path(ref)
        self._name = stream_name(ref)

    def __enter__(self) -> StreamSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    @contextlib.contextmanager
    def open(self, last_event_id: str | None, wait_s: int, start: str | None = None) -> Iterator[httpx.Response]:
        """Open the stream after ``last_event_id`` (None: from ``start``); return the response, its body unread.

        ``wait_s``: how long upstream keeps a silent stream open before it closes it cleanly (1 to 600 s). ``start``:
        `LATEST`, which servers may not know, or None for the beginning.

        Raises:
            What `refuse` and `translated` say; also while the body is read inside the ``with``.
        """
        headers = stream_headers(last_event_id, wait_s, start)
        with (
            translated(self._name),
            asked(self._client, self._path, headers=headers, extensions={"trace": self._trace}) as response,
        ):
            if response.status_code != 200:
                refuse(response.status_code, read_text(response, REFUSAL_MAX_CHARS) or "(too long)", self._name)
            self._remember(response.extensions.get("network_stream"))
            yield response


def stream_path(ref: StreamRef) -> str:
    """Return the path of a stream's route."""
    return f"/realtime/v1/streams/{segment(ref.run_id)}/{segment(ref.stream_key)}"


def stream_name(ref: StreamRef) -> str:
    """Name a stream, for errors."""
    return f"stream {ref.stream_key!r} of run {ref.run_id}"


def stream_headers(last_event_id: str | None, wait_s: int, start: str | None = None) -> dict[str, str]:
    """Return the headers that ask for a stream after ``last_event_id``; see `StreamSource.open`."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Timeout-Seconds": str(wait_s)}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    elif start is not None:
        headers["X-Trigger-Stream-Start"] = start
    return headers
