"""Follow one connection to a stream: response → arrivals, and an honest word on how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from tailrace.errors import SourceUnavailable
from tailrace.model import Arrival, Wire
from tailrace.redaction import excerpt
from tailrace.room import Room, Share
from tailrace.source.asking import READ
from tailrace.source.body import BodyText
from tailrace.source.client import StreamSource
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder

NOTHING = Arrival([])
UNFINISHED = Arrival([], unfinished=True)
FOLLOWED = Arrival([], alive_after=True, unfinished=True)
CUT = "the connection was cut: its unfinished event took the room of others and did not grow"
UNBOUNDED = Room(1 << 62)
"""For whoever reads few streams, and bounds each by its largest event only."""


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
    """The upstream end of one stream, as its reader sees it. Stops reading its socket while there is no room."""

    def __init__(self, source: StreamSource, max_event_bytes: int, share: Share | None = None) -> None:
        """``share``: what its events take is counted there; None: nowhere."""
        self._source = source
        self._max_event_bytes = max_event_bytes
        self._share = share or UNBOUNDED.share()

    @contextlib.contextmanager
    def connect(self, last_event_id: str | None, wait_s: int, start: str | None = None) -> Iterator[Connection]:
        """Open the stream; what is asked for is that of `StreamSource.open`.

        Raises:
            What `source.answers.refuse` and `source.answers.translated` say, also inside the ``with``.
            SourceUnavailable also when the connection was cut because others needed the room (see `tailrace.room`).
        """
        share = self._share
        share.begin(self._source.interrupt)
        try:
            with self._source.open(last_event_id, wait_s, start) as response:
                decoding = Decoding(response, self._max_event_bytes)
                connection = Connection(wire_of(response), date_ms(response), self._arrivals(response, decoding))
                response.headers = READ
                yield connection
        finally:
            share.end()

    def interrupt(self) -> None:
        """Wake the reader that waits on the connection, or for room. From any thread."""
        self._source.interrupt()
        self._share.interrupt()

    def _arrivals(self, response: httpx.Response, decoding: Decoding) -> Iterator[Arrival]:
        share = self._share
        kept = 0  # what the last line takes while it is held, because nothing has followed it
        for data in response.iter_raw():
            for arrival in decoding.feed(data):
                if arrival.records or arrival.alive_after:
                    kept = 0 if arrival.alive_after else share.held_bytes - kept
                yield arrival
                del arrival  # it can be large, and the next may take long to come
                if not share.resize(decoding.held_bytes, kept):
                    self._refuse_cut()
                    return
        self._refuse_cut()
        decoding.finish()

    def _refuse_cut(self) -> None:
        if self._share.was_cut:
            raise SourceUnavailable(CUT)


class Decoding:
    """The body of one connection on its way from bytes to arrivals."""

    def __init__(self, response: httpx.Response, max_event_bytes: int) -> None:
        self._decoder = V2Decoder() if wire_of(response) is Wire.V2 else V1Decoder()
        self._framer = Framer(max_event_bytes)
        self._body = BodyText(response)
        self._open_ended = False  # nothing is known to follow the last record

    @property
    def held_bytes(self) -> int:
        """What the event that is not whole yet takes up in memory."""
        return self._framer.held_bytes

    def feed(self, data: bytes) -> Iterator[Arrival]:
        """Return what ``data`` completes; `NOTHING` or `UNFINISHED` for a piece that completes no event."""
        for text in self._body.feed(data):
            events = self._framer.feed(text)
            if events:
                for arrival in self._decoder.decode(events):
                    self._open_ended = not arrival.alive_after
                    yield arrival
                    del arrival
            elif self._open_ended and self._framer.held_bytes:
                self._open_ended = False
                yield FOLLOWED  # the beginning of another event is as good as all of it
            else:
                # The caller may want to do something else while a large event arrives.
                yield UNFINISHED if self._framer.held_bytes else NOTHING

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
        said = excerpt(content_type, 60)
        raise SourceUnavailable(f"upstream answered with {said!r} instead of an event stream", status=200)
    version = response.headers.get("X-Stream-Version", "v1")
    try:
        return Wire(version)
    except ValueError:
        said = excerpt(version, 20)
        raise SourceUnavailable(f"upstream speaks stream version {said!r}, unknown to Tailrace") from None


def date_ms(response: httpx.Response) -> int | None:
    """Return upstream's clock when it answered, in ms since 1970; None when the response does not say."""
    try:
        return int(parsedate_to_datetime(response.headers["date"]).timestamp() * 1000)
    except (KeyError, ValueError):
        return None
