"""What the connections of one stream bring: deliveries in, chunks and gaps out, each once and in order. Pure.

It owns the place in the stream, over all connections; `follow` says when there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from typing import Any, NamedTuple

from worker.ingest.sequence import Sequence, sequence_for
from worker.ingest.v1_sequence import V1Sequence
from worker.ingest.v2_sequence import V2Sequence
from worker.model import Checkpoint, Delivery, Take, V1Record, Wire
from worker.streams.steps import ArchiveEnd, Chunk, Gap, Opened, Start

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
        self._sequence: Sequence | None = None
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
        """Say when to call `release`, None when nothing is held back."""
        return None if self._held is None else self._held.until

    def take_news(self) -> float | None:
        """Say when the newest of what is certain since the last call had come; None when there is nothing new."""
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
            self._sequence = sequence_for(end.wire, end.checkpoint, end.recent)
            self._line = _last_line(end.checkpoint)
            self._proven = True

    def connect(self) -> str | None:
        """Begin a connection, and say which place to ask for. While the wire is unknown: the right one if it is v2.

        On v1 a number that small is older than every entry, so everything comes (PROTOCOL §1.6), as it has to: only
        whoever counts all lines knows which is the n-th.
        """
        self.stale = False
        self._tail = self._loose = None
        if self._sequence is not None:
            return self._sequence.resume()
        first = self._first_number()
        return None if first == 0 else str(first - 1)

    def opened(self, opened: Opened, now: float) -> None:
        """Learn which wire it is."""
        if self._wire is not None and self._wire is not opened.wire:
            # A cursor does not carry over: v2 would clamp to the tail and skip all, v1 replay all.
            self._take(sequence_for(self._wire, self._checkpoint, []).begin_generation(), now)
            self._wire, self._line = opened.wire, NO_LINE
            self._sequence = sequence_for(opened.wire, self._checkpoint, [])
            self.stale = True
            return
        self._wire = opened.wire
        if self._sequence is None:
            self._sequence = self._begin(opened.wire)
            self._sequence.resume()
        self._sequence.opened(opened.date_ms)

    def deliver(self, delivery: Delivery, now: float) -> None:
        """Take in what came. On v1 the last line is held back until something follows it."""
        sequence = self._sequence
        assert sequence is not None, "nothing comes before the connection is open"
        records = delivery.records
        certain = len(records) - (bool(records) and not delivery.alive_after)
        if records or delivery.alive_after:
            self.release()
        if certain:
            self._admit(records[:certain], now)
        if certain < len(records):
            self._hold(records[-1], now)
        if delivery.oversized is not None:
            self._take(sequence.admit_oversized(*delivery.oversized), now)
        if delivery.tail is not None:
            self._see_tail(sequence, delivery.tail, now)
        if sequence.recreated:
            self._recreate(sequence, now)

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
            assert self._sequence is not None
            self._sequence.restore(held.mark)
            self._checkpoint = held.checkpoint
            self._line = held.line
            del self.gaps[held.gaps :]
            self._loose = held.record

    def ended(self, now: float) -> None:
        """Take in that the connection ended cleanly: upstream does so only after it has sent all that it has."""
        self.withdraw()
        if self._tail is not None and self._tail > self._checkpoint.last_index + 1:
            assert self._sequence is not None
            self._take(self._sequence.admit_missing(self._tail), now)

    def complete(self, now: float) -> bool:
        """The run was over when the connection that just ended was opened: tell whether that was all."""
        if self._loose is None:
            return True
        # The line may be half. If the next read ends with the very same, that is all there will ever be of it.
        assert self._sequence is not None
        before = self._checkpoint.last_index
        self._take(self._sequence.loose_end(self._loose), now, [self._loose])
        return self._checkpoint.last_index != before

    # --- where it is

    def _first_number(self) -> int:
        """v2: the first record to ask for."""
        return 0 if self._start.line is not None else max(0, self._start.index - LOOKBACK)

    def _begin(self, wire: Wire) -> Sequence:
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
            return V1Sequence(self._checkpoint)
        first = self._first_number()
        self._reaching = first > 0
        self._checkpoint = Checkpoint(start.generation, first - 1)
        return V2Sequence(self._checkpoint, [])

    def _see_tail(self, sequence: Sequence, tail: int, now: float) -> None:
        self._tail = tail
        sequence.see_tail(tail)
        if sequence.recreated or self._proven:
            return
        if tail < self._start.index:  # what we resume after is not there any more
            self._recreate(sequence, now)
        else:
            self._proven = True

    def _recreate(self, sequence: Sequence, now: float) -> None:
        """Upstream has begun a new stream under the key; or it has never reached the number that we asked for."""
        if self._reaching and not self._start.resumed:
            self._checkpoint = Checkpoint(self._start.generation)
            self._sequence = V2Sequence(self._checkpoint, [])
            self._reaching = False
        elif not self._proven:
            # What came so far may be records of the new stream: the next sequence must not know them already.
            resumed = V2Sequence(Checkpoint(self._start.generation, self._start.index - 1), [])
            self._take(resumed.begin_generation(), now)
            self._sequence = V2Sequence(self._checkpoint, [])
            self._proven = True
        else:
            self._take(sequence.begin_generation(), now)
        self.stale = True

    # --- chunks

    def _admit(self, records: Seq[Any], now: float) -> None:
        assert self._sequence is not None
        self._take(self._sequence.admit(records), now, records if self._wire is Wire.V1 else None)

    def _hold(self, record: V1Record, now: float) -> None:
        """v1: keep the last line back, because the server may have sent it unfinished since it is closing."""
        assert self._sequence is not None
        mark, line, checkpoint, gaps = self._sequence.mark(), self._line, self._checkpoint, len(self.gaps)
        take = self._sequence.admit([record])
        if _brings(take):
            chunks = self._accept(take, [record])
            self._held = _Held(now, now + self._hold_s, record, chunks, mark, line, checkpoint, gaps)

    def _take(self, take: Take, now: float, lines: Seq[V1Record] | None = None) -> None:
        """Give out what the sequence made of some records; ``lines`` are those of v1."""
        if _brings(take):
            self.items.extend(self._accept(take, lines))
            self._news_at = now

    def _accept(self, take: Take, lines: Seq[V1Record] | None) -> list[Chunk]:
        """Move on over what the sequence made of some records; give those of its chunks that belong to the read."""
        generation, has = take.checkpoint.generation, self._start.has
        found: list[Chunk] = []
        if take.indices or take.quarantined:
            places = self._places(take, lines) if lines else {}
            found = [
                Chunk(generation, index, text, "", places.get(index))
                for index, text in zip(take.indices, take.texts, strict=True)
                if has(generation, index)
            ]
            if take.quarantined:
                found += [
                    Chunk(generation, bad.chunk_index, bad.raw, bad.reason, places.get(bad.chunk_index))
                    for bad in take.quarantined
                    if bad.reason not in NO_CHUNKS and has(generation, bad.chunk_index)
                ]
                found.sort(key=lambda chunk: chunk.chunk_index)
        for hole in take.holes:
            last = hole.last_index
            if hole.reason.lost and (last is None or has(hole.generation, last)):
                self.gaps.append(Gap(hole.generation, hole.first_index, last, hole.reason))
        self._checkpoint = take.checkpoint
        self._reaching = False
        return found

    def _places(self, take: Take, lines: Seq[V1Record]) -> dict[int, tuple[int, int, int]]:
        """v1: say where each of the lines stood that are new: the last ones, since what is known is skipped first."""
        last, first = take.checkpoint.last_index, self._checkpoint.last_index + 1
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
    mark: object
    line: tuple[int, int, int]
    checkpoint: Checkpoint
    gaps: int


def _brings(take: Take) -> bool:
    return bool(take.indices or take.holes or take.quarantined)


def _last_line(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """v1: say where the last line that is held stood."""
    cursor = checkpoint.cursor or {}
    if not cursor.get("ids"):
        return NO_LINE
    ms, seq = cursor["ids"][-1]
    return ms, seq, cursor.get("count", 0)
