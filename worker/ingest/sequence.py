"""Put records in order: records → chunks, holes, quarantined; what was seen before is dropped. Pure.

Two upstream formats, two rules, one interface (`Sequence`). Both are told when a connection opens, and say where it
must begin.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence as Seq
from typing import Any, Protocol

from worker.errors import MalformedRecord
from worker.ingest.doubt import Doubt
from worker.model import (
    UNSET_INDEX,
    Checkpoint,
    Hole,
    HoleReason,
    Kind,
    PlainRecords,
    Quarantined,
    Take,
    V1Record,
    V2Record,
    Wire,
)
from worker.wire.jsontext import BAD, PLAIN, all_plain, bare, check, reason
from worker.wire.v2 import mark_of, marks_of

REPEAT_WINDOW = 5_000
"""Records within which the same body id and text is a writer's retry. Upstream's own reader uses this window; a larger
one would drop real chunks, because ids of 7 characters meet by chance (PROTOCOL §2.8)."""


class Sequence(Protocol):
    """The order of one stream."""

    @property
    def recreated(self) -> bool:
        """Upstream began the stream anew: call `begin_generation`, then connect again."""

    @property
    def unsure(self) -> bool:
        """v1: upstream may have dropped something before we could see it (see `ingest.doubt`)."""

    @property
    def cut_short(self) -> bool:
        """Something was too large, and only its head is kept."""

    @property
    def anchored(self) -> bool:
        """This connection has shown that what we hold is up to where upstream is: nothing can have been passed over."""

    def resume(self) -> str | None:
        """Give the ``Last-Event-ID`` to connect with, None for none; and expect the records of that connection."""

    def opened(self, date_ms: int | None) -> None:
        """Learn upstream's clock at the moment the connection opened, when it said."""

    def passed(self, ms: int) -> None:
        """Learn how long the connection has been open."""

    def admit(self, records: Seq[Any]) -> Take:
        """Take the next records of this connection. Stops at the first that belongs to a re-created stream."""

    def see_tail(self, tail: int) -> None:
        """Look at the number that upstream will give next."""

    def loose_end(self, record: Any) -> Take:
        """v1: look at a last line that came together with the end of a final sweep.

        The server gives out an unfinished line when it closes, so the line may still grow. The first time it is only
        noted in the cursor; when the next sweep ends with the very same line, it is admitted and marked.
        """

    def admit_missing(self, tail: int) -> Take:
        """v2: a clean end was reached, and not all below ``tail`` came: it was trimmed up to there."""

    def admit_oversized(self, event_id: str, head: str) -> Take:
        """v2: account for a batch that was larger than the limit; ``event_id`` is its ``last,count,bytes``.

        Raises:
            MalformedRecord: the id does not say what is missing.
        """

    def begin_generation(self) -> Take:
        """Leave what was, and begin at the stream's new start."""

    def mark(self) -> object:
        """Give the present state, for `restore`."""

    def restore(self, mark: object) -> None:
        """Go back to a state that `mark` gave: what was admitted since then never happened."""


def sequence_for(
    wire: Wire, checkpoint: Checkpoint, recent: list[tuple[int, bytes]], not_before_ms: int | None = None
) -> Sequence:
    """Give the sequence that goes on after ``checkpoint``.

    ``recent``: index and mark of the last records of this stream's generation, oldest first (v2; see `Take`).
    ``not_before_ms``: upstream's clock at a moment before which nothing of the stream can have been written (v1).
    """
    return V1Sequence(checkpoint, not_before_ms) if wire is Wire.V1 else V2Sequence(checkpoint, recent)


TOO_LARGE = "too_large"
REPEAT = "repeat"
MAX_INT8 = (1 << 63) - 1

Id = tuple[int, int]


