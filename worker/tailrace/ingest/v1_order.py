"""Order v1's lines: what is known is skipped by Redis id and ordinal. Fits `order.Order`. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Sequence as Seq
from typing import Any

from tailrace.ingest.completeness import Completeness
from tailrace.ingest.storable import TOO_LARGE, as_sent, storable
from tailrace.model import UNSET_INDEX, Batch, Checkpoint, Doubt, Hole, HoleReason, Quarantined, V1Record
from tailrace.wire.chunk_json import BAD, PLAIN, all_plain, bare, check, reason

Id = tuple[int, int]

UNTERMINATED = "unterminated"
"""Why a chunk is in quarantine too: nothing ever followed its line, so it may be half of one."""


class V1Order:
    """v1: the place of a line is (Redis id, ordinal among the lines that share the id).

    The id of the last line is no safe place to resume: the entry behind it can hold more lines, or the beginning of
    the next. So a connection begins *two* distinct ids back, and what is known is skipped by (id, ordinal): after
    that id only the first line can be a fragment, and it belongs to an id that is already held (protocol §1.7).

    ``chunk_index`` is the count of lines since the first that we saw.
    """

    recreated = False
    doubt: str | None = None

    def __init__(self, checkpoint: Checkpoint, not_before_ms: int | None = None) -> None:
        cursor = checkpoint.cursor or {}
        self._completeness = Completeness(cursor, not_before_ms)
        self.cut_short = bool(cursor.get("cut", False))
        self._generation = checkpoint.generation
        self._index = checkpoint.last_index
        self._ids: tuple[Id, ...] = tuple((ms, seq) for ms, seq in cursor.get("ids", ()))  # up to three, oldest first
        self._count: int = cursor.get("count", 0)  # lines of the newest id that we have
        self._head: int = cursor.get("head", 0)  # checksum of the newest id's first line
        self._loose: list[int] | None = cursor.get("loose")
        self._overlap = False
        self._again = 0  # lines of the newest id that came back
        self._previous_came_back = False
        self._stepped_back = False  # this connection has brought again what it had brought
        self._last: Id = (0, 0)  # the id that this connection brought last

    @property
    def unsure(self) -> Doubt | None:
        return self._completeness.doubt

    @property
    def anchored(self) -> bool:
        return not self._overlap or self._stepped_back or self._again >= self._count

    def resume(self) -> str | None:
        self._overlap = bool(self._ids)
        self._again = 0
        self._previous_came_back = self._stepped_back = False
        self._last = (0, 0)
        if len(self._ids) < 3:
            return None
        ms, seq = self._ids[0]
        return f"{ms}-{seq}"

    def opened(self, date_ms: int | None) -> None:
        self._completeness.opened(date_ms, bool(self._ids))

    def passed(self, ms: int) -> None:
        self._completeness.passed(ms)

    def admit(self, records: Seq[V1Record]) -> Batch:
        at = self._step_back(records)
        if at is None:
            return self._admit(records)
        # What came before on this connection comes again: it is skipped like what a new connection repeats.
        before = self._admit(records[:at])
        self._last = (0, 0)
        self._overlap = self._stepped_back = True
        self._again, self._previous_came_back = 0, False
        return _joined(before, self.admit(records[at:]))

    def _step_back(self, records: Seq[V1Record]) -> int | None:
        """Return where the ids first step back; Redis gives them out in order, so this is something on the way."""
        last_ms, last_seq = self._last
        for at, (ms, seq, _, _) in enumerate(records):
            if ms < last_ms or (ms == last_ms and seq < last_seq):
                return at
            last_ms, last_seq = ms, seq
        self._last = (last_ms, last_seq)
        return None

    def _admit(self, records: Seq[V1Record]) -> Batch:
        batch = Batch(Checkpoint())
        ids, count, index = self._ids, self._count, self._index
        newest = ids[-1] if ids else None
        texts, indices, emitted = batch.texts, batch.indices, batch.emitted_ms
        entries, before, came_back = 0, newest, self._again
        fresh: list[Id] = []  # ids not seen before, and the first line of the last of them
        head = b""
        raws = [as_sent(record.text) for record in records]
        plain = all_plain(raws)
        for (ms, seq, _, oversized), raw in zip(records, raws, strict=True):
            this = (ms, seq)
            if self._overlap:
                if self._seen_before(this, raw, batch, index):
                    batch.duplicates += 1
                    continue
                self._overlap = False
            if this == newest:
                count += 1
            else:
                newest, count, head = this, 1, raw
                fresh.append(this)
                # Redis counts the entries of a millisecond: those between were parts of this line, or are gone.
                step = seq - before[1] if before and ms == before[0] else seq + 1
                entries += step if step > 1 else 1
                before = this
            index += 1
            chunk = raw
            if not plain or oversized:
                chunk = bare(raw)
                shape = check(chunk)
                if oversized or shape == BAD:
                    why = TOO_LARGE if oversized else reason(chunk)
                    self.cut_short = self.cut_short or oversized
                    batch.holes.append(Hole(self._generation, index, index, HoleReason.QUARANTINED))
                    batch.quarantined.append(Quarantined(self._generation, index, why, raw))
                    continue
                batch.odd = batch.odd or shape != PLAIN
            texts.append(chunk)
            indices.append(index)
            emitted.append(ms)
        if fresh:
            ids, self._head = (*ids, *fresh[-3:])[-3:], zlib.crc32(head)
        batch.size_bytes = sum(map(len, texts)) + sum(len(item.raw) for item in batch.quarantined)
        if index != self._index:
            self._loose = None
            first = records[-(index - self._index)].ms
            # A line that came back earlier, in another piece of the response, proves nothing of what follows it:
            # upstream can trim between two reads of its own.
            self._completeness.saw(entries, batch.size_bytes, first, anchored=self._again > came_back)
        self._ids, self._count, self._index = ids, count, index
        batch.emitted_ms = storable(emitted)
        batch.checkpoint = Checkpoint(self._generation, index, self._cursor())
        return batch

    def _seen_before(self, this: Id, raw: bytes, batch: Batch, index: int) -> bool:
        """Skip what is held; False at the first line that is not."""
        newest = self._ids[-1]
        if this < newest:
            if len(self._ids) > 1 and this == self._ids[-2]:
                self._previous_came_back = True
            return True
        if this == newest:
            self._again += 1
            if self._again == 1 and not self._previous_came_back and self._first_is_missing(raw):
                self._again = 2
            return self._again <= self._count
        if self._again == 0 and not self._stepped_back and self._tells_of_a_loss(this, raw):
            batch.holes.append(Hole(self._generation, index + 1, None, HoleReason.TRIMMED))
        return False

    def _tells_of_a_loss(self, this: Id, raw: bytes) -> bool:
        """Look at the first line that comes instead of the newest that is held, which upstream has no more.

        None when it stands in the entry that Redis numbers right after that one's, or was written while we were
        connected, so that nothing was there when we came. That nothing is lost it does not prove: the entry before may
        have held more lines, or another that only the next one ended, and an emptied stream may have held more. That
        leaves a doubt. A line that is no JSON may be the rest of one, whose beginning is lost.
        """
        ms, seq = self._ids[-1]
        if check(bare(raw)) == BAD or not (this == (ms, seq + 1) or self._completeness.watched(this[0])):
            return True
        self._completeness.add(Doubt.NOT_THERE)
        return False

    def _first_is_missing(self, raw: bytes) -> bool:
        """Return whether the newest id's first line is gone, so that its second now comes first.

        The entry before it was trimmed meanwhile. If that entry held all of the first line but its line feed, the line
        has gone with it; if it held a part, a fragment comes back, which is no JSON.
        """
        return len(self._ids) > 1 and self._count > 1 and zlib.crc32(raw) != self._head and check(raw) != BAD

    def _cursor(self) -> dict[str, Any]:
        cursor: dict[str, Any] = {
            "ids": [list(each) for each in self._ids],
            "count": self._count,
            "head": self._head,
            **self._completeness.cursor(),
        }
        if self.cut_short:
            cursor["cut"] = True
        if self._loose is not None:
            cursor["loose"] = self._loose
        return cursor

    def see_tail(self, tail: int) -> None:
        """v1 never says its tail."""

    def ended(self, loose: V1Record | None, *, final: bool) -> Batch | None:
        """Look at a line that came together with the end of a final sweep.

        The server gives out an unfinished line when it closes, so the line may still grow. The first time it is only
        noted in the cursor; when the next sweep ends with the very same line, it is admitted and marked.
        """
        if loose is None or not final:
            return None
        raw = as_sent(loose.text)
        this = [loose.ms, loose.seq, zlib.crc32(raw)]
        if self._loose != this:
            self._loose = this
            return Batch(Checkpoint(self._generation, self._index, self._cursor()))
        batch = self.admit([loose])
        batch.quarantined.append(Quarantined(self._generation, self._index, UNTERMINATED, raw))
        return batch

    def admit_oversized(self, event_id: str, head: str) -> Batch:
        raise AssertionError("a v1 line that is too large is a record")

    def believe(self) -> None:
        """Not needed: v1 leaves nothing in doubt that another connection could settle."""

    def begin_generation(self) -> Batch:
        hole = Hole(self._generation, self._index + 1, None, HoleReason.RECREATED)
        self._generation += 1
        self._index, self._ids, self._count, self._head, self._loose = UNSET_INDEX, (), 0, 0, None
        return Batch(Checkpoint(self._generation, UNSET_INDEX, self._cursor()), holes=[hole])

    def snapshot(self) -> object:
        return (
            self._index,
            self._ids,
            self._count,
            self._head,
            self._completeness.snapshot(),
            self.cut_short,
            self._overlap,
            self._again,
            self._previous_came_back,
            self._stepped_back,
            self._last,
            self._loose,
        )

    def restore(self, snapshot: object) -> None:
        completeness: object
        (
            self._index,
            self._ids,
            self._count,
            self._head,
            completeness,
            self.cut_short,
            self._overlap,
            self._again,
            self._previous_came_back,
            self._stepped_back,
            self._last,
            self._loose,
        ) = snapshot  # type: ignore[misc]
        self._completeness.restore(completeness)


def _joined(one: Batch, other: Batch) -> Batch:
    """Return both, which came one after the other."""
    return Batch(
        other.checkpoint,
        indices=one.indices + other.indices,
        texts=one.texts + other.texts,
        emitted_ms=one.emitted_ms + other.emitted_ms,
        odd=one.odd or other.odd,
        holes=one.holes + other.holes,
        quarantined=one.quarantined + other.quarantined,
        size_bytes=one.size_bytes + other.size_bytes,
        duplicates=one.duplicates + other.duplicates,
    )
