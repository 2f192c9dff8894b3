"""Talk to upstream without blocking: what `source.client`, `source.connection` and `source.feed` do, for asyncio.

Only the waiting is here. Status → error, framing and decoding are theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import httpx

from tailrace.model import Arrival, RunView, StreamRef, Wire
from tailrace.source.answers import ANSWER_MAX_CHARS, REFUSAL_MAX_CHARS, refuse, translated
from tailrace.source.body import BodyText
from tailrace.source.client import stream_headers, stream_name, stream_path
from tailrace.source.connection import date_ms, wire_of
from tailrace.source.feed import FEED_PAGES, RunCursor
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder


@dataclass(frozen=True, slots=True)
class AsyncConnection:
    """An open connection; see `source.connection.Connection`."""

    wire: Wire
    date_ms: int | None
    arrivals: AsyncGenerator[Arrival, None]


class AsyncTail:
    """The upstream end of one stream, one connection at a time. The client is the caller's to close."""

    def __init__(self, client: httpx.AsyncClient, ref: StreamRef, max_event_chars: int) -> None:
        self._client = client
        self._path = stream_path(ref)
        self._name = stream_name(ref)
        self._max_event_chars = max_event_chars

    @contextlib.asynccontextmanager
    async def connect(self, last_event_id: str | None, wait_s: int) -> AsyncIterator[AsyncConnection]:
        """Open the stream after ``last_event_id``; see `source.connection.Tail.connect`."""
        with translated(self._name):
            async with self._client.stream(
                "GET", self._path, headers=stream_headers(last_event_id, wait_s)
            ) as response:
                if response.status_code != 200:
                    refuse(response.status_code, await _text(response, REFUSAL_MAX_CHARS) or "(too long)", self._name)
                yield AsyncConnection(wire_of(response), date_ms(response), self._arrivals(response))

    async def _arrivals(self, response: httpx.Response) -> AsyncGenerator[Arrival, None]:
        decoder = V2Decoder() if wire_of(response) is Wire.V2 else V1Decoder()
        framer = Framer(self._max_event_chars)
        body = BodyText(response)
        async for data in response.aiter_raw():
            for text in body.feed(data):
                events = framer.feed(text)
                if events:
                    for arrival in decoder.decode(events):
                        yield arrival
        body.finish()
        decoder.finish()


class AsyncRunFeed:
    """The feed of one run; see `source.feed.RunFeed`. The client is the caller's to close."""

    def __init__(self, client: httpx.AsyncClient, run_id: str) -> None:
        self._client = client
        self._cursor = RunCursor(run_id)

    async def look(self, live: bool) -> RunView:
        """Ask for the run; see `source.feed.RunFeed.look`."""
        cursor = self._cursor
        for _ in range(FEED_PAGES):
            with translated(cursor.name):
                async with self._client.stream("GET", cursor.path, params=cursor.query(live=live)) as response:
                    body = await _text(response, ANSWER_MAX_CHARS)
            if cursor.take(response.status_code, response.headers, body):
                return cursor.view()
        raise cursor.endless()


async def _text(response: httpx.Response, max_chars: int) -> str | None:
    """Read a body as a whole; None when it is larger than that. See `source.body.read_text`."""
    body = BodyText(response)
    pieces: list[str] = []
    size = 0
    async for data in response.aiter_raw():
        for piece in body.feed(data):
            pieces.append(piece)
            size += len(piece)
            if size > max_chars:
                return None
    body.finish()
    return "".join(pieces)
