"""One archived stream that readers follow: how far it goes, and the newest of it, which all of them share."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from tailrace.model import Wire
from tailrace.serve.archive.numbers import Item, Numbers, held_bytes, item_of
from tailrace.store.contents import StreamPlace
from tailrace.store.serving import NewSegment, StreamNow

NEWEST_BYTES = 1_048_576
"""Of memory, for what is kept for those who follow; who lags behind more than that reads the archive."""
NEWEST_S = 1.0
"""And for so long: nobody who follows takes longer to come for them."""


class _Kept(NamedTuple):
    came_s: float
    number: int
    size_bytes: int
    item: Item


_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Followed:
    """Belongs to the loop that serves. Before `begin` it says nothing."""

    def __init__(self, stream_id: int, wire: Wire) -> None:
        self.stream_id = stream_id
        self.wire = wire
        self.begun = False
        self.gone = False
        """The archive has it no more."""
        self.numbers = Numbers()
        self.tail = 0
        """The number that comes next."""
        self.tail_ms = 0
        self.kept_from = 0
        """All from this number on up to the tail is at hand."""
        self._place = StreamPlace(stream_id, None, 0, -1, None, "")
        self._kept: list[_Kept] = []
        self._kept_bytes = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def place(self) -> StreamPlace:
        """Up to where it can be read from the archive."""
        return self._place

    @property
    def keeps(self) -> bool:
        return bool(self._kept)

    def begin(self, now: StreamNow | None) -> None:
        """Take how it is now, whatever was known before; None: it is gone."""
        self._kept, self._kept_bytes = [], 0
        self.begun, self.gone = True, now is None
        if now is not None:
            self._place = now.place
            self.numbers = Numbers.after(now.ends[: now.place.generation])
            self.tail = self.numbers.of(now.place.generation, now.place.last_index) + 1
            self.tail_ms = max(now.last_ms or 0, self.tail_ms)
        self.kept_from = self.tail
        self._ring()

    def add(self, segment: NewSegment, now_s: float) -> bool:
        """Take a segment that was committed. False: more than a segment came, and `begin` must tell what."""
        place = self._place
        here = (segment.generation, segment.last_index)
        if here <= (place.generation, place.last_index):
            return True
        texts = _texts(segment)
        if (segment.generation, segment.first_index) != (place.generation, place.last_index + 1):
            return False
        if place.wire is None or len(texts) != segment.last_index - segment.first_index + 1:
            return False
        for number, (text, at_ms) in enumerate(zip(texts, segment.emitted_ms, strict=True), self.tail):
            raw = bytes(text)
            size_bytes = held_bytes([raw])
            self._kept.append(_Kept(now_s, number, size_bytes, item_of(self.wire, number, raw, at_ms)))
            self._kept_bytes += size_bytes
        self._place = place._replace(last_index=segment.last_index)
        self.tail += len(texts)
        self.tail_ms = segment.emitted_ms[-1]
        while self._kept_bytes > NEWEST_BYTES and len(self._kept) > 1:
            self._drop(len(self._kept) // 2)
        self._ring()
        return True

    def forget_before(self, moment_s: float) -> None:
        """Drop what came before this moment."""
        self._drop(bisect_left(self._kept, moment_s, key=_came_s))

    def is_behind(self, checkpoint: tuple[int, int]) -> bool:
        """Return whether a row of the archive says more than is known here."""
        return checkpoint > (self._place.generation, self._place.last_index)

    def kept(self, number: int) -> Sequence[Item]:
        """Return what is at hand from this number on, which is not before `kept_from`."""
        if not self._kept or number >= self.tail:
            return ()
        at = bisect_left(self._kept, number, key=_number)
        return [each.item for each in self._kept[at:]]

    async def changed(self, timeout_s: float) -> None:
        """Wait until it grows, or is gone; not longer than this."""
        if timeout_s <= 0:
            return
        loop = asyncio.get_running_loop()
        bell: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(timeout_s, _rings, bell)
        self._waiting.add(bell)
        try:
            await bell
        finally:
            timer.cancel()
            self._waiting.discard(bell)

    def _drop(self, count: int) -> None:
        self._kept_bytes -= sum(each.size_bytes for each in self._kept[:count])
        self._kept = self._kept[count:]
        self.kept_from = self._kept[0].number if self._kept else self.tail

    def _ring(self) -> None:
        for bell in self._waiting:
            _rings(bell)


def _texts(segment: NewSegment) -> list[msgspec.Raw]:
    try:
        return _elements(segment.data) if segment.data is not None else []
    except msgspec.DecodeError:  # it takes less than Postgres does
        return []


_number, _came_s = attrgetter("number"), attrgetter("came_s")


def _rings(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)
