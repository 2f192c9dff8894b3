"""The two routes that read a stream: ``/realtime/v1/streams/{run}/{key}`` and ``…/{run}/input/{key}``."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from starlette.responses import Response

from tailrace.model import Wire
from tailrace.serve import answers
from tailrace.serve.body import StreamBody
from tailrace.serve.cursors import NEWEST, Unreadable, timeout_seconds, v1_cursor, v2_start
from tailrace.serve.entries import BEGINNING
from tailrace.serve.read_v1 import fail_v1, read_v1
from tailrace.serve.read_v2 import read_v2
from tailrace.serve.store import NoSuchStream
from tailrace.serve.upstream import Asked, Upstream

_TOO_SHORT = "Timeout seconds must be greater than 0"
_TOO_LONG = "Timeout seconds must be less than 600"
_LONGEST_S = 600

_V1_HEADERS = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("Connection", "keep-alive"),
    ("Access-Control-Allow-Origin", "*"),
]
_V2_HEADERS = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache, no-transform"),
    ("Connection", "keep-alive"),
    ("X-Accel-Buffering", "no"),
    ("X-Stream-Version", "v2"),
    ("Access-Control-Expose-Headers", "*"),
    ("Access-Control-Allow-Origin", "*"),
]


async def run_stream(upstream: Upstream, asked: Asked) -> Response:
    """A stream that the run writes."""
    timeout_s = timeout_seconds(asked.request.headers.get("timeout-seconds"))
    # Upstream's checks are skipped for whatever JavaScript takes for false: 0 and NaN pass.
    if timeout_s is not None and timeout_s < 0:
        return answers.refused(_TOO_SHORT)
    if timeout_s is not None and timeout_s > _LONGEST_S:
        return answers.refused(_TOO_LONG)
    return await _read(upstream, asked, timeout_s)


async def input_stream(upstream: Upstream, asked: Asked) -> Response:
    """A stream that is written to the run; this route refuses 0 and what is no number."""
    timeout_s = timeout_seconds(asked.request.headers.get("timeout-seconds"))
    if timeout_s is not None and not timeout_s >= 1:
        return answers.refused(_TOO_SHORT)
    if timeout_s is not None and timeout_s > _LONGEST_S:
        return answers.refused(_TOO_LONG)
    return await _read(upstream, asked, timeout_s)


async def _read(upstream: Upstream, asked: Asked, timeout_s: float | None) -> Response:
    wire = await upstream.store.wire(asked.run, asked.target.key)
    if wire is Wire.V1:
        blocks, headers = await _v1_blocks(upstream, asked, timeout_s), _V1_HEADERS
        # Express compresses what may be transformed, for a client that offers it; v2 says no-transform.
        compress = upstream.compression and "gzip" in asked.request.headers.get("accept-encoding", "")
    else:
        try:
            blocks, headers = await _v2_blocks(upstream, asked, timeout_s), _V2_HEADERS
        except (NoSuchStream, Unreadable):
            return answers.failed()
        compress = False
    return StreamBody(blocks, upstream.connections, headers=headers, compress=compress, wire=wire)


async def _v1_blocks(upstream: Upstream, asked: Asked, timeout_s: float | None) -> AsyncIterator[bytes]:
    timing = upstream.timing
    stream = await upstream.store.v1_stream(asked.target.run_id, asked.target.key)
    last_event_id = asked.request.headers.get("last-event-id", "")
    try:
        if last_event_id == NEWEST:
            cursor = await stream.last_id()
        else:
            cursor = v1_cursor(last_event_id) if last_event_id else BEGINNING
    except Unreadable:
        return fail_v1(timing)
    unsaid = timeout_s is None or timeout_s == 0 or math.isnan(timeout_s)
    idle_s = timing.idle_s if unsaid else (timeout_s or 0) * timing.second_s
    return read_v1(stream, cursor, idle_s, timing)


async def _v2_blocks(upstream: Upstream, asked: Asked, timeout_s: float | None) -> AsyncIterator[bytes]:
    timing = upstream.timing
    headers = asked.request.headers
    start = v2_start(headers.get("last-event-id", ""), headers.get("x-trigger-stream-start", ""))
    if timeout_s is not None and math.isnan(timeout_s):
        raise Unreadable("the storage refuses wait=NaN")
    stream = await upstream.store.v2_stream(asked.target.run_id, asked.target.key)
    wait_s = timing.s2_wait_s if timeout_s is None else timeout_s * timing.second_s
    return read_v2(stream, start, wait_s, timing, upstream.now_ms, upstream.chance, upstream.ahead)
