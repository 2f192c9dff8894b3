"""The fleet, worker by worker, and what it stored lately: for people who look. Nothing here writes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tailrace.store.bounded import ask
from tailrace.store.lag import LAG_S, RECENT_S, ago_s
from tailrace.store.leases import OPEN
from tailrace.store.overview import BEAT

__all__ = ["STATEMENT_S", "BehindNow", "Committed", "FleetView", "WorkerNow"]

STATEMENT_S: Final = 5.0
WORKERS_SHOWN: Final = 200
SEGMENTS_LOOKED_AT: Final = 5_000
BEHIND_LOOKED_AT: Final = 100_000


class WorkerNow(NamedTuple):
    """A worker, alive or ended without a word within a day. ``beat_s``: how long ago it was heard of."""

    host: str
    pid: int
    pool: str
    slots: int
    reading: int
    alive: bool
    beat_s: float
    started_at: datetime


class BehindNow(NamedTuple):
    """An open stream that is behind upstream's tail: by how many records, and for how long."""

    environment: str
    run_id: str
    stream_key: str
    lag: int
    lag_s: float | None


class Committed(NamedTuple):
    """Chunks that were committed lately.

    ``counts``: how many in each of equal spans, the oldest first, the last of which ends now; None: that long ago was
    not looked.
    """

    counts: list[int | None]


class FleetView:
    """Asks one archive. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
        NotMigrated, QueryRefused: it refused, or took longer than `STATEMENT_S`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def workers(self) -> list[WorkerNow]:
        """Read the workers, those that live first."""
        rows = self._ask(
            f"""
            SELECT w.host, w.pid, w.pool, w.slots,
                   (SELECT count(*) FROM tailrace.streams s WHERE s.worker_id = w.id AND {OPEN}) AS reading,
                   w.expires_at > now() AS alive, {ago_s(BEAT)} AS beat_s, w.started_at
            FROM tailrace.workers w ORDER BY alive DESC, w.host, w.pid LIMIT :most
            """,
            most=WORKERS_SHOWN,
        )
        return [WorkerNow(*row) for row in rows]

    def behind(self, environment: str | None, most: int) -> list[BehindNow]:
        """Read which open streams are furthest behind, those first."""
        rows = self._ask(
            f"""
            SELECT e.name, r.run_id, s.stream_key, s.lag, {LAG_S} AS lag_s
            FROM (
                SELECT o.id FROM (
                    SELECT s.id, s.lag, s.run FROM tailrace.streams s WHERE {OPEN} LIMIT :looked_at
                ) o
                WHERE o.lag > 0 AND (CAST(:environment AS text) IS NULL OR EXISTS (
                    SELECT FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
                    WHERE r.id = o.run AND e.name = :environment))
                ORDER BY o.lag DESC LIMIT 5 * :most
            ) w
            JOIN tailrace.streams_now s ON s.id = w.id
            JOIN tailrace.runs r ON r.id = s.run
            JOIN tailrace.environments e ON e.id = r.environment_id
            LEFT JOIN LATERAL tailrace.recently_stored(s.id, s.generation, {RECENT_S}) p ON true
            WHERE s.lag > 0 ORDER BY s.lag DESC, s.id LIMIT :most
            """,
            environment=environment,
            most=most,
            looked_at=BEHIND_LOOKED_AT,
        )
        return [BehindNow(*row) for row in rows]

    def committed(self, environment: str | None, span_s: int, spans: int) -> Committed:
        """Count the chunks that were committed within the last ``spans`` times ``span_s`` seconds.

        Looks at the newest `SEGMENTS_LOOKED_AT` segments: a fleet that stores more than that is told of as far back as
        these reach.
        """
        rows = self._ask(
            """
            WITH newest AS MATERIALIZED (
                SELECT g.stream_id, g.committed_at, g.chunk_count, g.committed FROM tailrace.segments g
                ORDER BY g.change_id DESC LIMIT :looked_at
            ), mine AS (
                SELECT n.* FROM newest n
                WHERE CAST(:environment AS text) IS NULL OR EXISTS (
                    SELECT FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
                    JOIN tailrace.environments e ON e.id = r.environment_id
                    WHERE s.id = n.stream_id AND e.name = :environment)
            )
            SELECT floor(extract(epoch FROM now() - t.at) / :span_s)::int AS ago, sum(t.n)::bigint AS chunks,
                   (SELECT CASE WHEN count(*) = :looked_at
                        THEN floor(extract(epoch FROM now() - min(n.committed_at)) / :span_s)::int END
                    FROM newest n) AS reach
            FROM mine m
            CROSS JOIN LATERAL (
                SELECT m.committed_at AS at, m.chunk_count AS n WHERE m.committed IS NULL
                UNION ALL SELECT c, 1 FROM unnest(m.committed) c
            ) t
            WHERE t.at > now() - :spans * :span_s * interval '1 second'
            GROUP BY 1
            """,
            environment=environment,
            span_s=span_s,
            spans=spans,
            looked_at=SEGMENTS_LOOKED_AT,
        )
        found = {max(0, row.ago): int(row.chunks) for row in rows}
        reach = min((row.reach for row in rows if row.reach is not None), default=spans)
        ages = range(spans - 1, -1, -1)
        return Committed([found.get(age, 0) if age < reach else None for age in ages])

    def _ask(self, statement: str, **parameters: Any) -> list[Any]:
        return list(ask(self._engine, STATEMENT_S, statement, parameters))
