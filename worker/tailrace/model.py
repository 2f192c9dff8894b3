"""The words of Tailrace as values. Pure: imports only the standard library.

A *run* is one execution upstream; a *stream* is an ordered sequence that belongs to a run. Upstream sends *records*;
the payload of a data record is a *chunk*, which is what the archive keeps. The *cursor* is what a reader has received,
the *checkpoint* what is committed: the checkpoint never says more than the archive holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, overload

UNSET_INDEX = -1
"""``last_chunk_index`` of a stream of which nothing is stored: the next index is 0."""


class Wire(StrEnum):
    """Which of upstream's two wire formats a stream speaks. Fixed per run; cursors do not carry over."""

    V1 = "v1"
    V2 = "v2"


class StreamState(StrEnum):
    """Where a stream is in its life. The moves that are allowed are `MOVES`, and a CHECK in SQL."""

    PENDING = "pending"  # known, never read
    ACTIVE = "active"  # being read, or due to be
    PARKED = "parked"  # silent or backing off: read again at next_attempt_at
    SEALED = "sealed"  # proven closed: the run is over and final sweeps brought nothing
    FAILED = "failed"  # a terminal error: not read again unless asked
    CANCELLED = "cancelled"  # the user stopped it


OPEN_STATES = frozenset({StreamState.PENDING, StreamState.ACTIVE, StreamState.PARKED})

MOVES: dict[StreamState, frozenset[StreamState]] = {
    StreamState.PENDING: frozenset({StreamState.ACTIVE, StreamState.FAILED, StreamState.CANCELLED}),
    StreamState.ACTIVE: frozenset(
        {StreamState.PARKED, StreamState.SEALED, StreamState.FAILED, StreamState.CANCELLED},
    ),
    StreamState.PARKED: frozenset({StreamState.ACTIVE, StreamState.FAILED, StreamState.CANCELLED}),
    StreamState.SEALED: frozenset({StreamState.ACTIVE}),  # asked for again, or a late check found more
    StreamState.FAILED: frozenset({StreamState.ACTIVE}),  # asked for again
    StreamState.CANCELLED: frozenset({StreamState.ACTIVE}),  # asked for again
}


class RunState(StrEnum):
    """How far Tailrace is with a run (not upstream's own status)."""

    REQUESTED = "requested"  # asked for; upstream has not been asked yet, or does not know it yet
    WATCHED = "watched"  # known; status and stream keys are looked at again and again
    SEALED = "sealed"  # over, its key list final, every stream settled
    FAILED = "failed"  # upstream does not know it, or refuses us
    CANCELLED = "cancelled"  # the user stopped it


class RunEvent(StrEnum):
    """What others are told of a run."""

    SEALED = "sealed"
    FAILED = "failed"
    REOPENED = "reopened"  # sealed or failed before, and looked at again


NOT_KNOWN_YET = "upstream does not know the run yet"
"""How a run's ``last_error`` begins while upstream answers that there is no such run."""


class Verdict(StrEnum):
    """What the archive knows about the completeness of a stream."""

    OPEN = "open"
    COMPLETE = "complete"
    COMPLETE_WITH_GAPS = "complete_with_gaps"
    POSSIBLY_TRUNCATED = "possibly_truncated"  # v1: trimmed or expired before we came; upstream never says so
    FAILED = "failed"


class Doubt(StrEnum):
    """Why nobody can say that all of a stream is here; the words for it are those of SQL's `verdict_reason`."""

    OLD = "old"  # v1: it can have been written, and forgotten, before our first visit
    UNDATED = "undated"  # v1: the answers have no Date, so nobody knows how old it was at our first visit
    BACKLOG = "backlog"  # v1: so much was waiting that upstream may have dropped what came before it
    NOT_THERE = "not_there"  # v1: the newest line that is held was gone when the stream was read on
    UNCONFIRMED = "unconfirmed"  # the newest chunk that is held did not come back in the last sweeps
    UNSERVED = "unserved"  # upstream stopped serving it, or what it served could not be read, after some of it was


