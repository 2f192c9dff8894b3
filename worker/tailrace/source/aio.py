"""Wait for upstream without blocking: `source.connection.Tail` and `source.run_feed.RunFeed` for asyncio.

Only the waiting is here; what an answer means, framing and decoding are theirs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import httpx

from tailrace.model import Arrival, RunView, StreamRef, Wire
from tailrace.source.answers import REFUSAL_MAX_CHARS, refuse, translated
from tailrace.source.asking import asked_async
from tailrace.source.body import WholeText
from tailrace.source.client import stream_headers, stream_name, stream_path
from tailrace.source.connection import NOTHING, UNFINISHED, Decoding, date_ms, wire_of
from tailrace.source.feed import FeedCursor


@dataclass(frozen=True, slots=True)
class AsyncConnection:
    """An open connection; see `source.connection.Connection`."""

    wire: Wire
    date_ms: int | None
    arrivals: AsyncGenerator[Arrival, None]


class AsyncTail:
    """The upstream end of one stream, one connection at a time. The client is the caller's to close."""

    def __init__(self, client: httpx.AsyncClient, ref: StreamRef, max_event_bytes: int) -> None:
        self._client = client
        self._path = stream_path(ref)
        self._name = stream_name(ref)
        self._max_event_bytes = max_event_bytes

    @contextlib.asynccontextmanager
    async def connect(
        self, last_event_id: str | None, wait_s: int, start: str | None = None
    ) -> AsyncIterator[AsyncConnection]:
        """Open the stream; see `source.connection.Tail.connect`."""
        headers = stream_headers(last_event_id, wait_s, start)
        with translated(self._name):
            async with asked_async(self._client, self._path, headers=headers) as response:
                if response.status_code != 200:
                    refuse(response.status_code, await _text(response, REFUSAL_MAX_CHARS) or "(too long)", self._name)
                yield AsyncConnection(wire_of(response), date_ms(response), self._arrivals(response))

    async def _arrivals(self, response: httpx.Response) -> AsyncGenerator[Arrival, None]:
        decoding = Decoding(response, self._max_event_bytes)
        async for data in response.aiter_raw():
            for arrival in decoding.feed(data):
                if arrival is not NOTHING and arrival is not UNFINISHED:
                    yield arrival
        decoding.finish()


class AsyncRunFeed:
    """The feed of one run; see `source.run_feed.RunFeed`. The client is the caller's to close."""

    def __init__(self, client: httpx.AsyncClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._cursor = FeedCursor.of_run(run_id)

    async def look(self, live: bool) -> RunView:
        """Ask for the run; see `source.run_feed.RunFeed.look`."""
        cursor = self._cursor
        while True:
            with translated(cursor.name):
                async with asked_async(self._client, cursor.path, params=cursor.query(live)) as response:
                    answer = cursor.answer(response)
                    async for data in response.aiter_raw():
                        if not answer.feed(data):
                            break
                    up_to_date = answer.end()
            if up_to_date:
                return cursor.run(self._run_id)


async def _text(response: httpx.Response, max_chars: int) -> str | None:
    """Read a body as a whole; None when it is larger than that."""
    whole = WholeText(response, max_chars)
    async for data in response.aiter_raw():
        if not whole.feed(data):
            return None
    return whole.text()
