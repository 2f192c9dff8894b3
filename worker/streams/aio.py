"""Read the streams of Trigger.dev runs, for asyncio: `worker.streams` with ``async for`` and ``async with``.

::

    from worker.streams import aio as streams

    async for chunk in streams.read(run_id, "ai-output", type=str):
        print(chunk)

Nothing here blocks the loop or keeps a thread. What is not defined here is that of `worker.streams`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload

from worker.model import RunView
from worker.streams.client import Client, configure
from worker.streams.errors import (
    ChunkTypeError,
    NotArchived,
    NotConfigured,
    RetriesExhausted,
    SomeStreamsFailed,
    StreamAborted,
    StreamError,
    StreamRefused,
    StreamTimeout,
)
from worker.streams.pace import Pace
from worker.streams.session import DEFAULT_KEY, Options, Session, Typed, Value, typed
from worker.streams.shapes import DEFAULT_HEARTBEAT_S, Collected, Collector, Place, ReadOptions
from worker.streams.signals import AbortController, AbortSignal
from worker.streams.sse import HEARTBEAT, SSE_HEADERS, Events
from worker.streams.steps import Gap, Retry
from worker.streams.waiting import Waiter

__all__ = [
    "SSE_HEADERS",
    "AbortController",
    "AbortSignal",
    "ChunkTypeError",
    "Client",
    "Collected",
    "EventStream",
    "Gap",
    "ManyReader",
    "NotArchived",
    "NotConfigured",
    "Pace",
    "ReadOptions",
    "RetriesExhausted",
    "Retry",
    "SomeStreamsFailed",
    "StreamAborted",
    "StreamDefinition",
    "StreamError",
    "StreamReader",
    "StreamRefused",
    "StreamTimeout",
    "as_sse",
    "batches",
    "collect",
    "configure",
    "define",
    "gather",
    "read",
    "read_many",
]

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class _Closing:
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


class StreamReader(_Closing, Generic[T], AsyncIterator[T]):
    """The chunks of one stream, as they come. Nothing is sent before the first is asked for.

    It ends when the run is over and everything was read. Close it, use it in an ``async with``, or let go of it, and it
    leaves upstream. Cancelling a wait for a chunk loses nothing: the next ``anext`` goes on. To be used from one task
    at a time; what ends it from another, or from a thread, is ``signal``.
    """

    def __init__(self, run_id: str, stream: Typed[T], options: Options) -> None:
        self.run_id = run_id
        self.key = stream.key
        self._waiter = Waiter(Session(run_id, [stream], options))
        self._place = Place()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        value = await self._next(None)
        assert value is not None
        chunk: T = value.value
        return chunk

    async def within(self, seconds: float) -> Value | None:
        """Give the next chunk, with its place, if it comes in that time, else None. At the end: StopAsyncIteration."""
        return await self._next(self._waiter.session.clock() + seconds)

    async def _next(self, until: float | None) -> Value | None:
        value = await self._waiter.next(until)
        assert not isinstance(value, RunView)
        if value is not None:
            self._place.note(value)
        return value

    async def _values(self) -> AsyncIterator[Value]:
        while True:
            try:
                value = await self._next(None)
            except StopAsyncIteration:
                return
            assert value is not None
            yield value

    @property
    def last_index(self) -> int:
        """The index of the chunk given last, -1 before the first. The next read starts at ``last_index + 1``."""
        return self._place.index

    @property
    def last_event_id(self) -> str | None:
        """The place of the chunk given last, for a later read to go on after it, whatever upstream trims meanwhile."""
        return self._place.token

    @property
    def gaps(self) -> list[Gap]:
        """What was lost upstream before it was read."""
        return self._waiter.session.gaps(self.key)


class ManyReader(_Closing, AsyncIterator[tuple[str, Any]]):
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

    headers: Mapping[str, str] = SSE_HEADERS

    def __init__(self, reader: StreamReader[Any], events: Events, heartbeat_s: float) -> None:
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
        except BaseException:  # cancelled: the client has left, and nobody will ask again
            self._reader._waiter.close()
            raise
        return HEARTBEAT if value is None else self._events.chunk(value)

    async def aclose(self) -> None:
        """Leave upstream, and return when it is left. Safe to repeat."""
        self._ended = True
        await self._reader.aclose()


class StreamDefinition(Typed[T]):
    """A stream's key and the type of its chunks, said once. Made by `define`."""

    def read(self, run_id: str, *, last_event_id: str | None = None, **options: Unpack[ReadOptions]) -> StreamReader[T]:
        """Read the stream of a run; see `worker.streams.read`."""
        return StreamReader(run_id, self, Options(**options, last_event_id=last_event_id))

    async def collect(
        self,
        run_id: str,
        *,
        on_chunk: Callable[[T], Awaitable[object] | object] | None = None,
        **options: Unpack[ReadOptions],
    ) -> Collected[T]:
        """Read the stream of a run to its end; see `worker.streams.collect`."""
        return await collect(run_id, self, on_chunk=on_chunk, **options)

    def as_sse(
        self,
        run_id: str,
        *,
        payload: Callable[[T], Any] | None = None,
        ids: bool = True,
        last_event_id: str | None = None,
        heartbeat_in_seconds: float = DEFAULT_HEARTBEAT_S,
        end_event: str | None = None,
        **options: Unpack[ReadOptions],
    ) -> EventStream:
        """Pipe the stream of a run into a response; see `as_sse`."""
        return as_sse(
            run_id,
            self,
            payload=payload,
            ids=ids,
            last_event_id=last_event_id,
            heartbeat_in_seconds=heartbeat_in_seconds,
            end_event=end_event,
            **options,
        )