class HoleReason(StrEnum):
    """Why indices have no chunk. The first four are losses (*gaps*), the others are skips."""

    TRIMMED = "trimmed"  # upstream dropped them before we read
    EXPIRED = "expired"  # upstream's copy is gone altogether
    RECREATED = "recreated"  # upstream began the stream anew
    MISSING = "missing"  # upstream gives out what stands before and after, again and again
    COMMAND = "command"  # an instruction of the storage behind v2
    CONTROL = "control"  # Trigger.dev's own control record
    REPEAT = "repeat"  # a writer's retry: same body id, same text
    QUARANTINED = "quarantined"  # kept raw in quarantine

    @property
    def lost(self) -> bool:
        """A hole that is a loss is a *gap*."""
        return self in _LOSSES


_LOSSES = frozenset({HoleReason.TRIMMED, HoleReason.EXPIRED, HoleReason.RECREATED, HoleReason.MISSING})


class StreamRef(NamedTuple):
    """Which stream upstream: both parts are taken as they are and percent-encoded when sent."""

    run_id: str
    stream_key: str


class V1Record(NamedTuple):
    """One v1 line with the Redis id (ms, seq) of the entry that completed it. Several lines can share one id.

    ``oversized``: the line was larger than the limit, and ``text`` is only its head.
    """

    ms: int
    seq: int
    text: str
    oversized: bool = False


class Kind(StrEnum):
    """What a v2 record is."""

    DATA = "data"
    CONTROL = "control"
    COMMAND = "command"
    ODD = "odd"  # not the envelope that writers of streams use: kept raw


class V2Record(NamedTuple):
    """One v2 record.

    ``text`` is the chunk's JSON exactly as it stood in the body, ``body_id`` the writer's id for it; both are empty
    unless the record is DATA. ``body`` is all of it as it came; empty for control and command records, because a
    control record can carry a credential.
    """

    seq_num: int
    timestamp_ms: int
    kind: Kind
    text: bytes
    body_id: str
    body: str


class PlainRecords(Sequence[V2Record]):
    """The v2 records of a batch by column, when all are as nearly all are: a Python object for each would cost more.

    Each is DATA with a body id, and its text is `tailrace.wire.chunk_json.PLAIN`. Parallel lists, in upstream's order.
    """

    __slots__ = ("bodies", "body_ids", "seq_nums", "texts", "timestamps_ms")

    def __init__(
        self, seq_nums: list[int], timestamps_ms: list[int], texts: list[bytes], body_ids: list[str], bodies: list[str]
    ) -> None:
        self.seq_nums = seq_nums
        self.timestamps_ms = timestamps_ms
        self.texts = texts
        self.body_ids = body_ids
        self.bodies = bodies

    def __len__(self) -> int:
        return len(self.seq_nums)

    @overload
    def __getitem__(self, at: int) -> V2Record: ...
    @overload
    def __getitem__(self, at: slice) -> PlainRecords: ...
    def __getitem__(self, at: int | slice) -> V2Record | PlainRecords:
        if isinstance(at, slice):
            return PlainRecords(
                self.seq_nums[at], self.timestamps_ms[at], self.texts[at], self.body_ids[at], self.bodies[at]
            )
        return V2Record(
            self.seq_nums[at], self.timestamps_ms[at], Kind.DATA, self.texts[at], self.body_ids[at], self.bodies[at]
        )

    def __iter__(self) -> Iterator[V2Record]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


