"""The run feed in the format of the Electric backend: a log of a row, with updates that carry only what changed.

A shape is made at the first request for a run and a set of columns. What changed is found by comparing the row with the
one before whenever somebody asks, so changes that nobody saw in between are one update here (protocol §5).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tailrace.serve.feed import (
    UP_TO_DATE,
    FeedAnswer,
    FeedRequest,
    feed_headers,
    row_key,
    row_value,
    schema_header,
)
from tailrace.serve.store import Run, Store
from tailrace.serve.timing import Timing

_FIRST_HANDLE = 3_833_821
_FIRST_LSN = 26_800_584
_CACHEABLE = "public, max-age=60, stale-while-revalidate=300"

_Offset = tuple[int, int]


@dataclass(slots=True)
class _Shape:
    handle: str
    row: dict[str, str | None]
    run: Run
    log: list[tuple[_Offset, dict[str, Any]]] = field(default_factory=list)


class ElectricFeed:
    """Answers feed requests from a store. ``page_messages`` is how many messages one answer holds at most.

    An answer that does not reach the end of the log lacks ``up-to-date``, and the client has to ask again.
    """

    def __init__(self, store: Store, timing: Timing, chance: random.Random, *, page_messages: int = 1000) -> None:
        self._store = store
        self._timing = timing
        self._chance = chance
        self._page_messages = page_messages
        self._shapes: dict[tuple[str, frozenset[str]], _Shape] = {}
        self._handles = 0
        self._lsn = _FIRST_LSN

    def rotate(self, run_id: str) -> None:
        """Drop the shapes of a run: their handles are answered 409, must-refetch, from now on."""
        for shape_id in [shape_id for shape_id in self._shapes if shape_id[0] == run_id]:
            self._shapes.pop(shape_id, None)

    async def answer(self, run: Run, request: FeedRequest) -> FeedAnswer:
        """What the log holds after the request's offset; with ``live``, waits for something when that is nothing."""
        shape = self._shape(run, request)
        initial = request.offset == "-1" or not request.handle
        if not initial and request.handle != shape.handle:
            return _must_refetch(shape, request)
        after = (-1, 0) if initial else _parse(request.offset)
        if request.live and not initial and not _messages(shape, after):
            changed = await self._store.run_changed(run.run_id, shape.run.updated_at, self._hold_s())
            shape = self._shape(changed or shape.run, request)
            if request.handle != shape.handle:  # rotated during the hold
                return _must_refetch(shape, request)
        return self._answer(shape, after, request)

    def _shape(self, run: Run, request: FeedRequest) -> _Shape:
        """The shape of this run and these columns, brought up to ``run``."""
        shape_id = (run.run_id, request.skip)
        value = row_value(run, request, " ")
        shape = self._shapes.get(shape_id)
        if shape is None:
            self._handles += 1
            handle = f"{_FIRST_HANDLE + self._handles}-{int(run.created_at.timestamp() * 1000)}"
            shape = self._shapes[shape_id] = _Shape(handle, value, run)
            insert = {"operation": "insert", "relation": ["public", "TaskRun"]}
            shape.log.append(((0, 0), {"key": row_key(run), "value": value, "headers": insert}))
        elif run.updated_at > shape.run.updated_at:
            changed = {name: text for name, text in value.items() if name == "id" or text != shape.row[name]}
            self._lsn += 8
            update = {
                "operation": "update",
                "lsn": str(self._lsn),
                "op_position": 4,
                "last": True,
                "txids": [self._lsn],
            }
            shape.log.append(((self._lsn, 4), {"key": row_key(run), "value": changed, "headers": update}))
            shape.row, shape.run = value, run
        return shape

    def _answer(self, shape: _Shape, after: _Offset, request: FeedRequest) -> FeedAnswer:
        messages = _messages(shape, after)
        page = messages[: self._page_messages]
        body = [message for _, message in page]
        tokens = {"handle": shape.handle, "offset": _show(page[-1][0]) if page else request.offset}
        if request.live:
            tokens["cursor"] = str(self._lsn)
        else:
            tokens["schema"] = schema_header(request.skip)
        if len(page) == len(messages):
            body.append(UP_TO_DATE)
            tokens["up-to-date"] = ""
        headers = feed_headers(tokens, request)
        if request.offset == "-1":
            headers["cache-control"] = _CACHEABLE
        return FeedAnswer(msgspec.json.encode(body), headers)

    def _hold_s(self) -> float:
        jitter = self._timing.live_poll_jitter
        return self._timing.live_poll_s * self._chance.uniform(1 - jitter, 1 + jitter)


def _must_refetch(shape: _Shape, request: FeedRequest) -> FeedAnswer:
    body = msgspec.json.encode([{"headers": {"control": "must-refetch"}}])
    tokens: Mapping[str, str] = {"handle": shape.handle}
    return FeedAnswer(body, feed_headers(tokens, request), status=409)


def _messages(shape: _Shape, after: _Offset) -> list[tuple[_Offset, dict[str, Any]]]:
    return [(offset, message) for offset, message in shape.log if offset > after]


def _parse(offset: str) -> _Offset:
    transaction, _, position = offset.partition("_")
    if not (transaction.isascii() and transaction.isdigit()):
        return (-1, 0)
    return (int(transaction), int(position) if position.isascii() and position.isdigit() else 0)


def _show(offset: _Offset) -> str:
    return f"{offset[0]}_{offset[1]}"
