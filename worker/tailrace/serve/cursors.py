"""What upstream makes of the request headers ``Last-Event-ID`` and ``Timeout-Seconds``, accidents included. Pure.

Nothing here checks what a sensible client would send: the two wires read the same header by different rules, and
neither was written with the other's cursors in mind (protocol §1.1, §1.6, §2.4).
"""

from __future__ import annotations

import math
import re

from tailrace.serve.entries import V1Id

NEWEST = "$"
"""v1: only what comes after this moment."""

NEWEST_RECORD = -1
"""v2: from the newest record on, which a number from the end says."""

_REDIS_ID = re.compile(r"\+?(\d+)(?:-\+?(\d+))?", re.ASCII)
_JS_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_JS_PREFIXED = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)")
_JS_INTEGER_START = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(\d+))", re.ASCII)
_U64_MAX = 2**64 - 1


class Unreadable(Exception):
    """The service behind the web app cannot make sense of the cursor."""


def v1_cursor(last_event_id: str) -> V1Id:
    """The id that Redis reads in the header; entries strictly after it are sent. `NEWEST` is the caller's to handle.

    Raises:
        Unreadable: Redis refuses it. Upstream answers 200, tries three times, and cuts the body.
    """
    match = _REDIS_ID.fullmatch(last_event_id)
    if match is None:
        raise Unreadable(last_event_id)
    ms, seq = int(match[1]), int(match[2] or 0)
    if ms > _U64_MAX or seq > _U64_MAX:
        raise Unreadable(last_event_id)
    return V1Id(ms, seq)


def v2_start(last_event_id: str, stream_start: str = "") -> int:
    """The number at which upstream starts to read, before the storage clamps it to the tail.

    The rule: the text before the first ``-``, as a JavaScript number, plus one. When that is not finite or negative it
    says nothing, and neither does an empty one: then 0, or `NEWEST_RECORD` for ``latest`` in the other header. So ``0``
    and ``-1`` both start at 1, and the event's own id ``41,17,903`` starts at 0.

    Args:
        last_event_id: the header ``Last-Event-ID``; empty when it is absent.
        stream_start: the header ``X-Trigger-Stream-Start``, newer than the protocol's text. Source: the web app's
            `s2realtimeStreams.server.ts`, which then reads with ``tail_offset=1``. v1 does not know it.

    Raises:
        Unreadable: a number the storage refuses, such as 1.5. The web app turns that into a 500.
    """
    nowhere = NEWEST_RECORD if stream_start == "latest" else 0
    if not last_event_id:
        return nowhere
    number = js_number(last_event_id.split("-")[0])
    if not math.isfinite(number) or number < 0:
        return nowhere
    start = number + 1
    # From 1e21 on JavaScript writes an exponent, which is no integer to the storage; it stops at 2**64 before that.
    if not start.is_integer() or start > _U64_MAX:
        raise Unreadable(last_event_id)
    return int(start)


def timeout_seconds(header: str | None) -> float | None:
    """JavaScript's ``parseInt`` of the header: None when absent or empty, NaN when no number begins it."""
    if not header:
        return None
    match = _JS_INTEGER_START.match(header.strip())
    if match is None:
        return math.nan
    magnitude = int(match[2], 16) if match[2] else int(match[3])
    return -magnitude if match[1] == "-" else magnitude


def js_number(text: str) -> float:
    """JavaScript's ``Number(text)``: 0 for blank text, NaN for what is no number."""
    text = text.strip()
    if not text:
        return 0.0
    if _JS_DECIMAL.fullmatch(text):
        return float(text)
    if _JS_PREFIXED.fullmatch(text):
        return float(int(text, 0))
    if text in ("Infinity", "+Infinity"):
        return math.inf
    return -math.inf if text == "-Infinity" else math.nan
