"""Follow one connection to a stream: response → arrivals, and an honest word on how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from tailrace.errors import SourceUnavailable
from tailrace.model import Arrival, Wire
from tailrace.source.body import BodyText
from tailrace.source.client import StreamSource
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder

NOTHING = Arrival([])


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection.

    ``date_ms``: upstream's clock when it answered, None when it did not say. ``arrivals`` blocks while nothing
    arrives and ends normally only on a clean end, which proves nothing about the stream (protocol §3). It raises
    SourceUnavailable on an ``error`` event, a v2 body without ``[DONE]`` and a body that is cut off, StreamStalled on
    silence, MalformedRecord on what is not the documented shape.
    """

    wire: Wire
    date_ms: int | None
    arrivals: Iterator[Arrival]


class Tail:
    """The upstream end of one stream, as its reader sees it."""

    def __init__(self, source: StreamSource, max_event_chars: int) -> None:
        self._source = source
        self._max_event_chars = max_event_chars

    @contextlib.contextmanager
    def connect(self, last_event_id: str | None, wait_s: int) -> Iterator[Connection]:
        """Open the stream after ``last_event_id``; ``wait_s`` is how long upstream may let it be silent.

        Raises:
            What `source.answers.refuse` and `source.answers.translated` say, also inside the ``with``.
        """
        with self._source.open(last_event_id, wait_s) as response:
            yield Connection(wire_of(response), date_ms(response), self._arrivals(response))

    def interrupt(self) -> None:
        """Wake the reader that waits on the connection. From any thread."""
        self._source.interrupt()

    def _arrivals(self, response: httpx.Response) -> Iterator[Arrival]:
        decoding = Decoding(response, self._max_event_chars)
        for data in response.iter_raw():
            yield from decoding.feed(data)
        decoding.finish()


class Decoding:
    """The body of one connection on its way from bytes to arrivals."""

    def __init__(self, response: httpx.Response, max_event_chars: int) -> None:
        self._decoder = V2Decoder() if wire_of(response) is Wire.V2 else V1Decoder()
        self._framer = Framer(max_event_chars)
        self._body = BodyText(response)

    def feed(self, data: bytes) -> Iterator[Arrival]:
        """Return what ``data`` completes; `NOTHING` for a piece that completes no event."""
        for text in self._body.feed(data):
            events = self._framer.feed(text)
            if events:
                yield from self._decoder.decode(events)
            else:
                yield NOTHING  # the caller may want to do something else while a large event arrives

    def finish(self) -> None:
        """Accept the end of the body.

        Raises:
            SourceUnavailable: it was cut off.
        """
        self._body.finish()
        self._decoder.finish()


def wire_of(response: httpx.Response) -> Wire:
    """Return the wire format of a response: v2 says so in ``X-Stream-Version``, v1 says nothing.

    Raises:
        SourceUnavailable: no event stream, or a version that Tailrace does not know.
    """
    content_type = response.headers.get("content-type", "")
    if not content_type.startswith("text/event-stream"):
        raise SourceUnavailable(f"upstream answered with {content_type[:60]!r} instead of an event stream", status=200)
    version = response.headers.get("X-Stream-Version", "v1")
    try:
        return Wire(version)
    except ValueError:
        raise SourceUnavailable(f"upstream speaks stream version {version[:20]!r}, unknown to Tailrace") from None


def date_ms(response: httpx.Response) -> int | None:
    """Return upstream's clock when it answered, in ms since 1970; None when the response does not say."""
    try:
        return int(parsedate_to_datetime(response.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return None
