"""Wait for a session's events in the calling thread (or greenlet). Each connection is read by a thread of its own.

The caller never waits on a socket, so an abort, a timeout or the end of v1's hold time is never late: httpx can't be
told to stop waiting without ending the response.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

import httpx

from tailrace.errors import WorkerError
from tailrace.model import Arrival, RunView
from tailrace.source.client import Interruptible, StreamSource, client_options
from tailrace.source.connection import Tail
from tailrace.source.run_feed import RunFeed
from tailrace.streams.errors import ChunkTypeError, unexpected
from tailrace.streams.session import LIMITS, WAITING_EVENTS, Session, Value
from tailrace.streams.steps import Close, Ended, Event, Failed, Fetch, Look, Looked, Open, Opened, Request


class Inbox:
    """Events on their way from the threads that read to the one that waits."""

    def __init__(self) -> None:
        # A Condition's own lock is reentrant: a signal handler may abort while the thread it interrupts is in here.
        self._changed = threading.Condition()
        self._events: deque[tuple[int, Event]] = deque()
        self._waiting: dict[int, int] = {}  # by number, of what is under way
        self._woken = False

    def begin(self, number: int) -> None:
        with self._changed:
            self._waiting[number] = 0

    def end(self, number: int) -> None:
        """What is under way under this number need not go on."""
        with self._changed:
            self._waiting.pop(number, None)
            self._changed.notify_all()

    def put(self, number: int, event: Event) -> bool:
        """Hand an event over; waits while enough others wait. False: nobody wants it any more."""
        with self._changed:
            while self._waiting.get(number, 0) >= WAITING_EVENTS:
                self._changed.wait()
            if number not in self._waiting:
                return False
            self._waiting[number] += 1
            self._events.append((number, event))
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None) -> tuple[int, Event] | None:
        """Take the next event, waiting for one; None when the time is over or somebody called `wake`."""
        with self._changed:
            if not self._events and not self._woken:
                self._changed.wait_for(lambda: self._events or self._woken, timeout_s)
            self._woken = False
            if not self._events:
                return None
            number, event = self._events.popleft()
            if isinstance(event, Opened | Arrival) and number in self._waiting:
                self._waiting[number] -= 1
                self._changed.notify_all()
            else:
                self._waiting.pop(number, None)
            return number, event

    def wake(self) -> None:
        """Have whoever waits look up. From any thread, greenlet or signal handler."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()


class _Leaving(Interruptible):
    """Interrupts at any moment, also before there is a socket: then as soon as there is one. For one use only."""

    _left = False

    def interrupt(self) -> None:
        self._left = True
        super().interrupt()

    def _remember(self, network_stream: object) -> None:
        super()._remember(network_stream)
        if self._left:
            super().interrupt()


class _Source(_Leaving, StreamSource):
    """The source of one connection."""


class _Feed(_Leaving, RunFeed):
    """The run feed of one session. Whoever is the last to use it closes its client."""

    def __init__(self, client: httpx.Client, run_id: str) -> None:
        super().__init__(client, run_id)
        self._guard = threading.Lock()
        self._in_use = False
        self._over = False

    def look(self, live: bool) -> RunView:
        with self._guard:
            self._in_use = True
        try:
            return super().look(live)
        finally:
            with self._guard:
                self._in_use = False
                if self._over:
                    self._client.close()

    def leave(self) -> None:
        with self._guard:
            self._over = True
            if not self._in_use:
                self._client.close()
                return
        self.interrupt()


def _read(inbox: Inbox, number: int, source: StreamSource, max_event_bytes: int, request: Open) -> None:
    """Read one connection and hand over what it brings, until it ends or nobody wants it any more."""
    try:
        with source, Tail(source, max_event_bytes).connect(*request) as connection:
            wanted = inbox.put(number, Opened(connection.wire, connection.date_ms))
            arrivals = connection.arrivals
            while wanted and (arrival := next(arrivals, None)) is not None:
                wanted = inbox.put(number, arrival)
        inbox.put(number, Ended())
    except WorkerError as error:
        inbox.put(number, Failed(error))
    except Exception as error:  # noqa: BLE001  a thread has nobody to raise to: it goes to the caller
        inbox.put(number, Failed(unexpected(error)))


def _ask(inbox: Inbox, number: int, question: Callable[[], Event]) -> None:
    """Ask one thing and hand the answer over."""
    try:
        inbox.put(number, question())
    except WorkerError as error:
        inbox.put(number, Failed(error))
    except Exception as error:  # noqa: BLE001  as above
        inbox.put(number, Failed(unexpected(error)))


class Waiter:
    """Runs a session for whoever calls `next`. Not thread-safe; nothing that it starts keeps it alive."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._inbox = Inbox()
        self._sources: dict[str, StreamSource] = {}
        self._feed: _Feed | None = None
        self._closed = False
        self._stop_listening: Callable[[], None] | None = None

    def next(self, until: float | None = None) -> Value | RunView | None:
        """Return the next value; None when ``until`` (by the session's clock) is reached before.

        Raises:
            StopIteration: the end.
            StreamError.
        """
        session = self.session
        if self._closed:
            raise StopIteration
        if self._stop_listening is None:
            self._stop_listening = session.signal.listen(self._inbox.wake)
        session.wake()
        try:
            while True:
                value = session.take()
                if value is not None:
                    return value
                if session.finished:
                    error = session.error()
                    self.close()
                    if error is not None:
                        try:
                            raise error
                        finally:
                            del error  # as in `Session._decoded`
                    raise StopIteration
                if until is not None and session.clock() >= until:
                    return None
                for number, key, request in session.requests():
                    self._start(number, key, request)
                event = self._inbox.get(session.wait_s(until))
                if event is None:
                    session.tick()
                else:
                    session.handle(*event)
        except (StopIteration, ChunkTypeError):
            raise  # the end; or a chunk that does not fit, after which the read can go on
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave upstream: every connection is dropped now. Safe to repeat."""
        self._closed = True
        if self._stop_listening is not None:
            self._stop_listening()
        for number, key in self.session.reading.close():
            self._stop(number, key)
        if self._feed is not None:
            self._feed.leave()
            self._feed = None

    def abandon(self) -> None:
        """Do what `close` does: the waiter is not needed any more."""
        self.close()

    def _start(self, number: int, key: str, request: Request) -> None:
        servers, inbox, ref = self.session.options.servers, self._inbox, self.session.ref(key)
        match request:
            case Close():
                self._stop(number, key)
                return
            case Open():
                source = _Source(self._client(), ref)
                self._sources[key] = source
                target = partial(_read, inbox, number, source, servers.event_max_bytes, request)
            case Fetch():
                target = partial(_ask, inbox, number, partial(servers.archive().read, ref, request))
            case Look():
                if self._feed is None:
                    self._feed = _Feed(self._client(), self.session.run_id)
                target = partial(_ask, inbox, number, partial(_look, self._feed, request.live))
        inbox.begin(number)
        threading.Thread(target=target, name="tailrace-stream", daemon=True).start()

    def _stop(self, number: int, key: str) -> None:
        self._inbox.end(number)
        source = self._sources.pop(key, None)
        if source is not None:
            source.interrupt()

    def _client(self) -> httpx.Client:
        servers = self.session.options.servers
        return httpx.Client(**client_options(servers.endpoint(), servers.tls()) | {"limits": LIMITS})


def _look(feed: RunFeed, live: bool) -> Looked:
    return Looked(feed.look(live))
