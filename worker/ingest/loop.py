"""Read one stream from its checkpoint until there is a reason to leave it: the one loop.

Everything it touches is handed in: where to read (`Upstream`), where to write (`Sink`), what the database knows
(`Surroundings`), the clock. It returns a `Settlement`, which the caller commits with the last chunks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from worker.errors import MalformedRecord, NotFound, RequestRefused, TransientError
from worker.ingest.ending import Clean, after_clean_end, verdict_of
from worker.ingest.sequence import Sequence, sequence_for
from worker.model import (
    UNSET_INDEX,
    Checkpoint,
    Delivery,
    LeasedStream,
    Settlement,
    Standing,
    StreamState,
    Take,
    Verdict,
    Wire,
)
from worker.retry import backoff
from worker.telemetry import metrics

RECORDS_PER_TAKE = 200
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
    def deliveries(self) -> Iterator[Delivery]: ...


class Upstream(Protocol):
    """Something to read; `source.tail.Tail` is one."""

    def connect(self, last_event_id: str | None, wait_s: int) -> AbstractContextManager[Connected]: ...
    def interrupt(self) -> None: ...


class Sink(Protocol):
    """Something to write to; `store.writer.Sink` is one. Every call raises LeaseLost once the lease is gone."""

    def put(self, take: Take, wire: Wire) -> None:
        """Store ``take``; waits while there is no room. What was held becomes certain."""

    def hold(self, take: Take, wire: Wire) -> None:
        """Store ``take`` when something follows, or after the hold time; until then it can be withdrawn."""

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


class Surroundings(Protocol):
    """What the database knows about the stream besides its chunks."""

    def standing(self) -> Standing: ...

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        """Give index and mark of the last chunks stored of a generation, oldest first (v2)."""


@dataclass(frozen=True, slots=True)
class ReadPolicy:
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
        upstream: Upstream,
        sink: Sink,
        surroundings: Surroundings,
        policy: ReadPolicy,
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
        self._surroundings = surroundings
        self._policy = policy
        self._signal = signal
        self._clock = clock
        self._random = random
        self._pause = pause
        self._alarm = alarm
        self._wire = stream.wire
        self._wire_changed = False
        self._connected_at = 0.0
        self._sequence: Sequence | None = None
        self._checkpoint = stream.checkpoint
        self._standing = stream.standing
        self._lost = stream.lost_count > 0
        self._tail: int | None = None  # as the present connection last said
        self._held: _Held | None = None
        self._loose: Any = None  # the record that came together with the end of the last connection
        self._last_data = clock() - stream.silent_s
        self._attempt = stream.attempt
        self._troubled = False  # the row says why the stream can't be read
        signal.interrupt = upstream.interrupt

    def run(self) -> Settlement:
        """Read until the slice is over, the stream is silent or sealed, or it fails.

        Raises:
            LeaseLost: from the sink. Nothing more may be written.
            Unauthorized: upstream refuses the key; the caller halts the environment.
        """
        leave_at = self._clock() + self._policy.slice_s
        while not self._signal.leaving and self._clock() < leave_at:
            sweep = self._standing.over
            before, opened_at = self._checkpoint, self._clock()
            # A parked stream that still has nothing goes back at once: it must not hold a slot and a connection.
            parked = opened_at - self._last_data >= self._policy.park_after_s
            settlement: Settlement | None = None
            try:
                clean = self._follow(DRAIN_WAIT_S if sweep or parked else self._policy.wait_s, leave_at)
                self._over_it()
                if self._signal.leaving:  # nobody needs to know any more; 5 000 readers leave at once
                    break
                self._look_around()
            except (TransientError, NotFound, MalformedRecord) as error:
                settlement = self._after_fault(error)
            except RequestRefused as error:
                return Settlement(StreamState.FAILED, error=str(error), verdict=Verdict.FAILED)
            else:
                if clean:
                    settlement = self._after_clean_end(sweep, before, opened_at)
            if settlement is not None:
                return settlement
        return Settlement(StreamState.ACTIVE)  # handed on: whoever is free goes on from the checkpoint

    def _follow(self, wait_s: int, leave_at: float) -> bool:
        """Read one connection. True at its clean end; False when it was we who left it."""
        self._tail, self._held, self._loose = None, None, None
        resume = self._ordered().resume() if self._wire is not None else None
        try:
            with self._upstream.connect(resume, wait_s) as connection:
                if not self._agree(connection):
                    return False
                for delivery in connection.deliveries:
                    self._take(delivery)
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
        sequence = self._ordered()
        if known is None:
            sequence.resume()
        sequence.opened(connection.date_ms)
        return True

    def _change_wire(self, known: Wire, now: Wire) -> None:
        """Begin a new generation of a stream that speaks another wire than before, which upstream rules out.

        A cursor does not carry over: v2 would clamp to the tail and skip all, v1 replay all.
        """
        if self._wire_changed:
            raise MalformedRecord(f"the stream speaks {now} again: something between upstream and us drops headers")
        self._wire_changed = True
        self._alarm(f"the stream spoke {known} and now speaks {now}: it is read again from its beginning")
        take = sequence_for(known, self._checkpoint, []).begin_generation()
        self._wire, self._sequence = now, None
        self._store(take)

    def _ordered(self) -> Sequence:
        """Give the stream's sequence, built at the checkpoint when first needed."""
        if self._sequence is None:
            wire = self._known_wire()
            stored = wire is Wire.V2 and self._checkpoint.last_index != UNSET_INDEX
            recent = self._surroundings.recent(self._checkpoint.generation) if stored else []
            self._sequence = sequence_for(wire, self._checkpoint, recent, self._stream.not_before_ms)
        return self._sequence

    def _known_wire(self) -> Wire:
        assert self._wire is not None, "asked before the first connection was open"
        return self._wire

    def _take(self, delivery: Delivery) -> None:
        """Order and store what one delivery brought."""
        self._over_it()
        sequence = self._ordered()
        sequence.passed(int(1000 * (self._clock() - self._connected_at)))
        records = delivery.records
        holding = bool(records) and not delivery.alive_after
        certain = len(records) - holding
        for start in range(0, certain, RECORDS_PER_TAKE):
            if start:
                self._pause()
            self._store(sequence.admit(records[start : min(start + RECORDS_PER_TAKE, certain)]))
        if holding:
            # Nothing follows it yet: it may be a line that the server gives out unfinished because it is closing.
            before = _Held(sequence.mark(), self._checkpoint, records[-1], self._last_data, self._attempt)
            take = sequence.admit(records[-1:])
            if moves(take):
                self._sink.hold(take, self._known_wire())
                self._notice(take)
                self._held = before
        elif delivery.alive_after:
            self._sink.confirm()
            self._held = None
        if delivery.oversized is not None:
            self._store(sequence.admit_oversized(*delivery.oversized))
        if delivery.tail is not None:
            self._tail = delivery.tail
            sequence.see_tail(delivery.tail)
            if not sequence.recreated:
                self._sink.lag(max(0, delivery.tail - self._checkpoint.last_index - 1))

    def _store(self, take: Take) -> None:
        if take.duplicates:
            metrics.duplicates.add(take.duplicates)
        if moves(take):
            self._sink.put(take, self._known_wire())
            self._held = None
            self._notice(take)

    def _notice(self, take: Take) -> None:
        self._checkpoint = take.checkpoint
        self._lost = self._lost or any(hole.reason.lost for hole in take.holes)
        self._last_data = self._clock()
        self._attempt = 0

    def _recreated(self) -> bool:
        """Leave the old stream behind when upstream has begun a new one under the same key."""
        sequence = self._ordered()
        if sequence.recreated:
            self._store(sequence.begin_generation())
            return True
        return False

    def _take_back_held(self) -> None:
        """Withdraw a record that came together with the end of its connection: the next read brings it back whole."""
        held, self._held = self._held, None
        if held is not None and self._sink.withdraw():
            self._ordered().restore(held.mark)
            self._checkpoint, self._last_data, self._attempt = held.checkpoint, held.last_data, held.attempt
            self._loose = held.record

    def _look_around(self) -> None:
        self._signal.looked()  # first: whoever calls from now on wants the next look
        self._standing = self._surroundings.standing()

    def _after_fault(self, error: TransientError | NotFound | MalformedRecord) -> Settlement | None:
        attempt, self._attempt = self._attempt, self._attempt + 1
        metrics.reconnects.add(reason=type(error).__name__)
        with contextlib.suppress(TransientError):
            self._look_around()
        # What makes no sense can come from something on the way; if it comes again and again, it is upstream's.
        malformed = isinstance(error, MalformedRecord)
        unserved = isinstance(error, NotFound) or getattr(error, "status", None) == 500
        if (malformed or (self._standing.over and unserved)) and self._attempt >= self._policy.give_up_attempts:
            empty = self._checkpoint.last_index == UNSET_INDEX
            return Settlement(
                StreamState.FAILED,
                attempt=self._attempt,
                error=f"{error} (given up after {self._attempt} attempts)",
                verdict=Verdict.FAILED if malformed or empty else Verdict.POSSIBLY_TRUNCATED,
            )
        delay_s = backoff(attempt, self._policy.retry_base_s, self._policy.retry_cap_s, self._random)
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        if delay_s > self._policy.keep_slot_s or self._attempt >= self._policy.park_attempts:
            return Settlement(StreamState.PARKED, delay_s=delay_s, attempt=self._attempt, error=str(error))
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

    def _after_clean_end(self, sweep: bool, before: Checkpoint, opened_at: float) -> Settlement | None:
        sequence = self._ordered()
        brought = self._checkpoint is not before
        if not brought and self._tail is not None and self._tail > self._checkpoint.last_index + 1:
            # What a response does not begin with is gone; what it did not get to, in a slow catching up, is not.
            self._store(sequence.admit_missing(self._tail))
            brought = True
        if sweep and self._loose is not None:
            take = sequence.loose_end(self._loose)
            self._sink.put(take, self._known_wire())
            self._notice(take)
            brought = True
        now = self._clock()
        policy = self._policy
        settlement = after_clean_end(
            Clean(
                sweep=sweep,
                brought=brought,
                anchored=sequence.anchored,
                attempt=self._attempt,
                silent_s=now - self._last_data,
            ),
            self._standing,
            verdict_of(
                lost=self._lost or sequence.cut_short,
                unsure=sequence.unsure or not sequence.anchored,
            ),
            quiet_s=policy.quiet_s,
            park_after_s=policy.park_after_s,
            park_s=policy.park_v1_s if self._wire is Wire.V1 else policy.park_v2_s,
        )
        if settlement is None and not brought:
            # Upstream keeps a silent stream open for the whole wait. One that closes at once must not make us spin.
            self._signal.wait(max(0.0, opened_at + policy.reconnect_s - now))
        return settlement


class _Held(NamedTuple):
    """The state before the record that is held, and the record."""

    mark: object
    checkpoint: Checkpoint
    record: Any
    last_data: float
    attempt: int


def moves(take: Take) -> bool:
    """Tell whether there is anything in it that has to be stored."""
    return bool(take.indices or take.holes or take.quarantined)
