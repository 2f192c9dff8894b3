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

STEP_BYTES = 65_536
_WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class BodyText:
    """One response body as text.

    Tailrace asks for no compression; something between it and upstream may compress all the same (protocol §1.1).
    """

    def __init__(self, response: httpx.Response) -> None:
        """Raises SourceUnavailable for a compression that is unknown here."""
        encoding = response.headers.get("content-encoding", "").strip().lower()
        self._window = _WINDOW.get(encoding, 0)
        if not self._window and encoding not in ("", "identity"):
            raise SourceUnavailable(
                f"the body is compressed with {encoding[:40]!r}, which nobody asked for", status=200
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


def read_text(response: httpx.Response, max_chars: int) -> str | None:
    """Read a body as a whole; None when it is larger than that."""
    body = BodyText(response)
    pieces: list[str] = []
    size = 0
    for data in response.iter_raw():
        for piece in body.feed(data):
            pieces.append(piece)
            size += len(piece)
            if size > max_chars:
                return None
    body.finish()
    return "".join(pieces)
