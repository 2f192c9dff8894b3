"""Frame: text of a response body → server-sent events, a list for each block that arrived.

The fields of an event are read by httpx-sse. Its public iterator gives one event at a time and no hint of when it is
about to wait for the network, so a caller could not hand over what it has before it blocks; its decoder, which that
iterator is made of, is used directly instead (bounded to 0.4 in pyproject.toml, and `tests/unit/wire/test_events.py`
pins it).

Lines end at LF, with or without a CR before it, and at nothing else: U+2028, U+2029 and U+0085 are part of a chunk
(httpx-sse before 0.4.2 cut there), and so is a CR alone. The specification would end a line there too, but upstream
ends its lines with LF and puts whatever a writer sent between them: a CR is the writer's, and what follows it would
be lost.
"""

from __future__ import annotations

from sys import getsizeof

from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder

HEAD_CHARS = 4096
"""How much of an event that is too large is kept: enough to see what it was."""
PIECES = 1024
LARGE_BYTES = 65_536
"""From here on a line is not copied more than needed."""
BOM = "\ufeff"


class OversizedEvent(ServerSentEvent):
    """Stands for an event larger than the limit: its ``data`` is only the head, the rest was thrown away."""


class Framer:
    """One response body, block by block; how it is cut into blocks makes no difference.

    Never holds more than the event that is being received, and no more than ``max_bytes`` of it, in UTF-8. What the
    body's end cuts off is never given out, as the specification of server-sent events asks.

    ``held_bytes``: what the event that is not complete yet takes up in memory. A Python string takes 1, 2 or 4 bytes
    for each character, and some 50 besides.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held_bytes = 0
        self._fields = SSEDecoder()
        self._begun = False
        self._saw_cr = False
        self._line: list[str] = []  # the line that is not complete yet, in pieces
        self._line_chars = self._line_bytes = 0
        self._line_held = 0  # what it takes up in memory
        self._joined = 0  # so many of its pieces are joined from smaller ones
        self._line_cut = False  # it is too large: only its head is kept
        self._event_bytes = 0  # in the complete lines of the event that is not complete yet
        self._event_held = 0
        self._head: str | None = None  # that event is too large: the head of its data

    def feed(self, text: str) -> list[ServerSentEvent]:
        """Return the events that ``text`` completes, in order; often none.

        httpx-sse gives an event with empty data after a ``: ping`` comment once an id was seen (its issue 35); it is
        passed on: it shows that upstream lives.
        """
        if not self._begun:
            self._begun = bool(text)
            text = text.removeprefix(BOM)
        self._saw_cr = self._saw_cr or "\r" in text
        lines = text.split("\n")
        rest = lines.pop()
        if not lines:
            self._grow(rest)
            return []
        # Counted exactly only where that can matter: a character has 4 bytes at most.
        small = self._event_bytes + self._line_bytes + 4 * len(text) <= self._max_bytes
        if self._line:
            self._end_line(lines)
        if self._saw_cr:
            lines = [line.removesuffix("\r") for line in lines]
        if small and self._head is None and not self._line_cut:
            decode = self._fields.decode
            events = [event for line in lines if (event := decode(line)) is not None]
            self._count(lines)
        else:
            events = [event for line in lines if (event := self._decode(line)) is not None]
        self._grow(rest)
        self.held_bytes = self._event_held + self._line_held
        return events

    def _grow(self, piece: str) -> None:
        """Keep a piece of the line that is not complete yet; of one that is too large, only the head."""
        if not piece or self._line_cut:
            return
        self._line.append(piece)
        self._line_chars += len(piece)
        self._line_bytes += _utf8_bytes(piece)
        self._line_held += getsizeof(piece)
        if len(self._line) - self._joined == PIECES:  # a body that comes byte by byte
            self._line[self._joined :] = ["".join(self._line[self._joined :])]
            self._joined += 1
            self._line_held = sum(map(getsizeof, self._line))
        # One more than allowed, because the last may be a CR.
        if self._event_bytes + self._line_bytes > self._max_bytes + 1 and self._line_chars > HEAD_CHARS + len("data: "):
            self._line = [_beginning(self._line, HEAD_CHARS + len("data: "))]
            self._line_held = getsizeof(self._line[0])
            self._line_cut = True
        self.held_bytes = self._event_held + self._line_held

    def _end_line(self, lines: list[str]) -> None:
        """Put together the line that the first of ``lines`` completes."""
        pieces = [*self._line, lines[0]]
        size_bytes, held, cut = self._line_bytes, self._line_held, self._line_cut
        self._line, self._line_chars, self._line_bytes, self._line_held, self._joined = [], 0, 0, 0, 0
        whole = self._event_bytes + size_bytes + 4 * len(lines[0]) <= self._max_bytes
        if size_bytes < LARGE_BYTES or cut or self._head is not None or not whole or not pieces[0].startswith("data:"):
            lines[0] = "".join(pieces)
            return
        # What httpx-sse does with it, but for two copies of it.
        pieces[0] = pieces[0].removeprefix("data:").removeprefix(" ")
        if self._saw_cr:
            pieces[-1] = pieces[-1].removesuffix("\r")
        self._fields._data.append("".join(pieces))
        self._event_bytes += size_bytes + _utf8_bytes(lines[0])
        self._event_held += held + getsizeof(lines[0])
        del lines[0]

    def _count(self, lines: list[str]) -> None:
        """Count how much there is of the next event after these lines."""
        size = held = 0
        for line in reversed(lines):
            if not line:
                self._event_bytes, self._event_held = size, held
                return
            size += _utf8_bytes(line)
            held += getsizeof(line)
        self._event_bytes += size
        self._event_held += held

    def _decode(self, line: str) -> ServerSentEvent | None:
        """Decode a line of an event that may be too large."""
        cut, self._line_cut = self._line_cut, False
        fields = self._fields
        if not line:
            head, self._head, self._event_bytes, self._event_held = self._head, None, 0, 0
            event = fields.decode(line)
            return OversizedEvent(event=event.event, data=head, id=event.id) if event and head else event
        self._event_bytes += _utf8_bytes(line)
        self._event_held += getsizeof(line) if self._head is None else 0
        if self._head is None and (cut or self._event_bytes > self._max_bytes):
            self._head = "\n".join(fields._data)[:HEAD_CHARS]
            self._event_held = getsizeof(self._head)
            fields._data = [""]  # an event with nothing at all would not be given out
        field, _, value = line.partition(":")
        if self._head is None:
            fields.decode(line)
        elif field != "data":
            fields.decode(line[:HEAD_CHARS])
        elif len(self._head) < HEAD_CHARS:
            value = value.removeprefix(" ")
            self._head = f"{self._head}\n{value}"[:HEAD_CHARS] if self._head else value[:HEAD_CHARS]
        return None


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _beginning(pieces: list[str], chars: int) -> str:
    """Return the first characters of all pieces together, without putting them all together."""
    head = ""
    for piece in pieces:
        head += piece[: chars - len(head)]
        if len(head) == chars:
            break
    return head
