"""What a connection means for a stream: arrivals in, batches out, each chunk once and in order. Pure.

One `Assembly` lives as long as somebody reads a stream, over all of its connections: `resume`, `opened`, `arrive` for
what comes, and at its end `ended` (a clean end) or `left` (any other). The archive's reader, the Streams API and the
late check all read through it; they differ in where the batches go (`Output`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from tailrace.errors import MalformedRecord
from tailrace.ingest.order import Order, order_for
from tailrace.ingest.v2_order import REPEAT_WINDOW
from tailrace.model import UNSET_INDEX, Arrival, Batch, Checkpoint, Wire

GENERATION_WAIT_S = 60.0
GENERATION_WAIT_CAP_S = 3_600.0

RECORDS_PER_BATCH = 200
"""How many records are handled before others get a turn. Without it 8 fast readers held the hub for 0.6 s."""

Records = Sequence[Any]  # of one wire: V1Record or V2Record


class Output(Protocol):
    """Where batches go. ``records`` are those that a batch was made of, what was seen before among them."""

    def put(self, batch: Batch, wire: Wire, records: Records) -> None:
        """Take a batch. What was held is certain."""

    def hold(self, batch: Batch, wire: Wire, records: Records) -> None:
        """Take a batch that is certain only when something follows it, or after the hold time (`tailrace.hold`)."""

    def confirm(self) -> None:
        """What was held is certain."""

    def withdraw(self) -> bool:
        """Forget what is held. False when it is too late: it counts as taken."""


class Assembly:
    """One stream, as its connections bring it.

    ``stale``: the connection does not go on where the stream is; leave it, and begin another. ``doubt``: because it
    contradicts what is held, which the next one settles; None when it is for another reason.
    """

    def __init__(
        self,
        output: Output,
        checkpoint: Checkpoint,
        wire: Wire | None,
        *,
        recent: Callable[[int], list[tuple[int, bytes]]] = lambda generation: [],
        not_before_ms: int | None = None,
        pause: Callable[[], None] = lambda: None,
        alarm: Callable[[str], None] = lambda what: None,
    ) -> None:
        """Go on after ``checkpoint``; ``wire`` None: nobody knows yet which it is.

        ``recent`` returns index and fingerprint of the last records held of a generation (v2). ``pause`` lets others
        have a turn. ``alarm`` is told, in a sentence, what upstream should never do.
        """
        self.wire = wire
        self.checkpoint = checkpoint
        self.stale = False
        self.doubt: str | None = None
        self.duplicates = 0  # records that were seen before, over all connections
        self._output = output
        self._recent = recent
        self._not_before_ms = not_before_ms
        self._pause = pause
        self._alarm = alarm
        self._order: Order | None = None
        self._wire_changed = False
        self._tail: int | None = None  # as the present connection last said
        self._held: _Held | None = None
        self._loose: Any = None  # the record that came together with the end of the last connection

    # --- what is known

    @property
    def order(self) -> Order:
        """The order of the stream, built where it begins when first needed. Not before the wire is known."""
        if self._order is None:
            assert self.wire is not None, "asked before the first connection was open"
            self._order = self._begin(self.wire)
        return self._order

    @property
    def caught_up(self) -> bool:
        """Everything up to the tail that this connection told is here."""
        return self._tail is not None and self._tail == self.checkpoint.last_index + 1

    # --- a connection, from its beginning to its end

    def resume(self) -> str | None:
        """Begin a connection; return the ``Last-Event-ID`` to ask for, None for none."""
        self.left()
        self.stale, self.doubt = False, None
        self._tail = self._loose = None
        return None if self.wire is None else self.order.resume()

    def opened(self, wire: Wire, date_ms: int | None) -> None:
        """Learn which wire the connection speaks, and upstream's clock when it was opened, if it said.

        Raises:
            MalformedRecord: the stream speaks another wire for the second time.
        """
        known = self.wire
        if known is not None and known is not wire:
            self._change_wire(known, wire)
            return
        self.wire = wire
        if known is None:
            self.order.resume()  # what was asked for is what it would have asked for
        self.order.opened(date_ms)

    def arrive(self, arrival: Arrival, open_ms: int = 0) -> None:
        """Take in what came, ``open_ms`` after the connection was opened.

        Nothing follows the last record yet when ``alive_after`` is False: it may be a line that the server gives out
        unfinished because it is closing. It is held until something follows it.
        """
        order, records = self.order, arrival.records
        order.passed(open_ms)
        if self._held is not None and (records or arrival.alive_after):
            self._held = None
            self._output.confirm()
        certain = len(records) - (bool(records) and not arrival.alive_after)
        for start in range(0, certain, RECORDS_PER_BATCH):
            if start:
                self._pause()
            part = records[start : min(start + RECORDS_PER_BATCH, certain)]
            self._admit(order.admit(part), part)
        if certain < len(records):
            self._hold(order, records[-1:])
        if arrival.oversized is not None:
            self._admit(order.admit_oversized(*arrival.oversized), ())
        if arrival.tail is not None:
            self._tail = arrival.tail
            self._see_tail(order, arrival.tail)
        if order.recreated:
            self._renew(order)
        elif order.doubt is not None:
            self.stale, self.doubt = True, order.doubt

    def ended(self, *, final: bool) -> bool:
        """Take in a clean end, which proves nothing by itself. ``final``: the run was over when it was opened.

        Returns:
            Whether the end leaves no line in doubt: whether one that came together with it is whole is known only when
            the next final end brings the very same.
        """
        self.left()
        before = self.checkpoint.last_index
        batch = self.order.ended(self._loose, final=final)
        if batch is not None:
            self._put(batch, () if self._loose is None else (self._loose,))
        return self._loose is None or self.checkpoint.last_index != before

    def left(self) -> None:
        """The connection is over. What is held came together with its end: the next one brings it back whole."""
        held, self._held = self._held, None
        if held is not None and self._output.withdraw():
            self.order.restore(held.snapshot)
            self.checkpoint = held.checkpoint
            self._loose = held.record

    # --- within

    def _begin(self, wire: Wire) -> Order:
        """Return the order that goes on after the checkpoint."""
        generation, last_index = self.checkpoint.generation, self.checkpoint.last_index
        recent: list[tuple[int, bytes]] = []
        previous: list[bytes] = []
        if wire is Wire.V2:
            if last_index != UNSET_INDEX:
                recent = self._recent(generation)
            if generation > 0 and last_index < REPEAT_WINDOW:
                previous = [fingerprint for _, fingerprint in self._recent(generation - 1)]
        return order_for(wire, self.checkpoint, recent, self._not_before_ms, previous)

    def _change_wire(self, known: Wire, now: Wire) -> None:
        """Begin a new generation of a stream that speaks another wire than before, which upstream rules out.

        A cursor does not carry over: v2 would clamp to the tail and skip all, v1 replay all.
        """
        if self._wire_changed:
            raise MalformedRecord(f"the stream speaks {now} again: something between upstream and us drops headers")
        self._wire_changed = True
        self._alarm(f"the stream spoke {known} and now speaks {now}: it is read again from its beginning")
        batch = order_for(known, self.checkpoint, []).begin_generation()
        self.wire, self._order = now, None
        self._put(batch, ())
        self.stale = True

    def _see_tail(self, order: Order, tail: int) -> None:
        order.see_tail(tail)

    def _renew(self, order: Order) -> None:
        """Leave the old stream behind: upstream has begun a new one under the same key."""
        self._put(order.begin_generation(), ())
        self.stale = True
        self._alarm(f"upstream began the stream anew: generation {self.checkpoint.generation} begins")

    def _admit(self, batch: Batch, records: Records) -> None:
        self.duplicates += batch.duplicates
        if moves(batch):
            self._put(batch, records)

    def _put(self, batch: Batch, records: Records) -> None:
        assert self.wire is not None
        self._output.put(batch, self.wire, records)
        self.checkpoint = batch.checkpoint

    def _hold(self, order: Order, records: Records) -> None:
        before = _Held(order.snapshot(), self.checkpoint, records[0])
        batch = order.admit(records)
        self.duplicates += batch.duplicates
        if moves(batch):
            assert self.wire is not None
            self._output.hold(batch, self.wire, records)
            self.checkpoint = batch.checkpoint
            self._held = before


class _Held(NamedTuple):
    """The state before the record that is held, and the record."""

    snapshot: object
    checkpoint: Checkpoint
    record: Any


def generation_wait_s(generation: int) -> float:
    """Return how long to wait before a generation that was just begun is read.

    A stream is made anew once, perhaps. One that is again and again would fill the disk: each generation after the
    first waits twice as long as the one before.
    """
    return min(GENERATION_WAIT_CAP_S, GENERATION_WAIT_S * 2.0 ** min(generation - 2, 20)) if generation > 1 else 0.0


def moves(batch: Batch) -> bool:
    """Return whether there is anything in it that has to be kept."""
    return bool(batch.indices or batch.holes or batch.quarantined)
