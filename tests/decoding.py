"""Run bytes through the decoders as a response would, cut into blocks at will."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx

from tailrace.errors import WorkerError
from tailrace.model import Arrival, V1Record, V2Record, Wire
from tailrace.source.connection import Tail
from tests.wirecases import WireCase

LIMIT = 1 << 24
EVENT_STREAM = {"content-type": "text/event-stream"}
V2_STREAM = {**EVENT_STREAM, "X-Stream-Version": "v2"}


class Blocks(httpx.SyncByteStream):
    """A body in blocks; what ``end`` is, if it is something, is raised after the last."""

    def __init__(self, blocks: Iterable[bytes], end: Exception | None = None) -> None:
        self._blocks = blocks
        self._end = end

    def __iter__(self) -> Iterator[bytes]:
        yield from self._blocks
        if self._end is not None:
            raise self._end


class GivenSource:
    """A source of streams that answers with what it was given. Fits `source.connection.Tail`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    @contextmanager
    def open(self, last_event_id: str | None, wait_s: int, start: str | None = None) -> Iterator[httpx.Response]:
        yield self._response

    def interrupt(self) -> None:
        raise AssertionError("nobody waits")


def blocks_of(body: bytes, *cuts: int) -> list[bytes]:
    """Cut a body at the given places."""
    return [body[start:end] for start, end in pairwise((0, *cuts, len(body)))]


def every(body: bytes, size: int) -> list[bytes]:
    """Cut a body into blocks of one size."""
    return [body[at : at + size] for at in range(0, len(body), size)]


def arrivals(
    blocks: Iterable[bytes],
    wire: Wire,
    *,
    limit: int = LIMIT,
    headers: dict[str, str] | None = None,
    end: Exception | None = None,
) -> Iterator[Arrival]:
    """Return what a connection brings whose body comes in these blocks. Raises what it raises."""
    shown = {**(V2_STREAM if wire is Wire.V2 else EVENT_STREAM), **(headers or {})}
    response = httpx.Response(200, headers=shown, stream=Blocks(blocks, end))
    with Tail(GivenSource(response), limit).connect(None, 1) as connection:  # type: ignore[arg-type]
        assert connection.wire is wire
        yield from connection.arrivals


def outcome(
    blocks: Iterable[bytes], wire: Wire, *, limit: int = LIMIT, headers: dict[str, str] | None = None
) -> tuple[list[Any], str]:
    """Return all records (and, for v2, tails) of a body in order, and the name of the error that ended it."""
    found: list[Any] = []
    try:
        for arrival in arrivals(blocks, wire, limit=limit, headers=headers):
            found += arrival.records
            if arrival.oversized is not None:
                found.append(arrival.oversized)
            if arrival.tail is not None:
                found.append(arrival.tail)
    except WorkerError as error:
        return found, type(error).__name__
    return found, ""


def case_outcome(case: WireCase, blocks: Iterable[bytes]) -> tuple[list[Any], str]:
    return outcome(blocks, case.wire)


def v1_event(record_id: str, text: str) -> bytes:
    return f"id: {record_id}\ndata: {text}\n\n".encode()


def v1_texts(records: Iterable[V1Record]) -> list[str]:
    return [record.text for record in records]


def v2_texts(records: Iterable[V2Record]) -> list[bytes]:
    return [record.text for record in records]
