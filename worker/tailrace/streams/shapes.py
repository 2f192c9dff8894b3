"""What both flavours of the API take and give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypedDict, TypeVar

from tailrace.streams.client import Client
from tailrace.streams.errors import ChunkTypeError
from tailrace.streams.session import Session, Value
from tailrace.streams.signals import AbortSignal
from tailrace.streams.steps import Beginning, Gap, Retry, Source
from tailrace.streams.text import Transcript

T = TypeVar("T")

DEFAULT_HEARTBEAT_S = 15.0
"""Upstream's own distance of pings is 5 to 15 s. A server finds out that a client has left only when it writes."""


class ReadOptions(TypedDict, total=False):
    """What can be said about any read.

    ``start``: "latest" begins with the newest chunk that there is; default "beginning".
    ``start_index``: give chunks from this index on; 0 is the first that upstream (or the archive) has.
    ``timeout_in_seconds``: how long a stream may be silent while its run goes on; default 60; None: for ever.
    ``signal``: aborts the read.
    ``source``: "upstream" (default), "archive", or "auto": the archive, then live from upstream.
    ``client``: where to read from; default: the environment, see `configure`.
    ``max_retries``: how often a failed attempt is followed by another before anything new has come; default 3; None:
    for ever.
    ``on_retry``: called with a `Retry` before each of those.
    ``on_invalid``: called with the ChunkTypeError of each chunk that does not fit, which is then left out.
    """

    start: Beginning
    start_index: int
    timeout_in_seconds: float | None
    signal: AbortSignal | None
    source: Source
    client: Client | None
    max_retries: int | None
    on_retry: Callable[[Retry], object] | None
    on_invalid: Callable[[ChunkTypeError], object] | None


@dataclass(frozen=True, slots=True)
class Collected(Generic[T]):
    """All of a stream: its chunks, the text they add up to ('' when they hold none), see `tailrace.streams.text`."""

    chunks: list[T] = field(default_factory=list)
    text: str = ""
    reasoning: str = ""


class Collector(Generic[T]):
    """Collects chunks and their text."""

    def __init__(self) -> None:
        self._chunks: list[T] = []
        self._transcript = Transcript()
        self._generation = 0

    def add(self, value: Value) -> T:
        """Take a chunk in and return it."""
        if value.chunk.generation != self._generation:
            self._generation = value.chunk.generation
            self._transcript.restart()
        self._transcript.add(value.chunk.text)
        chunk: T = value.value
        self._chunks.append(chunk)
        return chunk

    def collected(self) -> Collected[T]:
        transcript = self._transcript
        return Collected(self._chunks, transcript.text, transcript.reasoning)


class Placed:
    """What a reader of one stream knows of its place."""

    key: str
    _session: Session
    _last: Value | None = None

    @property
    def last_index(self) -> int:
        """The index of the chunk given last, -1 before the first. The next read starts at ``last_index + 1``."""
        return -1 if self._last is None else self._last.chunk.chunk_index

    @property
    def last_event_id(self) -> str | None:
        """The place of the chunk given last, for a later read to go on after it, whatever upstream trims meanwhile."""
        return None if self._last is None else self._last.chunk.token

    @property
    def gaps(self) -> list[Gap]:
        """What was lost upstream before it was read."""
        return self._session.gaps(self.key)
