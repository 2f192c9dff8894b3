"""The archive as one process serves it: its connections, those who follow it, and what was read last."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from tailrace.model import Wire
from tailrace.serve.archive.followed import Followed
from tailrace.serve.archive.follower import Follower
from tailrace.serve.archive.numbers import Item, held_bytes, items_of
from tailrace.serve.archive.run_watch import RunWatch
from tailrace.serve.archive.threads import Threads
from tailrace.store.engine import connections_in_use, create_engine, end
from tailrace.store.serving import Serving

READING = 8
"""Connections to Postgres, for whoever reads: more would make no two cores of it faster."""
CONNECTIONS = READING + 2
"""With those for what follows and for keys."""
PARTS_BYTES = 33_554_432
"""Of memory, for the parts that were read last: for readers that come one after another."""

_PartKey = tuple[int, Wire, int]


class _Part(NamedTuple):
    items: Sequence[Item]
    following: int
    size_bytes: int


class Archive:
    """Belongs to the loop that serves; opens connections when it needs them. Close it there."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, pool_size=CONNECTIONS, max_overflow=0, application_name="tailrace serve")
        self.serving = Serving(self.engine)
        self.threads = Threads(READING)
        # With a thread and a connection of its own: however many read, what is committed is seen at once.
        self._apart = Threads(1)
        self.follower = Follower(self.serving, self._apart, self._forget)
        self.run_watch = RunWatch(self.serving, self.threads)
        self._parts: OrderedDict[_PartKey, _Part] = OrderedDict()
        self._parts_bytes = 0
        self._reading: dict[_PartKey, asyncio.Task[_Part]] = {}

    def connections_in_use(self) -> int:
        """Return of how many of its connections to Postgres use is made now. From any thread."""
        return connections_in_use(self.engine)

    def stop_waiting(self) -> None:
        """Have those who wait for a run to change wait no more."""
        self.run_watch.let_go()

    async def close(self) -> None:
        """Look no more, and close the connections."""
        await self.follower.stop()
        await self.run_watch.stop()
        await asyncio.gather(*self._reading.values(), return_exceptions=True)
        self.let_go()

    def let_go(self) -> None:
        """Close the connections, once the loop has ended."""
        self.threads.close()
        self._apart.close()
        end(self.engine)

    async def part(self, followed: Followed, number: int) -> tuple[Sequence[Item], int]:
        """Read a part of a stream: what is stored from a number on, and the number from which the next part begins.

        Readers who want the same at once read it once.

        Raises:
            StoreUnavailable: Postgres did not answer.
        """
        key = (followed.stream_id, followed.wire, number)
        part = self._parts.get(key)
        if part is not None:
            self._parts.move_to_end(key)
            return part.items, part.following
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read(followed, number))
            task.add_done_callback(lambda done: self._read_done(key, done))
        part = await asyncio.shield(task)
        return part.items, part.following

    async def after_all_before(self, followed: Followed, emitted_ms: int) -> int:
        """Return the number after the last chunk that upstream dates before this moment."""
        found = await self.threads.run(self.serving.last_before, followed.stream_id, emitted_ms)
        return 0 if found is None else followed.numbers.of(*found) + 1

    async def _read(self, followed: Followed, number: int) -> _Part:
        place, numbers, tail = followed.place, followed.numbers, followed.tail
        generation, index = numbers.place(number)
        part = await self.threads.run(self.serving.part, place, generation, index)
        if part is None:
            return _Part((), tail, 0)
        first = numbers.of(generation, 0)
        items = items_of(followed.wire, first, part.stored, else_ms=followed.tail_ms)
        following = numbers.of(part.next_generation, part.next_index)
        read = _Part(items, following, held_bytes(each.text for each in part.stored))
        self._keep((followed.stream_id, followed.wire, number), read)
        return read

    def _read_done(self, key: _PartKey, task: asyncio.Task[_Part]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled():
            task.exception()  # taken, whether or not anybody waits for it still

    def _keep(self, key: _PartKey, part: _Part) -> None:
        if not part.items or key in self._parts:
            return
        self._parts[key] = part
        self._parts_bytes += part.size_bytes
        while self._parts_bytes > PARTS_BYTES and len(self._parts) > 1:
            self._parts_bytes -= self._parts.popitem(last=False)[1].size_bytes

    def _forget(self, stream_id: int) -> None:
        """Drop what was read of a stream that was forgotten."""
        for key in [key for key in self._parts if key[0] == stream_id]:
            self._parts_bytes -= self._parts.pop(key).size_bytes
