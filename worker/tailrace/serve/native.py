"""The run feed in the format of upstream's built-in backend: full rows each time (protocol §5)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
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
from tailrace.serve.listing import FEED_MAX_AGE, FeedWindow
from tailrace.serve.runs import EPOCH, Run, RunQuery
from tailrace.serve.seen import Seen
from tailrace.serve.store import Store
from tailrace.serve.timing import Timing

_RUNS_HANDLE = "runs"
_LATE = timedelta(
    seconds=1
)  # what is told of already and as young as this is looked at again: some becomes visible late
_DIGITS = 15  # milliseconds with more of them are beyond what Python can date


class NativeFeed:
    """Answers feed requests from a store. Offsets are ``<updatedAt in ms>_<count of answers>``."""

    def __init__(self, store: Store, timing: Timing, chance: random.Random) -> None:
        self._store = store
        self._timing = timing
        self._chance = chance
        self._count = 0
        self._seen = Seen()

    async def answer(self, run: Run, request: FeedRequest) -> FeedAnswer:
        """The row at once; with ``live`` and a handle, the row when it changed, or only `UP_TO_DATE` after the hold."""
        if not _follows(request):
            handle = request.handle if request.offset != "-1" and request.handle else f"run-{run.row_id}"
            return self._answer([(run, "insert")], request, handle, first=True)
        changed = await self._store.run_changed(run.run_id, _offset_time(request), self._hold_s())
        return self._answer([] if changed is None else [(changed, "update")], request, request.handle)

    async def answer_many(self, window: FeedWindow, now: datetime, request: FeedRequest) -> FeedAnswer:
        """Every run of the window at once; with ``live`` and a handle, what is new or changed, once something is.

        What a window reaches back to is fixed by its first request; the handle says it again.
        """
        handle, since = request.handle, window.since(now)
        if request.offset == "-1" or not handle:
            handle = f"{_RUNS_HANDLE}_{_ms(since)}_{self._count}_{self._chance.getrandbits(32):08x}"
        elif (fixed := _fixed(handle)) is not None:
            since = max(fixed, now - FEED_MAX_AGE)
        query = window.query(since)
        if not _follows(request):
            found = (await self._store.runs(query)).runs
            self._seen.put(handle, found)
            return self._answer([(run, "insert") for run in found], request, handle, first=True)
        news = await self._news(query, handle, _offset_time(request))
        return self._answer(news, request, handle)

    async def _news(self, query: RunQuery, handle: str, offset_time: datetime) -> list[tuple[Run, str]]:
        """What has become of the runs of a query since its reader asked; empty when nothing has, all of the hold."""
        time = asyncio.get_running_loop().time
        deadline = time() + self._hold_s()
        since = offset_time - _LATE
        while (left_s := deadline - time()) > 0:
            changed = await self._store.runs_changed(since, left_s)
            if not changed:
                break
            since = max(since, *(run.updated_at for run in changed))
            if news := self._seen.news(handle, filter(query.asks_for, changed), offset_time):
                return news
        # What became visible still later than that was missed above.
        found = (await self._store.runs(query)).runs
        news = self._seen.news(handle, found, offset_time)
        self._seen.put(handle, found)
        return news

    def _answer(
        self, changes: Sequence[tuple[Run, str]], request: FeedRequest, handle: str, *, first: bool = False
    ) -> FeedAnswer:
        self._count += 1
        rows: list[dict[str, Any]] = [
            {"key": row_key(run), "value": row_value(run, request, "T"), "headers": {"operation": operation}}
            for run, operation in changes
        ]
        tokens = {"handle": handle, "offset": self._offset((run for run, _ in changes), request, first=first)}
        tokens |= {"schema": schema_header(request.skip)} if first else {"cursor": str(self._count)}
        return FeedAnswer(msgspec.json.encode([*rows, UP_TO_DATE]), feed_headers(tokens, request))

    def _offset(self, runs: Iterable[Run], request: FeedRequest, *, first: bool) -> str:
        times = [_ms(run.updated_at) for run in runs]
        if not times and not first:
            return request.offset
        return f"{max([*times, 0 if first else _offset_ms(request)])}_{self._count}"

    def _hold_s(self) -> float:
        jitter = self._timing.live_poll_jitter
        return self._timing.live_poll_s * self._chance.uniform(1 - jitter, 1 + jitter)


def _follows(request: FeedRequest) -> bool:
    return request.live and bool(request.handle) and request.offset != "-1"


def _fixed(handle: str) -> datetime | None:
    """What the window of a handle reaches back to; None when it is no handle of many runs."""
    name, _, rest = handle.partition("_")
    ms = rest.partition("_")[0]
    return _moment(int(ms)) if name == _RUNS_HANDLE and _is_number(ms) else None


def _offset_time(request: FeedRequest) -> datetime:
    """The ``updatedAt`` that the client has, from its offset; the epoch when it makes no sense."""
    return _moment(_offset_ms(request))


def _offset_ms(request: FeedRequest) -> int:
    digits = request.offset.split("_")[0]
    return int(digits) if _is_number(digits) else 0


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) < _DIGITS


def _moment(ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=ms)


def _ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)
