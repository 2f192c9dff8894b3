"""Decode an answer that is a JSON array element by element, as it comes: it can be hundreds of megabytes. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.redaction import excerpt
from tailrace.source.answers import whole_number

ELEMENT_MAX_CHARS = 64 * 1_048_576
ARRAY_MAX_CHARS = 64 * ELEMENT_MAX_CHARS
"""Far more than upstream has to say: what has no end is not read to its end."""

_DECODER = json.JSONDecoder(parse_int=whole_number)
_BLANK = re.compile(r"[ \t\n\r]*")


class _Awaits(Enum):
    ARRAY = auto()
    FIRST = auto()  # or the end
    ELEMENT = auto()
    COMMA = auto()  # or the end
    NOTHING = auto()


class Elements:
    """The elements of one array. No more of the text is kept than what has not been decoded yet."""

    def __init__(
        self, what: str, element_max_chars: int = ELEMENT_MAX_CHARS, array_max_chars: int = ARRAY_MAX_CHARS
    ) -> None:
        """``what`` is for errors."""
        self._what = what
        self._element_max_chars = element_max_chars
        self._array_max_chars = array_max_chars
        self._awaits = _Awaits.ARRAY
        self._pieces: list[str] = []
        self._size = self._fed = 0
        self._enough = 0  # an element that was not whole is tried again when twice as much of it is there

    def feed(self, text: str) -> Iterator[Any]:
        """Return the elements that ``text`` completes.

        Raises:
            MalformedRecord: it is no array of JSON; after the elements before that.
            SourceUnavailable: an element, or the array, is larger than what is read.
        """
        self._pieces.append(text)
        self._size += len(text)
        self._fed += len(text)
        if self._size >= self._enough:
            yield from self._decode(last=False)
        if self._size > self._element_max_chars or self._fed > self._array_max_chars:
            raise SourceUnavailable(
                f"{self._what}: the answer is larger than {self._array_max_chars} characters, "
                f"or a part of it than {self._element_max_chars}"
            )

    def finish(self) -> Iterator[Any]:
        """Return the elements that are left at the end of the text.

        Raises:
            MalformedRecord: the array has not ended; after the elements before that.
        """
        yield from self._decode(last=True)
        if self._awaits is not _Awaits.NOTHING:
            raise self._malformed("".join(self._pieces))

    def _decode(self, *, last: bool) -> Iterator[Any]:
        text, at = "".join(self._pieces), 0
        try:
            while (at := _after_blank(text, at)) < len(text):
                if self._awaits in (_Awaits.FIRST, _Awaits.ELEMENT) and not (
                    self._awaits is _Awaits.FIRST and text[at] == "]"
                ):
                    try:
                        element, end = _DECODER.raw_decode(text, at)
                    except ValueError:
                        if last:
                            raise
                        break
                    follows = _after_blank(text, end)
                    if not last and text[follows : follows + 1] not in (",", "]"):
                        break  # a number may go on in the next piece: 0 . 5
                    at, self._awaits = end, _Awaits.COMMA
                    yield element
                    del element
                else:
                    self._awaits = _AFTER[self._awaits, text[at]]
                    at += 1
        except (ValueError, KeyError, RecursionError) as error:
            raise self._malformed(text[at:]) from error
        finally:
            self._pieces = [text[at:]]
            self._size = len(text) - at
            self._enough = min(2 * self._size, self._element_max_chars)

    def _malformed(self, text: str) -> MalformedRecord:
        return MalformedRecord(f"{self._what} is no JSON array: {excerpt(text, 200)!r}")


_AFTER = {
    (_Awaits.ARRAY, "["): _Awaits.FIRST,
    (_Awaits.FIRST, "]"): _Awaits.NOTHING,
    (_Awaits.COMMA, ","): _Awaits.ELEMENT,
    (_Awaits.COMMA, "]"): _Awaits.NOTHING,
}


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at
