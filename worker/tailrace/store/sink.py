"""The Writer's side of one leased stream: what waits to be committed, what is held, what is in flight.

A sink owns its state; the Writer chooses which sinks are due and sends what they have. All of it happens under the
Writer's one lock: the calls of readers take it, what the Writer calls has it already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple, Protocol

from tailrace.errors import LeaseLost, WorkerError
from tailrace.hold import Hold
from tailrace.model import Batch, Checkpoint, LeasedStream, Outcome, Wire
from tailrace.room import Share
from tailrace.store.commit import Flush, Position
from tailrace.store.flush_rule import BatchLimits, FlushReason, due
from tailrace.store.segments import SEGMENT_MAX_BYTES, SEGMENT_MAX_CHUNKS
from tailrace.tracing import NO_LEASE, Lease

FOLLOW_S = 30.0
"""So long a stream's row may be behind what is stored, and by about as much as a large segment holds. Each time that it
follows leaves a dead version, five a second with 150 live streams; and what it is behind is looked through by whoever
asks."""


class Desk(Protocol):
    """What a sink needs of the Writer. But for the lock and the clock, only with the lock held."""

    @property
    def changed(self) -> threading.Condition:
        """The lock, and what tells of every change."""

    @property
    def hold_s(self) -> float:
        """How long a last line is held."""

    def clock(self) -> float: ...

    def give_back(self, size_bytes: int) -> None:
        """So many bytes that a sink took are gone."""

    def take_room(self, sink: Sink, size_bytes: int) -> None:
        """Wait until there is room for so many bytes more, and count them. Raises what `Sink.check` raises."""

    def waits(self, sink: Sink) -> None:
        """``sink`` has something to commit."""

    def holds(self, sink: Sink) -> None:
        """``sink`` holds a last line."""

    def let_go(self, sink: Sink) -> None:
        """``sink`` holds none any more."""

    def flush_and_wait(self, sink: Sink) -> None:
        """Return when all that ``sink`` has is committed. Raises what `Sink.check` raises."""

    def forget(self, sink: Sink) -> None:
        """``sink`` has nothing any more."""


class Followed(NamedTuple):
    """What a stream's row says since ``at``. ``troubled``: that the stream can't be read."""

    at: float
    wire: Wire | None
    generation: int
    troubled: bool


class Sink:
    """Where one reader's batches go; see `ingest.reader.Sink` for the promises. ``lost`` is called at a lost lease."""

    def __init__(
        self,
        desk: Desk,
        stream: LeasedStream,
        limits: BatchLimits,
        lost: Callable[[], None],
        share: Share,
        lease: Lease = NO_LEASE,
    ) -> None:
        self._desk = desk
        self.lost = lost
        self.share = share  # of what its reader holds
        self.lease = lease  # as its trace has it
        self.stream_id = stream.id
        self.token = stream.token
        self.rev = stream.rev
        self.limits = limits
        self.wire = stream.wire
        self.checkpoint = stream.checkpoint  # of what is committed
        self.pending: list[Batch] = []
        self.pending_chunks = 0
        self.pending_bytes = 0
        self.pending_since = 0.0
        self.in_flight: Flush | None = None
        self.flying_since = 0.0  # of the oldest of it
        self.held: Batch | None = None
        self.hold_rule: Hold | None = None  # of what is held
        self.first = stream.chunk_count == 0
        self.urgent = False
        self.locked = 0  # how often in a row the flight was sent while somebody else had the row locked
        self.resend_at = 0.0
        self.outcome: Outcome | None = None
        self.tail_lag: int | None = None
        self.error: str | None = None
        self.attempt = 0
        self.stuck_reason: str | None = stream.stuck
        self.troubled = (stream.attempt, stream.troubled_s)  # before it was leased
        self.failure: WorkerError | None = None
        # What the stream's row has followed, and what was committed since. The first commit of a lease is followed, so
        # that a row which tells of an earlier lease is not taken for the present (`run_end.RUN_END`).
        self.followed: Followed | None = None
        self.behind_chunks = 0
        self.behind_bytes = 0

    # --- for its reader

    def put(self, batch: Batch, wire: Wire) -> None:
        with self._desk.changed:
            self._desk.take_room(self, batch.held_bytes)
            self.wire = wire
            self.believe()
            self._add(batch)

    def hold(self, batch: Batch, wire: Wire) -> None:
        desk = self._desk
        with desk.changed:
            desk.take_room(self, batch.held_bytes)
            self.wire = wire
            self.believe()
            self.held, self.hold_rule = batch, Hold(desk.hold_s, desk.clock())
            desk.holds(self)

    def confirm(self) -> None:
        with self._desk.changed:
            self.check()
            self.believe()

    def withdraw(self) -> bool:
        with self._desk.changed:
            self.check()
            batch = self._take_held()
            if batch is not None:
                self._desk.give_back(batch.held_bytes)
                self._desk.changed.notify_all()
            return batch is not None

    def flush(self) -> None:
        with self._desk.changed:
            self._desk.flush_and_wait(self)

    def settle(self, outcome: Outcome) -> None:
        """Commit the rest together with how the stream is left, and end the lease. Returns when that is done."""
        with self._desk.changed:
            self.check()
            self.believe()
            self.outcome = outcome
            self._desk.waits(self)
            self._desk.flush_and_wait(self)

    def lag(self, records: int) -> None:
        self.tail_lag = records  # goes along with the next flush

    def trouble(self, error: str | None, attempt: int) -> None:
        with self._desk.changed:
            self.check()
            self.error, self.attempt = error, attempt
            self._desk.waits(self)

    def stuck(self, reason: str | None) -> None:
        with self._desk.changed:
            self.check()
            if reason != self.stuck_reason:
                self.stuck_reason = reason
                self._desk.waits(self)

    def abandon(self) -> None:
        """Forget what is not committed. For a reader that must go and can't wait; the lease runs out by itself."""
        with self._desk.changed:
            self.drop(LeaseLost("the reader gave its stream up"))

    # --- for the Writer, and within

    @property
    def size_bytes(self) -> int:
        """What waits and what is in flight."""
        flight = sum(batch.held_bytes for batch in self.in_flight.batches) if self.in_flight else 0
        return self.pending_bytes + flight

    @property
    def uncommitted_since(self) -> float | None:
        """Since when the oldest of what is not committed has waited; None: all that came is committed."""
        if self.in_flight is not None:
            return self.flying_since
        return self.pending_since if self.pending or self.outcome is not None else None

    def check(self) -> None:
        """Raise what ended the sink, if anything did."""
        if self.failure is not None:
            raise self.failure

    def reason(self, age_s: float) -> FlushReason | None:
        """Return why what waits is due by the stream's own rules, ``age_s`` after the first of it came."""
        if self.urgent or self.outcome is not None:
            return FlushReason.END
        if self.first and self.pending_chunks:
            return FlushReason.FIRST
        return due(self.limits, self.pending_chunks, self.pending_bytes, age_s)

    def believe(self) -> None:
        """What is held is certain: it waits with the rest."""
        batch = self._take_held()
        if batch is not None:
            self._add(batch)

    def launch(self) -> Flush:
        """Make a flush of all that waits."""
        checkpoint = self.pending[-1].checkpoint if self.pending else self.checkpoint
        self.in_flight = flight = Flush(
            stream_id=self.stream_id,
            token=self.token,
            rev=self.rev,
            wire=self.wire,
            checkpoint=checkpoint,
            batches=self.pending,
            outcome=self.outcome,
            lag=self.tail_lag,
            error=self.error if self.error is not None else self.stuck_reason,
            attempt=self.attempt,
            stuck=self.stuck_reason is not None,
            max_chunks=self.limits.max_chunks,
            due=self._is_due(checkpoint),
            behind_chunks=self.behind_chunks,
            behind_bytes=self.behind_bytes,
        )
        self.flying_since = self.pending_since
        self._nothing_waits()
        self.urgent = False
        self.locked = 0
        self.resend_at = 0.0
        self.error = None
        self.attempt = 0
        if flight.follows:
            self.tail_lag = None
        return flight

    @property
    def position(self) -> Position:
        """How far all is committed."""
        return Position(self.rev, self.checkpoint.generation, self.checkpoint.last_index)

    def acknowledge(self, flight: Flush) -> None:
        """The flush took effect."""
        self.in_flight = None
        self.checkpoint = flight.checkpoint
        if flight.follows:
            self.rev = flight.rev + 1
            troubled = flight.error is not None or flight.attempt > 0 or flight.stuck
            self.followed = Followed(self._desk.clock(), flight.wire, flight.checkpoint.generation, troubled)
            self.behind_chunks = self.behind_bytes = 0
        else:
            self.behind_chunks += flight.chunks
            self.behind_bytes += flight.bytes
        self._desk.give_back(sum(batch.held_bytes for batch in flight.batches))
        if flight.chunks:
            self.first = False

    def _is_due(self, checkpoint: Checkpoint) -> bool:
        """Whether the row of the stream is to follow the next commit, whatever that holds."""
        last = self.followed
        return (
            last is None
            or last.troubled
            or (last.wire, last.generation) != (self.wire, checkpoint.generation)
            or self.behind_chunks >= SEGMENT_MAX_CHUNKS
            or self.behind_bytes >= SEGMENT_MAX_BYTES
            or self._desk.clock() - last.at >= FOLLOW_S
        )

    def drop(self, failure: WorkerError) -> None:
        """Forget all that is here; the reader learns why at its next call."""
        self._desk.give_back(self.size_bytes + (self.held.held_bytes if self.held else 0))
        self._nothing_waits()
        self.in_flight = self.held = self.hold_rule = None
        self.failure = failure
        self._desk.forget(self)
        self.lost()

    def _add(self, batch: Batch) -> None:
        self.pending.append(batch)
        self.pending_chunks += len(batch.texts)
        self.pending_bytes += batch.held_bytes
        self._desk.waits(self)

    def _take_held(self) -> Batch | None:
        batch, self.held, self.hold_rule = self.held, None, None
        if batch is not None:
            self._desk.let_go(self)
        return batch

    def _nothing_waits(self) -> None:
        self.pending, self.pending_chunks, self.pending_bytes = [], 0, 0