class Arrival(NamedTuple):
    """What one step of a connection brought, in upstream's order.

    ``records`` may be empty: then the connection only showed that it lives. ``tail`` (v2) is the number upstream will
    give next; None when it was not said. ``alive_after``: something followed the last record, which proves it whole.
    ``oversized`` (v2) is the id and the head of a batch that was larger than the limit. ``unfinished``: the beginning
    of an event is here, and its end is not yet.
    """

    records: Sequence[Any]  # V1Record or V2Record: one connection speaks one wire
    tail: int | None = None
    alive_after: bool = False
    oversized: tuple[str, str] | None = None
    unfinished: bool = False


class Hole(NamedTuple):
    """Indices without a chunk, both ends included. ``last_index`` None: how many is unknown."""

    generation: int
    first_index: int
    last_index: int | None
    reason: HoleReason


class Quarantined(NamedTuple):
    """Something that can't be a chunk, kept as it came."""

    generation: int
    chunk_index: int
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where reading goes on. ``cursor`` is opaque outside `wire` and `ingest`'s sequences; None is the beginning."""

    generation: int = 0
    last_index: int = UNSET_INDEX
    cursor: dict[str, Any] | None = None


OBJECT_BYTES = 160
"""Of one chunk besides its text: a bytes object, two ints, three or four places in lists."""


@dataclass(slots=True)
class Batch:
    """What the sequence made of some records: stored together or not at all.

    The chunks are parallel lists (a Python object for each would cost more than decoding it): ``indices`` ascending,
    ``texts`` the JSON as sent, ``emitted_ms`` upstream's time in ms since 1970, ``fingerprints`` the packed body id and
    checksum of each v2 chunk (empty on v1). ``checkpoint`` is the stream's state after all of it.
    """

    checkpoint: Checkpoint
    indices: list[int] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    emitted_ms: list[int] = field(default_factory=list)
    fingerprints: list[bytes] = field(default_factory=list)
    odd: bool = False
    holes: list[Hole] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    size_bytes: int = 0
    duplicates: int = 0  # records at or before the checkpoint, read again and dropped

    @property
    def held_bytes(self) -> int:
        """What it takes up in memory, about: a small chunk's objects are larger than its text."""
        return self.size_bytes + OBJECT_BYTES * (len(self.texts) + len(self.holes))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reader leaves its stream; committed together with the last of its chunks, and the lease ends with it.

    ``delay_s``: how long nobody needs to look at it. ``swept``: a final sweep ended here, with all of it read.
    ``doubt``: goes with the verdict.
    """

    state: StreamState
    delay_s: float = 0.0
    attempt: int = 0
    error: str | None = None
    verdict: Verdict | None = None
    swept: bool = False
    doubt: Doubt | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """What the database knows about a leased stream's surroundings, by its own clock.

    ``over``: the run is terminal upstream and its end is confirmed, so no more data is expected. ``over_for_s``: for
    how long. ``swept_for_s``: how long ago a final sweep ended at this very checkpoint; None when none did.
    """

    over: bool = False
    over_for_s: float = 0.0
    swept_for_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeasedStream:
    """A stream that this worker may write, as it was when the lease was taken.

    ``silent_s``: how long nothing has been stored of it. ``troubled_s``: since when it could not be read, with
    ``attempt`` tries in a row. ``stuck``: why it was, as its row says; None: it was not. ``not_before_ms``: before this
    moment, in ms since 1970, nothing of it can have been written; None: nobody knows. ``environment``: the name of the
    run's. ``traceparent``: the trace that the run is in; None: in none yet.
    """

    id: int
    ref: StreamRef
    token: int
    rev: int
    wire: Wire | None
    checkpoint: Checkpoint
    attempt: int
    chunk_count: int
    lost_count: int
    silent_s: float
    run_end: RunEnd
    options: dict[str, Any]
    not_before_ms: int | None = None
    environment: str = "default"
    troubled_s: float = 0.0
    stuck: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """What upstream says of a run. ``status`` is the API's name (protocol §3); times are aware UTC."""

    run_id: str
    status: str
    terminal: bool
    stream_keys: tuple[str, ...]
    task_identifier: str | None = None
    tags: tuple[str, ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