@overload
def define(id: str) -> StreamDefinition[Any]: ...
@overload
def define(id: str, type: type[T]) -> StreamDefinition[T]: ...
@overload
def define(id: str, type: Any) -> StreamDefinition[Any]: ...
def define(id: str, type: Any = Any) -> StreamDefinition[Any]:  # noqa: A002  the names of the TypeScript API
    """Name a stream and the type of its chunks; see `worker.streams.define`."""
    return StreamDefinition(id, type)


@overload
def read(
    run_id: str, stream: Typed[T], *, last_event_id: str | None = None, **options: Unpack[ReadOptions]
) -> StreamReader[T]: ...
@overload
def read(
    run_id: str,
    stream: str = DEFAULT_KEY,
    *,
    type: type[T],
    last_event_id: str | None = None,
    **options: Unpack[ReadOptions],
) -> StreamReader[T]: ...
@overload
def read(
    run_id: str,
    stream: str = DEFAULT_KEY,
    *,
    type: Any = Any,
    last_event_id: str | None = None,
    **options: Unpack[ReadOptions],
) -> StreamReader[Any]: ...
def read(
    run_id: str,
    stream: str | Typed[Any] = DEFAULT_KEY,
    *,
    type: Any = Any,  # noqa: A002
    last_event_id: str | None = None,
    **options: Unpack[ReadOptions],
) -> StreamReader[Any]:
    """Read a stream of a run, from the beginning, live, until the run is over; see `worker.streams.read`."""
    return StreamReader(run_id, typed(stream, type), Options(**options, last_event_id=last_event_id))


