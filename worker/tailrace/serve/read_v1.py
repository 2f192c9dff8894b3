"""The body of a v1 stream response: read, send, ping, close when idle. As upstream's loop does it (protocol §1.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tailrace.serve.body import BrokenOff
from tailrace.serve.entries import PING, LineJoiner, V1Id
from tailrace.serve.store import V1Stream
from tailrace.serve.timing import Timing


async def read_v1(stream: V1Stream, cursor: V1Id, idle_s: float, timing: Timing) -> AsyncIterator[bytes]:
    """Blocks of whole events after ``cursor``, for as long as something comes within ``idle_s``.

    The clocks are looked at once per read, so the close is late by up to one block. It is a clean end, whatever the run
    does; an unfinished line is sent before it.
    """
    loop = asyncio.get_running_loop()
    lines = LineJoiner()
    last_counted = last_sent = loop.time()
    while True:
        if loop.time() - last_sent >= timing.ping_s:
            yield PING
            last_sent = loop.time()
        entries = await stream.after(cursor, timing.block_s)
        if entries:
            cursor = entries[-1].id
            if events := lines.add(entries):
                yield events
            # Text without a whole line keeps the connection alive too; a skipped sentinel does not.
            if any(entry.counts for entry in entries):
                last_counted = last_sent = loop.time()
                continue
        if loop.time() - last_counted >= idle_s:
            break
    if events := lines.close():
        yield events


async def fail_v1(timing: Timing) -> AsyncIterator[bytes]:
    """What a cursor that Redis refuses gives: no byte, some tries, and a body that breaks off."""
    for wait_s in timing.error_waits_s:
        await asyncio.sleep(wait_s)
    raise BrokenOff
    yield b""  # makes this a generator
