"""Ask upstream with httpx, and let go of the answer at once.

A response and its stream hold each other, and with them the request, the client, its pool and the closed socket: a
hundred objects a connection, which would wait for the cyclic collector.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

GONE = httpx.ByteStream(b"")


@contextlib.contextmanager
def asked(client: httpx.Client, path: str, **how: Any) -> Iterator[httpx.Response]:
    """Ask for a path; give the response, its body unread. ``how``: as `httpx.Client.stream` takes it."""
    response = None
    try:
        with client.stream("GET", path, **how) as response:
            yield response
    finally:
        if response is not None:
            response.stream = GONE


@contextlib.asynccontextmanager
async def asked_async(client: httpx.AsyncClient, path: str, **how: Any) -> AsyncIterator[httpx.Response]:
    """`asked`, for asyncio."""
    response = None
    try:
        async with client.stream("GET", path, **how) as response:
            yield response
    finally:
        if response is not None:
            response.stream = GONE