@overload
async def collect(
    run_id: str,
    stream: Typed[T],
    *,
    on_chunk: Callable[[T], Awaitable[object] | object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[T]: ...
@overload
async def collect(
    run_id: str,
    stream: str = DEFAULT_KEY,
    *,
    type: type[T],
    on_chunk: Callable[[T], Awaitable[object] | object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[T]: ...
@overload
async def collect(
    run_id: str,
    stream: str = DEFAULT_KEY,
    *,
    type: Any = Any,
    on_chunk: Callable[[Any], Awaitable[object] | object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[Any]: ...
async def collect(
    run_id: str,
    stream: str | Typed[Any] = DEFAULT_KEY,
    *,
    type: Any = Any,  # noqa: A002
    on_chunk: Callable[[Any], Awaitable[object] | object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[Any]:
    """Read a stream to its end; see `worker.streams.collect`. ``on_chunk`` may be a coroutine function."""
    collector: Collector[Any] = Collector()
    async with StreamReader(run_id, typed(stream, type), Options(**options)) as reader:
        async for value in reader._values():
            chunk = collector.add(value)
            if on_chunk is not None:
                done = on_chunk(chunk)
                if inspect.isawaitable(done):
                    await done
    return collector.collected()


@overload
async def gather(run_id: str, a: Typed[A], /, **options: Unpack[ReadOptions]) -> tuple[list[A]]: ...
@overload
async def gather(
    run_id: str, a: Typed[A], b: Typed[B], /, **options: Unpack[ReadOptions]
) -> tuple[list[A], list[B]]: ...
@overload
async def gather(
    run_id: str, a: Typed[A], b: Typed[B], c: Typed[C], /, **options: Unpack[ReadOptions]
) -> tuple[list[A], list[B], list[C]]: ...
@overload
async def gather(
    run_id: str, a: Typed[A], b: Typed[B], c: Typed[C], d: Typed[D], /, **options: Unpack[ReadOptions]
) -> tuple[list[A], list[B], list[C], list[D]]: ...
@overload
async def gather(
    run_id: str, /, *streams: str | Typed[Any], **options: Unpack[ReadOptions]
) -> tuple[list[Any], ...]: ...
async def gather(run_id: str, /, *streams: Any, **options: Unpack[ReadOptions]) -> tuple[list[Any], ...]:
    """Read several streams of a run at the same time, each to its end; see `worker.streams.gather`."""
    chosen = [typed(stream) for stream in streams]
    found: dict[str, list[Any]] = {stream.key: [] for stream in chosen}
    try:
        async with ManyReader(run_id, chosen, Options(**options)) as reader:
            async for key, chunk in reader:
                found[key].append(chunk)
    except SomeStreamsFailed as failed:
        failed.results = list(found.values())
        raise
    return tuple(found.values())


def read_many(run_id: str, streams: Iterable[str | Typed[Any]], **options: Unpack[ReadOptions]) -> ManyReader:
    """Read several streams of a run at the same time: (key, chunk), as they come; see `worker.streams.read_many`."""
    return ManyReader(run_id, [typed(stream) for stream in streams], Options(**options))


def as_sse(
    run_id: str,
    stream: str | Typed[Any] = DEFAULT_KEY,
    *,
    type: Any = Any,  # noqa: A002
    payload: Callable[[Any], Any] | None = None,
    ids: bool = True,
    last_event_id: str | None = None,
    heartbeat_in_seconds: float = DEFAULT_HEARTBEAT_S,
    end_event: str | None = None,
    **options: Unpack[ReadOptions],
) -> EventStream:
    """Pipe a stream into a response of server-sent events: the body for an ASGI server; see `worker.streams.as_sse`."""
    reader = StreamReader(run_id, typed(stream, type), Options(**options, last_event_id=last_event_id or None))
    return EventStream(reader, Events(payload, ids=ids, end_event=end_event), heartbeat_in_seconds)


def batches(stream: AsyncIterable[T], size: int = 10, max_age_s: float | None = None) -> AsyncIterator[list[T]]:
    """Cut a stream into lists of ``size`` chunks; see `worker.streams.batches`."""
    if size < 1:
        raise ValueError("size must be 1 or more")
    if max_age_s is not None and not isinstance(stream, StreamReader):
        raise TypeError("max_age_s needs a stream that was made by read()")
    return _batches(stream, size, max_age_s)


async def _batches(stream: AsyncIterable[T], size: int, max_age_s: float | None) -> AsyncIterator[list[T]]:
    chunks = aiter(stream)
    batch: list[T] = []
    full_at = 0.0
    while True:
        try:
            if batch and max_age_s is not None and isinstance(chunks, StreamReader):
                value = await chunks.within(max(0.0, full_at - time.monotonic()))
                if value is None:
                    yield batch
                    batch = []
                    continue
                chunk: T = value.value
            else:
                chunk = await anext(chunks)
        except StopAsyncIteration:
            break
        except StreamAborted:
            raise
        except StreamError:
            if batch:
                yield batch
            raise
        batch.append(chunk)
        if max_age_s is not None and len(batch) == 1:
            full_at = time.monotonic() + max_age_s
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch
