"""Undo what lies between a response's bytes and its text: compression and UTF-8, in steps of bounded size.

httpx would decompress each block that arrives in one go, and a block of 64 KiB can hold 64 MiB of nothing. Bytes that
are not UTF-8 come out as surrogates (PEP 383), so that whoever encodes the text gets the very bytes back; httpx would
replace them without a word.
"""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Iterator

import httpx

from tailrace.errors import SourceUnavailable
from tailrace.redaction import excerpt

STEP_BYTES = 65_536
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BodyText:
    """One response body as text.

    Tailrace asks for no compression; something between it and upstream may compress all the same (protocol §1.1).
    """

    def __init__(self, response: httpx.Response) -> None:
        """Raises SourceUnavailable for a compression that is unknown here."""
        said = response.headers.get("content-encoding", "")
        encoding = said.strip().lower()
        self._window = _WINDOW.get(encoding, 0)
        if not self._window and encoding not in ("", "identity"):
            raise SourceUnavailable(
                f"the body is compressed with {excerpt(said, 40)!r}, which nobody asked for", status=200
            )
        self._unzip = zlib.decompressobj(self._window) if self._window else None
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._open = False  # something compressed has begun and not ended

    def feed(self, data: bytes) -> Iterator[str]:
        """Return the text that ``data`` completes, in pieces of bounded size; often one, sometimes none.

        Raises:
            SourceUnavailable: it can't be decompressed.
        """
        if self._unzip is None:
            yield self._decode(data)
            return
        try:
            while True:
                piece = self._unzip.decompress(data, STEP_BYTES)
                self._open = True
                if piece:
                    yield self._decode(piece)
                data = self._unzip.unconsumed_tail
                if self._unzip.eof:
                    self._open, data = False, self._unzip.unused_data.lstrip(b"\0")
                    if not data:
                        return
                    self._unzip = zlib.decompressobj(self._window)  # a body may be several, one after another
                elif not data and len(piece) < STEP_BYTES:
                    return
        except zlib.error as error:
            raise SourceUnavailable(f"the compressed body is damaged: {error}") from error

    def finish(self) -> None:
        """Accept the end of the body.

        Raises:
            SourceUnavailable: what is compressed has no end: the body was cut off, however clean its end looked.
        """
        if self._open:
            raise SourceUnavailable("the compressed body ended early")


class WholeText:
    """A body that is wanted as a whole, up to a size."""

    def __init__(self, response: httpx.Response, max_chars: int) -> None:
        self._body = BodyText(response)
        self._max_chars = max_chars
        self._size = 0
        self._pieces: list[str] = []

    def feed(self, data: bytes) -> bool:
        """Take some of the body in; False when it is too large, and the rest need not be read."""
        for piece in self._body.feed(data):
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > self._max_chars:
                return False
        return True

    def text(self) -> str:
        """Return the text at the end of the body.

        Raises:
            SourceUnavailable: the body was cut off.
        """
        self._body.finish()
        return "".join(self._pieces)


def read_text(response: httpx.Response, max_chars: int) -> str | None:
    """Read a body as a whole; None when it is larger than that."""
    whole = WholeText(response, max_chars)
    return whole.text() if all(whole.feed(data) for data in response.iter_raw()) else None
