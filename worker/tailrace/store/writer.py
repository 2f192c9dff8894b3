"""Collect the chunks of every stream of the process and commit them together. One thread; one Writer per process.

Readers put takes into their `Sink` and wait only when there is no room. The Writer's thread picks the streams that are
due (`batch` says when), commits them in one statement, and finds out what became of those that did not come
back. It owns time: a reader that is blocked on a silent socket still becomes durable.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from tailrace.errors import LeaseLost, StoreUnavailable, WorkerError
from tailrace.model import (
    Batch,
    Hole,
    HoleReason,
    LeasedStream,
    Outcome,
    Quarantined,
    StreamState,
    Verdict,
    Wire,
)
from tailrace.retry import backoff
from tailrace.store.commit import Committer, Flush, FlushRefused
from tailrace.store.flush_rule import BatchLimits, FlushReason, due
from tailrace.telemetry import metrics

log = structlog.get_logger("tailrace")

STREAMS_PER_FLUSH = 1_000
BYTES_PER_FLUSH = 16 * 1_048_576
LOCKED_PAUSE_S = 0.02
HOLD_GRACE = 0.125
"""The last part of the hold time, which the process must have been seen to run through. One that was stopped (SIGSTOP,
a machine that is moved) may have the end of the body in its socket, and its reader has not had the chance to see it."""
TOGETHER = 0.8
"""A stream this far towards its age goes along with one that is due: fewer statements, hardly smaller segments."""


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """What a Writer may hold, and how long. Bytes are those of chunk texts."""

    buffer_max_bytes: int = 64 * 1_048_576
    stream_max_bytes: int = 8 * 1_048_576
    hold_s: float = 2.0
    retry_base_s: float = 0.1
    retry_cap_s: float = 2.0


class Sink:
    """The Writer's side of one leased stream. Used by one reader; see `ingest.loop.Sink` for the promises."""

    def __init__(self, writer: Writer, stream: LeasedStream, limits: BatchLimits, lost: Callable[[], None]) -> None:
        self._writer = writer
        self.lost = lost
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
        self.held: Batch | None = None
        self.held_since = 0.0
        self.grace_since: float | None = None
        self.first = stream.chunk_count == 0
        self.urgent = False
        self.outcome: Outcome | None = None
        self.tail_lag: int | None = None
        self.error: str | None = None
        self.attempt = 0
        self.closed = False
        self.failure: WorkerError | None = None

    def put(self, batch: Batch, wire: Wire) -> None:
        self._writer.put(self, batch, wire)

    def hold(self, batch: Batch, wire: Wire) -> None:
        self._writer.hold(self, batch, wire)

    def confirm(self) -> None:
        self._writer.confirm(self)

    def withdraw(self) -> bool:
        return self._writer.withdraw(self)

    def flush(self) -> None:
        self._writer.flush(self)

    def settle(self, outcome: Outcome) -> None:
        """Commit the rest together with how the stream is left, and end the lease. Returns when that is done."""
        self._writer.settle(self, outcome)

    def lag(self, records: int) -> None:
        self.tail_lag = records  # goes along with the next flush

    def trouble(self, error: str | None, attempt: int) -> None:
        self._writer.trouble(self, error, attempt)

    def abandon(self) -> None:
        """Forget what is not committed. For a reader that must go and can't wait; the lease runs out by itself."""
        self._writer.abandon(self)

    @property
    def size_bytes(self) -> int:
        flight = sum(batch.held_bytes for batch in self.in_flight.batches) if self.in_flight else 0
        return self.pending_bytes + flight

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure


