"""The blocking half of `aio_readers`. Made of it by tools/async_to_sync.py: change that one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tailrace.model import RunView
from tailrace.streams import sse
from tailrace.streams.session import Options, Session, Typed, Value
from tailrace.streams.shapes import Placed
from tailrace.streams.waiter import Waiter

T = TypeVar("T")


class Closing:
    """Closes its waiter at the end of a ``with``, and when nobody has it any more."""

    _waiter: Waiter

    def close(self) -> None:
        """Leave upstream now. Safe to repeat."""
        self._waiter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        waiter = getattr(self, "_waiter", None)
        if waiter is not None:
            waiter.abandon()


class StreamReader(Closing, Placed, Generic[T], Iterator[T]):
    """The chunks of one stream, as they come. Nothing is sent before the first is asked for.

    It ends when the run is over and everything was read. Close it, use it in a ``with``, or let go of it, and it
    leaves upstream. To be used from one thread at a time; what ends it from another is ``signal``.
    """

    def __init__(self, run_id: str, stream: Typed[T], options: Options) -> None:
        self.run_id = run_id
        self.key = stream.key
        self._session = Session(run_id, [stream], options)
        self._waiter = Waiter(self._session)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        value = self._next(None)
        assert value is not None
        chunk: T = value.value
        return chunk

    def within(self, seconds: float) -> Value | None:
        """Return the next chunk, with its place, None if none comes in that time. At the end: StopIteration."""
        return self._next(self._session.clock() + seconds)

    def _next(self, until: float | None) -> Value | None:
        value = self._waiter.next(until)
        assert not isinstance(value, RunView)
        if value is not None:
            self._last = value
        return value

    def _values(self) -> Iterator[Value]:
        while True:
            try:
                value = self._next(None)
            except StopIteration:
                return
            assert value is not None
            yield value


class ManyReader(Closing, Iterator[tuple[str, Any]]):
    """(key, chunk) of several streams, as they come."""

    def __init__(self, run_id: str, streams: Sequence[Typed[Any]], options: Options) -> None:
        self.run_id = run_id
        self._waiter = Waiter(Session(run_id, streams, options, several=True))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Any]:
        value = self._waiter.next()
        assert isinstance(value, Value)
        return value.key, value.value


class EventStream(Iterator[bytes]):
    """The body of a response of server-sent events.

    Closing it, as servers do when the client leaves, leaves upstream.
    """

    headers: Mapping[str, str] = sse.SSE_HEADERS
    wsgi_headers: Mapping[str, str] = sse.WSGI_HEADERS  # for servers that refuse ``Connection``

    def __init__(self, reader: StreamReader[Any], events: sse.Events, heartbeat_s: float) -> None:
        self._reader = reader
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._ended = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        try:
            value = self._reader.within(self._heartbeat_s)
        except StopIteration:
            self._ended = True
            end = self._events.end()
            if not end:
                raise
            return end
        return sse.HEARTBEAT if value is None else self._events.chunk(value)

    def close(self) -> None:
        """Leave upstream now. Safe to repeat."""
        self._ended = True
        self._reader.close()
