"""What the calls for asyncio return: async iterators that leave upstream when they are closed or let go of.

`readers`, their blocking half, is made of this file by tools/async_to_sync.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from tailrace.model import RunView
from tailrace.streams import sse
from tailrace.streams.aio_waiter import Waiter
from tailrace.streams.session import Options, Session, Typed, Value
from tailrace.streams.shapes import Placed

T = TypeVar("T")


class Closing:
    """Closes its waiter at the end of an ``async with``, and when nobody has it any more."""

    _waiter: Waiter

    async def aclose(self) -> None:
        """Leave upstream, and return when it is left. Safe to repeat."""
        await self._waiter.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        waiter = getattr(self, "_waiter", None)
        if waiter is not None:
            waiter.abandon()


class StreamReader(Closing, Placed, Generic[T], AsyncIterator[T]):
    """The chunks of one stream, as they come. Nothing is sent before the first is asked for.

    It ends when the run is over and everything was read. Close it, use it in an ``async with``, or let go of it, and it
    leaves upstream. Cancelling a wait for a chunk loses nothing: the next ``anext`` goes on. To be used from one task
    at a time; what ends it from another, or from a thread, is ``signal``.
    """

    def __init__(self, run_id: str, stream: Typed[T], options: Options) -> None:
        self.run_id = run_id
        self.key = stream.key
        self._session = Session(run_id, [stream], options)
        self._waiter = Waiter(self._session)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        value = await self._next(None)
        assert value is not None
        chunk: T = value.value
        return chunk

    async def within(self, seconds: float) -> Value | None:
        """Return the next chunk, with its place, None if none comes in that time. At the end: StopAsyncIteration."""
        return await self._next(self._session.clock() + seconds)

    async def _next(self, until: float | None) -> Value | None:
        value = await self._waiter.next(until)
        assert not isinstance(value, RunView)
        if value is not None:
            self._last = value
        return value

    async def _values(self) -> AsyncIterator[Value]:
        while True:
            try:
                value = await self._next(None)
            except StopAsyncIteration:
                return
            assert value is not None
            yield value


class ManyReader(Closing, AsyncIterator[tuple[str, Any]]):
    """(key, chunk) of several streams, as they come."""

    def __init__(self, run_id: str, streams: Sequence[Typed[Any]], options: Options) -> None:
        self.run_id = run_id
        self._waiter = Waiter(Session(run_id, streams, options, several=True))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, Any]:
        value = await self._waiter.next()
        assert isinstance(value, Value)
        return value.key, value.value


class EventStream(AsyncIterator[bytes]):
    """The body of a response of server-sent events.

    An ASGI server cancels it when the client leaves, and so leaves upstream.
    """

    headers: Mapping[str, str] = sse.SSE_HEADERS
    # asyncio:
    # blocking: wsgi_headers: Mapping[str, str] = sse.WSGI_HEADERS  # for servers that refuse ``Connection``

    def __init__(self, reader: StreamReader[Any], events: sse.Events, heartbeat_s: float) -> None:
        self._reader = reader
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            value = await self._reader.within(self._heartbeat_s)
        except StopAsyncIteration:
            self._ended = True
            end = self._events.end()
            if not end:
                raise
            return end
        # asyncio:
        except BaseException:  # cancelled: the client has left, and nobody will ask again
            self._ended = True
            self._reader._waiter.close()
            raise
        # blocking:
        return sse.HEARTBEAT if value is None else self._events.chunk(value)

    async def aclose(self) -> None:
        """Leave upstream, and return when it is left. Safe to repeat."""
        self._ended = True
        await self._reader.aclose()
