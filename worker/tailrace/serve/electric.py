"""The run feed in the format of the Electric backend: a log of rows, with updates that carry only what changed.

A shape is made at the first request for a run, or for the runs of a window, and a set of columns. What changed is
found by comparing the rows with those before whenever somebody asks, so changes that nobody saw in between are one
update here (protocol §5). A window is fixed when its shape is made: a run that grows older than it is still told of.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
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
from tailrace.serve.listing import FeedWindow
from tailrace.serve.runs import Run
from tailrace.serve.store import Store
from tailrace.serve.timing import Timing

_FIRST_HANDLE = 3_833_821
_FIRST_LSN = 26_800_584
_CACHEABLE = "public, max-age=60, stale-while-revalidate=300"

_Offset = tuple[int, int]


_ShapeId = tuple[str, frozenset[str]]


@dataclass(slots=True)
class _Row:
    value: dict[str, str | None]
    updated_at: datetime


@dataclass(slots=True)
class _Shape:
    handle: str
    since: datetime
    rows: dict[str, _Row] = field(default_factory=dict)
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
        self._shapes: dict[_ShapeId, _Shape] = {}
        self._handles = 0
        self._lsn = _FIRST_LSN

    def rotate(self, run_id: str) -> None:
        """Drop the shapes of a run: their handles are answered 409, must-refetch, from now on."""
        for shape_id in [shape_id for shape_id in self._shapes if shape_id[0] == run_id]:
            self._shapes.pop(shape_id, None)

    async def answer(self, run: Run, request: FeedRequest) -> FeedAnswer:
        """What the log of a run holds after the request's offset; with ``live``, waits for something when that is
        nothing."""
        shape = self._shape((run.run_id, request.skip), run.created_at)
        self._bring_up(shape, [run], request)
        if request.live and request.handle == shape.handle and not _messages(shape, _after(request)):
            seen_at = shape.rows[row_key(run)].updated_at
            changed = await self._store.run_changed(run.run_id, seen_at, self._hold_s())
            shape = self._shape((run.run_id, request.skip), run.created_at)  # another, if it was rotated meanwhile
            self._bring_up(shape, [changed or run], request)
        return self._answer(shape, request)

    async def answer_many(self, window: FeedWindow, now: datetime, request: FeedRequest) -> FeedAnswer:
        """What the log of the runs of a window holds after the request's offset; with ``live``, waits for something
        when that is nothing."""
        shape = self._shape((_name(window), request.skip), window.since(now))
        query = replace(window.query(shape.since), limit=None)
        self._bring_up(shape, (await self._store.runs(query)).runs, request)
        time = asyncio.get_running_loop().time
        deadline = time() + self._hold_s()
        since = max((row.updated_at for row in shape.rows.values()), default=shape.since)
        while request.live and request.handle == shape.handle and not _messages(shape, _after(request)):
            changed = await self._store.runs_changed(since, max(deadline - time(), 0))
            if not changed:
                break
            since = max(since, *(run.updated_at for run in changed))
            self._bring_up(shape, [run for run in changed if query.asks_for(run)], request)
        return self._answer(shape, request)

    def _shape(self, shape_id: _ShapeId, since: datetime) -> _Shape:
        if shape_id not in self._shapes:
            self._handles += 1
            handle = f"{_FIRST_HANDLE + self._handles}-{int(since.timestamp() * 1000)}"
            self._shapes[shape_id] = _Shape(handle, since)
        return self._shapes[shape_id]

    def _bring_up(self, shape: _Shape, runs: Sequence[Run], request: FeedRequest) -> None:
        """Add to the log what has become of the shape's rows."""
        first = not shape.log
        for run in runs:
            key, before = row_key(run), shape.rows.get(row_key(run))
            if before is not None and before.updated_at >= run.updated_at:
                continue
            value = row_value(run, request, " ")
            headers: dict[str, Any] = {"operation": "insert", "relation": ["public", "TaskRun"]}
            changed = value
            if before is not None:
                changed = {name: text for name, text in value.items() if name == "id" or text != before.value[name]}
                headers = {"operation": "update", "last": True}
            if not first:
                self._lsn += 8
                headers |= {"lsn": str(self._lsn), "op_position": 4, "txids": [self._lsn]}
            offset = (0, len(shape.log)) if first else (self._lsn, 4)
            shape.log.append((offset, {"key": key, "value": changed, "headers": headers}))
            shape.rows[key] = _Row(value, run.updated_at)

    def _answer(self, shape: _Shape, request: FeedRequest) -> FeedAnswer:
        if not _begins(request) and request.handle != shape.handle:
            return _must_refetch(shape, request)
        messages = _messages(shape, _after(request))
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


def _name(window: FeedWindow) -> str:
    return f"runs {window.age} {','.join(sorted(window.tags))}"


def _begins(request: FeedRequest) -> bool:
    return request.offset == "-1" or not request.handle


def _after(request: FeedRequest) -> _Offset:
    return (-1, 0) if _begins(request) else _parse(request.offset)


def _parse(offset: str) -> _Offset:
    transaction, _, position = offset.partition("_")
    if not (transaction.isascii() and transaction.isdigit()):
        return (-1, 0)
    return (int(transaction), int(position) if position.isascii() and position.isdigit() else 0)


def _show(offset: _Offset) -> str:
    return f"{offset[0]}_{offset[1]}"
