"""A model of a v1 stream upstream: entries that appear over time, connections that are cut anywhere."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.errors import SourceUnavailable
from tailrace.ingest.completeness import CLOCK_SLACK_MS
from tailrace.model import Arrival, Wire
from tailrace.serve.entries import BEGINNING, Entry, LineJoiner, V1Id
from tailrace.source.connection import Connection
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder, parse_id
from tests.simulation.archive import BEGAN_MS, Archive


class V1Upstream:
    """Serves ``entries``; more of them become visible as connections go on. Fits `ingest.reader.Connector`.

    ``keep``: how many of them are kept at least; None: all.
    """

    def __init__(
        self, entries: list[Entry], archive: Archive, dice: random.Random, cut: float = 0.3, keep: int | None = None
    ) -> None:
        self._entries = entries
        self._ids = [entry.id for entry in entries]
        self._archive = archive
        self._dice = dice
        self._cut = cut
        self._keep = keep
        self.visible = 0
        self.kept_from = 0
        self.asked: list[str | None] = []

    @property
    def now_ms(self) -> int:
        """Upstream's clock: it stands still while nothing is written."""
        return self._entries[self.visible - 1].id.ms if self.visible else BEGAN_MS

    def _write(self, count: int) -> None:
        self.visible = min(len(self._entries), self.visible + count)
        if self._keep is not None and self._dice.random() < 0.5:
            self.kept_from = max(self.kept_from, self.visible - self._keep)

    @contextmanager
    def connect(self, last_event_id: str | None, wait_s: int) -> Iterator[Connection]:
        self.asked.append(last_event_id)
        if self._dice.random() < 0.1:
            raise SourceUnavailable("refused", status=503)
        after = V1Id(*parse_id(last_event_id)) if last_event_id else BEGINNING
        if self._keep is None and self._dice.random() < 0.05:
            after = BEGINNING  # a response that somebody on the way has kept, or that lost our header
        yield Connection(Wire.V1, self.now_ms - CLOCK_SLACK_MS, self._deliveries(after))

    def interrupt(self) -> None:
        pass

    def _deliveries(self, after: V1Id) -> Iterator[Arrival]:
        """Return the events of one response, cut into blocks; then a clean end, or a cut at any byte."""
        decoder, framer = V1Decoder(), Framer(1 << 20)
        for block in self._body(after):
            at = 0
            while at < len(block):
                size = self._dice.choice((1, 7, 40, len(block)))
                events = framer.feed(block[at : at + size])
                at += size
                if events:
                    yield from decoder.decode(events)

    def _after(self, after: V1Id) -> list[Entry]:
        """Return what is there after an id."""
        first = bisect_right(self._ids, after, self.kept_from, self.visible)
        return self._entries[first : self.visible]

    def _body(self, after: V1Id) -> Iterator[str]:
        joiner, dice = LineJoiner(), self._dice
        while True:
            batch = self._after(after)
            if batch:
                batch = batch[: dice.randint(1, len(batch))]
                if self._keep is not None and dice.random() < 0.3:
                    self._write(dice.randint(1, 8))  # while the reader does something else
                after = batch[-1].id
                text = joiner.add(batch).decode()
                if text and dice.random() < self._cut:
                    yield text[: dice.randint(0, len(text))]
                    raise SourceUnavailable("cut")
                yield text
                if after == self._entries[self.visible - 1].id and dice.random() < 0.5:
                    self._archive.time_passes()
                continue
            if self.visible < len(self._entries) and dice.random() < 0.7:
                self._write(dice.randint(1, 4))
                continue
            if self._archive.texts and dice.random() < 0.3:
                yield ": ping\n\n"
                continue
            break
        # Idle: what has begun goes out as if it were whole, together with the end.
        last = joiner.close().decode()
        if last and dice.random() < self._cut:
            yield last[: dice.randint(0, len(last))]
            raise SourceUnavailable("cut")
        yield last
        if self.visible < len(self._entries):
            # A stream of single bytes has a hundred entries: not each of them needs a connection of its own.
            few = dice.randint(1, 1 + len(self._entries) // 16)
            self._write(few if self._keep is None else dice.choice((1, 1, 1, 20)))
        elif dice.random() < 0.5:
            self._archive.over = True


STYLES = ("line", "bytes", "mixed", "lumps")


def entries_of(lines: list[str], dice: random.Random, styles: tuple[str, ...] = STYLES) -> list[Entry]:
    """Cut a stream's text into entries: several lines in one, one line over several, one byte each."""
    text = "".join(line + "\n" for line in lines).encode()
    style = dice.choice(styles)
    pieces: list[bytes] = []
    at = 0
    while at < len(text):
        if style == "line":
            size = text.index(b"\n", at) + 1 - at
        elif style == "bytes":
            size = 1
        elif style == "lumps":
            size = dice.randint(20, 60)
        else:
            size = dice.choice((1, 2, 5, text.index(b"\n", at) + 1 - at, text.index(b"\n", at) - at or 1, 30))
        pieces.append(text[at : at + size])
        at += size
    ms, seq, entries = BEGAN_MS, 0, []
    for piece in pieces:
        if dice.random() < 0.4:
            ms, seq = ms + dice.randint(1, 9), 0
        else:
            seq += 1
        entries.append(Entry(V1Id(ms, seq), piece))
    return entries
