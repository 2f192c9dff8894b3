"""How the whole fleet is, and how fast its runs and streams go: what `tailrace status` shows, again and again.

No statement looks at more than what is open, what has failed and what is shown, however much is archived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final

from tailrace.store.lag import LAG_S, RECENT_S, ago_s
from tailrace.store.queries import Archive, RunStatus, StreamStatus

__all__ = ["FAILED_COUNTED", "Fleet", "Overview", "RunProgress", "StreamProgress"]

FAILED_COUNTED: Final = 1_000
"""Failed runs and streams are counted so far: they stay until somebody retries or forgets them."""
WORST: Final = 5
"""Rows can say of a stream that it is further behind than it is by now, so some are looked at to find the worst."""

BEAT: Final = "(w.expires_at - w.lease_s * interval '1 second')"
STUCK_SINCE: Final = "s.stuck_at"
"""Since when the stream ``s`` is stuck, in SQL; null: it is not."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers and all streams of an archive.

    ``workers``: how many live. ``beat_s``: how long ago each of them was heard of, at most; when none lives, the last
    one that did; None: there was none within a day. ``lost_workers``: how many ended within the hour without a word.
    ``reading``: streams that have a reader. ``lag``: of the stream furthest behind, which ``behind`` names; None: none
    is. ``stuck``: streams that have a reader and get nowhere. ``failed_runs``, ``failed_streams``: at most
    `FAILED_COUNTED`.
    """

    at: datetime
    workers: int
    beat_s: float | None
    lost_workers: int
    slots: int
    reading: int
    pending: int
    active: int
    parked: int
    stuck: int
    halted: int
    failed_runs: int
    failed_streams: int
    lag: int | None
    lag_s: float | None
    behind: Behind | None


@dataclass(frozen=True, slots=True)
class Behind:
    """A stream by its names."""

    environment: str
    run_id: str
    stream_key: str


@dataclass(frozen=True, slots=True)
class StreamProgress(StreamStatus):
    """A stream, and how it goes. None where it is not known, and of a stream that is not open.

    ``lag_s``: at most so old is what is not stored yet; 0: all is. ``chunks_per_s``: lately. ``last_chunk_s``: how long
    ago the last chunk was stored. ``stuck_s``: for how long it has been stuck; None: it is not.
    """

    lag_s: float | None
    chunks_per_s: float | None
    last_chunk_s: float | None
    stuck_s: float | None


@dataclass(frozen=True, slots=True)
class RunProgress(RunStatus):
    """A run, and how its streams go.

    ``verdict``: as in view run_overview. ``workers``: who reads streams of it. ``lag``, ``lag_s``: of the stream
    furthest behind. ``chunks_per_s``: of all its streams. ``last_chunk_s``: the age of the newest. ``stuck_s``: of the
    one that has been stuck longest. ``last_error``: its own, else one of its streams'.
    """

    verdict: str
    workers: list[str]
    lag: int | None
    lag_s: float | None
    chunks_per_s: float | None
    last_chunk_s: float | None
    stuck_s: float | None


class Overview(Archive):
    """An archive, looked at as a whole. Thread-safe."""

    def fleet(self) -> Fleet:
        """Read how the fleet is."""
        row = dict(
            self._all(
                f"""
                WITH lives AS MATERIALIZED (
                    SELECT w.id, w.slots, w.expires_at > now() AS alive, {ago_s(BEAT)} AS beat_s
                    FROM tailrace.workers w
                ), open AS (
                    SELECT
                        count(*) FILTER (WHERE s.state = 'pending') AS pending,
                        count(*) FILTER (WHERE s.state = 'active') AS active,
                        count(*) FILTER (WHERE s.state = 'parked') AS parked,
                        count(l.id) AS reading,
                        count(*) FILTER (WHERE {STUCK_SINCE} IS NOT NULL) AS stuck
                    FROM tailrace.streams s LEFT JOIN lives l ON l.id = s.worker_id AND l.alive
                    WHERE s.state IN ('pending', 'active', 'parked')
                )
                SELECT
                    now() AS at, o.*,
                    (SELECT count(*) FROM lives WHERE alive) AS workers,
                    (SELECT count(*) FROM lives WHERE NOT alive AND beat_s < 3600) AS lost_workers,
                    (SELECT coalesce(max(beat_s) FILTER (WHERE alive), min(beat_s)) FROM lives) AS beat_s,
                    (SELECT coalesce(sum(slots), 0) FROM lives WHERE alive) AS slots,
                    (SELECT count(*) FROM tailrace.environments WHERE halted_at IS NOT NULL) AS halted,
                    (SELECT count(*) FROM (
                        SELECT FROM tailrace.runs WHERE state = 'failed' LIMIT {FAILED_COUNTED}) f) AS failed_runs,
                    (SELECT count(*) FROM (
                        SELECT FROM tailrace.streams WHERE state = 'failed' LIMIT {FAILED_COUNTED}) f) AS failed_streams
                FROM open o
                """
            )[0]
        )
        worst = self._all(
            f"""
            SELECT s.lag, {LAG_S} AS lag_s, e.name AS environment, r.run_id, s.stream_key
            FROM (
                SELECT id FROM tailrace.streams WHERE state IN ('pending', 'active', 'parked') AND lag IS NOT NULL
                ORDER BY lag DESC LIMIT {WORST}
            ) w
            JOIN tailrace.streams_now s ON s.id = w.id
            JOIN tailrace.runs r ON r.id = s.run
            JOIN tailrace.environments e ON e.id = r.environment_id
            LEFT JOIN LATERAL tailrace.recently_stored(s.id, s.generation, {RECENT_S}) p ON true
            ORDER BY s.lag DESC, s.id LIMIT 1
            """
        )
        if not worst:
            return Fleet(**row, lag=None, lag_s=None, behind=None)
        (found,) = worst
        names = Behind(found["environment"], found["run_id"], found["stream_key"]) if found["lag"] else None
        return Fleet(**row, lag=found["lag"], lag_s=found["lag_s"], behind=names)

    def newest_progress(self, limit: int, environment: str | None) -> list[RunProgress]:
        """Read the runs that were asked for last, newest first, and how each goes."""
        return self._progress(self.newest_runs(limit, environment))

    def progress(self, run: RunStatus) -> RunProgress:
        """Read how a run goes."""
        return self._progress([run])[0]

    def streams_progress(self, run: int) -> list[StreamProgress]:
        """Read the streams of a run, by key, and how each goes."""
        paces = self._paces([run])
        nothing: dict[str, Any] = dict.fromkeys(("lag_s", "chunks_per_s", "last_chunk_s", "stuck_s"))
        return [
            StreamProgress(**(asdict(each) | {name: paces.get(each.id, nothing)[name] for name in nothing}))
            for each in self.streams(run)
        ]

    def _progress(self, runs: Sequence[RunStatus]) -> list[RunProgress]:
        if not runs:
            return []
        ids = [run.id for run in runs]
        said = {
            row["run"]: row
            for row in self._all(
                "SELECT run, verdict, last_error FROM tailrace.run_overview WHERE run = ANY(CAST(:runs AS bigint[]))",
                runs=ids,
            )
        }
        paces: dict[int, list[dict[str, Any]]] = {run: [] for run in ids}
        for pace in self._paces(ids).values():
            paces[pace["run"]].append(pace)
        return [_together(run, said[run.id], paces[run.id]) for run in runs if run.id in said]

    def _paces(self, runs: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return how each stream of these runs goes, by its id."""
        rows = self._all(
            f"""
            SELECT
                s.id, s.run, s.open, CASE WHEN s.open THEN s.lag END AS lag,
                CASE WHEN s.open THEN {LAG_S} END AS lag_s,
                CASE WHEN s.open THEN coalesce(p.chunks_per_s, 0) END AS chunks_per_s,
                {ago_s("s.last_chunk_at")} AS last_chunk_s,
                {ago_s(STUCK_SINCE)} AS stuck_s,
                (SELECT w.host || ':' || w.pid FROM tailrace.workers w
                 WHERE w.id = s.worker_id AND w.expires_at > now()) AS worker
            FROM (
                SELECT n.*, n.state IN ('pending', 'active', 'parked') AS open
                FROM tailrace.streams_now n WHERE n.run = ANY(CAST(:runs AS bigint[]))
            ) s
            LEFT JOIN LATERAL
                tailrace.recently_stored(CASE WHEN s.open THEN s.id END, s.generation, {RECENT_S}) p ON true
            """,
            runs=list(runs),
        )
        return {row["id"]: dict(row) for row in rows}


def _together(run: RunStatus, said: Any, paces: Sequence[dict[str, Any]]) -> RunProgress:
    """Put a run's streams together. Pure."""

    def known(name: str) -> list[Any]:
        return [pace[name] for pace in paces if pace[name] is not None]

    return RunProgress(
        **asdict(replace(run, last_error=said["last_error"])),
        verdict=said["verdict"],
        workers=sorted(set(known("worker"))),
        lag=max(known("lag"), default=None),
        lag_s=max(known("lag_s"), default=None),
        chunks_per_s=sum(known("chunks_per_s")) if known("chunks_per_s") else None,
        last_chunk_s=min(known("last_chunk_s"), default=None),
        stuck_s=max(known("stuck_s"), default=None),
    )
