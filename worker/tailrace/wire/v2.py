"""Decode v2: server-sent events → records. One ``batch`` event holds up to 1 000 records.

Facts (protocol §2): ``headers`` and ``body`` are absent when empty; an ``error`` event arrives under status 200 and
is followed by an end without ``[DONE]``; ``tail.seq_num`` is the number that the next record will get.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import repeat
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from httpx_sse import ServerSentEvent

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.model import Arrival, Kind, PlainRecords, V2Record
from tailrace.redaction import excerpt
from tailrace.wire.envelope import envelope, envelopes, plain_envelopes
from tailrace.wire.events import OversizedEvent

MARKED_ID_BYTES = 200  # upstream's ids have 7 characters; the length of a mark is stored in one byte
MAX_NUMBER = (1 << 62) - 1  # the archive's numbers are 64 bits wide, with a sign
_Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class _Tail(msgspec.Struct):
    seq_num: _Number


class _Record(msgspec.Struct, gc=False):
    seq_num: _Number
    timestamp: int = 0
    headers: list[tuple[str, str]] | None = None
    body: str = ""


class _ReadBatch(msgspec.Struct):
    records: list[_Record] = []
    tail: _Tail | None = None


class _Ping(msgspec.Struct):
    tail: _Tail | None = None


_headers = attrgetter("headers")
_packed = struct.Struct("!I").pack
_read_batch = msgspec.json.Decoder(_ReadBatch)
_ping = msgspec.json.Decoder(_Ping)


class V2Decoder:
    """Decode the events of one connection."""

    def __init__(self) -> None:
        self._done = False

    def decode(self, events: list[ServerSentEvent]) -> Iterator[Arrival]:
        """Return one delivery for each batch, ping and ``[DONE]``.

        Raises:
            SourceUnavailable: an ``error`` event; what came before it has been given.
            MalformedRecord: not the documented shape. Terminal.
        """
        for event in events:
            name = event.event
            if name == "batch":
                if isinstance(event, OversizedEvent):
                    yield Arrival([], oversized=(event.id, event.data))
                else:
                    yield decode_read_batch(event.data)
            elif name == "ping":
                yield Arrival([], tail=_tail_of_ping(event.data), alive_after=True)
            elif name == "error":
                raise SourceUnavailable(f"upstream sent an error event: {excerpt(event.data, 200)}")
            elif event.data == "[DONE]":
                self._done = True
                yield Arrival([], alive_after=True)
            # Any other name, and the phantom of a comment, only shows that upstream lives.

    def finish(self) -> None:
        """Accept the end of the body.

        Raises:
            SourceUnavailable: ``[DONE]`` did not come: the body was cut off, however clean its end looked.
        """
        if not self._done:
            raise SourceUnavailable("the response ended without [DONE]")


def decode_read_batch(data: str) -> Arrival:
    """Decode the data of one ``batch`` event.

    Returns:
        Records in upstream order. Control and command records are kept: the position moves over them too, but what a
        control record says is dropped, because it can carry a live credential (``public-access-token``). A record with
        a number but of another shape than is documented is ODD.

    Raises:
        MalformedRecord: not the documented shape. Terminal.
    """
    try:
        batch = _read_batch.decode(data)
    except (msgspec.DecodeError, UnicodeError):
        return _decode_with_care(data)
    records: Sequence[V2Record] | None = _data_records(batch.records)
    if records is None:
        records = [_record(each.seq_num, each.timestamp, each.headers, each.body) for each in batch.records]
    return Arrival(records, tail=batch.tail.seq_num if batch.tail else None, alive_after=True)


_v2_record = partial(tuple.__new__, V2Record)  # a third of the time of V2Record(...), which is Python


def _data_records(records: list[_Record]) -> Sequence[V2Record] | None:
    """Make the records of a batch that are all ordinary data, as in nearly every batch; None when they are not."""
    if any(map(_headers, records)):
        return None
    bodies = [each.body for each in records]
    plain = plain_envelopes(bodies)
    taken_apart = plain or envelopes(bodies)
    if taken_apart is None:
        return None
    texts, ids = taken_apart
    numbers, times = [each.seq_num for each in records], [each.timestamp for each in records]
    if plain is not None:
        return PlainRecords(numbers, times, texts, ids, bodies)
    return list(map(_v2_record, zip(numbers, times, repeat(Kind.DATA), texts, ids, bodies, strict=False)))


def _record(seq_num: int, timestamp_ms: int, headers: list[tuple[str, str]] | None, body: str) -> V2Record:
    if headers:
        kind = _kind(headers)
        if kind is not Kind.DATA:
            return V2Record(seq_num, timestamp_ms, kind, b"", "", "")
    enveloped = envelope(body)
    if enveloped is None or enveloped.data is None:
        return V2Record(seq_num, timestamp_ms, Kind.ODD, b"", "", body)
    return V2Record(seq_num, timestamp_ms, Kind.DATA, enveloped.data, enveloped.id, body)


def _kind(headers: list[tuple[str, str]]) -> Kind:
    if headers[0][0] == "":
        return Kind.COMMAND
    if any(name == "trigger-control" for name, _ in headers):
        return Kind.CONTROL
    return Kind.DATA


def _decode_with_care(data: str) -> Arrival:
    """`decode_read_batch` for what msgspec refuses: lone surrogates, and batches with a record of a wrong shape."""
    try:
        batch = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedRecord("a v2 batch is not JSON") from None  # without its text: it may hold a credential
    if not isinstance(batch, dict) or not isinstance(batch.get("records", []), list):
        raise MalformedRecord("a v2 batch has no list of records")
    return Arrival([_any_record(each) for each in batch.get("records", [])], tail=_tail(batch), alive_after=True)


def _any_record(record: Any) -> V2Record:
    try:
        decoded = msgspec.convert(record, _Record)
    except (msgspec.ValidationError, UnicodeError):
        pass
    else:
        return _record(decoded.seq_num, decoded.timestamp, decoded.headers, decoded.body)
    seq_num = _number(record.get("seq_num")) if isinstance(record, dict) else None
    if seq_num is None:
        raise MalformedRecord("a v2 record has no seq_num")
    timestamp = record.get("timestamp")
    # Its headers are left out, because nobody knows what they are.
    shown = json.dumps({name: value for name, value in record.items() if name != "headers"}, ensure_ascii=False)
    return V2Record(seq_num, timestamp if type(timestamp) is int else 0, Kind.ODD, b"", "", shown)


def fingerprint_of(text: bytes, body_id: str) -> bytes:
    """Return what is the same for a record and its repeat by a retrying writer: checksum of the chunk, and body id."""
    return _packed(zlib.crc32(text)) + body_id.encode()[:MARKED_ID_BYTES]


def fingerprints_of(texts: Sequence[bytes], ids: Sequence[str]) -> list[bytes]:
    """Return the mark of each of many chunks."""
    encoded = list(map(str.encode, ids))
    sizes = set(map(len, encoded))
    if len(sizes) == 1 and (size := sizes.pop()) <= MARKED_ID_BYTES:  # as upstream's own writer makes them
        return list(map(_packed_with(size), map(zlib.crc32, texts), encoded))
    return [_packed(zlib.crc32(text)) + each[:MARKED_ID_BYTES] for text, each in zip(texts, encoded, strict=True)]


@cache
def _packed_with(id_bytes: int) -> Callable[[int, bytes], bytes]:
    return struct.Struct(f"!I{id_bytes}s").pack


def fingerprint_of_body(body: bytes) -> bytes | None:
    """Return the mark of a record's body; None when it is not the envelope."""
    enveloped = envelope(body)
    return None if enveloped is None or enveloped.data is None else fingerprint_of(enveloped.data, enveloped.id)


def _tail_of_ping(data: str) -> int | None:
    """Read the tail in a ping. A ping that can't be read shows as much as one without a tail: that upstream lives."""
    try:
        tail = _ping.decode(data).tail
    except (msgspec.DecodeError, UnicodeError):
        return None
    return tail.seq_num if tail else None


def _tail(batch: dict[str, Any]) -> int | None:
    tail = batch.get("tail")
    return _number(tail.get("seq_num")) if isinstance(tail, dict) else None


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_NUMBER else None
