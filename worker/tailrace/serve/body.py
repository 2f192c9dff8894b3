"""A streamed response body that follows the client's pace, notices when the client leaves, and can break off."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.errors import StoreUnavailable
from tailrace.serve import metrics
from tailrace.serve.connections import Connections

Answer = TypeVar("Answer")

_GZIP_HEADERS = [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
_WRITE_MAX_BYTES = 256 * 1024  # one write to the socket: enough to be fast, little enough to be fair


class BrokenOff(Exception):
    """Raised by the blocks of a body that is to end here and now, before its last chunk."""

    def end(self, transport: asyncio.Transport) -> None:
        """End the connection, after what was written."""
        transport.close()


class StreamBody(Response):
    """Sends blocks as they come; a clean end of the blocks is a clean end of the body.

    The next block is asked for when the socket has taken the last one: memory stays bounded however slow the client.
    When the client leaves, the blocks are cancelled at once, also while they wait. ``blocks`` and ``compress`` may be
    changed until it is sent.
    """

    def __init__(
        self,
        blocks: AsyncIterator[bytes],
        connections: Connections,
        *,
        status: int = 200,
        headers: list[tuple[str, str]],
        compress: bool = False,
        wire: str = metrics.ELSEWHERE,
    ) -> None:
        """``wire``: as what its reader is counted."""
        self.blocks = blocks
        self.compress = compress
        self._connections = connections
        self._readers = metrics.readers.labels(wire)
        self.status_code = status
        self.background = None
        self.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [*self.raw_headers, *(_GZIP_HEADERS if self.compress else ())]
        # Upstream's headers come at once, before any data.
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        sending = asyncio.create_task(self._send_blocks(send))
        left = asyncio.create_task(client_left(receive))
        transport = self._connections.begin_stream(scope)
        self._readers.inc()
        try:
            await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                return
            if broken := sending.result():
                if transport:
                    broken.end(transport)
                    # Waiting for it to be gone keeps the server from calling the missing end an error.
                    await left
                return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._readers.dec()
            self._connections.end_stream(transport)
            sending.cancel()
            left.cancel()
            await asyncio.gather(sending, left, return_exceptions=True)

    async def _send_blocks(self, send: Send) -> BrokenOff | None:
        try:
            async for block in _gzipped(self.blocks) if self.compress else self.blocks:
                for start in range(0, len(block), _WRITE_MAX_BYTES):
                    part = block[start : start + _WRITE_MAX_BYTES]
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                    metrics.sent_bytes.inc(len(part))
                    # A socket that takes everything never makes `send` wait, and the other streams want to be served.
                    await asyncio.sleep(0)
        except BrokenOff as broken:
            return broken
        except StoreUnavailable:  # whoever reads asks again, from where they are
            return BrokenOff()
        return None


async def client_left(receive: Receive) -> None:
    """Returns when the connection is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(receive: Receive, answer: Coroutine[Any, Any, Answer]) -> Answer | None:
    """What ``answer`` returns; None, with ``answer`` cancelled, when the client leaves before."""
    answering = asyncio.create_task(answer)
    left = asyncio.create_task(client_left(receive))
    try:
        await asyncio.wait({answering, left}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        answering.cancel()
        left.cancel()
        await asyncio.gather(answering, left, return_exceptions=True)


async def _gzipped(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The blocks as one gzip stream, flushed after each, as Express' compression does for event streams."""
    compressor = zlib.compressobj(level=6, wbits=31)
    async for block in blocks:
        yield compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()