class Writer:
    """Group commit for the streams of one process."""

    def __init__(
        self,
        committer: Committer,
        limits: WriterLimits,
        *,
        random: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._committer = committer
        self._limits = limits
        self._random = random
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[Sink, None] = {}  # have something to commit; the one that has waited longest first
        self._holding: dict[Sink, None] = {}  # hold a last event; the one held longest first
        self._flying: dict[Sink, None] = {}  # have a flush whose outcome is not known
        self._in_doubt = False  # an answer was lost: their fates must be read before anything is sent again
        self._bytes = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    # --- for the process

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tailrace-writer", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Commit what is there and end the thread. What ``timeout_s`` is too short for is read again by the next."""
        with self._changed:
            self._stopping = True
            for sink in self._waiting:
                sink.urgent = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._changed:
            for sink in [*self._waiting, *self._holding, *self._flying]:
                self._drop(sink, LeaseLost("the worker ended before Postgres answered"))

    def open(self, stream: LeasedStream, limits: BatchLimits, lost: Callable[[], None] = lambda: None) -> Sink:
        """Return the sink of a stream that was just leased.

        ``lost`` is called when nothing more can be stored through it, also while its reader waits for upstream. It
        must not wait.
        """
        return Sink(self, stream, limits, lost)

    # --- for readers, through their sink

    def put(self, sink: Sink, batch: Batch, wire: Wire) -> None:
        with self._changed:
            self._wait_for_room(sink, batch.held_bytes)
            sink.wire = wire
            self._confirm(sink)
            self._add(sink, batch)

    def hold(self, sink: Sink, batch: Batch, wire: Wire) -> None:
        with self._changed:
            self._wait_for_room(sink, batch.held_bytes)
            sink.wire = wire
            self._confirm(sink)
            sink.held, sink.held_since, sink.grace_since = batch, self._clock(), None
            self._bytes += batch.held_bytes
            self._holding[sink] = None
            if len(self._holding) == 1:
                self._changed.notify_all()

    def confirm(self, sink: Sink) -> None:
        with self._changed:
            sink.check()
            self._confirm(sink)

    def withdraw(self, sink: Sink) -> bool:
        with self._changed:
            sink.check()
            batch, sink.held = sink.held, None
            if batch is None:
                return False
            self._holding.pop(sink, None)
            self._bytes -= batch.held_bytes
            self._changed.notify_all()
            return True

    def flush(self, sink: Sink) -> None:
        with self._changed:
            self._flush_and_wait(sink)

    def settle(self, sink: Sink, outcome: Outcome) -> None:
        with self._changed:
            sink.check()
            self._confirm(sink)
            sink.outcome = outcome
            self._note_waiting(sink)
            self._flush_and_wait(sink)
            sink.closed = True

    def trouble(self, sink: Sink, error: str | None, attempt: int) -> None:
        with self._changed:
            sink.check()
            sink.error, sink.attempt = error, attempt
            self._note_waiting(sink)

    def abandon(self, sink: Sink) -> None:
        with self._changed:
            self._drop(sink, LeaseLost("the reader gave its stream up"))

    def _wait_for_room(self, sink: Sink, size_bytes: int) -> None:
        while True:
            sink.check()
            alone = self._bytes == 0
            room = self._bytes + size_bytes <= self._limits.buffer_max_bytes
            own = sink.size_bytes + size_bytes <= self._limits.stream_max_bytes or sink.size_bytes == 0
            if alone or (room and own):
                return
            sink.urgent = True
            self._changed.notify_all()
            self._changed.wait(1.0)

    def _confirm(self, sink: Sink) -> None:
        batch, sink.held = sink.held, None
        if batch is not None:
            self._holding.pop(sink, None)
            self._bytes -= batch.held_bytes
            self._add(sink, batch)

    def _add(self, sink: Sink, batch: Batch) -> None:
        sink.pending.append(batch)
        sink.pending_chunks += len(batch.texts)
        sink.pending_bytes += batch.held_bytes
        self._bytes += batch.held_bytes
        self._note_waiting(sink)
        if self._reason(sink, self._clock()) is not None:
            self._changed.notify_all()

    def _note_waiting(self, sink: Sink) -> None:
        if sink not in self._waiting:
            sink.pending_since = self._clock()
            self._waiting[sink] = None
            if len(self._waiting) == 1:
                self._changed.notify_all()

    def _flush_and_wait(self, sink: Sink) -> None:
        sink.check()
        while sink in self._waiting or sink.in_flight is not None:
            sink.urgent = True
            self._changed.notify_all()
            self._changed.wait(1.0)
            sink.check()

    # --- the thread

    def _run(self) -> None:
        attempt = 0
        failing = ""
        while True:
            with self._changed:
                while True:
                    if not self._in_doubt:
                        self._pick()
                    if self._flying:
                        break
                    if self._stopping and not self._waiting:
                        return
                    self._changed.wait(self._idle_s())
            began = self._clock()
            try:
                if self._in_doubt:
                    self._resolve(list(self._flying))
                    self._in_doubt = False
                stuck = len(self._flying)
                if stuck:
                    self._commit(list(self._flying))
                attempt = 0
                failing = ""
            except Exception as error:  # noqa: BLE001  whatever it is, the thread must outlive it
                # What was sent may or may not be committed. Nobody guesses. An error that nobody has foreseen (no
                # right, no memory, a deadlock) must not end the thread either: every reader would wait for ever.
                if not isinstance(error, StoreUnavailable) and type(error).__name__ != failing:
                    failing = type(error).__name__
                    log.error("flush_failed", error=f"{failing}: {str(error).partition(chr(10))[0]}")
                self._in_doubt = True
                pause_s = backoff(attempt, self._limits.retry_base_s, self._limits.retry_cap_s, self._random)
                attempt += 1
            else:
                # Only rows that somebody else has locked are left: they must not make us spin.
                pause_s = LOCKED_PAUSE_S if stuck and len(self._flying) == stuck else 0.0
            metrics.commit_seconds.observe(self._clock() - began)
            if pause_s:
                with self._changed:
                    self._changed.wait(pause_s)

    def _idle_s(self) -> float | None:
        """How long nothing will be due unless somebody calls."""
        deadlines = [sink.pending_since + sink.limits.max_age_s for sink in self._waiting]
        for sink in self._holding:
            deadlines.append(self._looked_at(sink))
            break
        return max(0.001, min(deadlines) - self._clock()) if deadlines else None

    def _looked_at(self, sink: Sink) -> float:
        """When the held line of ``sink`` is looked at next: as its grace begins, and when it is over."""
        if sink.grace_since is None:
            return sink.held_since + (1 - HOLD_GRACE) * self._limits.hold_s
        return sink.grace_since + HOLD_GRACE * self._limits.hold_s

    def _reason(self, sink: Sink, now: float) -> FlushReason | None:
        if sink.urgent or sink.outcome is not None or self._stopping:
            return FlushReason.END
        if sink.first and sink.pending_chunks:
            return FlushReason.FIRST
        if self._bytes >= self._limits.buffer_max_bytes // 2:
            return FlushReason.PRESSURE
        return due(sink.limits, sink.pending_chunks, sink.pending_bytes, now - sink.pending_since)

    def _pick(self) -> None:
        """Launch what is due; those that have waited longest first."""
        now = self._clock()
        for sink in list(self._holding):
            if now < self._looked_at(sink):
                break
            if sink.grace_since is None:
                sink.grace_since = now
            else:
                self._confirm(sink)
        size = 0
        chosen: list[tuple[Sink, FlushReason]] = []
        for sink in self._waiting:
            if sink.in_flight is not None:
                continue
            reason = self._reason(sink, now)
            if reason is None:
                if not chosen or now - sink.pending_since < TOGETHER * sink.limits.max_age_s:
                    continue
                reason = FlushReason.AGE
            chosen.append((sink, reason))
            size += sink.pending_bytes
            if len(chosen) >= STREAMS_PER_FLUSH or size >= BYTES_PER_FLUSH:
                break
        for sink, reason in chosen:
            metrics.flushes.add(reason=reason)
            self._launch(sink)

    def _launch(self, sink: Sink) -> None:
        del self._waiting[sink]
        sink.in_flight = Flush(
            stream_id=sink.stream_id,
            token=sink.token,
            rev=sink.rev,
            wire=sink.wire,
            checkpoint=sink.pending[-1].checkpoint if sink.pending else sink.checkpoint,
            batches=sink.pending,
            outcome=sink.outcome,
            lag=sink.tail_lag,
            error=sink.error,
            attempt=sink.attempt,
            max_chunks=sink.limits.max_chunks,
        )
        self._flying[sink] = None
        sink.pending, sink.pending_chunks, sink.pending_bytes = [], 0, 0
        sink.urgent = False
        sink.tail_lag = sink.error = None
        sink.attempt = 0

    def _commit(self, sinks: list[Sink]) -> None:
        """Send the flights of ``sinks``; what does not come back is looked up."""
        flights = [(sink, sink.in_flight) for sink in sinks if sink.in_flight is not None]
        try:
            done = self._committer.commit([flight for _, flight in flights])
        except FlushRefused as error:
            if len(sinks) == 1:
                self._mend(sinks[0], error)
            else:
                # One stream's data must not hold up the others: halve until it is alone.
                middle = len(sinks) // 2
                self._commit(sinks[:middle])
                self._commit(sinks[middle:])
            return
        with self._changed:
            for sink, flight in flights:
                if sink.stream_id in done:
                    self._acknowledge(sink, flight)
            self._changed.notify_all()
        rest = [sink for sink in sinks if sink.stream_id not in done]
        if rest:
            self._resolve(rest)

    def _resolve(self, sinks: list[Sink]) -> None:
        """Find out what became of flights: committed, not committed (they stay in flight), or the lease is lost."""
        fates = self._committer.fates([sink.stream_id for sink in sinks])
        with self._changed:
            for sink in sinks:
                flight, fate = sink.in_flight, fates.get(sink.stream_id)
                if flight is None:
                    continue
                if fate is None or fate.token != flight.token:
                    metrics.lease_losses.add()
                    self._drop(sink, LeaseLost())
                elif fate.rev == flight.rev + 1:
                    self._acknowledge(sink, flight)
                elif fate.rev != flight.rev:
                    self._drop(sink, LeaseLost("the stream has moved on without this worker"))
            self._changed.notify_all()

    def _acknowledge(self, sink: Sink, flight: Flush) -> None:
        self._flying.pop(sink, None)
        sink.in_flight = None
        sink.rev = flight.rev + 1
        sink.checkpoint = flight.checkpoint
        size = sum(batch.size_bytes for batch in flight.batches)
        self._bytes -= sum(batch.held_bytes for batch in flight.batches)
        if flight.chunks:
            sink.first = False
        metrics.chunks_committed.add(flight.chunks)
        metrics.bytes_committed.add(size)
        for batch in flight.batches:
            for hole in batch.holes:
                if hole.reason.lost:
                    metrics.gaps.add(reason=hole.reason)
            for item in batch.quarantined:
                metrics.quarantined.add(reason=item.reason)

    def _drop(self, sink: Sink, failure: WorkerError) -> None:
        """Forget all that a sink has; its reader learns why at its next call."""
        for group in (self._waiting, self._holding, self._flying):
            group.pop(sink, None)
        self._bytes -= sink.size_bytes + (sink.held.held_bytes if sink.held else 0)
        sink.pending, sink.pending_chunks, sink.pending_bytes = [], 0, 0
        sink.in_flight = sink.held = None
        sink.failure = failure
        self._changed.notify_all()
        sink.lost()

    def _mend(self, sink: Sink, error: FlushRefused) -> None:
        """Move the chunks that Postgres does not accept from a refused flight to quarantine; then send the rest."""
        flight = sink.in_flight
        assert flight is not None
        before = flight.chunks
        flight.batches = [self._without_refused(batch) for batch in flight.batches]
        if flight.chunks == before:  # no single chunk is to blame: the stream ends here, with the reason
            with self._changed:
                # First of all nothing more may come: if Postgres goes away now, what is in flight is sent later.
                self._drop(sink, LeaseLost(f"Postgres refuses the stream's data: {error}"))
                flight.batches, flight.checkpoint = [], sink.checkpoint
                flight.outcome = Outcome(StreamState.FAILED, error=f"refused: {error}", verdict=Verdict.FAILED)
                sink.in_flight = flight
                self._flying[sink] = None
            self._commit([sink])
            return
        self._commit([sink])

    def _without_refused(self, batch: Batch) -> Batch:
        refused = {at for at, text in enumerate(batch.texts) if not self._committer.takes_json(text)}
        if not refused:
            return batch
        generation = batch.checkpoint.generation
        kept = [at for at in range(len(batch.texts)) if at not in refused]
        return Batch(
            checkpoint=batch.checkpoint,
            indices=[batch.indices[at] for at in kept],
            texts=[batch.texts[at] for at in kept],
            emitted_ms=[batch.emitted_ms[at] for at in kept],
            fingerprints=[batch.fingerprints[at] for at in kept] if batch.fingerprints else [],
            odd=batch.odd,
            holes=batch.holes
            + [
                Hole(generation, batch.indices[at], batch.indices[at], HoleReason.QUARANTINED) for at in sorted(refused)
            ],
            quarantined=batch.quarantined
            + [
                Quarantined(generation, batch.indices[at], "refused_by_postgres", batch.texts[at])
                for at in sorted(refused)
            ],
            size_bytes=batch.size_bytes,
        )
