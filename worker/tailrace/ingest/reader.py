"""Read one stream from its checkpoint until there is a reason to leave it: the one loop.

Everything it touches is handed in: where to read (`Connector`), where to write (`Sink`), what the database knows
(`StreamFacts`), the clock. What the connections bring is put together by
`ingest.assembly`. It returns an `Outcome`, which the caller commits with the last chunks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from tailrace import metrics
from tailrace.errors import (
    Contradiction,
    MalformedRecord,
    NotFound,
    RequestRefused,
    TransientError,
    Unauthorized,
    WorkerError,
)
from tailrace.ingest.assembly import Assembly, Records, generation_wait_s
from tailrace.ingest.ending import UNWRITTEN_AFTER_S, Clean, after_clean_end, claim_of
from tailrace.ingest.signal import Signal
from tailrace.ingest.stuck import Sign, Stuck
from tailrace.model import (
    UNSET_INDEX,
    Arrival,
    Batch,
    Checkpoint,
    Doubt,
    LeasedStream,
    Outcome,
    RunEnd,
    StreamState,
    Verdict,
    Wire,
)
from tailrace.retry import PATIENCE, Patience, backoff

DRAIN_WAIT_S = 1
"""What a sweep asks of upstream as the wait: the shortest it accepts everywhere."""


class Connected(Protocol):
    """An open connection; `source.connection.Connection` is one."""

    @property
    def wire(self) -> Wire: ...
    @property
    def date_ms(self) -> int | None: ...
    @property
    def arrivals(self) -> Iterator[Arrival]: ...


class Connector(Protocol):
    """Something to read; `source.connection.Tail` is one."""

    def connect(self, last_event_id: str | None, wait_s: int) -> AbstractContextManager[Connected]: ...
    def interrupt(self) -> None: ...


class Sink(Protocol):
    """Something to write to; `store.writer.Sink` is one. Every call raises LeaseLost once the lease is gone."""

    def put(self, batch: Batch, wire: Wire) -> None:
        """Store ``batch``; waits while there is no room. What was held becomes certain."""

    def hold(self, batch: Batch, wire: Wire) -> None:
        """Store ``batch`` when something follows, or after the hold time; until then it can be withdrawn."""

    def confirm(self) -> None:
        """What was held is certain."""

    def withdraw(self) -> bool:
        """Take back what is held. False when nothing is, or when it is too late: then it counts as stored."""

    def flush(self) -> None:
        """Return when everything stored is committed."""

    def lag(self, records: int) -> None:
        """Note how far behind upstream's tail the stream is."""

    def trouble(self, error: str | None, attempt: int) -> None:
        """Say in the stream's row why it can't be read at present; None: it can again."""

    def stuck(self, reason: str | None) -> None:
        """Say in the stream's row why it is stuck, with all that is committed until it is not: None."""


class StreamFacts(Protocol):
    """What the database knows about the stream besides its chunks."""

    def run_end(self) -> RunEnd: ...

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        """Return index and mark of the last chunks stored of a generation, oldest first (v2)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How a reader behaves. Seconds, unless the name says otherwise."""

    wait_s: int = 60
    park_after_s: float = 300.0
    park_v1_s: float = 10.0
    park_v2_s: float = 30.0
    quiet_s: float = 60.0
    slice_s: float = 600.0
    retry_base_s: float = 0.5
    retry_cap_s: float = 30.0
    reconnect_s: float = 1.0  # between the starts of two connections that bring nothing
    keep_slot_s: float = 5.0  # a longer backoff is spent parked
    park_attempts: int = 6  # without progress; then the stream says so in its row, and gives its slot away
    patience: Patience = PATIENCE  # with what ends a stream for good


