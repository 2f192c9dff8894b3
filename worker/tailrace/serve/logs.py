"""The kept part of a stream in memory: ordered, cut off at the head, read in bounded slices. No locks, no waiting."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from tailrace.serve.entries import BEGINNING, Entry, V1Id
from tailrace.serve.records import BATCH_MAX_BYTES, BATCH_MAX_RECORDS, EMPTY, Draft, Record, Tail
from tailrace.serve.store import Page

NODE_ENTRIES = 100
"""Redis keeps a stream in nodes of so many entries and, asked to trim roughly, drops whole nodes only."""

_SLICE_MAX_ENTRIES = 2000
_SLICE_MAX_BYTES = 256 * 1024  # or one larger entry alone


class EntryLog:
    """The entries of a v1 stream."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._ids: list[V1Id] = []
        self._ends: list[int] = []  # bytes up to and with each entry, since the stream began
        self._dropped = 0  # entries trimmed away: says where the nodes begin

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Entry]:
        """A copy of what is kept."""
        return self._entries.copy()

    @property
    def last_id(self) -> V1Id:
        return self._ids[-1] if self._ids else BEGINNING

    def next_id(self, now_ms: int) -> V1Id:
        """What Redis would give the next entry: ids grow even when the clock does not."""
        last = self.last_id
        return V1Id(now_ms, 0) if now_ms > last.ms else V1Id(last.ms, last.seq + 1)

    def append(self, entry: Entry) -> None:
        """Raises ValueError for an id that is not greater than the last, as Redis refuses it."""
        if entry.id <= self.last_id:
            raise ValueError(f"entry id {entry.id} is not greater than {self.last_id}")
        self._entries.append(entry)
        self._ids.append(entry.id)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(entry.data))

    def after(self, cursor: V1Id, upto: int | None = None) -> list[Entry]:
        """A bounded slice of the entries strictly after ``cursor``; ``upto`` hides the entries from that index on."""
        first = bisect_right(self._ids, cursor)
        last = len(self._ids) if upto is None else upto
        if first >= last:
            return []
        before = self._ends[first] - len(self._entries[first].data)
        fitting = bisect_right(self._ends, before + _SLICE_MAX_BYTES, first, last)
        return self._entries[first : min(max(fitting, first + 1), first + _SLICE_MAX_ENTRIES)]

    def trim(self, max_entries: int) -> None:
        """Redis' ``MAXLEN ~``: drop whole nodes from the head as long as ``max_entries`` are left."""
        while True:
            node = NODE_ENTRIES - self._dropped % NODE_ENTRIES
            if len(self._entries) - node < max_entries:
                return
            del self._entries[:node], self._ids[:node], self._ends[:node]
            self._dropped += node

    def clear(self) -> None:
        """Forget everything, the last id too: what an expired key leaves."""
        self.__init__()  # type: ignore[misc]


class RecordLog:
    """The records of a v2 stream."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._ends: list[int] = []  # metered bytes up to and with each record, since the stream began
        self._first = 0  # the number of the first kept record
        self._tail = EMPTY

    def __len__(self) -> int:
        return len(self._records)

    @property
    def records(self) -> list[Record]:
        """A copy of what is kept."""
        return self._records.copy()

    @property
    def tail(self) -> Tail:
        return self._tail

    def append(self, draft: Draft, now_ms: int) -> Record:
        """Return the draft the next number. Times never go back: an earlier one is moved to the last one's."""
        asked_ms = now_ms if draft.timestamp_ms is None else draft.timestamp_ms
        seq_num, last_ms = self._tail
        record = Record(seq_num, max(asked_ms, last_ms), draft.body, draft.headers)
        self._records.append(record)
        self._ends.append((self._ends[-1] if self._ends else 0) + record.metered)
        self._tail = Tail(seq_num + 1, record.timestamp_ms)
        return record

    def since(self, seq_num: int, upto: int | None = None) -> Page:
        """One batch's worth from ``seq_num`` on; ``upto`` hides the records from that number on."""
        tail = self._tail
        last = len(self._records)
        if upto is not None:
            last = min(max(upto - self._first, 0), last)
            tail = Tail(upto, self._records[last - 1].timestamp_ms) if last else EMPTY
        first = max(seq_num - self._first, 0)
        if first >= last:
            return Page([], tail, False)
        before = self._ends[first] - self._records[first].metered
        fitting = bisect_right(self._ends, before + BATCH_MAX_BYTES, first, last)
        end = min(max(fitting, first + 1), first + BATCH_MAX_RECORDS)
        return Page(self._records[first:end], tail, end < last)

    def trim(self, first_kept: int) -> None:
        """Drop the records before ``first_kept``. The tail stays."""
        count = bisect_left(self._records, first_kept, key=lambda record: record.seq_num)
        del self._records[:count], self._ends[:count]
        self._first += count
