"""An archived stream as a reader of its wire reads it: what is stored, and then what is committed while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from tailrace.model import Wire
from tailrace.serve.archive.followed import Followed
from tailrace.serve.archive.numbers import V1_SEQ, Item
from tailrace.serve.archive.run_watch import Sought
from tailrace.serve.body import BrokenOff
from tailrace.serve.entries import BEGINNING, Entry, V1Id
from tailrace.serve.records import BATCH_MAX_RECORDS, EMPTY, Record, Tail
from tailrace.serve.store import Page, StreamRemoved
from tailrace.store.serving import PART_BYTES

if TYPE_CHECKING:
    from tailrace.serve.archive.archive import Archive


class Reading:
    """Where one reader is in a stream, which the archive may not have yet."""

    def __init__(self, archive: Archive, sought: Sought, followed: Followed | None, wire: Wire) -> None:
        self._archive = archive
        self._sought = sought
        self._wire = wire
        self.followed = followed

    async def on(self, number: int, block_s: float) -> tuple[Sequence[Item], int]:
        """Read on from a number: what is there, and the number to read on from. Waits when there is nothing, unless the
        stream is gone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + block_s
        while True:
            followed = self.followed or await self._look_for_it(deadline - loop.time())
            if followed is None or followed.gone:
                return (), number
            while number < followed.kept_from:
                items, following = await self._archive.part(followed, number)
                if items:
                    return items, following
                number = max(following, number)
            if items := followed.kept(number):
                return items, followed.tail
            left_s = deadline - loop.time()
            if left_s <= 0:
                return (), number
            await followed.changed(left_s)

    async def _look_for_it(self, timeout_s: float) -> Followed | None:
        if timeout_s <= 0:
            return None
        stream_id = await self._archive.run_watch.found(self._sought, timeout_s)
        if stream_id is not None:
            self.followed = await self._archive.follower.follow(stream_id, self._wire)
        return self.followed


class ArchivedV1:
    """A v1 stream. The ids are made: upstream's time, and the number."""

    def __init__(self, reading: Reading, archive: Archive) -> None:
        self._reading = reading
        self._archive = archive
        self._at = (BEGINNING, 0)  # a cursor, and the number from which there is something after it
        self._from_ms = 0
        """What is before this moment was given out by upstream, though it may come to the archive now."""

    async def last_id(self) -> V1Id:
        followed = self._reading.followed
        return V1Id(followed.tail_ms, V1_SEQ + followed.tail - 1) if followed and followed.tail else BEGINNING

    async def after(self, cursor: V1Id, block_s: float) -> Sequence[Entry]:
        number = self._at[1] if cursor == self._at[0] else await self._number_after(cursor)
        time = asyncio.get_running_loop().time
        deadline = time() + block_s
        while True:
            items, number = await self._reading.on(number, deadline - time())
            followed = self._reading.followed
            if followed is not None and followed.gone:
                raise BrokenOff  # whoever reads asks again, and is told that there is nothing
            entries = [entry for entry in cast(Sequence[Entry], items) if entry.id.ms >= self._from_ms]
            if entries or not items:
                self._at = (entries[-1].id if entries else cursor, number)
                return entries

    async def _number_after(self, cursor: V1Id) -> int:
        """Where to read on after an id of this server. After one of upstream's own everything of its millisecond comes
        again: none of it is missed."""
        if cursor.seq >= V1_SEQ:
            return cursor.seq - V1_SEQ + 1
        self._from_ms = cursor.ms
        followed = self._reading.followed
        return 0 if followed is None else await self._archive.after_all_before(followed, cursor.ms)


class ArchivedV2:
    """A v2 stream."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    async def tail(self) -> Tail:
        followed = self._reading.followed
        if followed is None:
            return EMPTY
        if followed.gone:
            raise StreamRemoved
        return Tail(followed.tail, followed.tail_ms) if followed.tail else EMPTY

    async def since(self, seq_num: int, block_s: float) -> Page:
        items, _ = await self._reading.on(seq_num, block_s)
        records = _batch(cast(Sequence[Record], items))
        tail = await self.tail()
        return Page(records, tail, bool(records) and records[-1].seq_num + 1 < tail.seq_num)


def _batch(records: Sequence[Record]) -> Sequence[Record]:
    """The first of them: as many as one event is to hold, which is less than it may."""
    size_bytes = 0
    for count, record in enumerate(records):
        size_bytes += record.metered
        if count and (count >= BATCH_MAX_RECORDS or size_bytes > PART_BYTES):
            return records[:count]
    return records
