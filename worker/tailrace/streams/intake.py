"""What the connections of one stream bring: deliveries in, chunks and gaps out, each once and in order. Pure.

It owns the place in the stream, over all connections; `follow` says when there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from typing import Any, NamedTuple

from tailrace.ingest.order import Order, order_for
from tailrace.ingest.v1_order import V1Order
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Arrival, Batch, Checkpoint, V1Record, Wire
from tailrace.streams.steps import ArchiveEnd, Chunk, Gap, Opened, Start

LOOKBACK = 1_000
"""v2: a read that begins in the middle reads so many records before it, to know a writer's retry when it sees one. A
retry repeats what one append held: 1 000 records at most."""
NO_LINE = (-1, -1, 0)
NO_CHUNKS = frozenset({"repeat", "unterminated"})
"""What is in quarantine besides being accounted for elsewhere: a chunk's second copy, a chunk's doubt."""


class Intake:
    """One stream's ``items`` and ``gaps``. ``stale``: the connection does not go on where we are, another one will."""

    def __init__(self, start: Start, hold_s: float) -> None:
        self.items: deque[Chunk] = deque()
        self.gaps: list[Gap] = []
        self.stale = False
        self._start = start
        self._hold_s = hold_s
        self._wire: Wire | None = None
        self._order: Order | None = None
        self._checkpoint = Checkpoint()
        self._line = NO_LINE  # v1: the last that was taken
        self._reaching = False  # v2: the read begins at a number that upstream may not have reached yet
        self._proven = not start.resumed  # v2: we have seen that upstream still has the place we resume after
        self._tail: int | None = None
        self._held: _Held | None = None
        self._loose: V1Record | None = None
        self._news_at: float | None = None

    # --- what is known

    @property
    def caught_up(self) -> bool:
        """Everything up to the tail that this connection told is here."""
        return self._tail is not None and self._tail == self._checkpoint.last_index + 1

    @property
    def held_until(self) -> float | None:
        """Return when to call `release`, None when nothing is held back."""
        return None if self._held is None else self._held.until

    def take_news(self) -> float | None:
        """Return when the newest of what is certain since the last call had come; None when there is nothing new."""
        news_at, self._news_at = self._news_at, None
        return news_at

    def rested(self, for_s: float) -> None:
        """Do not count a time during which nobody wanted chunks."""
        if self._held is not None:
            self._held = self._held._replace(at=self._held.at + for_s)

    # --- a connection, from its beginning to its end

    def go_on_after(self, end: ArchiveEnd) -> None:
        """Begin after the archive's checkpoint instead of at the start; when the archive has nothing, at the start."""
        if end.wire is not None:
            self._wire = end.wire
            self._checkpoint = end.checkpoint
            self._order = order_for(end.wire, end.checkpoint, end.recent)
            self._line = _last_line(end.checkpoint)
            self._proven = True

    def connect(self) -> str | None:
        """Begin a connection, and say which place to ask for. While the wire is unknown: the right one if it is v2.

        On v1 a number that small is older than every entry, so everything comes (protocol §1.6), as it has to: only
        whoever counts all lines knows which is the n-th.
        """
        self.stale = False
        self._tail = self._loose = None
        if self._order is not None:
            return self._order.resume()
        first = self._first_number()
        return None if first == 0 else str(first - 1)

    def opened(self, opened: Opened, now: float) -> None:
        """Learn which wire it is."""
        if self._wire is not None and self._wire is not opened.wire:
            # A cursor does not carry over: v2 would clamp to the tail and skip all, v1 replay all.
            self._take(order_for(self._wire, self._checkpoint, []).begin_generation(), now)
            self._wire, self._line = opened.wire, NO_LINE
            self._order = order_for(opened.wire, self._checkpoint, [])
            self.stale = True
            return
        self._wire = opened.wire
        if self._order is None:
            self._order = self._begin(opened.wire)
            self._order.resume()
        self._order.opened(opened.date_ms)

    def deliver(self, arrival: Arrival, now: float) -> None:
        """Take in what came. On v1 the last line is held back until something follows it."""
        order = self._order
        assert order is not None, "nothing comes before the connection is open"
        records = arrival.records
        certain = len(records) - (bool(records) and not arrival.alive_after)
        if records or arrival.alive_after:
            self.release()
        if certain:
            self._admit(records[:certain], now)
        if certain < len(records):
            self._hold(records[-1], now)
        if arrival.oversized is not None:
            self._take(order.admit_oversized(*arrival.oversized), now)
        if arrival.tail is not None:
            self._see_tail(order, arrival.tail, now)
        if order.recreated:
            self._recreate(order, now)

    def release(self) -> None:
        """What was held is certain."""
        held, self._held = self._held, None
        if held is not None:
            self.items.extend(held.chunks)
            self._news_at = held.at

    def withdraw(self) -> None:
        """What was held came together with the end: the next read brings it back whole."""
        held, self._held = self._held, None
        if held is not None:
            assert self._order is not None
            self._order.restore(held.snapshot)
            self._checkpoint = held.checkpoint
            self._line = held.line
            del self.gaps[held.gaps :]
            self._loose = held.record

    def ended(self, now: float) -> None:
        """Take in that the connection ended cleanly: upstream does so only after it has sent all that it has."""
        self.withdraw()
        if self._tail is not None and self._tail > self._checkpoint.last_index + 1:
            assert self._order is not None
            self._take(self._order.admit_missing(self._tail), now)

    def complete(self, now: float) -> bool:
        """The run was over when the connection that just ended was opened: tell whether that was all."""
        if self._loose is None:
            return True
        # The line may be half. If the next read ends with the very same, that is all there will ever be of it.
        assert self._order is not None
        before = self._checkpoint.last_index
        self._take(self._order.loose_end(self._loose), now, [self._loose])
        return self._checkpoint.last_index != before

    # --- where it is

    def _first_number(self) -> int:
        """v2: the first record to ask for."""
        return 0 if self._start.line is not None else max(0, self._start.index - LOOKBACK)

    def _begin(self, wire: Wire) -> Order:
        start = self._start
        if wire is Wire.V1:
            self._proven = True
            if start.line is None:
                self._checkpoint = Checkpoint(start.generation)
            else:
                ms, seq, count = start.line
                cursor = {"ids": [[ms, seq]], "count": count}
                self._checkpoint = Checkpoint(start.generation, start.index - 1, cursor)
                self._line = start.line
            return V1Order(self._checkpoint)
        first = self._first_number()
        self._reaching = first > 0
        self._checkpoint = Checkpoint(start.generation, first - 1)
        return V2Order(self._checkpoint, [])

    def _see_tail(self, order: Order, tail: int, now: float) -> None:
        self._tail = tail
        order.see_tail(tail)
        if order.recreated or self._proven:
            return
        if tail < self._start.index:  # what we resume after is not there any more
            self._recreate(order, now)
        else:
            self._proven = True

    def _recreate(self, order: Order, now: float) -> None:
        """Upstream has begun a new stream under the key; or it has never reached the number that we asked for."""
        if self._reaching and not self._start.resumed:
            self._checkpoint = Checkpoint(self._start.generation)
            self._order = V2Order(self._checkpoint, [])
            self._reaching = False
        elif not self._proven:
            # What came so far may be records of the new stream: the next sequence must not know them already.
            resumed = V2Order(Checkpoint(self._start.generation, self._start.index - 1), [])
            self._take(resumed.begin_generation(), now)
            self._order = V2Order(self._checkpoint, [])
            self._proven = True
        else:
            self._take(order.begin_generation(), now)
        self.stale = True

    # --- chunks

    def _admit(self, records: Seq[Any], now: float) -> None:
        assert self._order is not None
        self._take(self._order.admit(records), now, records if self._wire is Wire.V1 else None)

    def _hold(self, record: V1Record, now: float) -> None:
        """v1: keep the last line back, because the server may have sent it unfinished since it is closing."""
        assert self._order is not None
        snapshot, line, checkpoint, gaps = self._order.snapshot(), self._line, self._checkpoint, len(self.gaps)
        batch = self._order.admit([record])
        if _brings(batch):
            chunks = self._accept(batch, [record])
            self._held = _Held(now, now + self._hold_s, record, chunks, snapshot, line, checkpoint, gaps)

    def _take(self, batch: Batch, now: float, lines: Seq[V1Record] | None = None) -> None:
        """Give out what the sequence made of some records; ``lines`` are those of v1."""
        if _brings(batch):
            self.items.extend(self._accept(batch, lines))
            self._news_at = now

    def _accept(self, batch: Batch, lines: Seq[V1Record] | None) -> list[Chunk]:
        """Move on over what the sequence made of some records; give those of its chunks that belong to the read."""
        generation, has = batch.checkpoint.generation, self._start.has
        found: list[Chunk] = []
        if batch.indices or batch.quarantined:
            places = self._places(batch, lines) if lines else {}
            found = [
                Chunk(generation, index, text, "", places.get(index))
                for index, text in zip(batch.indices, batch.texts, strict=True)
                if has(generation, index)
            ]
            if batch.quarantined:
                found += [
                    Chunk(generation, bad.chunk_index, bad.raw, bad.reason, places.get(bad.chunk_index))
                    for bad in batch.quarantined
                    if bad.reason not in NO_CHUNKS and has(generation, bad.chunk_index)
                ]
                found.sort(key=lambda chunk: chunk.chunk_index)
        for hole in batch.holes:
            last = hole.last_index
            if hole.reason.lost and (last is None or has(hole.generation, last)):
                self.gaps.append(Gap(hole.generation, hole.first_index, last, hole.reason))
        self._checkpoint = batch.checkpoint
        self._reaching = False
        return found

    def _places(self, batch: Batch, lines: Seq[V1Record]) -> dict[int, tuple[int, int, int]]:
        """v1: say where each of the lines stood that are new: the last ones, since what is known is skipped first."""
        last, first = batch.checkpoint.last_index, self._checkpoint.last_index + 1
        ms, seq, count = self._line
        places = {}
        for index, record in enumerate(lines[len(lines) - (last - first + 1) :], first):
            count = count + 1 if (record.ms, record.seq) == (ms, seq) else 1
            ms, seq = record.ms, record.seq
            places[index] = (ms, seq, count)
        self._line = (ms, seq, count)
        return places


class _Held(NamedTuple):
    """A line that came at ``at`` and is held back until ``until``, what it gives out, and how things stood before."""

    at: float
    until: float
    record: V1Record
    chunks: list[Chunk]
    snapshot: object
    line: tuple[int, int, int]
    checkpoint: Checkpoint
    gaps: int


def _brings(batch: Batch) -> bool:
    return bool(batch.indices or batch.holes or batch.quarantined)


def _last_line(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """v1: say where the last line that is held stood."""
    cursor = checkpoint.cursor or {}
    if not cursor.get("ids"):
        return NO_LINE
    ms, seq = cursor["ids"][-1]
    return ms, seq, cursor.get("count", 0)
