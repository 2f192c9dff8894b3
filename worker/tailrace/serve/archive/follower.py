"""The one place that looks for what was committed, for all readers of the process: two questions whatever they follow.

What is committed to a stream is told by the transactions that can be seen now and could not before, so nothing that is
committed late is passed over, and nothing that was seen is asked for again. Notifications are no part of it: each would
take a lock of the whole server in the commit, and none passes a pool of connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

from tailrace.errors import StoreUnavailable
from tailrace.model import Wire
from tailrace.serve import metrics
from tailrace.serve.archive.followed import NEWEST_S, Followed
from tailrace.serve.archive.threads import Threads
from tailrace.store.serving import Moment, Serving
from tailrace.telemetry import Failing

EVERY_S = 0.05
"""How often it is looked while anybody follows a stream: what was committed is shown within twice that."""
ROWS_EVERY_S = 1.0
"""How often the rows of streams are looked at: of what is no chunk there is no segment."""
AGAIN_S = 1.0
"""After so long when the database did not answer."""


class Follower:
    """Belongs to the loop that serves. A stream is followed as long as somebody holds what `follow` returned."""

    def __init__(self, serving: Serving, threads: Threads, gone: Callable[[int], None]) -> None:
        """``gone`` is told of a stream that the archive has no more."""
        self._serving = serving
        self._threads = threads
        self._gone = gone
        self._followed: WeakValueDictionary[tuple[int, Wire], Followed] = WeakValueDictionary()
        self._wanted = asyncio.Event()
        self._seen: Moment | None = None
        self._rows_at_s = 0.0
        self._failing = Failing("following")
        self._troubled = False
        self._task: asyncio.Task[None] | None = None

    async def follow(self, stream_id: int, wire: Wire) -> Followed:
        """Follow a stream; return it once it is known how far it goes.

        Raises:
            StoreUnavailable: Postgres did not answer.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="tailrace follower")
        followed = self._followed.get((stream_id, wire))
        if followed is None:
            followed = self._followed[stream_id, wire] = Followed(stream_id, wire)
        while not followed.begun:
            if self._troubled:
                raise StoreUnavailable("Postgres does not answer")
            self._wanted.set()
            await followed.changed(EVERY_S)
        return followed

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._followed:
                self._seen = None  # nothing that is committed meanwhile is of any interest
                self._wanted.clear()
                await self._wanted.wait()
            began_s = loop.time()
            self._wanted.clear()
            looked = False
            with self._failing, metrics.look_seconds.time():
                await self._look()
                looked = True
            self._troubled = not looked
            if not looked:
                metrics.failed_looks.labels("streams").inc()
                self._seen = None  # what was not given out is found anew
                await asyncio.sleep(AGAIN_S)
                continue
            left_s = began_s + EVERY_S - loop.time()
            if left_s > 0 and not self._wanted.is_set():
                timer = loop.call_later(left_s, self._wanted.set)
                await self._wanted.wait()
                timer.cancel()

    async def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        followed = list(self._followed.values())  # held until this is over
        anew = {each for each in followed if not each.begun}
        known = [each for each in followed if each.begun and not each.gone]
        if self._seen is None:
            self._seen = await self._threads.run(self._serving.now)
            anew.update(known)
        elif known:
            anew.update(await self._add(self._seen, known, now_s))
        for each in known:
            if each.keeps:
                each.forget_before(now_s - NEWEST_S)
        if now_s >= self._rows_at_s + ROWS_EVERY_S and known:
            self._rows_at_s = now_s
            rows = await self._threads.run(self._serving.checkpoints, _ids(known))
            anew.update(each for each in known if each.is_behind(rows.get(each.stream_id, _NO_MORE)))
        if anew:
            # After the look above: what it did not see is seen here, or by the next one.
            now = await self._threads.run(self._serving.streams_now, _ids(anew))
            for each in anew:
                each.begin(now.get(each.stream_id))
                if each.gone:
                    self._gone(each.stream_id)

    async def _add(self, before: Moment, known: list[Followed], now_s: float) -> set[Followed]:
        """Give out what was committed; return of which streams it must be read how they are now."""
        moment, segments = await self._threads.run(self._serving.committed, before, _ids(known))
        self._seen = moment
        if moment.server != before.server or moment.xmax < before.xmax:
            return set(known)  # another server, or one that went back: what was seen says nothing
        anew: set[Followed] = set()
        by_id: dict[int, list[Followed]] = {}
        for each in known:
            by_id.setdefault(each.stream_id, []).append(each)
        for segment in segments:
            for each in by_id[segment.stream_id]:
                if each not in anew and not each.add(segment, now_s):
                    anew.add(each)
        return anew


_NO_MORE = (1 << 62, 0)
"""Of a row that is not there: further than anything that is known, so that it is looked at anew."""


def _ids(followed: list[Followed] | set[Followed]) -> list[int]:
    return sorted({each.stream_id for each in followed})
