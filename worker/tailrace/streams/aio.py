"""Read the streams of Trigger.dev runs, for asyncio: `tailrace.streams` with ``async for`` and ``async with``.

::

    from tailrace.streams import aio as streams

    async for chunk in streams.read(run_id, "ai-output", type=str):
        print(chunk)

Nothing here blocks the loop or keeps a thread. What is not defined here is that of `tailrace.streams`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar, Unpack, overload

from tailrace.streams.async_readers import EventStream, ManyReader, StreamReader
from tailrace.streams.client import Client, configure
from tailrace.streams.errors import (
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
from tailrace.streams.session import DEFAULT_KEY, Options, Typed, typed
from tailrace.streams.shapes import DEFAULT_HEARTBEAT_S, Collected, Collector, ReadOptions
from tailrace.streams.signals import AbortController, AbortSignal
from tailrace.streams.sse import SSE_HEADERS, Events
from tailrace.streams.steps import Gap, Retry
from tailrace.streams.timing import Timing

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
    "Timing",
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


class StreamDefinition(Typed[T]):
    """A stream's key and the type of its chunks, said once. Made by `define`."""

    def read(self, run_id: str, *, last_event_id: str | None = None, **options: Unpack[ReadOptions]) -> StreamReader[T]:
        """Read the stream of a run; see `tailrace.streams.read`."""
        return StreamReader(run_id, self, Options(**options, last_event_id=last_event_id))

    async def collect(
        self,
        run_id: str,
        *,
        on_chunk: Callable[[T], Awaitable[object] | object] | None = None,
        **options: Unpack[ReadOptions],
    ) -> Collected[T]:
        """Read the stream of a run to its end; see `tailrace.streams.collect`."""
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
    """Name a stream and the type of its chunks; see `tailrace.streams.define`."""
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
    """Read a stream of a run, from the beginning, live, until the run is over; see `tailrace.streams.read`."""
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
    """Read a stream to its end; see `tailrace.streams.collect`. ``on_chunk`` may be a coroutine function."""
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
    """Read several streams of a run at the same time, each to its end; see `tailrace.streams.gather`."""
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
    """Read several streams of a run at the same time: (key, chunk), as they come; see `tailrace.streams.read_many`."""
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
    """Pipe a stream into a response of server-sent events: the body for ASGI; see `tailrace.streams.as_sse`."""
    reader = StreamReader(run_id, typed(stream, type), Options(**options, last_event_id=last_event_id or None))
    return EventStream(reader, Events(payload, ids=ids, end_event=end_event), heartbeat_in_seconds)


def batches(stream: AsyncIterable[T], size: int = 10, max_age_s: float | None = None) -> AsyncIterator[list[T]]:
    """Cut a stream into lists of ``size`` chunks; see `tailrace.streams.batches`."""
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
