"""The body of a v2 stream response: catch up, then follow. As S2's read session does it (protocol §2.2, §2.6)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

from tailrace.serve.records import DONE, Tail, batch_event, error_event, ping_event
from tailrace.serve.store import Page, StreamRemoved, V2Stream
from tailrace.serve.timing import Timing


async def read_v2(
    stream: V2Stream,
    start: int,
    wait_s: float,
    timing: Timing,
    now_ms: Callable[[], int],
    chance: random.Random,
) -> AsyncIterator[bytes]:
    """Events from number ``start`` on, one per block, until ``wait_s`` passes without a record; then ``[DONE]``.

    A start beyond the tail is moved to it; one below 0 is counted from there, -1 the newest record. Batches carry the
    tail only while following. With ``wait_s`` 0 there is no ping. A stream deleted meanwhile gives an error event and
    no ``[DONE]``.
    """
    try:
        async for event in _session(stream, start, wait_s, timing, now_ms, chance):
            yield event
    except StreamRemoved:
        yield error_event("unavailable", "stream was deleted while it was being read")
        return
    yield DONE


async def _session(
    stream: V2Stream,
    start: int,
    wait_s: float,
    timing: Timing,
    now_ms: Callable[[], int],
    chance: random.Random,
) -> AsyncIterator[bytes]:
    time = asyncio.get_running_loop().time
    following = (await stream.tail()).seq_num
    position = min(start, following) if start >= 0 else max(following + start, 0)
    deadline: float | None = None
    count = size_bytes = 0

    def take(page: Page, tail: Tail | None) -> bytes:
        nonlocal position, count, size_bytes
        position = page.records[-1].seq_num + 1
        count += len(page.records)
        size_bytes += sum(record.metered for record in page.records)
        return batch_event(page.records, count, size_bytes, tail)

    while True:
        page = await stream.since(position, 0)
        while page.records:
            yield take(page, None)
            deadline = time() + wait_s
            page = await stream.since(position, 0)
        position = page.tail.seq_num  # what was trimmed below the tail will not come any more
        if deadline is None:
            deadline = time() + wait_s
        if deadline <= time():
            return
        yield ping_event(now_ms(), page.tail)
        while not page.more:
            ping_at = time() + chance.uniform(timing.s2_ping_min_s, timing.s2_ping_max_s)
            page = await stream.since(position, min(ping_at, deadline) - time())
            if page.more:
                break  # more than a batch came at once: the follower lags, and has to catch up
            if page.records:
                last = page.records[-1]
                yield take(page, Tail(last.seq_num + 1, last.timestamp_ms))
                deadline = time() + wait_s
            elif time() >= deadline:
                return
            else:
                yield ping_event(now_ms(), page.tail)