class V1Sequence:
    """v1: the place of a line is (Redis id, ordinal among the lines that share the id).

    The id of the last line is no safe place to resume: the entry behind it can hold more lines, or the beginning of
    the next. So a connection begins *two* distinct ids back, and what is known is skipped by (id, ordinal): after
    that id only the first line can be a fragment, and it belongs to an id that is already held (PROTOCOL §1.7).

    ``chunk_index`` is the count of lines since the first that we saw.
    """

    recreated = False

    def __init__(self, checkpoint: Checkpoint, not_before_ms: int | None = None) -> None:
        cursor = checkpoint.cursor or {}
        self._doubt = Doubt(cursor, not_before_ms)
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

    @property
    def unsure(self) -> bool:
        return self._doubt.any

    @property
    def anchored(self) -> bool:
        return not self._overlap or self._again >= self._count

    def resume(self) -> str | None:
        self._overlap = bool(self._ids)
        self._again = 0
        self._previous_came_back = False
        if len(self._ids) < 3:
            return None
        ms, seq = self._ids[0]
        return f"{ms}-{seq}"

    def opened(self, date_ms: int | None) -> None:
        self._doubt.opened(date_ms, bool(self._ids))

    def passed(self, ms: int) -> None:
        self._doubt.passed(ms)

    def admit(self, records: Seq[V1Record]) -> Take:
        take = Take(Checkpoint())
        ids, count, index = self._ids, self._count, self._index
        newest = ids[-1] if ids else None
        texts, indices, emitted = take.texts, take.indices, take.emitted_ms
        entries, before, anchored = 0, newest, self._overlap
        fresh: list[Id] = []  # ids not seen before, and the first line of the last of them
        head = b""
        raws = [_bytes(record.text) for record in records]
        plain = all_plain(raws)
        for (ms, seq, _, oversized), raw in zip(records, raws, strict=True):
            this = (ms, seq)
            if self._overlap:
                if self._seen_before(this, raw, take, index):
                    take.duplicates += 1
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
                    take.holes.append(Hole(self._generation, index, index, HoleReason.QUARANTINED))
                    take.quarantined.append(Quarantined(self._generation, index, why, raw))
                    continue
                take.odd = take.odd or shape != PLAIN
            texts.append(chunk)
            indices.append(index)
            emitted.append(ms)
        if fresh:
            ids, self._head = (*ids, *fresh[-3:])[-3:], zlib.crc32(head)
        take.size_bytes = sum(map(len, texts)) + sum(len(item.raw) for item in take.quarantined)
        if index != self._index:
            self._loose = None
            first = records[-(index - self._index)].ms
            self._doubt.saw(entries, take.size_bytes, first, anchored=anchored)
        self._ids, self._count, self._index = ids, count, index
        take.emitted_ms = _storable(emitted)
        take.checkpoint = Checkpoint(self._generation, index, self._cursor())
        return take

    def _seen_before(self, this: Id, raw: bytes, take: Take, index: int) -> bool:
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
        if self._again == 0:
            take.holes.append(Hole(self._generation, index + 1, None, HoleReason.TRIMMED))
        return False

    def _first_is_missing(self, raw: bytes) -> bool:
        """Tell whether the newest id's first line is gone, so that its second now comes first.

        The entry before it was trimmed meanwhile. If that entry held all of the first line but its line feed, the line
        has gone with it; if it held a part, a fragment comes back, which is no JSON.
        """
        return len(self._ids) > 1 and self._count > 1 and zlib.crc32(raw) != self._head and check(raw) != BAD

    def _cursor(self) -> dict[str, Any]:
        cursor: dict[str, Any] = {
            "ids": [list(each) for each in self._ids],
            "count": self._count,
            "head": self._head,
            **self._doubt.cursor(),
        }
        if self.cut_short:
            cursor["cut"] = True
        if self._loose is not None:
            cursor["loose"] = self._loose
        return cursor

    def see_tail(self, tail: int) -> None:
        """v1 never says its tail."""

    def loose_end(self, record: V1Record) -> Take:
        this = [record.ms, record.seq, zlib.crc32(_bytes(record.text))]
        if self._loose != this:
            self._loose = this
            return Take(Checkpoint(self._generation, self._index, self._cursor()))
        take = self.admit([record])
        take.quarantined.append(Quarantined(self._generation, self._index, "unterminated", _bytes(record.text)))
        return take

    def admit_missing(self, tail: int) -> Take:
        raise AssertionError("v1 never says its tail")

    def admit_oversized(self, event_id: str, head: str) -> Take:
        raise AssertionError("a v1 line that is too large is a record")

    def begin_generation(self) -> Take:
        hole = Hole(self._generation, self._index + 1, None, HoleReason.RECREATED)
        self._generation += 1
        self._index, self._ids, self._count, self._head, self._loose = UNSET_INDEX, (), 0, 0, None
        return Take(Checkpoint(self._generation, UNSET_INDEX, self._cursor()), holes=[hole])

    def mark(self) -> object:
        return (
            self._index,
            self._ids,
            self._count,
            self._head,
            self._doubt.mark(),
            self.cut_short,
            self._overlap,
            self._again,
            self._previous_came_back,
            self._loose,
        )

    def restore(self, mark: object) -> None:
        doubt: object
        (
            self._index,
            self._ids,
            self._count,
            self._head,
            doubt,
            self.cut_short,
            self._overlap,
            self._again,
            self._previous_came_back,
            self._loose,
        ) = mark  # type: ignore[misc]
        self._doubt.restore(doubt)


