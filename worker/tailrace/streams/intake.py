"""What the connections of one stream bring to a read: arrivals in, chunks and gaps out, each once and in order. Pure.

`ingest.assembly` puts them together; `follow` says when there is a connection.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from tailrace.hold import Hold
from tailrace.ingest.assembly import Assembly, Records, generation_wait_s
from tailrace.ingest.order import Order, order_for
from tailrace.ingest.v1_order import UNTERMINATED
from tailrace.ingest.v2_order import REPEAT
from tailrace.model import Arrival, Batch, Checkpoint, Wire
from tailrace.streams.steps import ArchiveEnd, Chunk, Gap, Opened, Start

LOOKBACK = 1_000
"""v2: a read that begins in the middle reads so many records before it, to know a writer's retry when it sees one. A
retry repeats what one append held: 1 000 records at most."""
Line = tuple[int, int, int]
"""v1: where a line stood: the two numbers of its Redis id, and how many lines of that id there were up to it."""
NO_LINE: Line = (-1, -1, 0)
DATE_MS = 2_000
"""A response says upstream's clock in whole seconds, and servers say the same for a second or so: what is later than
that by more was written after it began."""
NO_CHUNKS = frozenset({REPEAT, UNTERMINATED})
"""What is in quarantine besides being accounted for elsewhere: a chunk's second copy, a chunk's doubt."""


class Intake:
    """One stream's ``items`` and ``gaps``. ``stale``: the connection does not go on where we are, another one will."""

    def __init__(self, start: Start, hold_s: float) -> None:
        self.items: deque[Chunk] = deque()
        self.gaps: list[Gap] = []
        self._start = start
        self._hold_s = hold_s
        self._assembly: Assembly = _FromStart(self, start)
        self._line = NO_LINE  # v1: the last that was taken
        self._generation = start.generation  # of the present connection, when it began
        self._held: _Held | None = None
        self._now = self._opened_at = 0.0
        self._news_at: float | None = None
        self._sought = _Sought() if start.latest else None

    # --- what is known

    @property
    def seeking(self) -> bool:
        """Nobody knows yet which record is the newest."""
        return self._sought is not None

    @property
    def stale(self) -> bool:
        return self._assembly.stale

    @property
    def doubt(self) -> str | None:
        """What the connection contradicts, if that is why it is stale."""
        return self._assembly.doubt

    @property
    def wait_s(self) -> float:
        """How long to wait before the next connection: a stream that is made anew again and again must not spin."""
        generation = self._assembly.checkpoint.generation
        return generation_wait_s(generation - self._start.generation) if generation != self._generation else 0.0

    @property
    def caught_up(self) -> bool:
        """Everything up to the tail that this connection told is here."""
        return self._assembly.caught_up

    @property
    def anchored(self) -> bool:
        """This connection has shown that what we have is up to where upstream is."""
        return self._assembly.order.anchored

    @property
    def held_until(self) -> float | None:
        """Return when to call `tick`, None when nothing is held back."""
        if self._held is not None:
            return self._held.hold.look_at
        return None if self._sought is None else self._sought.certain_at(self._hold_s)

    def take_news(self) -> float | None:
        """Return when the newest of what is certain since the last call had come; None when there is nothing new."""
        news_at, self._news_at = self._news_at, None
        return news_at

    def rested(self, for_s: float) -> None:
        """Do not count a time during which nobody wanted chunks."""
        if self._held is not None:
            self._held = self._held._replace(at=self._held.at + for_s)
        if self._sought is not None and self._sought.at is not None:
            self._sought = self._sought._replace(at=self._sought.at + for_s)

    # --- a connection, from its beginning to its end

    def go_on_after(self, end: ArchiveEnd) -> None:
        """Begin after the archive's checkpoint instead of at the start; when the archive has nothing, at the start."""
        if end.wire is not None:
            self._assembly = Assembly(self, end.checkpoint, end.wire, recent=lambda generation: end.recent)
            self._line = _last_line(end.checkpoint)
            self._sought = None

    def connect(self) -> str | None:
        """Begin a connection, and return which place to ask for."""
        self._generation = self._assembly.checkpoint.generation
        return self._assembly.resume()

    def opened(self, opened: Opened, now: float) -> None:
        """Learn which wire it is.

        Raises:
            MalformedRecord: the stream has changed its wire more than once.
        """
        self._now = self._opened_at = now
        known = self._assembly.wire
        self._assembly.opened(opened.wire, opened.date_ms)
        if known is not self._assembly.wire and known is not None:
            self._line = NO_LINE
            self.begin()
        if self._sought is not None:
            self._sought = self._sought._replace(at=now)
            if self._sought.since_ms is None and opened.date_ms is not None:
                self._sought = self._sought._replace(since_ms=opened.date_ms + DATE_MS)

    def arrive(self, arrival: Arrival, now: float) -> None:
        """Take in what came. On v1 the last line is held back until something follows it."""
        self._now = now
        self._assembly.arrive(arrival, int(1000 * (now - self._opened_at)))

    def tick(self, now: float) -> None:
        """Give out what is held when it has been held for long enough."""
        if self._held is not None and self._held.hold.certain(now):
            self.confirm()
        if self._held is None and self._sought is not None:
            certain_at = self._sought.certain_at(self._hold_s)
            if certain_at is not None and now >= certain_at:
                self.begin()

    def believe(self) -> None:
        """Take what the next connection says as it is: it has been contradicting what we have for too long."""
        self._assembly.order.believe()

    def left(self) -> None:
        """The connection is over, and not by a clean end."""
        self._disconnected()
        self._assembly.left()

    def ended(self, now: float, *, final: bool) -> bool:
        """Take in a clean end. ``final``: the run was over when the connection was opened.

        Returns:
            Whether that was all: nothing is in doubt (see `Assembly.ended`).
        """
        self._now = now
        self._disconnected()
        return self._assembly.ended(final=final)

    def _disconnected(self) -> None:
        if self._sought is not None:
            self._sought = self._sought._replace(at=None)

    # --- where the batches go: fits `ingest.assembly.Output`

    def put(self, batch: Batch, wire: Wire, records: Records) -> None:
        self.confirm()
        self._give(self._accept(batch, wire, records), self._now)

    def hold(self, batch: Batch, wire: Wire, records: Records) -> None:
        self.confirm()
        line, gaps = self._line, len(self.gaps)
        chunks = self._accept(batch, wire, records)
        self._held = _Held(self._now, Hold(self._hold_s, self._now), chunks, line, gaps)

    def confirm(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._give(held.chunks, held.at)

    def withdraw(self) -> bool:
        held, self._held = self._held, None
        if held is None:
            return False
        self._line = held.line
        del self.gaps[held.gaps :]
        return True

    # --- where a read begins that was asked to begin at the newest

    def found(self, start: Start) -> None:
        """v2: the newest record is the one of this start."""
        self._start, self._sought = start, None

    def heard(self) -> None:
        """v2: on its way to the newest, something came."""
        self._news_at = self._now

    def begin(self) -> None:
        """Give out the newest that there was, if that is what is waited for: from now on everything is."""
        sought, self._sought = self._sought, None
        if sought is not None and sought.newest is not None:
            self.items.append(sought.newest)
            first = (sought.newest.generation, sought.newest.chunk_index)
            self.gaps[:] = [gap for gap in self.gaps if (gap.generation, gap.first_index) > first]

    def _give(self, chunks: list[Chunk], at: float) -> None:
        """Give chunks out that came ``at`` some time; of those before a read's beginning, keep the last."""
        self._news_at = at
        sought = self._sought
        if sought is not None:
            since_ms = sought.since_ms
            for number, chunk in enumerate(chunks):
                if since_ms is not None and chunk.line is not None and chunk.line[0] >= since_ms:
                    self.begin()
                    chunks = chunks[number:]
                    break
                sought = sought._replace(newest=chunk, at=at if sought.at is not None else None)
                self._sought = sought
            else:
                return
        self.items.extend(chunks)

    def _accept(self, batch: Batch, wire: Wire, records: Records) -> list[Chunk]:
        """Return those chunks of a batch that belong to the read, and note its gaps."""
        generation, has = batch.checkpoint.generation, self._start.has
        found: list[Chunk] = []
        if batch.indices or batch.quarantined:
            lines = self._lines(batch, records) if wire is Wire.V1 and records else {}
            found = [
                Chunk(generation, index, text, "", lines.get(index))
                for index, text in zip(batch.indices, batch.texts, strict=True)
                if has(generation, index)
            ]
            if batch.quarantined:
                found += [
                    Chunk(generation, bad.chunk_index, bad.raw, bad.reason, lines.get(bad.chunk_index))
                    for bad in batch.quarantined
                    if bad.reason not in NO_CHUNKS and has(generation, bad.chunk_index)
                ]
                found.sort(key=lambda chunk: chunk.chunk_index)
        for hole in batch.holes:
            last = hole.last_index
            if hole.reason.lost and (last is None or has(hole.generation, last)):
                self.gaps.append(Gap(hole.generation, hole.first_index, last, hole.reason))
        return found

    def _lines(self, batch: Batch, records: Records) -> dict[int, Line]:
        """v1: return where each new line stood: they are the last ones, since what is known is skipped first."""
        first = self._assembly.checkpoint.last_index + 1  # it moves on when the batch has been taken
        new = batch.checkpoint.last_index + 1 - first
        ms, seq, count = self._line
        lines = {}
        for index, record in enumerate(records[len(records) - new :], first):
            count = count + 1 if (record.ms, record.seq) == (ms, seq) else 1
            ms, seq = record.ms, record.seq
            lines[index] = (ms, seq, count)
        self._line = (ms, seq, count)
        return lines


class _FromStart(Assembly):
    """A read that begins at a `Start`, which can be in the middle of a stream of which nothing was seen.

    v2: such a start is a number that upstream may not have reached yet, or one of a stream that is not there any more.
    """

    def __init__(self, intake: Intake, start: Start) -> None:
        super().__init__(intake, Checkpoint(start.generation), None)
        self._intake = intake
        self._start = start
        self._seen = -1  # v2: the last record that came on the way to the newest
        self._reaching = False  # nothing has shown yet that upstream has reached the number we begin at
        self._behind: int | None = None  # a tail before the place we resume after, as one connection said
        self._proven = not start.resumed  # we have seen that upstream still has the place we resume after

    def resume(self) -> str | None:
        """As ever; while the wire is unknown, ask for the place that is right if it is v2.

        On v1 a number that small is older than every entry, so everything comes (protocol §1.6), as it has to:
        only whoever counts all lines knows which is the n-th.
        """
        place = super().resume()
        if self._seeks:
            return str(self._seen) if self._seen >= 0 else None
        first = self._first_number()
        return place if self.wire is not None or first == 0 else str(first - 1)

    # --- v2: which record is the newest

    @property
    def _seeks(self) -> bool:
        return self._intake.seeking and self.wire is Wire.V2

    def arrive(self, arrival: Arrival, open_ms: int = 0) -> None:
        """As ever; on the way to the newest record only look at numbers.

        A server that knows what we ask for begins there, and says its tail at once; any other comes to it in the end.
        """
        if not self._seeks:
            super().arrive(arrival, open_ms)
            return
        last = arrival.records[-1].seq_num if arrival.records else -1
        if arrival.oversized is not None and (said := arrival.oversized[0].partition(",")[0]).isdecimal():
            last = max(last, int(said))
        if last > self._seen:
            self._seen = last
            self._intake.heard()
        if arrival.tail is not None:
            self._found(arrival.tail)

    def ended(self, *, final: bool) -> bool:
        """As ever; on the way to the newest record the end says that it was the last that came."""
        if not self._seeks:
            return super().ended(final=final)
        self._found(self._seen + 1)
        return False

    def _found(self, tail: int) -> None:
        """Read from the newest record on like any read that begins in the middle, on a connection of its own."""
        self._start = replace(self._start, index=max(0, tail - 1), latest=False)
        self._intake.found(self._start)
        self._order = None
        self.stale = True

    def _first_number(self) -> int:
        """v2: return the first record to ask for."""
        return 0 if self._start.line is not None else max(0, self._start.index - LOOKBACK)

    def _begin(self, wire: Wire) -> Order:
        start = self._start
        if self.checkpoint != Checkpoint(start.generation):  # in another generation than the one it began in
            return super()._begin(wire)
        if wire is Wire.V2:
            first = self._first_number()
            self._reaching = first > 0
            self.checkpoint = Checkpoint(start.generation, first - 1)
        else:
            self._proven = True
            if start.line is not None:
                ms, seq, count = start.line
                self.checkpoint = Checkpoint(start.generation, start.index - 1, {"ids": [[ms, seq]], "count": count})
        return super()._begin(wire)

    def _put(self, batch: Batch, records: Records) -> None:
        super()._put(batch, records)
        self._reaching = False

    def _see_tail(self, order: Order, tail: int) -> None:
        start = self._start
        if self._reaching and not start.resumed and tail <= self.checkpoint.last_index:
            self._from_its_beginning()  # nobody has said that it ever was so long
            return
        super()._see_tail(order, tail)
        if order.recreated or order.doubt is not None or self._proven:
            return
        if tail >= start.index:
            self._proven = True
        elif self._behind is None:  # what we resume after is not there: one word for it is not enough
            self._behind, self.stale = tail, True
            self.doubt = f"upstream says that record {tail} comes next, and record {start.index - 1} was read before"
        else:
            self._renew(order)

    def _renew(self, order: Order) -> None:
        start = self._start
        if self._reaching and not start.resumed:
            self._from_its_beginning()
        elif not self._proven:
            # What came so far may be records of the new stream: the next order must not know them already.
            self._proven = True
            super()._renew(order_for(Wire.V2, Checkpoint(start.generation, start.index - 1), []))
            self._order = order_for(Wire.V2, self.checkpoint, [])
        else:
            super()._renew(order)

    def _from_its_beginning(self) -> None:
        """Begin at the stream's own start: it has not reached the number that was asked for."""
        self.checkpoint = Checkpoint(self._start.generation)
        self._order = order_for(Wire.V2, self.checkpoint, [])
        self._reaching = False
        self.stale = True


class _Sought(NamedTuple):
    """The newest chunk so far, while the one is looked for that was the newest when the read began.

    ``since_ms``: what upstream wrote from then on is newer. ``at``: since when nothing has come on an open connection;
    None when there is none.
    """

    newest: Chunk | None = None
    since_ms: int | None = None
    at: float | None = None

    def certain_at(self, hold_s: float) -> float | None:
        """Return when it has been silent for long enough to say that there is nothing newer."""
        return None if self.newest is None or self.at is None else self.at + hold_s


class _Held(NamedTuple):
    """A line that came at ``at`` and is held, what it gives out, and how things stood before."""

    at: float
    hold: Hold
    chunks: list[Chunk]
    line: Line
    gaps: int


def _last_line(checkpoint: Checkpoint) -> Line:
    """v1: return where the last line that is held stood."""
    cursor = checkpoint.cursor or {}
    if not cursor.get("ids"):
        return NO_LINE
    ms, seq = cursor["ids"][-1]
    return ms, seq, cursor.get("count", 0)