class Reader:
    """Reads one leased stream."""

    def __init__(
        self,
        stream: LeasedStream,
        connector: Connector,
        sink: Sink,
        facts: StreamFacts,
        timing: Timing,
        signal: Signal,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float],
        pause: Callable[[], None] = lambda: time.sleep(0),
        alarm: Callable[[str], None] = lambda what: None,
        stuck: Callable[[str | None], None] = lambda reason: None,
    ) -> None:
        """``alarm`` is told, in a sentence, what upstream should never do; ``stuck``, why the stream begins to be so,
        and None when it no longer is."""
        self._connector = connector
        self._sink = sink
        self._facts = facts
        self._timing = timing
        self._signal = signal
        self._clock = clock
        self._random = random
        self._pause = pause
        self._run_end = stream.run_end
        self._progress = _Progress(sink, stream, clock)
        self._assembly = Assembly(
            self._progress,
            stream.checkpoint,
            stream.wire,
            recent=facts.recent,
            not_before_ms=stream.not_before_ms,
            pause=pause,
            alarm=alarm,
        )
        self._told_stuck = stuck
        self._stuck = Stuck(self._tell_stuck, clock, stream.stuck)
        if stream.stuck is not None:
            sink.stuck(stream.stuck)
        self._trouble: str | None = None  # why the stream can't be read, as its row says
        signal.interrupt = connector.interrupt

    def run(self) -> Outcome:
        """Read until the slice is over, the stream is silent or sealed, or it fails.

        Raises:
            LeaseLost: from the sink. Nothing more may be written.
            Unauthorized: upstream refuses the key; the caller halts the environment, or leaves as `refused_alone` says.
        """
        metrics.stuck.inc(self._stuck.reason is not None)
        try:
            outcome = self._read()
            if outcome.state in (StreamState.SEALED, StreamState.FAILED):
                self._stuck.moved()
            return outcome if outcome.error is not None else replace(outcome, error=self._stuck.reason)
        finally:
            metrics.stuck.dec(self._stuck.reason is not None)

    def _read(self) -> Outcome:
        leave_at = self._clock() + self._timing.slice_s
        while not self._signal.leaving and self._clock() < leave_at:
            sweep = self._run_end.over
            before, opened_at = self._assembly.checkpoint, self._clock()
            # A parked stream that still has nothing goes back at once: it must not hold a slot and a connection.
            parked = opened_at - self._progress.last_data >= self._timing.park_after_s
            outcome: Outcome | None = None
            try:
                clean = self._follow(DRAIN_WAIT_S if sweep or parked else self._timing.wait_s, leave_at)
                self._over_it()
                if self._signal.leaving:  # nobody needs to know any more; 5 000 readers leave at once
                    break
                brought = self._assembly.checkpoint is not before
                if not (sweep and brought and self._run_end.over_for_s >= UNWRITTEN_AFTER_S):
                    self._look_around()  # else nothing is decided yet: the next sweep confirms, and after it is looked
                outcome = self._after_renewal(before)
            except (TransientError, NotFound, MalformedRecord, RequestRefused) as error:
                outcome = self._after_fault(error)
            else:
                if clean and outcome is None:
                    outcome = self._after_clean_end(sweep, before, opened_at)
            if outcome is not None:
                return outcome
        # Handed on: whoever is free goes on from the checkpoint, and knows what was wrong.
        return Outcome(StreamState.ACTIVE, attempt=self._progress.attempt, error=self._trouble)

    def _follow(self, wait_s: int, leave_at: float) -> bool:
        """Read one connection. True at its clean end; False when it was we who left it."""
        assembly = self._assembly
        try:
            with self._connector.connect(assembly.resume(), wait_s) as connection:
                if self._signal.called:
                    return False
                opened_at = self._clock()
                assembly.opened(connection.wire, connection.date_ms)
                self._stuck.connected()
                if assembly.stale:
                    return False
                for arrival in connection.arrivals:
                    self._over_it()
                    before = assembly.checkpoint
                    assembly.arrive(arrival, int(1000 * (self._clock() - opened_at)))
                    moved = assembly.checkpoint is not before or assembly.duplicates > 0
                    self._count(arrival)
                    if assembly.doubt is not None:
                        raise Contradiction(assembly.doubt)
                    if not moved and self._is_fruitless(arrival):
                        return False
                    if moved:
                        self._stuck.moved()
                    del arrival  # it can be large, and the next may take long to come
                    if assembly.stale or self._signal.called or self._clock() >= leave_at:
                        return False
                    self._pause()
                return not self._signal.called
        except TransientError:
            if self._signal.called:
                return False  # it was we who cut it
            raise
        finally:
            assembly.left()

    def _count(self, arrival: Arrival) -> None:
        """Tell others what one arrival says besides its records."""
        assembly = self._assembly
        if assembly.duplicates:
            metrics.duplicates.inc(assembly.duplicates)
            assembly.duplicates = 0
        if arrival.tail is not None and not assembly.stale:
            self._sink.lag(max(0, arrival.tail - assembly.checkpoint.last_index - 1))

    def _is_fruitless(self, arrival: Arrival) -> bool:
        """Return whether this connection shows for too long that there is more, and brings nothing of it."""
        if arrival.unfinished:
            return self._stuck.shows(Sign.UNFINISHED)
        self._stuck.lacks(Sign.UNFINISHED)
        if arrival.tail is None or self._assembly.stale or self._run_end.over:  # sweeps decide by themselves
            return False
        if arrival.tail > self._assembly.checkpoint.last_index + 1:
            return self._stuck.shows(Sign.AHEAD)
        self._stuck.lacks(Sign.AHEAD)
        return False

    def _tell_stuck(self, reason: str | None) -> None:
        metrics.stuck.inc(-1 if reason is None else 1)
        self._sink.stuck(reason)
        self._told_stuck(reason)

    def _look_around(self) -> None:
        self._signal.looked()  # first: whoever calls from now on wants the next look
        self._run_end = self._facts.run_end()

    def _after_renewal(self, before: Checkpoint) -> Outcome | None:
        """Leave a stream that is made anew again and again for a while."""
        generation = self._assembly.checkpoint.generation
        wait_s = generation_wait_s(generation) if generation != before.generation else 0.0
        if wait_s == 0.0:
            return None
        why = f"upstream began the stream anew {generation} times: the next look is in {wait_s:.0f} s"
        return Outcome(StreamState.PARKED, delay_s=wait_s, error=why)

    def _after_fault(self, error: TransientError | NotFound | MalformedRecord | RequestRefused) -> Outcome | None:
        progress = self._progress
        attempt = progress.attempt
        progress.went_wrong()
        metrics.reconnects.labels(type(error).__name__).inc()
        with contextlib.suppress(TransientError):
            self._look_around()
        # It can come from something on the way; if it comes again and again, it is upstream's.
        doubt = isinstance(error, Contradiction)
        senseless = isinstance(error, MalformedRecord | RequestRefused)
        unserved = isinstance(error, NotFound) or getattr(error, "status", None) == 500
        if self._timing.patience.is_over(progress.attempt, progress.troubled_s):
            if doubt:
                self._assembly.order.believe()
            elif senseless or (self._run_end.over and unserved):
                return self._give_up(error, senseless)
        delay_s = backoff(attempt, self._timing.retry_base_s, self._timing.retry_cap_s, self._random)
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        if doubt:
            # The next connection settles it, and this reader knows what to look for.
            delay_s = min(delay_s, self._timing.keep_slot_s) if attempt else 0.0
        elif delay_s > self._timing.keep_slot_s or progress.attempt >= self._timing.park_attempts:
            return Outcome(StreamState.PARKED, delay_s=delay_s, attempt=progress.attempt, error=str(error))
        # Nobody should have to wait for the attempts to be used up to learn what is wrong.
        self._trouble = str(error)
        self._sink.trouble(self._trouble, progress.attempt)
        self._signal.wait(delay_s)
        return None

    def refused_alone(self, error: Unauthorized) -> Outcome:
        """Return how to leave a stream that is refused although the key is taken elsewhere."""
        progress, timing = self._progress, self._timing
        attempt = progress.attempt
        progress.went_wrong()
        if timing.patience.is_over(progress.attempt, progress.troubled_s):
            return self._give_up(error, senseless=True)
        delay_s = backoff(attempt, timing.retry_base_s, timing.retry_cap_s, self._random)
        return Outcome(StreamState.PARKED, delay_s=delay_s, attempt=progress.attempt, error=str(error))

    def _give_up(self, error: WorkerError, senseless: bool) -> Outcome:
        progress = self._progress
        failed = senseless or self._assembly.checkpoint.last_index == UNSET_INDEX
        return Outcome(
            StreamState.FAILED,
            attempt=progress.attempt,
            error=f"{error} (given up after {progress.attempt} attempts in {progress.troubled_s:.0f} s)",
            verdict=Verdict.FAILED if failed else Verdict.POSSIBLY_TRUNCATED,
            doubt=None if failed else Doubt.UNSERVED,
        )

    def _over_it(self) -> None:
        """Note that the stream can be read."""
        if self._trouble is not None:
            self._trouble = None
            self._sink.trouble(None, self._progress.attempt)

    def _after_clean_end(self, sweep: bool, before: Checkpoint, opened_at: float) -> Outcome | None:
        assembly, progress, timing = self._assembly, self._progress, self._timing
        assembly.ended(final=sweep)
        order, brought, now = assembly.order, assembly.checkpoint is not before, self._clock()
        if order.anchored:
            progress.attempt = 0  # nothing is wrong any more
        outcome = after_clean_end(
            Clean(
                sweep=sweep,
                brought=brought,
                anchored=order.anchored,
                attempt=progress.attempt,
                silent_s=now - progress.last_data,
                unwritten=assembly.wire is Wire.V2
                and assembly.checkpoint.last_index != UNSET_INDEX
                and self._run_end.over_for_s >= UNWRITTEN_AFTER_S,
            ),
            self._run_end,
            claim_of(
                lost=progress.lost or order.cut_short,
                unsure=order.unsure,
                anchored=order.anchored,
            ),
            quiet_s=timing.quiet_s,
            park_after_s=timing.park_after_s,
            park_s=timing.park_v1_s if assembly.wire is Wire.V1 else timing.park_v2_s,
        )
        if outcome is None and not brought:
            # Upstream keeps a silent stream open for the whole wait. One that closes at once must not make us spin.
            self._signal.wait(max(0.0, opened_at + timing.reconnect_s - now))
        return outcome


