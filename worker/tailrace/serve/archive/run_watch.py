"""Who waits for runs to change, or for a stream to be found: one question each for all of them, now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from tailrace.errors import StoreUnavailable
from tailrace.serve.archive.threads import Threads
from tailrace.store.serving import ArchivedRun, Serving

EVERY_S = 0.2
"""How often it is looked. A run changes a few times in its life, and is looked at upstream every few seconds."""


class Sought(NamedTuple):
    """A stream that the archive does not have yet."""

    environment: str
    run_id: str
    stream_key: str


class _Environment:
    """All runs of an environment. ``changed``: those of the last look that brought some."""

    def __init__(self) -> None:
        self.readers = 0
        self.versions: dict[int, str] | None = None
        self.changed: Sequence[ArchivedRun] = ()
        self.waiting: set[asyncio.Future[None]] = set()


class RunWatch:
    """Belongs to the loop that serves. It looks only while somebody waits."""

    def __init__(self, serving: Serving, threads: Threads) -> None:
        self._serving = serving
        self._threads = threads
        self._runs: dict[int, dict[asyncio.Future[None], str]] = {}
        self._sought: dict[Sought, set[asyncio.Future[int]]] = {}
        self._environments: dict[str, _Environment] = {}
        self._task: asyncio.Task[None] | None = None

    async def begin(self, environment: str) -> _Environment:
        """Watch all runs of an environment; return once what changes from now on will be told of by `any_changed`."""
        watched = self._environments.setdefault(environment, _Environment())
        watched.readers += 1
        try:
            while watched.versions is None:
                bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                watched.waiting.add(bell)
                await self._wait(bell, EVERY_S)
                watched.waiting.discard(bell)
        except BaseException:
            self.end(environment)
            raise
        return watched

    def end(self, environment: str) -> None:
        """Undo `begin`."""
        watched = self._environments[environment]
        watched.readers -= 1
        if not watched.readers:
            del self._environments[environment]

    async def any_changed(self, watched: _Environment, timeout_s: float) -> Sequence[ArchivedRun]:
        """Wait until runs of the environment change; return them, none when none did by then."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watched.waiting.add(bell)
        try:
            return watched.changed if await self._wait(bell, timeout_s) else ()
        finally:
            watched.waiting.discard(bell)

    async def changed(self, run: int, version: str, timeout_s: float) -> bool:
        """Wait until the row of a run has another version than this; return whether it has."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._runs.setdefault(run, {})
        waiting[bell] = version
        try:
            return await self._wait(bell, timeout_s)
        finally:
            waiting.pop(bell, None)
            if not waiting:
                self._runs.pop(run, None)

    async def found(self, sought: Sought, timeout_s: float) -> int | None:
        """Wait until the archive has a stream; return its id, None when it has not by then."""
        bell: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting = self._sought.setdefault(sought, set())
        waiting.add(bell)
        try:
            return bell.result() if await self._wait(bell, timeout_s) else None
        finally:
            waiting.discard(bell)
            if not waiting:
                self._sought.pop(sought, None)

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _wait(self, bell: asyncio.Future[None] | asyncio.Future[int], timeout_s: float) -> bool:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="tailrace run watch")
        done, _ = await asyncio.wait({bell}, timeout=max(timeout_s, 0))
        return bool(done)

    async def _run(self) -> None:
        while self._runs or self._sought or self._environments:
            await asyncio.sleep(EVERY_S)
            for look in (self._look_at_runs, self._look_for_streams, self._look_at_environments):
                await _or_later(look)
        self._task = None

    async def _look_at_runs(self) -> None:
        if not self._runs:
            return
        versions = await self._threads.run(self._serving.run_versions, list(self._runs))
        for run, waiting in list(self._runs.items()):
            for bell, version in waiting.items():
                if run in versions and versions[run] != version and not bell.done():
                    bell.set_result(None)

    async def _look_at_environments(self) -> None:
        if not self._environments:
            return
        found = await self._threads.run(self._serving.noted_lately, list(self._environments))
        for name, versions in found.items():
            watched = self._environments.get(name)
            if watched is None:
                continue
            before, watched.versions = watched.versions, versions
            changed = [] if before is None else [run for run in versions if before.get(run) != versions[run]]
            if changed:
                watched.changed = await self._threads.run(self._serving.runs_of, name, changed)
            if changed or before is None:
                for bell in watched.waiting:
                    if not bell.done():
                        bell.set_result(None)

    async def _look_for_streams(self) -> None:
        if not self._sought:
            return
        asked = list(self._sought)
        for sought, stream_id in (await self._threads.run(self._serving.streams_found, asked)).items():
            for bell in self._sought.get(Sought(*sought), ()):
                if not bell.done():
                    bell.set_result(stream_id)


async def _or_later(look: Callable[[], Awaitable[None]]) -> None:
    try:
        await look()
    except StoreUnavailable:
        return  # the follower says so; whoever waits here may wait longer
