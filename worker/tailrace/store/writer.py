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

from tailrace import metrics
from tailrace.errors import LeaseLost
from tailrace.model import (
    Batch,
    Hole,
    HoleReason,
    LeasedStream,
    Outcome,
    Quarantined,
    StreamState,
    Verdict,
)
from tailrace.retry import PATIENCE, Patience, backoff
from tailrace.room import Room
from tailrace.store.commit import Committer, Fate, Flush, FlushRefused
from tailrace.store.flush_rule import BatchLimits, FlushReason
from tailrace.store.sink import Sink
from tailrace.telemetry import Failing
from tailrace.tracing import NO_LEASE, Lease, traces

STREAMS_PER_FLUSH = 1_000
BYTES_PER_FLUSH = 16 * 1_048_576
FLUSH_SHARE = 4
"""A flush is no more than this part of the buffer, because it is copied on its way. One larger chunk goes alone."""
LOCKED_PAUSE_S = 0.02
LOCKED_PAUSE_CAP_S = 1.0
"""A row that stays locked is asked for less and less often: each time all that is in flight of it is sent again."""
REFUSED_BASE_S = 1.0
REFUSED_CAP_S = 60.0
TOGETHER = 0.8
"""A stream this far towards its age goes along with one that is due: fewer statements, hardly smaller segments."""


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """What a Writer may hold, and how long. ``buffer_max_bytes`` is the process's bound, see `tailrace.room`."""

    buffer_max_bytes: int = 64 * 1_048_576
    stream_max_bytes: int = 8 * 1_048_576
    hold_s: float = 2.0
    retry_base_s: float = 0.1
    retry_cap_s: float = 2.0
    patience: Patience = PATIENCE  # with data that Postgres refuses


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
        self.changed = threading.Condition()
        self.room = Room(limits.buffer_max_bytes, self.changed)
        self._flush_bytes = min(BYTES_PER_FLUSH, limits.buffer_max_bytes // FLUSH_SHARE)
        self._waiting: dict[Sink, None] = {}  # have something to commit; the one that has waited longest first
        self._holding: dict[Sink, None] = {}  # hold a last event; the one held longest first
        self._flying: dict[Sink, None] = {}  # have a flush whose outcome is not known
        self._open: dict[Sink, None] = {}  # all of them
        self._in_doubt = False  # an answer was lost: their fates must be read before anything is sent again
        self._stopping = False
        self._failing_since: float | None = None  # or the moment when what is under way was sent
        self._thread: threading.Thread | None = None

    # --- for the process

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tailrace-writer", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Commit what is there and end the thread. What ``timeout_s`` is too short for is read again by the next."""
        with self.changed:
            self._stopping = True
            for sink in self._waiting:
                sink.urgent = True
            self.changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self.changed:
            for sink in [*self._waiting, *self._holding, *self._flying]:
                sink.drop(LeaseLost("the worker ended before Postgres answered"))

    def is_alive(self) -> bool:
        """Return whether its thread runs, which it does from the start until `stop`, whatever Postgres does."""
        return self._thread is not None and self._thread.is_alive()

    def failing_s(self) -> float:
        """Return for how long no commit has succeeded although there was something to commit; 0: all is well."""
        since = self._failing_since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def overdue(self, grace_s: float) -> int:
        """Count the streams that have something uncommitted for longer than their batches' age and ``grace_s``."""
        now = self._clock()
        with self.changed:
            waiting = [(sink, sink.uncommitted_since) for sink in {**self._waiting, **self._flying}]
        return sum(since is not None and now - since > sink.limits.max_age_s + grace_s for sink, since in waiting)

    def open(
        self,
        stream: LeasedStream,
        limits: BatchLimits,
        lost: Callable[[], None] = lambda: None,
        lease: Lease = NO_LEASE,
    ) -> Sink:
        """Return the sink of a stream that was just leased.

        ``lost`` is called when nothing more can be stored through it, also while its reader waits for upstream. It
        must not wait. ``lease``: what commits are linked to.
        """
        sink = Sink(self, stream, limits, lost, self.room.share(), lease)
        with self.changed:
            self._open[sink] = None
        return sink

    # --- for sinks, with the lock held: `sink.Desk`

    @property
    def hold_s(self) -> float:
        return self._limits.hold_s

    def clock(self) -> float:
        return self._clock()

    def give_back(self, size_bytes: int) -> None:
        self.room.give_back(size_bytes)

    def take_room(self, sink: Sink, size_bytes: int) -> None:
        sink.check()
        # The stream's own limit first: who waits for himself must not stand in the way of others.
        while sink.size_bytes and sink.size_bytes + size_bytes > self._limits.stream_max_bytes:
            self._urge(sink)
        if self.room.store(sink.share, size_bytes):
            return
        try:
            while not self.room.is_stored(sink.share):
                self._urge(sink)
        except BaseException:
            if self.room.is_stored(sink.share):
                self.room.give_back(size_bytes)
            self.room.forget(sink.share)
            raise

    def _urge(self, sink: Sink) -> None:
        """Wait for room a moment, while the Writer commits."""
        sink.urgent = True
        self.changed.notify_all()
        self._wait_for_change()
        sink.check()

    def _wait_for_change(self) -> None:
        self.changed.wait(1.0)

    def waits(self, sink: Sink) -> None:
        if sink not in self._waiting:
            sink.pending_since = self._clock()
            self._waiting[sink] = None
            if len(self._waiting) == 1:
                self.changed.notify_all()
        if sink.pending and self._reason(sink, self._clock()) is not None:
            self.changed.notify_all()

    def holds(self, sink: Sink) -> None:
        self._holding[sink] = None
        if len(self._holding) == 1:
            self.changed.notify_all()

    def let_go(self, sink: Sink) -> None:
        self._holding.pop(sink, None)

    def flush_and_wait(self, sink: Sink) -> None:
        sink.check()
        while sink in self._waiting or sink.in_flight is not None:
            sink.urgent = True
            self.changed.notify_all()
            self.changed.wait(1.0)
            sink.check()

    def forget(self, sink: Sink) -> None:
        for group in (self._waiting, self._holding, self._flying, self._open):
            group.pop(sink, None)
        self.changed.notify_all()

    # --- the thread

    def _run(self) -> None:
        attempt = 0
        failing = Failing("flush", clock=self._clock, traced=False)
        while True:
            with self.changed:
                while True:
                    if not self._in_doubt:
                        self._pick()
                    if self._flying and (self._in_doubt or self._ready()):
                        break
                    if self._stopping and not self._waiting and not self._flying:
                        return
                    self.changed.wait(self._idle_s())
            began = self._clock()
            if self._failing_since is None:
                self._failing_since = began
            pause_s: float | None = None
            # What was sent may or may not be committed. Nobody guesses. An error that nobody has foreseen (no right, no
            # memory, a deadlock) must not end the thread either: every reader would wait for ever.
            with failing:
                if self._in_doubt:
                    self._resolve(list(self._flying))
                    self._in_doubt = False
                ready = self._ready()
                if ready:
                    self._commit(ready)
                attempt = 0
                pause_s = 0.0
                self._failing_since = None
            if pause_s is None:
                self._in_doubt = True
                pause_s = backoff(attempt, self._limits.retry_base_s, self._limits.retry_cap_s, self._random)
                attempt += 1
            metrics.commit_seconds.observe(self._clock() - began)
            if pause_s:
                with self.changed:
                    self.changed.wait(pause_s)

    def _idle_s(self) -> float | None:
        """How long nothing will be due unless somebody calls."""
        deadlines = [sink.pending_since + sink.limits.max_age_s for sink in self._waiting]
        deadlines += [sink.resend_at for sink in self._flying]
        deadlines += [hold.look_at for sink in self._holding if (hold := sink.hold_rule) is not None][:1]
        return max(0.001, min(deadlines) - self._clock()) if deadlines else None

    def _ready(self) -> list[Sink]:
        """Return those whose flights are to be sent now: all but those whose rows somebody else had locked just now."""
        now = self._clock()
        return [sink for sink in self._flying if sink.resend_at <= now]

    def _reason(self, sink: Sink, now: float) -> FlushReason | None:
        if self._stopping:
            return FlushReason.END
        reason = sink.reason(now - sink.pending_since)
        if reason is None and self.room.pressed:
            return FlushReason.PRESSURE
        return reason

    def _pick(self) -> None:
        """Launch what is due; those that have waited longest first."""
        now = self._clock()
        for sink in list(self._holding):
            hold = sink.hold_rule
            if hold is None or now < hold.look_at:
                break
            if hold.certain(now):
                sink.believe()
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
            if len(chosen) >= STREAMS_PER_FLUSH or size >= self._flush_bytes:
                break
        for sink, reason in chosen:
            metrics.flushes.labels(reason).inc()
            if sink.pending_chunks:
                metrics.flush_chunks.observe(sink.pending_chunks)
                metrics.flush_age_seconds.observe(now - sink.pending_since)
            del self._waiting[sink]
            sink.launch()
            self._flying[sink] = None

    def _commit(self, sinks: list[Sink]) -> None:
        """Send the flights of ``sinks``; what does not come back is looked up."""
        flights = [(sink, sink.in_flight) for sink in sinks if sink.in_flight is not None]
        try:
            with traces().commit(flights):
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
        with self.changed:
            for sink, flight in flights:
                if sink.stream_id in done:
                    self._acknowledge(sink, flight)
            self.changed.notify_all()
        rest = [sink for sink in sinks if sink.stream_id not in done]
        if rest:
            self._resolve(rest)

    def _resolve(self, sinks: list[Sink]) -> None:
        """Find out what became of flights: committed, not committed (they stay in flight), or the lease is lost.

        Where another server answers, of all streams: it may have lost what was confirmed.
        """
        found = self._committer.fates([sink.stream_id for sink in sinks])
        if found.server != self._committer.server:
            with self.changed:
                sinks = list({**self._open, **self._flying})
            found = self._committer.fates([sink.stream_id for sink in sinks])
        with self.changed:
            for sink in sinks:
                if sink in self._open or sink.in_flight is not None:
                    self._compare(sink, found.of.get(sink.stream_id))
            self._committer.server = found.server
            self.changed.notify_all()

    def _compare(self, sink: Sink, fate: Fate | None) -> None:
        """Go on as what is stored of a stream says."""
        flight = sink.in_flight
        if fate is None or fate.token != sink.token or not fate.ours:
            metrics.lease_losses.inc()
            sink.drop(LeaseLost())
        elif flight is not None and fate.position == flight.after:
            self._acknowledge(sink, flight)
        elif fate.position != sink.position:
            metrics.lease_losses.inc()
            sink.drop(LeaseLost("the stream has moved on without this worker, or the database lost what it confirmed"))
        elif flight is not None and not self._in_doubt:  # it was sent, and its row was locked
            pause_s = min(LOCKED_PAUSE_CAP_S, LOCKED_PAUSE_S * 2.0 ** min(sink.locked, 10))
            sink.locked, sink.resend_at = sink.locked + 1, self._clock() + pause_s

    def _acknowledge(self, sink: Sink, flight: Flush) -> None:
        self._flying.pop(sink, None)
        sink.acknowledge(flight)
        _count(flight)

    def _mend(self, sink: Sink, error: FlushRefused) -> None:
        """Move the chunks that Postgres does not accept from a refused flight to quarantine; then send the rest."""
        flight = sink.in_flight
        assert flight is not None
        before = flight.chunks
        flight.batches = [self._without_refused(batch) for batch in flight.batches]
        if flight.chunks == before:  # no single chunk is to blame: the reader ends here, with the reason
            # Unless it is stored already, by a commit that was given up and came through after all.
            self._resolve([sink])
            if sink.in_flight is not flight:
                return
            with self.changed:
                # First of all nothing more may come: if Postgres goes away now, what is in flight is sent later.
                sink.drop(LeaseLost(f"Postgres refuses the stream's data: {error}"))
                flight.batches, flight.checkpoint = [], sink.checkpoint
                flight.outcome = self._after_refusal(sink, error)
                sink.in_flight = flight
                self._flying[sink] = None
            self._commit([sink])
            return
        self._commit([sink])

    def _after_refusal(self, sink: Sink, error: FlushRefused) -> Outcome:
        """It is read again from its checkpoint until the refusal is believed: it may be somebody's trigger."""
        attempt, troubled_s = sink.troubled
        why = f"refused: {error}"
        if self._limits.patience.is_over(attempt + 1, troubled_s):
            return Outcome(StreamState.FAILED, attempt=attempt + 1, error=why, verdict=Verdict.FAILED)
        delay_s = backoff(attempt, REFUSED_BASE_S, REFUSED_CAP_S, self._random)
        return Outcome(StreamState.PARKED, delay_s=delay_s, attempt=attempt + 1, error=why)

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


def _count(flight: Flush) -> None:
    """Count what has become durable."""
    metrics.chunks_committed.inc(flight.chunks)
    for batch in flight.batches:
        metrics.bytes_committed.inc(batch.size_bytes)
        for hole in batch.holes:
            if hole.reason.lost:
                metrics.gaps.labels(hole.reason).inc()
                if hole.last_index is not None:
                    metrics.lost_records.inc(max(0, hole.last_index - hole.first_index + 1))
        for item in batch.quarantined:
            metrics.quarantined.labels(item.reason).inc()