class _Progress:
    """Where a reader's batches go: to its sink, and what they say of the stream is noted.

    ``lost``: something of the stream is lost. ``last_data``: when something new came last. ``attempt``: how many times
    in a row something went wrong.
    """

    def __init__(self, sink: Sink, stream: LeasedStream, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self.lost = stream.lost_count > 0
        self.last_data = clock() - stream.silent_s
        self.attempt = stream.attempt
        self._troubled_at = clock() - stream.troubled_s
        self._before = (self.last_data, self.attempt)  # what is held

    @property
    def troubled_s(self) -> float:
        """How long nothing has gone right, if something is wrong."""
        return self._clock() - self._troubled_at

    def went_wrong(self) -> None:
        if self.attempt == 0:
            self._troubled_at = self._clock()
        self.attempt += 1

    def put(self, batch: Batch, wire: Wire, records: Records) -> None:
        self._sink.put(batch, wire)
        self._note(batch)

    def hold(self, batch: Batch, wire: Wire, records: Records) -> None:
        self._sink.hold(batch, wire)
        self._before = (self.last_data, self.attempt)
        self._note(batch)

    def confirm(self) -> None:
        self._sink.confirm()

    def withdraw(self) -> bool:
        if not self._sink.withdraw():
            return False
        self.last_data, self.attempt = self._before
        return True

    def _note(self, batch: Batch) -> None:
        self.lost = self.lost or any(hole.reason.lost for hole in batch.holes)
        self.last_data = self._clock()
        self.attempt = 0
