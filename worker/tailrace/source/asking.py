"""Ask upstream with httpx, and let go at once: of the question when it is answered, of the answer when it is left.

A response and its stream hold each other, and with them the client, its pool and the closed socket: a hundred objects
a connection, which would wait for the cyclic collector. The question, and the headers of the answer, two kilobytes
each, would be held for as long as a stream is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

GONE = httpx.ByteStream(b"")


ANSWERED = httpx.Request("GET", "http://upstream")
READ = httpx.Headers()


@contextlib.contextmanager
def asked(client: httpx.Client, path: str, **how: Any) -> Iterator[httpx.Response]:
    """Ask for a path; give the response, its body unread. ``how``: as `httpx.Client.build_request` takes it."""
    response = client.send(client.build_request("GET", path, **how), stream=True)
    response.request = ANSWERED
    try:
        yield response
    finally:
        response.close()
        response.stream = GONE


@contextlib.asynccontextmanager
async def asked_async(client: httpx.AsyncClient, path: str, **how: Any) -> AsyncIterator[httpx.Response]:
    """`asked`, for asyncio."""
    response = await client.send(client.build_request("GET", path, **how), stream=True)
    response.request = ANSWERED
    try:
        yield response
    finally:
        await response.aclose()
        response.stream = GONE
