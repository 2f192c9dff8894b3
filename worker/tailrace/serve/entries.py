"""v1: entries as Redis keeps them, and the server-sent events that upstream makes of them. Pure.

An entry is a piece of text with an id; a chunk is a line. Upstream joins the entries, cuts at LF, drops blank lines and
sends each line with the id of the entry that completed it (protocol §1.3). So one id can cover many events, and a line
that lies over several entries carries the id of the last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PING = b": ping\n\n"

CLOSE_SENTINEL = b"<<CLOSE_STREAM>>"
"""An entry of old writers. Skipped when the entry is exactly this, a chunk like any other when a LF follows it."""

_JS_BLANKS = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"  # noqa: E501
"""What String.prototype.trim removes; str.strip() differs (it keeps U+FEFF and removes U+0085 and U+001C..U+001F)."""


class V1Id(NamedTuple):
    """A Redis stream id. Compared as a pair of numbers, never as text."""

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


BEGINNING = V1Id(0, 0)
"""Before every entry: Redis gives no entry this id."""


class Entry:
    """One entry: its id, its text as UTF-8, and ``wire``, the events of an entry that holds whole lines only.

    ``wire`` is rendered once, here, because it does not depend on the entries around it. It is None when the text does
    not end with LF: what such an entry becomes is decided by its neighbours. A skipped entry (the sentinel, or no text)
    has ``counts`` False: it does not even keep the connection from going idle.
    """

    __slots__ = ("counts", "data", "id", "wire")

    def __init__(self, entry_id: V1Id, data: bytes) -> None:
        self.id = entry_id
        self.data = data
        self.counts = bool(data) and data != CLOSE_SENTINEL
        self.wire: bytes | None
        if not self.counts:
            self.wire = b""
        elif data.endswith(b"\n"):
            self.wire = _events(data[:-1].split(b"\n"), entry_id)
        else:
            self.wire = None

    def __repr__(self) -> str:
        return f"Entry({self.id}, {self.data!r})"


class LineJoiner:
    """Makes the events of one response from the entries it reads, in order."""

    def __init__(self) -> None:
        self._begun = b""  # a line whose LF has not come yet
        self._last_id = BEGINNING

    def add(self, entries: Iterable[Entry]) -> bytes:
        """The events that these entries complete; empty when they complete none."""
        blocks: list[bytes] = []
        for entry in entries:
            wire = entry.wire
            if wire is not None and not self._begun:
                blocks.append(wire)
            elif entry.counts:
                *lines, self._begun = (self._begun + entry.data).split(b"\n")
                blocks.append(_events(lines, entry.id))
                self._last_id = entry.id
        return b"".join(blocks)

    def close(self) -> bytes:
        """What upstream still sends when it closes: the unfinished line, as if it were whole (protocol §1.3)."""
        line = js_trim(self._begun)
        self._begun = b""
        return _event(line, self._last_id) if line else b""


def js_trim(text: bytes) -> bytes:
    """JavaScript's ``trim`` of UTF-8 text."""
    return text.decode("utf-8", "replace").strip(_JS_BLANKS).encode()


def _events(lines: list[bytes], entry_id: V1Id) -> bytes:
    return b"".join([_event(line, entry_id) for line in lines if not _is_blank(line)])


def _event(line: bytes, entry_id: V1Id) -> bytes:
    return b"id: %d-%d\ndata: %b\n\n" % (entry_id.ms, entry_id.seq, line)


def _is_blank(line: bytes) -> bool:
    # A line that begins with a printable ASCII character, as almost all do, needs no decoding.
    return not line or (not 0x20 < line[0] < 0x7F and not js_trim(line))
