"""The blocking half of `aio_calls`. Made of it by tools/async_to_sync.py: change that one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, Unpack, overload

from tailrace.streams.errors import SomeStreamsFailed, StreamAborted, StreamError
from tailrace.streams.readers import EventStream, ManyReader, StreamReader
from tailrace.streams.session import DEFAULT_KEY, Options, Typed, typed
from tailrace.streams.shapes import DEFAULT_HEARTBEAT_S, Collected, Collector, ReadOptions
from tailrace.streams.sse import Events

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class StreamDefinition(Typed[T]):
    """A stream's key and the type of its chunks, said once. Made by `define`."""

    def read(self, run_id: str, *, last_event_id: str | None = None, **options: Unpack[ReadOptions]) -> StreamReader[T]:
        """Read the stream of a run; see `read`."""
        return StreamReader(run_id, self, Options(**options, last_event_id=last_event_id))

    def collect(
        self,
        run_id: str,
        *,
        on_chunk: Callable[[T], object] | None = None,
        **options: Unpack[ReadOptions],
    ) -> Collected[T]:
        """Read the stream of a run to its end; see `collect`."""
        return collect(run_id, self, on_chunk=on_chunk, **options)

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
    """Name a stream and the type of its chunks.

    Args:
        id: the stream's key.
        type: what msgspec decodes (structs, dataclasses, TypedDict, unions, built-in types) or a pydantic model;
            ``Any`` takes every chunk.

    Raises:
        TypeError: no chunk can be decoded as this type.
    """
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
    """Read a stream of a run, from the beginning, live, until the run is over and everything was read.

    Args:
        run_id: the run.
        stream: its key or definition; without it, the run's default stream.
        type: of the chunks of a stream that is named by its key.
        last_event_id: the `StreamReader.last_event_id` of an earlier read, to go on after its last chunk; instead of
            ``start_index``.
        options: see `ReadOptions`.

    Iterating raises:
        StreamTimeout, StreamAborted, ChunkTypeError, RetriesExhausted, StreamRefused, NotConfigured, NotArchived: all
        of them are StreamError.
    """
    return StreamReader(run_id, typed(stream, type), Options(**options, last_event_id=last_event_id))


@overload
def collect(
    run_id: str,
    stream: Typed[T],
    *,
    on_chunk: Callable[[T], object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[T]: ...
@overload
def collect(
    run_id: str,
    stream: str = DEFAULT_KEY,
    *,
    type: type[T],
    on_chunk: Callable[[T], object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[T]: ...
@overload
def collect(
    run_id: str,
    stream: str = DEFAULT_KEY,
    *,
    type: Any = Any,
    on_chunk: Callable[[Any], object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[Any]: ...
def collect(
    run_id: str,
    stream: str | Typed[Any] = DEFAULT_KEY,
    *,
    type: Any = Any,  # noqa: A002
    on_chunk: Callable[[Any], object] | None = None,
    **options: Unpack[ReadOptions],
) -> Collected[Any]:
    """Read a stream to its end; give all chunks and the text they add up to (see `tailrace.streams.text`).

    ``on_chunk`` is called with each chunk as it comes. Raises what reading raises.
    """
    collector: Collector[Any] = Collector()
    with StreamReader(run_id, typed(stream, type), Options(**options)) as reader:
        for value in reader._values():
            chunk = collector.add(value)
            if on_chunk is not None:
                on_chunk(chunk)
    return collector.collected()


@overload
def gather(run_id: str, a: Typed[A], /, **options: Unpack[ReadOptions]) -> tuple[list[A]]: ...
@overload
def gather(run_id: str, a: Typed[A], b: Typed[B], /, **options: Unpack[ReadOptions]) -> tuple[list[A], list[B]]: ...
@overload
def gather(
    run_id: str, a: Typed[A], b: Typed[B], c: Typed[C], /, **options: Unpack[ReadOptions]
) -> tuple[list[A], list[B], list[C]]: ...
@overload
def gather(
    run_id: str, a: Typed[A], b: Typed[B], c: Typed[C], d: Typed[D], /, **options: Unpack[ReadOptions]
) -> tuple[list[A], list[B], list[C], list[D]]: ...
@overload
def gather(run_id: str, /, *streams: str | Typed[Any], **options: Unpack[ReadOptions]) -> tuple[list[Any], ...]: ...
def gather(run_id: str, /, *streams: Any, **options: Unpack[ReadOptions]) -> tuple[list[Any], ...]:
    """Read several streams of a run at the same time, each to its end; give a list for each, in the same order.

    Raises:
        SomeStreamsFailed: when the others have ended; it has what all of them brought. A chunk that does not fit fails
            its stream too, unless ``on_invalid`` takes it.
        StreamAborted: at once.
    """
    chosen = [typed(stream) for stream in streams]
    found: dict[str, list[Any]] = {stream.key: [] for stream in chosen}
    try:
        with ManyReader(run_id, chosen, Options(**options)) as reader:
            for key, chunk in reader:
                found[key].append(chunk)
    except SomeStreamsFailed as failed:
        failed.results = list(found.values())
        raise
    return tuple(found.values())


def read_many(run_id: str, streams: Iterable[str | Typed[Any]], **options: Unpack[ReadOptions]) -> ManyReader:
    """Read several streams of a run at the same time: (key, chunk), as they come.

    A stream that fails (or has a chunk that does not fit, without ``on_invalid``) does not end the others: when they
    have ended, the iterator raises SomeStreamsFailed.
    """
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
    """Pipe a stream into a response of server-sent events: the body for a WSGI server; its ``headers`` go with it.

    Args:
        run_id, stream, type, options: as of `read`.
        payload: makes of a chunk what is sent as JSON. Default: exactly ``{"chunk": …}``, the chunk as it was sent.
        ids: give each event an id to resume from.
        last_event_id: what a client that comes back says in its header ``Last-Event-ID``; one that is no id of ours
            begins at the beginning.
        heartbeat_in_seconds: send a comment after so long without a chunk: else the server does not notice that its
            client has left.
        end_event: the name of an event to send at the end, so that a browser knows not to come back.
    """
    reader = StreamReader(run_id, typed(stream, type), Options(**options, last_event_id=last_event_id or None))
    return EventStream(reader, Events(payload, ids=ids, end_event=end_event), heartbeat_in_seconds)


def batches(stream: Iterable[T], size: int = 10, max_age_s: float | None = None) -> Iterator[list[T]]:
    """Cut a stream into lists of ``size`` chunks; the last may be shorter, also when an error follows it.

    ``max_age_s``: give a shorter one when its first chunk is that old. Only for what `read` gives: it can wait.
    """
    if size < 1:
        raise ValueError("size must be 1 or more")
    if max_age_s is not None and not isinstance(stream, StreamReader):
        raise TypeError("max_age_s needs a stream that was made by read()")
    return _batches(stream, size, max_age_s)


def _batches(stream: Iterable[T], size: int, max_age_s: float | None) -> Iterator[list[T]]:
    chunks = iter(stream)
    batch: list[T] = []
    full_at = 0.0
    while True:
        try:
            if batch and max_age_s is not None and isinstance(chunks, StreamReader):
                value = chunks.within(max(0.0, full_at - time.monotonic()))
                if value is None:
                    yield batch
                    batch = []
                    continue
                chunk: T = value.value
            else:
                chunk = next(chunks)
        except StopIteration:
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
