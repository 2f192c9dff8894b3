"""v2: records as S2 keeps them, and the server-sent events that S2 makes of them. Pure (protocol §2.2, §2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

BATCH_MAX_RECORDS = 1000
BATCH_MAX_BYTES = 1024 * 1024  # metered, not as rendered: a data line can be longer than that

DONE = b"data: [DONE]\n\n"

Headers = tuple[tuple[str, str], ...]

_json_text = msgspec.json.Encoder().encode


class Draft(NamedTuple):
    """A record before it has a place. ``timestamp_ms`` None is the moment of the append."""

    body: bytes
    headers: Headers = ()
    timestamp_ms: int | None = None


class Tail(NamedTuple):
    """The number that comes next, and when the last record came (0 when none ever did)."""

    seq_num: int
    timestamp_ms: int


EMPTY = Tail(0, 0)


class Record:
    """One record as stored, with its JSON (``wire``) and its size as S2 counts it (``metered``), made once."""

    __slots__ = ("body", "headers", "metered", "seq_num", "timestamp_ms", "wire")

    def __init__(self, seq_num: int, timestamp_ms: int, body: bytes, headers: Headers = ()) -> None:
        self.seq_num = seq_num
        self.timestamp_ms = timestamp_ms
        self.body = body
        self.headers = headers
        self.metered = metered_bytes(body, headers)
        # Absent, not empty, when there is nothing; the raw format shows invalid UTF-8 as U+FFFD.
        shown_headers = b',"headers":%b' % _json_text(headers) if headers else b""
        shown_body = b',"body":%b' % _json_text(body.decode("utf-8", "replace")) if body else b""
        self.wire = b'{"seq_num":%d,"timestamp":%d%b%b}' % (seq_num, timestamp_ms, shown_headers, shown_body)

    def __repr__(self) -> str:
        return f"Record({self.seq_num}, {self.body!r}, {self.headers!r})"


def metered_bytes(body: bytes, headers: Headers = ()) -> int:
    """The size that S2 counts for a record."""
    header_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in headers)
    return 8 + 2 * len(headers) + header_bytes + len(body)


# What stands in a stream


def data_draft(text: str | bytes, body_id: str, timestamp_ms: int | None = None) -> Draft:
    """A chunk in the envelope that stream writers use; ``text`` is its JSON and stays as it is."""
    text = text.encode() if isinstance(text, str) else text
    return Draft(b'{"data":%b,"id":%b}' % (text, _json_text(body_id)), (), timestamp_ms)


# What goes over the wire


def batch_event(records: Sequence[Record], count: int, size_bytes: int, tail: Tail | None) -> bytes:
    """A ``batch`` event. ``count`` and ``size_bytes`` are the connection's totals so far, these records included."""
    return b'event: batch\nid: %d,%d,%d\ndata: {"records":[%b]%b}\n\n' % (
        records[-1].seq_num,
        count,
        size_bytes,
        b",".join([record.wire for record in records]),
        b',"tail":%b' % _tail_json(tail) if tail else b"",
    )


def ping_event(now_ms: int, tail: Tail) -> bytes:
    """A ``ping`` event."""
    return b'event: ping\ndata: {"timestamp":%d,"tail":%b}\n\n' % (now_ms, _tail_json(tail))


def error_event(code: str, message: str) -> bytes:
    """An ``error`` event. The HTTP status was 200 long ago, and no [DONE] follows."""
    return b"event: error\ndata: %b\n\n" % _json_text({"code": code, "message": message})


def _tail_json(tail: Tail) -> bytes:
    return b'{"seq_num":%d,"timestamp":%d}' % tail