class V2Sequence:
    """v2: the place of a record is its ``seq_num``, and so is ``chunk_index``. A jump is a gap.

    A step back, or a tail behind us, means that upstream deleted the stream and created it anew (PROTOCOL §2.5). A new
    stream that has already grown past our place shows neither, so a connection begins *at* the last record that is
    held, not after it: if another record stands there now, the stream is a new one.
    """

    unsure = False  # what is missing is a gap that can be counted

    def __init__(self, checkpoint: Checkpoint, recent: list[tuple[int, bytes]]) -> None:
        self.recreated = False
        self.cut_short = bool((checkpoint.cursor or {}).get("cut", False))
        self._generation = checkpoint.generation
        self._next = checkpoint.last_index + 1
        self._print: list[int] | None = (checkpoint.cursor or {}).get("print")  # of the last record that is held
        self._overlap = False
        self._tail: int | None = None  # as this connection last said
        # The last index of each mark; when the newer one is full, it becomes the older one.
        self._window = {mark: index for index, mark in recent}
        self._older: dict[bytes, int] = {}

    @property
    def anchored(self) -> bool:
        return not self._overlap if self._tail is None else self._tail == self._next

    def resume(self) -> str | None:
        self._overlap, self._tail = self._print is not None, None
        after = self._next - 2 if self._overlap else self._next - 1
        # Never "-1" or "0" for the beginning: both make upstream skip record 0 (PROTOCOL §2.4).
        return None if after < 0 else str(after)

    def opened(self, date_ms: int | None) -> None:
        """Not needed: v2 numbers its records."""

    def passed(self, ms: int) -> None:
        """Not needed: v2 numbers its records."""

    def admit(self, records: Seq[V2Record]) -> Take:
        take = self._admit_at_once(records) if isinstance(records, PlainRecords) else None
        return take or self._admit_each(records)

    def _admit_at_once(self, records: PlainRecords) -> Take | None:
        """Admit records that are all new and in unbroken order, as nearly all are; None when they are not.

        Column by column, which takes a third of the time of `_admit_each` and means the same.
        """
        numbers, texts, count, first = records.seq_nums, records.texts, len(records), self._next
        if self.recreated or numbers != list(range(first, first + count)):
            return None
        marks = marks_of(texts, records.body_ids)
        new = dict(zip(marks, numbers, strict=True))
        if len(new) != count or not self._window.keys().isdisjoint(new) or not self._older.keys().isdisjoint(new):
            return None
        self._window.update(new)
        self._next, self._overlap = first + count, False
        self._print = _print(records.timestamps_ms[-1], records.bodies[-1])
        self._turn_window()
        return Take(
            Checkpoint(self._generation, self._next - 1, self._cursor()),
            indices=numbers,
            texts=texts,
            emitted_ms=_storable(records.timestamps_ms),
            marks=marks,
            size_bytes=sum(map(len, texts)),
        )

    def _turn_window(self) -> None:
        """Forget marks from before the window. What is in it is in one of the two."""
        if len(self._window) >= REPEAT_WINDOW:
            self._window, self._older = {}, self._window

    def _admit_each(self, records: Seq[V2Record]) -> Take:
        take = Take(Checkpoint())
        generation, expected, window, older = self._generation, self._next, self._window, self._older
        texts, indices, emitted, marks = take.texts, take.indices, take.emitted_ms, take.marks
        data_kind = Kind.DATA  # looking an enum's member up costs 0.1 µs
        plain = all_plain([record.text for record in records if record.kind is data_kind])
        for seq_num, timestamp_ms, kind, text, body_id, body in () if self.recreated else records:
            if seq_num != expected:
                if seq_num < expected:
                    known = self._overlap and seq_num == expected - 1
                    if known and self._print == _print(timestamp_ms, body):
                        self._overlap = False
                        take.duplicates += 1
                        continue
                    self.recreated = True
                    break
                take.holes.append(Hole(generation, expected, seq_num - 1, HoleReason.TRIMMED))
            expected = seq_num + 1
            if kind is data_kind:
                mark = mark_of(text, body_id)
                before = window.get(mark, older.get(mark)) if body_id else None
                window[mark] = seq_num
                if before is not None and seq_num - before <= REPEAT_WINDOW:
                    take.holes.append(Hole(generation, seq_num, seq_num, HoleReason.REPEAT))
                    take.quarantined.append(Quarantined(generation, seq_num, REPEAT, _bytes(body)))
                    continue
                shape = PLAIN if plain else check(text)
                if shape != BAD:
                    take.odd = take.odd or shape != PLAIN
                    texts.append(text)
                    indices.append(seq_num)
                    emitted.append(timestamp_ms)
                    marks.append(mark)
                    continue
                why = reason(text)
            elif kind is Kind.ODD:
                why = "not_an_envelope"
            else:
                skipped = HoleReason.COMMAND if kind is Kind.COMMAND else HoleReason.CONTROL
                take.holes.append(Hole(generation, seq_num, seq_num, skipped))
                continue
            take.holes.append(Hole(generation, seq_num, seq_num, HoleReason.QUARANTINED))
            take.quarantined.append(Quarantined(generation, seq_num, why, _bytes(body)))
        if expected != self._next:
            self._next, self._print, self._overlap = expected, _print(timestamp_ms, body), False
        self._turn_window()
        take.size_bytes = sum(map(len, texts)) + sum(len(item.raw) for item in take.quarantined)
        take.checkpoint = Checkpoint(generation, expected - 1, self._cursor())
        take.emitted_ms = _storable(emitted)
        return take

    def _cursor(self) -> dict[str, Any]:
        cursor: dict[str, Any] = {"seq_num": self._next - 1}
        if self._print is not None:
            cursor["print"] = self._print
        if self.cut_short:
            cursor["cut"] = True
        return cursor

    def see_tail(self, tail: int) -> None:
        self._tail = tail
        if tail < self._next:
            self.recreated = True

    def admit_oversized(self, event_id: str, head: str) -> Take:
        last, first = event_id.partition(",")[0], self._next
        # An id that was sent before this event stays in force, and says nothing about it.
        if not last.isdecimal() or not first <= int(last) < MAX_INT8:
            raise MalformedRecord("a v2 batch is larger than EVENT_MAX_BYTES, and its id came too late to step over it")
        self.cut_short = True
        take = self._step_over(int(last), HoleReason.QUARANTINED)
        take.quarantined.append(Quarantined(self._generation, first, TOO_LARGE, _bytes(head)))
        return take

    def admit_missing(self, tail: int) -> Take:
        return self._step_over(tail - 1, HoleReason.TRIMMED)

    def _step_over(self, last: int, why: HoleReason) -> Take:
        hole = Hole(self._generation, self._next, last, why)
        self._next, self._print = last + 1, None
        return Take(Checkpoint(self._generation, last, self._cursor()), holes=[hole])

    def loose_end(self, record: V2Record) -> Take:
        raise AssertionError("a v2 record is always whole")

    def begin_generation(self) -> Take:
        take = Take(Checkpoint(self._generation + 1, UNSET_INDEX, None))
        take.holes.append(Hole(self._generation, self._next, None, HoleReason.RECREATED))
        self._generation += 1
        self._next, self._print = 0, None
        self._window, self._older = {}, {}
        self.recreated = False
        return take

    def mark(self) -> object:
        return self._next

    def restore(self, mark: object) -> None:
        self._next = mark  # type: ignore[assignment]


def _print(timestamp_ms: int, body: str) -> list[int]:
    """Give what tells a record from another that has its number: its time and a checksum of its body."""
    return [timestamp_ms, zlib.crc32(_bytes(body))]


def _bytes(text: str) -> bytes:
    """Give the very bytes that upstream sent: what was not UTF-8 came through as surrogates (see `source.body`)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stood in v2's JSON as an escape
        return text.encode("utf-8", "surrogatepass")


def _storable(emitted_ms: list[int]) -> list[int]:
    """Bring times that are none into what 64 bits hold: upstream's own are larger by a bit."""
    if emitted_ms and (max(emitted_ms) > MAX_INT8 or min(emitted_ms) < 0):
        return [min(max(ms, 0), MAX_INT8) for ms in emitted_ms]
    return emitted_ms
