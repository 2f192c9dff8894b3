"""Read one stream from its checkpoint until there is a reason to leave it: the one loop.

Everything it touches is handed in: where to read (`Connector`), where to write (`Sink`), what the database knows
(`StreamFacts`), the clock. It returns a `Outcome`, which the caller commits with the last chunks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tailrace.errors import MalformedRecord, NotFound, RequestRefused, TransientError
from tailrace.ingest.ending import Clean, after_clean_end, verdict_of
from tailrace.ingest.order import Order, order_for
from tailrace.model import (
    UNSET_INDEX,
    Arrival,
    Batch,
    Checkpoint,
    LeasedStream,
    Outcome,
    RunEnd,
    StreamState,
    Verdict,
    Wire,
)
from tailrace.retry import backoff
from tailrace.telemetry import metrics

RECORDS_PER_BATCH = 200
"""How many records are handled before others get a turn. Without it 8 fast readers held the hub for 0.6 s."""
DRAIN_WAIT_S = 1
"""What a sweep asks of upstream as the wait: the shortest it accepts everywhere."""


class Connected(Protocol):
    """An open connection; `source.tail.Connection` is one."""

    @property
    def wire(self) -> Wire: ...
    @property
    def date_ms(self) -> int | None: ...
    @property
    def arrivals(self) -> Iterator[Arrival]: ...


class Connector(Protocol):
    """Something to read; `source.tail.Tail` is one."""

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
    give_up_attempts: int = 20  # on a stream that upstream does not serve although its run is over


class Signal:
    """How others reach a reader: leave (drain, cancel), or look around again (its run is over)."""

    def __init__(self) -> None:
        self._changed = threading.Event()
        self._looking = False
        self.leaving = False
        self.interrupt: Callable[[], None] = lambda: None

    @property
    def called(self) -> bool:
        """Somebody wants the reader to drop its connection."""
        return self.leaving or self._looking

    def leave(self) -> None:
        self.leaving = True
        self._wake()

    def look_again(self) -> None:
        self._looking = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self.interrupt()  # after the flags: a body that is shut down can look cleanly ended

    def looked(self) -> None:
        """Note that the reader is about to look around."""
        self._looking = False
        if not self.leaving:
            self._changed.clear()

    def wait(self, timeout_s: float) -> None:
        """Wait, but not longer than until somebody calls."""
        if timeout_s > 0:
            self._changed.wait(timeout_s)


class Reader:
    """Reads one leased stream."""

    def __init__(
        self,
        stream: LeasedStream,
        upstream: Connector,
        sink: Sink,
        facts: StreamFacts,
        timing: Timing,
        signal: Signal,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float],
        pause: Callable[[], None] = lambda: time.sleep(0),
        alarm: Callable[[str], None] = lambda what: None,
    ) -> None:
        """``alarm`` is told, in a sentence, what upstream should never do."""
        self._stream = stream
        self._upstream = upstream
        self._sink = sink
        self._facts = facts
        self._timing = timing
        self._signal = signal
        self._clock = clock
        self._random = random
        self._pause = pause
        self._alarm = alarm
        self._wire = stream.wire
        self._wire_changed = False
        self._connected_at = 0.0
        self._order: Order | None = None
        self._checkpoint = stream.checkpoint
        self._run_end = stream.run_end
        self._lost = stream.lost_count > 0
        self._tail: int | None = None  # as the present connection last said
        self._held: _Held | None = None
        self._loose: Any = None  # the record that came together with the end of the last connection
        self._last_data = clock() - stream.silent_s
        self._attempt = stream.attempt
        self._troubled = False  # the row says why the stream can't be read
        signal.interrupt = upstream.interrupt

    def run(self) -> Outcome:
        """Read until the slice is over, the stream is silent or sealed, or it fails.

        Raises:
            LeaseLost: from the sink. Nothing more may be written.
            Unauthorized: upstream refuses the key; the caller halts the environment.
        """
        leave_at = self._clock() + self._timing.slice_s
        while not self._signal.leaving and self._clock() < leave_at:
            sweep = self._run_end.over
            before, opened_at = self._checkpoint, self._clock()
            # A parked stream that still has nothing goes back at once: it must not hold a slot and a connection.
            parked = opened_at - self._last_data >= self._timing.park_after_s
            outcome: Outcome | None = None
            try:
                clean = self._follow(DRAIN_WAIT_S if sweep or parked else self._timing.wait_s, leave_at)
                self._over_it()
                if self._signal.leaving:  # nobody needs to know any more; 5 000 readers leave at once
                    break
                self._look_around()
            except (TransientError, NotFound, MalformedRecord) as error:
                outcome = self._after_fault(error)
            except RequestRefused as error:
                return Outcome(StreamState.FAILED, error=str(error), verdict=Verdict.FAILED)
            else:
                if clean:
                    outcome = self._after_clean_end(sweep, before, opened_at)
            if outcome is not None:
                return outcome
        return Outcome(StreamState.ACTIVE)  # handed on: whoever is free goes on from the checkpoint

    def _follow(self, wait_s: int, leave_at: float) -> bool:
        """Read one connection. True at its clean end; False when it was we who left it."""
        self._tail, self._held, self._loose = None, None, None
        resume = self._ordered().resume() if self._wire is not None else None
        try:
            with self._upstream.connect(resume, wait_s) as connection:
                if not self._agree(connection):
                    return False
                for arrival in connection.arrivals:
                    self._take(arrival)
                    if self._recreated() or self._signal.called or self._clock() >= leave_at:
                        return False
                    self._pause()
                return not self._signal.called
        except TransientError:
            if self._signal.called:
                return False  # it was we who cut it
            raise
        finally:
            self._take_back_held()

    def _agree(self, connection: Connected) -> bool:
        """Settle which wire the stream speaks; False when the connection began at the wrong place."""
        if self._signal.called:
            return False
        known = self._wire
        if known is not None and known is not connection.wire:
            self._change_wire(known, connection.wire)
            return False
        self._wire = connection.wire
        self._connected_at = self._clock()
        order = self._ordered()
        if known is None:
            order.resume()
        order.opened(connection.date_ms)
        return True

    def _change_wire(self, known: Wire, now: Wire) -> None:
        """Begin a new generation of a stream that speaks another wire than before, which upstream rules out.

        A cursor does not carry over: v2 would clamp to the tail and skip all, v1 replay all.
        """
        if self._wire_changed:
            raise MalformedRecord(f"the stream speaks {now} again: something between upstream and us drops headers")
        self._wire_changed = True
        self._alarm(f"the stream spoke {known} and now speaks {now}: it is read again from its beginning")
        batch = order_for(known, self._checkpoint, []).begin_generation()
        self._wire, self._order = now, None
        self._store(batch)

    def _ordered(self) -> Order:
        """Return the stream's sequence, built at the checkpoint when first needed."""
        if self._order is None:
            wire = self._known_wire()
            stored = wire is Wire.V2 and self._checkpoint.last_index != UNSET_INDEX
            recent = self._facts.recent(self._checkpoint.generation) if stored else []
            self._order = order_for(wire, self._checkpoint, recent, self._stream.not_before_ms)
        return self._order

    def _known_wire(self) -> Wire:
        assert self._wire is not None, "asked before the first connection was open"
        return self._wire

    def _take(self, arrival: Arrival) -> None:
        """Order and store what one delivery brought."""
        self._over_it()
        order = self._ordered()
        order.passed(int(1000 * (self._clock() - self._connected_at)))
        records = arrival.records
        holding = bool(records) and not arrival.alive_after
        certain = len(records) - holding
        for start in range(0, certain, RECORDS_PER_BATCH):
            if start:
                self._pause()
            self._store(order.admit(records[start : min(start + RECORDS_PER_BATCH, certain)]))
        if holding:
            # Nothing follows it yet: it may be a line that the server gives out unfinished because it is closing.
            before = _Held(order.snapshot(), self._checkpoint, records[-1], self._last_data, self._attempt)
            batch = order.admit(records[-1:])
            if moves(batch):
                self._sink.hold(batch, self._known_wire())
                self._notice(batch)
                self._held = before
        elif arrival.alive_after:
            self._sink.confirm()
            self._held = None
        if arrival.oversized is not None:
            self._store(order.admit_oversized(*arrival.oversized))
        if arrival.tail is not None:
            self._tail = arrival.tail
            order.see_tail(arrival.tail)
            if not order.recreated:
                self._sink.lag(max(0, arrival.tail - self._checkpoint.last_index - 1))

    def _store(self, batch: Batch) -> None:
        if batch.duplicates:
            metrics.duplicates.add(batch.duplicates)
        if moves(batch):
            self._sink.put(batch, self._known_wire())
            self._held = None
            self._notice(batch)

    def _notice(self, batch: Batch) -> None:
        self._checkpoint = batch.checkpoint
        self._lost = self._lost or any(hole.reason.lost for hole in batch.holes)
        self._last_data = self._clock()
        self._attempt = 0

    def _recreated(self) -> bool:
        """Leave the old stream behind when upstream has begun a new one under the same key."""
        order = self._ordered()
        if order.recreated:
            self._store(order.begin_generation())
            return True
        return False

    def _take_back_held(self) -> None:
        """Withdraw a record that came together with the end of its connection: the next read brings it back whole."""
        held, self._held = self._held, None
        if held is not None and self._sink.withdraw():
            self._ordered().restore(held.snapshot)
            self._checkpoint, self._last_data, self._attempt = held.checkpoint, held.last_data, held.attempt
            self._loose = held.record

    def _look_around(self) -> None:
        self._signal.looked()  # first: whoever calls from now on wants the next look
        self._run_end = self._facts.run_end()

    def _after_fault(self, error: TransientError | NotFound | MalformedRecord) -> Outcome | None:
        attempt, self._attempt = self._attempt, self._attempt + 1
        metrics.reconnects.add(reason=type(error).__name__)
        with contextlib.suppress(TransientError):
            self._look_around()
        # What makes no sense can come from something on the way; if it comes again and again, it is upstream's.
        malformed = isinstance(error, MalformedRecord)
        unserved = isinstance(error, NotFound) or getattr(error, "status", None) == 500
        if (malformed or (self._run_end.over and unserved)) and self._attempt >= self._timing.give_up_attempts:
            empty = self._checkpoint.last_index == UNSET_INDEX
            return Outcome(
                StreamState.FAILED,
                attempt=self._attempt,
                error=f"{error} (given up after {self._attempt} attempts)",
                verdict=Verdict.FAILED if malformed or empty else Verdict.POSSIBLY_TRUNCATED,
            )
        delay_s = backoff(attempt, self._timing.retry_base_s, self._timing.retry_cap_s, self._random)
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        if delay_s > self._timing.keep_slot_s or self._attempt >= self._timing.park_attempts:
            return Outcome(StreamState.PARKED, delay_s=delay_s, attempt=self._attempt, error=str(error))
        # Nobody should have to wait for the attempts to be used up to learn what is wrong.
        self._sink.trouble(str(error), self._attempt)
        self._troubled = True
        self._signal.wait(delay_s)
        return None

    def _over_it(self) -> None:
        """Note that the stream can be read."""
        if self._troubled:
            self._troubled = False
            self._sink.trouble(None, self._attempt)

    def _after_clean_end(self, sweep: bool, before: Checkpoint, opened_at: float) -> Outcome | None:
        order = self._ordered()
        brought = self._checkpoint is not before
        if not brought and self._tail is not None and self._tail > self._checkpoint.last_index + 1:
            # What a response does not begin with is gone; what it did not get to, in a slow catching up, is not.
            self._store(order.admit_missing(self._tail))
            brought = True
        if sweep and self._loose is not None:
            batch = order.loose_end(self._loose)
            self._sink.put(batch, self._known_wire())
            self._notice(batch)
            brought = True
        now = self._clock()
        timing = self._timing
        outcome = after_clean_end(
            Clean(
                sweep=sweep,
                brought=brought,
                anchored=order.anchored,
                attempt=self._attempt,
                silent_s=now - self._last_data,
            ),
            self._run_end,
            verdict_of(
                lost=self._lost or order.cut_short,
                unsure=order.unsure or not order.anchored,
            ),
            quiet_s=timing.quiet_s,
            park_after_s=timing.park_after_s,
            park_s=timing.park_v1_s if self._wire is Wire.V1 else timing.park_v2_s,
        )
        if outcome is None and not brought:
            # Upstream keeps a silent stream open for the whole wait. One that closes at once must not make us spin.
            self._signal.wait(max(0.0, opened_at + timing.reconnect_s - now))
        return outcome


class _Held(NamedTuple):
    """The state before the record that is held, and the record."""

    snapshot: object
    checkpoint: Checkpoint
    record: Any
    last_data: float
    attempt: int


def moves(batch: Batch) -> bool:
    """Return whether there is anything in it that has to be stored."""
    return bool(batch.indices or batch.holes or batch.quarantined)
