"""Order v2's records by their numbers: jumps are gaps, repeats are told. Fits `order.Order`. Pure."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from collections.abc import Sequence as Seq
from typing import Any

from tailrace.errors import MalformedRecord
from tailrace.ingest.storable import MAX_INT8, TOO_LARGE, as_sent, storable
from tailrace.model import (
    UNSET_INDEX,
    Batch,
    Checkpoint,
    Doubt,
    Hole,
    HoleReason,
    Kind,
    PlainRecords,
    Quarantined,
    V2Record,
)
from tailrace.wire.chunk_json import BAD, PLAIN, all_plain, check
from tailrace.wire.chunk_json import reason as reason_of
from tailrace.wire.v2 import fingerprint_of, fingerprints_of

REPEAT_WINDOW = 5_000
"""Records within which the same body id and text is a writer's retry. Upstream's own reader uses this window; a larger
one would drop real chunks, because ids of 7 characters meet by chance (protocol §2.8)."""

JUMPS_BELIEVED = 3
"""So many connections in a row must pass over the same before it counts as trimmed."""

REPEAT = "repeat"


class V2Order:
    """v2: the place of a record is its ``seq_num``, and so is ``chunk_index``. A jump is a gap.

    A connection begins *at* the last record that is held, not after it, and nothing that contradicts what is held is
    believed at once: it raises a `doubt`, which the next connection settles.

    - Another record than the one held, or a tail behind us, can mean that upstream deleted the stream and created it
      anew (protocol §2.5). The next connection begins at the very start: when the first record there of which anything
      is known is another, the stream is a new one.
    - A jump can mean that upstream trimmed, or that something on the way lost a part. What is missing is trimmed when
      the next connections have neither it nor the record before it.

    What is contradicted for so long that whoever reads loses patience is believed in the end (`believe`). What was
    shown before within one connection, and is the same, is no news.
    """

    unsure: Doubt | None = None  # what is missing is a gap that can be counted

    def __init__(
        self, checkpoint: Checkpoint, recent: list[tuple[int, bytes]], previous: Collection[bytes] = ()
    ) -> None:
        """``recent``: index and fingerprint of what is held. ``previous``: fingerprints of the generation before."""
        cursor = checkpoint.cursor or {}
        self.recreated = False
        self.doubt: str | None = None
        self.cut_short = bool(cursor.get("cut", False))
        self._generation = checkpoint.generation
        self._next = checkpoint.last_index + 1
        self._print: list[int] | None = cursor.get("print")  # of the last record that is held
        self._first: list[int] | None = cursor.get("first")  # number and print of the first that is held
        # The lowest tail of connections in a row that brought nothing of it, and how many they are.
        self._ahead: list[int] | None = cursor.get("ahead")
        self._before_ms: int | None = cursor.get("before_ms")  # the last time in the generation before
        self._previous = frozenset(previous)
        self._jumped = (0, 0)  # what the last connections passed over, with the record before it, and how many did
        self._believing = False
        self._from_start = False  # the next connection, or the present one, begins at the very start to settle a doubt
        self._settles = False  # the next connection settles whether an old tail was told after our records
        self._begin_connection()
        # The last index of each mark; when the newer one is full, it becomes the older one.
        self._window = {fingerprint: index for index, fingerprint in recent}
        self._older: dict[bytes, int] = {}
        self._marks: dict[int, bytes] | None = None  # by index, while repeated records are compared

    def _begin_connection(self) -> None:
        self._settling, self._settles = self._settles, False
        self._overlap = self._print is not None  # the last record that is held has to come first
        self._tail: int | None = None  # as this connection last said
        self._shown = False  # this connection has brought a record
        self._same = False  # it has brought one that is held
        self._reached = False  # it has brought the one before the next

    @property
    def anchored(self) -> bool:
        return not self._overlap if self._tail is None else self._tail == self._next

    def resume(self) -> str | None:
        self._begin_connection()
        self.doubt = None
        after = self._next - 2 if self._overlap else self._next - 1
        # Never "-1" or "0" for the beginning: both make upstream skip record 0 (protocol §2.4).
        return None if after < 0 or self._from_start else str(after)

    def opened(self, date_ms: int | None) -> None:
        """Not needed: v2 numbers its records."""

    def passed(self, ms: int) -> None:
        """Not needed: v2 numbers its records."""

    def admit(self, records: Seq[V2Record]) -> Batch:
        self._shown = self._shown or bool(records)
        batch = self._admit_at_once(records) if isinstance(records, PlainRecords) else None
        return batch or self._admit_each(records)

    def _admit_at_once(self, records: PlainRecords) -> Batch | None:
        """Admit records that are all new and in unbroken order, as nearly all are; None when they are not.

        Column by column, which takes a third of the time of `_admit_each` and means the same.
        """
        numbers, texts, count, first = records.seq_nums, records.texts, len(records), self._next
        if self.recreated or self.doubt or self._overlap or numbers != list(range(first, first + count)):
            return None
        fingerprints = fingerprints_of(texts, records.body_ids)
        new = dict(zip(fingerprints, numbers, strict=True))
        if len(new) != count or not self._window.keys().isdisjoint(new) or not self._older.keys().isdisjoint(new):
            return None
        if self._previous and not self._previous.isdisjoint(new):
            return None
        self._window.update(new)
        if self._first is None:
            self._first = [first, *_print(records.timestamps_ms[0], records.bodies[0])]
        self._advance(first + count, _print(records.timestamps_ms[-1], records.bodies[-1]))
        return Batch(
            Checkpoint(self._generation, self._next - 1, self._cursor()),
            indices=numbers,
            texts=texts,
            emitted_ms=storable(records.timestamps_ms),
            fingerprints=fingerprints,
            size_bytes=sum(map(len, texts)),
        )

    def _advance(self, after: int, last: list[int]) -> None:
        """Note that everything before ``after`` is held or accounted for, by records of this connection."""
        self._next, self._print = after, last
        self._overlap, self._reached = False, True
        self._ahead = self._marks = None
        if self.doubt is None:
            self._jumped, self._believing, self._from_start = (0, 0), False, False
        self._turn_window()

    def _turn_window(self) -> None:
        """Forget marks from before the window. What is in it is in one of the two."""
        if len(self._window) >= REPEAT_WINDOW:
            self._window, self._older = {}, self._window

    def _admit_each(self, records: Seq[V2Record]) -> Batch:
        batch = Batch(Checkpoint())
        generation, expected, window, older = self._generation, self._next, self._window, self._older
        texts, indices, emitted, fingerprints = batch.texts, batch.indices, batch.emitted_ms, batch.fingerprints
        data_kind = Kind.DATA  # looking an enum's member up costs 0.1 µs
        plain = all_plain([record.text for record in records if record.kind is data_kind])
        for record in () if self.recreated or self.doubt else records:
            seq_num, timestamp_ms, kind, text, body_id, body = record
            if seq_num != expected or (self._overlap and expected == self._next):
                if seq_num < expected:
                    if not self._is_no_news(record, expected):
                        break
                    batch.duplicates += 1
                    continue
                reason = self._why_missing(expected, self._reached or expected != self._next)
                if reason is None:
                    break
                if seq_num > expected:
                    batch.holes.append(Hole(generation, expected, seq_num - 1, reason))
            if self._first is None:
                self._first = [seq_num, *_print(timestamp_ms, body)]
            expected, last = seq_num + 1, record
            if kind is data_kind:
                fingerprint = fingerprint_of(text, body_id)
                before = window.get(fingerprint, older.get(fingerprint)) if body_id else None
                window[fingerprint] = seq_num
                if before is not None and seq_num - before <= REPEAT_WINDOW:
                    batch.holes.append(Hole(generation, seq_num, seq_num, HoleReason.REPEAT))
                    batch.quarantined.append(Quarantined(generation, seq_num, REPEAT, as_sent(body)))
                    continue
                if body_id and fingerprint in self._previous and timestamp_ms <= (self._before_ms or 0):
                    _widen(batch.holes, Hole(generation, seq_num, seq_num, HoleReason.REPEAT))
                    continue
                shape = PLAIN if plain else check(text)
                if shape != BAD:
                    batch.odd = batch.odd or shape != PLAIN
                    texts.append(text)
                    indices.append(seq_num)
                    emitted.append(timestamp_ms)
                    fingerprints.append(fingerprint)
                    continue
                why = reason_of(text)
            elif kind is Kind.ODD:
                why = "not_an_envelope"
            else:
                skipped = HoleReason.COMMAND if kind is Kind.COMMAND else HoleReason.CONTROL
                batch.holes.append(Hole(generation, seq_num, seq_num, skipped))
                continue
            batch.holes.append(Hole(generation, seq_num, seq_num, HoleReason.QUARANTINED))
            batch.quarantined.append(Quarantined(generation, seq_num, why, as_sent(body)))
        if expected != self._next:
            self._advance(expected, _print(last.timestamp_ms, last.body))
        batch.size_bytes = sum(map(len, texts)) + sum(len(item.raw) for item in batch.quarantined)
        batch.checkpoint = Checkpoint(generation, expected - 1, self._cursor())
        batch.emitted_ms = storable(emitted)
        return batch

    def _is_no_news(self, record: V2Record, expected: int) -> bool:
        """Look at a record that should be held. False: it is not the one that is, and nothing more is admitted."""
        known = self._held(record)
        if known is False:
            if self._believing or (self._from_start and not self._same):
                self.recreated = True
            else:
                self._begin_doubt(f"record {record.seq_num} is not the one that came under this number before")
            return False
        if known:
            self._same = True
            self._from_start = False  # it is our stream, whatever was said of it
        if record.seq_num == expected - 1:
            self._overlap, self._reached = self._overlap and not known, True
        return True

    def _held(self, record: V2Record) -> bool | None:
        """Return whether this very record is held; None when nothing is known of the one under its number."""
        seq_num = record.seq_num
        if self._first is not None and self._first[0] == seq_num:
            return self._first[1:] == _print(record.timestamp_ms, record.body)
        if self._print is not None and seq_num == self._next - 1:
            return self._print == _print(record.timestamp_ms, record.body)
        if self._marks is None:
            self._marks = {index: mark for marks in (self._older, self._window) for mark, index in marks.items()}
        mark = self._marks.get(seq_num)
        if mark is None:
            return None
        return record.kind is Kind.DATA and fingerprint_of(record.text, record.body_id) == mark

    def _why_missing(self, expected: int, neighbour: bool) -> HoleReason | None:
        """Say why ``expected``, or the one before it, is passed over; None while it is not believed.

        ``neighbour``: the one before it came.
        """
        if self._believing:
            return HoleReason.MISSING if neighbour else HoleReason.TRIMMED
        seen = self._jumped[1] + 1 if self._jumped[0] == expected else 1
        if not neighbour and seen >= JUMPS_BELIEVED:
            return HoleReason.TRIMMED
        self._jumped = (expected, 0 if neighbour else seen)
        self.doubt = f"record {expected}, or the one before it, did not come, and a later one did"
        return None

    def believe(self) -> None:
        """Take what the next connection says as it is: it has been contradicting what is held for too long."""
        self._believing = True

    def _begin_doubt(self, why: str) -> None:
        self.doubt = why
        self._from_start = True

    def _cursor(self) -> dict[str, Any]:
        cursor: dict[str, Any] = {"seq_num": self._next - 1}
        if self._print is not None:
            cursor["print"] = self._print
        if self._first is not None:
            cursor["first"] = self._first
        if self.cut_short:
            cursor["cut"] = True
        if self._ahead is not None:
            cursor["ahead"] = self._ahead
        if self._before_ms is not None:
            cursor["before_ms"] = self._before_ms
        return cursor

    def see_tail(self, tail: int) -> None:
        if tail >= self._next:
            self._tail = tail
        elif self._same or self._reached:
            # It has shown what it says is not there: an old word, or the stream was made anew meanwhile.
            if not self._settling:
                self.doubt = f"record {self._next - 1} came, and upstream says that record {tail} comes next"
                self._settles = True
        elif not self._from_start:
            self._begin_doubt(f"upstream says that record {tail} comes next, and record {self._next - 1} is held")
        elif self._shown:
            self.recreated = True  # from the very start up to a tail behind us, with nothing of what is held

    def admit_oversized(self, event_id: str, head: str) -> Batch:
        last, first = event_id.partition(",")[0], self._next
        # An id that was sent before this event stays in force, and says nothing about it.
        if not last.isdecimal() or not first <= int(last) < MAX_INT8:
            raise MalformedRecord("a v2 batch is larger than EVENT_MAX_BYTES, and its id came too late to step over it")
        self.cut_short = self._shown = True
        batch = self._step_over(int(last), HoleReason.QUARANTINED)
        batch.quarantined.append(Quarantined(self._generation, first, TOO_LARGE, as_sent(head)))
        return batch

    def ended(self, loose: None, *, final: bool) -> Batch | None:
        """Look whether all up to the tail is gone: responses in a row brought no record although it was ahead of us.

        One that brought a record has not got to the rest, in a slow catching up: the next goes on there.
        """
        if self._shown or self._tail is None or self._tail <= self._next:
            return None
        tail, seen = self._ahead or [self._tail, 0]
        self._ahead = [min(tail, self._tail), seen + 1]
        if seen + 1 < JUMPS_BELIEVED:  # what was written in this very moment would look the same
            return Batch(Checkpoint(self._generation, self._next - 1, self._cursor()))
        return self._step_over(self._ahead[0] - 1, HoleReason.TRIMMED)

    def _step_over(self, last: int, why: HoleReason) -> Batch:
        hole = Hole(self._generation, self._next, last, why)
        self._next, self._print, self._ahead = last + 1, None, None
        return Batch(Checkpoint(self._generation, last, self._cursor()), holes=[hole])

    def begin_generation(self) -> Batch:
        hole = Hole(self._generation, self._next, None, HoleReason.RECREATED)
        before_ms = max(self._before_ms or 0, self._print[0] if self._print is not None else 0)
        self._generation += 1
        self._next, self._print, self._first, self._ahead, self._jumped = 0, None, None, None, (0, 0)
        self._previous = self._previous | self._window.keys() | self._older.keys()
        self._before_ms = before_ms or None
        self._window, self._older, self._marks = {}, {}, None
        self.recreated, self.doubt, self._from_start, self._believing = False, None, False, False
        cursor = {"before_ms": self._before_ms} if self._before_ms is not None else None
        return Batch(Checkpoint(self._generation, UNSET_INDEX, cursor), holes=[hole])

    def snapshot(self) -> object:
        return self._next

    def restore(self, snapshot: object) -> None:
        self._next = snapshot  # type: ignore[assignment]


def _widen(holes: list[Hole], hole: Hole) -> None:
    """Add a hole, or make the last one longer: a generation that repeats another needs one row, not thousands."""
    if holes and holes[-1].reason is hole.reason and holes[-1].last_index == hole.first_index - 1:
        holes[-1] = holes[-1]._replace(last_index=hole.last_index)
    else:
        holes.append(hole)


def _print(timestamp_ms: int, body: str) -> list[int]:
    """Return what tells a record from another that has its number: its time and a checksum of its body."""
    return [timestamp_ms, zlib.crc32(as_sent(body))]
