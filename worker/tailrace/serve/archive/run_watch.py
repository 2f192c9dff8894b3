"""Who waits for runs to change, or for a stream to be found: one question each for all of them, now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tailrace.serve import metrics
from tailrace.serve.archive.threads import Threads
from tailrace.store.serving import ArchivedRun, Serving
from tailrace.telemetry import Failing

EVERY_S = 0.2
"""How often it is looked. A run changes a few times in its life, and is looked at upstream every few seconds."""


class Sought(NamedTuple):
    """A stream that the archive does not have yet."""

    environment: str
    run_id: str
    stream_key: str


_Bell = asyncio.Future[Sequence[ArchivedRun]]


class _Environment:
    """All runs of an environment. ``versions``: as the last look found them; None: nobody has looked yet."""

    def __init__(self) -> None:
        self.readers = 0
        self.versions: dict[int, str] | None = None
        self._waiting: set[_Bell] = set()

    @asynccontextmanager
    async def bell(self) -> AsyncIterator[_Bell]:
        """Give what is told of the next changes."""
        bell: _Bell = asyncio.get_running_loop().create_future()
        self._waiting.add(bell)
        try:
            yield bell
        finally:
            self._waiting.discard(bell)

    def ring(self, changed: Sequence[ArchivedRun]) -> None:
        for bell in self._waiting:
            if not bell.done():
                bell.set_result(changed)


class RunWatch:
    """Belongs to the loop that serves. It looks only while somebody waits."""

    def __init__(self, serving: Serving, threads: Threads) -> None:
        self._serving = serving
        self._threads = threads
        self._runs: dict[int, dict[asyncio.Future[None], str]] = {}
        self._sought: dict[Sought, set[asyncio.Future[int]]] = {}
        self._environments: dict[str, _Environment] = {}
        self._over = asyncio.Event()
        self._failing = Failing("run_watching")
        self._task: asyncio.Task[None] | None = None

    async def any_changed(
        self, environment: str, ask: Callable[[], Awaitable[Sequence[ArchivedRun]]], timeout_s: float
    ) -> Sequence[ArchivedRun]:
        """Return what ``ask`` returns; when that is nothing, wait for runs of the environment that change.

        A change is in what ``ask`` finds, or seen afterwards: whoever asks is being watched for by then.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        watched = self._environments.setdefault(environment, _Environment())
        watched.readers += 1
        try:
            while watched.versions is None and not self._over.is_set():
                async with watched.bell() as bell:
                    await self._wait(bell, EVERY_S, gives_up=True)
            async with watched.bell() as bell:
                if found := await ask():
                    return found
                left_s = deadline - asyncio.get_running_loop().time()
                return bell.result() if await self._wait(bell, left_s, gives_up=True) else ()
        finally:
            watched.readers -= 1
            if not watched.readers:
                self._environments.pop(environment, None)

    async def changed(self, run: int, version: str, timeout_s: float) -> bool:
        """Wait until the row of a run has another version than this; return whether it has."""
        bell: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._runs.setdefault(run, {})
        waiting[bell] = version
        try:
            return await self._wait(bell, timeout_s, gives_up=True)
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
            return bell.result() if await self._wait(bell, timeout_s, gives_up=False) else None
        finally:
            waiting.discard(bell)
            if not waiting:
                self._sought.pop(sought, None)

    def let_go(self) -> None:
        """Nobody waits for a run any more, neither those who do nor those who come."""
        self._over.set()

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _wait(self, bell: asyncio.Future[Any], timeout_s: float, *, gives_up: bool) -> bool:
        """Wait for a bell; return whether it rang. ``gives_up``: not when nobody is to wait any more."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="tailrace run watch")
        waited_for: set[asyncio.Future[Any]] = {bell}
        if gives_up:
            waited_for.add(over := asyncio.ensure_future(self._over.wait()))
        try:
            await asyncio.wait(waited_for, timeout=max(timeout_s, 0), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if gives_up:
                over.cancel()
        return bell.done()

    async def _run(self) -> None:
        while self._runs or self._sought or self._environments:
            await asyncio.sleep(EVERY_S)
            for look in (self._look_at_runs, self._look_for_streams, self._look_at_environments):
                looked = False
                with self._failing:  # whoever waits may wait longer
                    await look()
                    looked = True
                if not looked:
                    metrics.failed_looks.labels("runs").inc()
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
            before = watched.versions
            changed = [] if before is None else [run for run in versions if before.get(run) != versions[run]]
            rows = await self._threads.run(self._serving.runs_of, name, changed) if changed else []
            watched.versions = versions
            if changed or before is None:
                watched.ring(rows)

    async def _look_for_streams(self) -> None:
        if not self._sought:
            return
        asked = list(self._sought)
        for sought, stream_id in (await self._threads.run(self._serving.streams_found, asked)).items():
            for bell in self._sought.get(Sought(*sought), ()):
                if not bell.done():
                    bell.set_result(stream_id)
