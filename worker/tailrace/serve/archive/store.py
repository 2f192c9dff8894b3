"""The archive of one environment as a store of runs: what the routes serve instead of upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from tailrace.model import Wire
from tailrace.serve.archive.archive import Archive
from tailrace.serve.archive.run_watch import Sought
from tailrace.serve.archive.streams import ArchivedV1, ArchivedV2, Reading
from tailrace.serve.runs import FoundRuns, Run, RunQuery
from tailrace.store.serving import ArchivedRun, RunsAsked
from tailrace.wire.statuses import database_status

WIRE_WAIT_S = 10.0
"""So long a reader who comes before the first stream of a run was read waits for its wire to be known."""
WIRE_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class _Run(Run):
    """``read``: some stream of it was, so its wire is known."""

    read: bool = False


class ArchiveStore:
    """A `tailrace.serve.store.Store`. Costs nothing but its name: the `Archive` has what is dear.

    Raises StoreUnavailable, whatever is asked, when Postgres does not answer.
    """

    def __init__(self, archive: Archive, environment: str) -> None:
        self._archive = archive
        self._environment = environment

    async def run(self, run_id: str) -> Run | None:
        """None of a run that the archive does not have, and of one that upstream has not shown yet."""
        found = await self._find(run_id)
        return None if found is None else _run(found)

    async def run_changed(self, run_id: str, since: datetime, block_s: float) -> Run | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + block_s
        while (found := await self._find(run_id)) is not None:
            if found.updated_at > since:
                return _run(found)
            left_s = deadline - loop.time()
            if left_s <= 0 or not await self._archive.run_watch.changed(found.id, found.version, left_s):
                return None
        return None

    async def runs(self, query: RunQuery) -> FoundRuns:
        threads, serving = self._archive.threads, self._archive.serving
        forward = query.newer_than is None
        place = query.older_than or query.newer_than
        beyond = None if place is None else (place.created_at, place.run_id)
        asked = _asked(query, newest_first=forward, beyond=beyond, limit=query.limit)
        found, more = await threads.run(serving.runs, self._environment, asked)
        # Of those that stand on the other side of the place, itself included.
        others = beyond is not None and await threads.run(
            serving.any_run, self._environment, _asked(query, newest_first=not forward, at=beyond)
        )
        runs = [_run(each) for each in (found if forward else reversed(found))]
        return FoundRuns(runs, newer=others, older=more) if forward else FoundRuns(runs, newer=more, older=others)

    async def runs_changed(self, since: datetime, block_s: float) -> Sequence[Run]:
        """Looks at the runs that are watched: of the others upstream tells nothing new."""
        threads, serving = self._archive.threads, self._archive.serving

        async def noted() -> Sequence[ArchivedRun]:
            return await threads.run(serving.runs_noted_since, self._environment, since)

        return [_run(each) for each in await self._archive.run_watch.any_changed(self._environment, noted, block_s)]

    async def wire(self, run: Run, key: str) -> Wire:
        """What the archive knows; of a run of which nothing was read yet, once it was. v2, which upstream has run for
        years, when that takes too long."""
        if isinstance(run, _Run) and run.read:
            return run.wire
        deadline = asyncio.get_running_loop().time() + WIRE_WAIT_S
        while (found := await self._find(run.run_id)) is not None:
            if found.wire is not None:
                return Wire(found.wire)
            if found.over or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(WIRE_LOOK_S)
        return run.wire

    async def v1_stream(self, run_id: str, key: str) -> ArchivedV1:
        return ArchivedV1(await self._reading(run_id, key, Wire.V1), self._archive)

    async def v2_stream(self, run_id: str, key: str) -> ArchivedV2:
        """Every key exists, as it does upstream where reading creates a stream: one that the archive does not have is
        empty until it has."""
        return ArchivedV2(await self._reading(run_id, key, Wire.V2))

    async def has_stream(self, run_id: str, key: str) -> bool:
        """Return whether the archive has a stream."""
        return await self._stream(Sought(self._environment, run_id, key)) is not None

    async def is_forgotten(self, run_id: str) -> bool:
        """Return whether a run was forgotten, and must not be shown from elsewhere either."""
        return await self._archive.threads.run(self._archive.serving.is_forgotten, self._environment, run_id)

    async def _find(self, run_id: str) -> ArchivedRun | None:
        return await self._archive.threads.run(self._archive.serving.run, self._environment, run_id)

    async def _stream(self, sought: Sought) -> int | None:
        return (await self._archive.threads.run(self._archive.serving.streams_found, [sought])).get(sought)

    async def _reading(self, run_id: str, key: str, wire: Wire) -> Reading:
        sought = Sought(self._environment, run_id, key)
        stream_id = await self._stream(sought)
        followed = None if stream_id is None else await self._archive.follower.follow(stream_id, wire)
        return Reading(self._archive, sought, followed, wire)


def _run(row: ArchivedRun) -> Run:
    return _Run(
        run_id=row.run_id,
        wire=Wire(row.wire or Wire.V2),
        status=database_status(row.status),
        task_identifier=row.task_identifier or "",
        created_at=row.created_at,
        updated_at=row.updated_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        tags=tuple(row.tags),
        stream_keys=tuple(row.stream_keys),
        read=row.wire is not None,
    )


def _asked(
    query: RunQuery,
    *,
    newest_first: bool,
    beyond: tuple[datetime, str] | None = None,
    at: tuple[datetime, str] | None = None,
    limit: int | None = None,
) -> RunsAsked:
    return RunsAsked(
        newest_first=newest_first,
        since=query.since,
        until=query.until,
        tasks=_words(query.tasks),
        any_tag=_words(query.any_tag),
        all_tags=_words(query.all_tags) or (),
        statuses=_words(query.statuses),
        beyond=beyond,
        at=at,
        limit=limit,
    )


def _words(words: Iterable[str] | None) -> list[str] | None:
    return None if words is None else sorted(words)
