"""The words of a read: what its pure part asks for, what it is told, and what it gives out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tailrace.errors import WorkerError
from tailrace.model import Arrival, Checkpoint, HoleReason, RunView, Wire

Source = Literal["upstream", "archive", "auto"]
Beginning = Literal["beginning", "latest"]

PAGE_BYTES = 1_048_576
"""A page of the archive is full with so many bytes of chunks: the last of them may be larger than that."""


class Chunk(NamedTuple):
    """One chunk as it came. ``invalid`` says why it can't be one, '' when it is one.

    ``line`` (v1) is where it stood: the Redis id, and how many lines of that id there were up to it.
    """

    generation: int
    chunk_index: int
    text: bytes
    invalid: str = ""
    line: tuple[int, int, int] | None = None

    @property
    def token(self) -> str:
        """Name the place of the chunk, for `Start.after`. Short: it is sent with every event."""
        place = f"{self.generation}.{self.chunk_index}" if self.generation else str(self.chunk_index)
        return f"{place}:{self.line[0]}-{self.line[1]}.{self.line[2]}" if self.line else place


class Gap(NamedTuple):
    """Chunks that were lost upstream before they were read. ``last_index`` None: how many is unknown."""

    generation: int
    first_index: int
    last_index: int | None
    reason: HoleReason


class Retry(NamedTuple):
    """An attempt failed, and another follows.

    ``attempt`` counts from 1 since the last progress; ``key`` is the stream's, '' for the run itself.
    """

    key: str
    attempt: int
    delay_s: float
    error: WorkerError


# --- where a read begins

_TOKEN = re.compile(r"(?:(\d{1,9})\.)?(\d{1,18})(?::(\d{1,18})-(\d{1,18})\.(\d{1,9}))?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a read begins: at ``index`` of ``generation``; of later generations it has everything.

    ``resumed``: the chunk before was read earlier, so it did exist. ``line`` (v1) is where that one stood: the Redis
    id, and how many lines of that id had been read. Its place is certain then, whatever upstream has trimmed since.
    ``latest``: at the newest record that there is, whatever its index.
    """

    generation: int = 0
    index: int = 0
    resumed: bool = False
    line: tuple[int, int, int] | None = None
    latest: bool = False

    @classmethod
    def after(cls, token: str) -> Start:
        """Return the start after the chunk of this token. What is no token means the beginning: none is missed."""
        match = _TOKEN.match(token)
        if match is None:
            return cls()
        generation, index, ms, seq, count = match.groups()
        line = (int(ms), int(seq), int(count)) if ms is not None else None
        return cls(int(generation or 0), int(index) + 1, True, line)

    def has(self, generation: int, index: int) -> bool:
        """Return whether a chunk belongs to the read."""
        return index >= self.index if generation == self.generation else generation > self.generation


# --- what a read asks for


class Open(NamedTuple):
    """Connect to the stream; see `source.client.StreamSource.open`."""

    last_event_id: str | None
    wait_s: int
    start: str | None = None


class Fetch(NamedTuple):
    """Read on in the archive, from an index of a generation on: so many indices at most, and no more than a page.

    ``latest``: from the newest record on instead. ``recent``: the end has to say what the last chunks were.
    """

    generation: int
    first_index: int
    size: int
    recent: bool
    latest: bool = False


class Look(NamedTuple):
    """Ask the run feed. ``live``: it may hold the answer until something changes."""

    live: bool


class Close(NamedTuple):
    """Drop what is under way."""


Request = Open | Fetch | Look | Close


# --- what it is told


class Opened(NamedTuple):
    """The connection is open."""

    wire: Wire
    date_ms: int | None


class Ended(NamedTuple):
    """The connection ended cleanly, which proves nothing."""


class Failed(NamedTuple):
    """What was asked for failed."""

    error: WorkerError


class Looked(NamedTuple):
    """What upstream says of the run."""

    view: RunView


@dataclass(frozen=True, slots=True)
class ArchiveEnd:
    """The checkpoint of an archived stream. ``wire`` None: nothing of it was ever read.

    ``recent``: index and mark of the last chunks (v2), for whoever goes on upstream.
    """

    wire: Wire | None
    checkpoint: Checkpoint
    sealed: bool
    recent: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Page:
    """A part of an archived stream.

    ``next_generation`` and ``next_index`` say where the next one begins. ``end``: this was the last one for now. A run
    that the archive does not know has neither chunks nor end.
    """

    chunks: list[Chunk]
    gaps: list[Gap]
    next_generation: int
    next_index: int
    end: ArchiveEnd | None
    known: bool = True


Event = Opened | Arrival | Ended | Failed | Looked | Page
