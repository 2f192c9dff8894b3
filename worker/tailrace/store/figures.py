"""What the archive says of the whole fleet's work, in figures. One function a statement; nothing here writes.

None of them takes longer because the archive is old: what is closed comes from the tallies
(migrations/schema/tallies.sql), what is open is counted up to `COUNTED`, and sizes are those of Postgres' own last look
at a table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from tailrace.model import Wire
from tailrace.store.bounded import ask
from tailrace.store.keeping.verification import COVERAGE, MISMATCHES_COUNTED, Coverage
from tailrace.store.lag import LAG_S, RECENT_S
from tailrace.store.leases import OPEN
from tailrace.store.statements import QueryRefused
from tailrace.wire.keeping import KEPT_S

__all__ = ["COUNTED", "Figures"]

T = TypeVar("T")

COUNTED: Final = 100_000
"""Of what is open no more is looked at: a third of a second, and more is as bad."""
STATEMENT_S: Final = 5.0
WAITING: Final = 10_000
"""Of what waits for maintenance no more is looked at: it is much too much."""
OVERDUE_S: Final = 60.0
"""What is due for so long and read by nobody has nobody to read it."""
WORST: Final = 50
"""So many streams that seem to be furthest behind are looked at closely."""

# Who reads it now: the holder of the lease, while its row lives.
_LEASED = """EXISTS (SELECT FROM tailrace.workers w WHERE w.id = s.worker_id AND w.expires_at > now())"""
# Of open streams s, and since when nothing new was heard of each: until upstream may forget what was not read.
_OPEN_FACTS = f"""
SELECT s.*, {_LEASED} AS leased, coalesce(s.last_chunk_at, s.created_at) AS heard_at,
       CASE s.wire WHEN 'v2' THEN CAST(:v2_kept_s AS float8) ELSE :v1_kept_s END AS kept_s,
       -- One lookup for each, however many runs there are: a join might read them all.
       (SELECT r.environment_id FROM tailrace.runs r WHERE r.id = s.run) AS environment_id
FROM tailrace.streams s WHERE {OPEN} LIMIT :counted
"""
_FORGOTTEN_IN_S = "(extract(epoch FROM o.heard_at - now()) + o.kept_s)"
# Of such a stream o in environment e: it is not being read as it should.
_NEGLECTED = """(
    o.attempt > 0 OR o.stuck_at IS NOT NULL OR e.halted_at IS NOT NULL
    OR NOT o.leased AND o.next_attempt_at < now() - :overdue_s * interval '1 second'
)"""
_KEEPING = {"overdue_s": OVERDUE_S, "v1_kept_s": KEPT_S[Wire.V1], "v2_kept_s": KEPT_S[Wire.V2]}


@dataclass(frozen=True, slots=True)
class Held:
    """What is closed, of one environment, state and verdict; as it was when its days were last counted."""

    environment: str
    state: str
    verdict: str
    streams: int
    chunks: int
    bytes: int
    losses: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Open:
    """Streams that are being archived, of one environment and state.

    ``leased``: somebody reads them now. ``troubled``: the last attempt failed. ``lag``: of the one furthest behind
    upstream's tail, in records; None: no tail is known (v1 tells none). ``forgotten_in_s``: until upstream may forget
    what was not read of one that is not being read as it should; None: there is none. Negative: it may have.
    """

    environment: str
    state: str
    streams: int
    chunks: int
    bytes: int
    leased: int
    troubled: int
    stuck: int
    lag: int | None
    oldest_s: float
    forgotten_in_s: float | None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """An open stream that is not being read as it should. ``forgotten_in_s``: until upstream may forget what was not
    read of it; negative: it may have."""

    environment: str
    run_id: str
    stream_key: str
    state: str
    last_error: str | None
    forgotten_in_s: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers. ``beat_age_s``: since the last sign of life of any of them; None: there never was one in a day."""

    workers: int
    slots: int
    beat_age_s: float | None


@dataclass(frozen=True, slots=True)
class EnvironmentState:
    """One environment: since when it is halted, and how far new runs have been found; None: it is not, they are not."""

    environment: str
    halted_s: float | None
    discovery_lag_s: float | None


@dataclass(frozen=True, slots=True)
class BackfillState:
    """The backfills of one environment that are not over. ``page_age_s``: since one was last taken forward or begun."""

    environment: str
    running: int
    seen: int
    requested: int
    failing: int


@dataclass(frozen=True, slots=True)
class Chores:
    """What waits for maintenance, and what the database says of itself. Ages are None when there is nothing."""

    unsent: int
    unsent_age_s: float | None
    uncompacted: int
    partitions_ahead_s: float
    tally_age_s: float | None
    size_bytes: int
    sessions: int
    sessions_limit: int


class Figures:
    """Asks one archive. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
        NotMigrated, QueryRefused: it refused, or took longer than `STATEMENT_S` for one statement.
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._until = math.inf

    @contextmanager
    def within(self, limit_s: float) -> Iterator[None]:
        """Take no longer than this for all that is asked inside the ``with``. For one thread at a time."""
        self._until = self._clock() + limit_s
        try:
            yield
        finally:
            self._until = math.inf

    def _ask(self, statement: str, **parameters: object) -> Sequence[sa.Row[Any]]:
        left_s = min(STATEMENT_S, self._until - self._clock())
        if left_s <= 0:
            raise QueryRefused("the figures took too long together")
        return ask(self._engine, left_s, statement, parameters)

    def coverage(self) -> Coverage:
        """Read how much is verified, as `Verification.coverage` does."""
        return Coverage(**self._ask(COVERAGE, most=MISMATCHES_COUNTED)[0]._mapping)

    def held(self) -> list[Held]:
        """Add up what is closed."""
        return _all(
            Held,
            self._ask(
                """
                SELECT e.name AS environment, t.state, t.verdict, sum(t.streams)::bigint AS streams,
                       sum(t.chunks)::bigint AS chunks, sum(t.bytes)::bigint AS bytes,
                       sum(t.losses)::bigint AS losses, sum(t.quarantined)::bigint AS quarantined
                FROM tailrace.tallies t JOIN tailrace.environments e ON e.id = t.environment_id
                GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
                """
            ),
        )

    def open(self) -> list[Open]:
        """Count what is open, by environment and state, up to `COUNTED` streams."""
        return _all(
            Open,
            self._ask(
                f"""
                SELECT e.name AS environment, o.state, count(*) AS streams, sum(o.chunk_count)::bigint AS chunks,
                       sum(o.byte_count)::bigint AS bytes, count(*) FILTER (WHERE o.leased) AS leased,
                       count(*) FILTER (WHERE o.attempt > 0) AS troubled,
                       count(*) FILTER (WHERE o.stuck_at IS NOT NULL) AS stuck, max(o.lag) AS lag,
                       max(extract(epoch FROM now() - o.created_at))::float8 AS oldest_s,
                       min({_FORGOTTEN_IN_S}) FILTER (WHERE {_NEGLECTED})::float8 AS forgotten_in_s
                FROM ({_OPEN_FACTS}) o
                JOIN tailrace.environments e ON e.id = o.environment_id
                GROUP BY 1, 2 ORDER BY 1, 2
                """,
                counted=COUNTED,
                **_KEEPING,
            ),
        )

    def forgotten_next(self, limit: int, environment: str | None = None) -> list[Forgotten]:
        """Read which streams that are not being read as they should upstream may forget first, those first."""
        return _all(
            Forgotten,
            self._ask(
                f"""
                SELECT e.name AS environment, r.run_id, o.stream_key, o.state, o.last_error,
                       {_FORGOTTEN_IN_S}::float8 AS forgotten_in_s
                FROM ({_OPEN_FACTS}) o
                JOIN tailrace.environments e ON e.id = o.environment_id
                JOIN tailrace.runs r ON r.id = o.run
                WHERE {_NEGLECTED} AND (CAST(:environment AS text) IS NULL OR e.name = :environment)
                ORDER BY forgotten_in_s, o.id LIMIT :limit
                """,
                counted=COUNTED,
                limit=limit,
                environment=environment,
                **_KEEPING,
            ),
        )

    def lag_seconds(self) -> dict[str, float]:
        """Return for how long the stream that is worst off has been behind upstream's tail, by environment: `lag.LAG_S`
        of those that are furthest behind."""
        rows = self._ask(
            f"""
            SELECT e.name, max({LAG_S}) AS lag_s
            FROM (
                SELECT o.id FROM (SELECT s.id, s.lag FROM tailrace.streams s WHERE {OPEN} LIMIT :counted) o
                WHERE o.lag > 0 ORDER BY o.lag DESC LIMIT :worst
            ) w
            JOIN tailrace.streams_now s ON s.id = w.id
            JOIN tailrace.runs r ON r.id = s.run
            JOIN tailrace.environments e ON e.id = r.environment_id
            LEFT JOIN LATERAL tailrace.recently_stored(s.id, s.generation, {RECENT_S}) p ON true
            GROUP BY 1
            """,
            counted=COUNTED,
            worst=WORST,
        )
        return {row.name: row.lag_s for row in rows if row.lag_s is not None}

    def runs(self) -> list[tuple[str, str, int]]:
        """Count the runs that are not over: environment, state, how many; up to `COUNTED`."""
        rows = self._ask(
            """
            SELECT e.name, o.state, count(*) AS runs
            FROM (
                SELECT r.environment_id, r.state FROM tailrace.runs r
                WHERE r.state IN ('requested', 'watched') LIMIT :counted
            ) o
            JOIN tailrace.environments e ON e.id = o.environment_id
            GROUP BY 1, 2 ORDER BY 1, 2
            """,
            counted=COUNTED,
        )
        return [(row.name, row.state, row.runs) for row in rows]

    def fleet(self) -> Fleet:
        """Count the workers that live."""
        return _all(
            Fleet,
            self._ask(
                """
                SELECT count(*) FILTER (WHERE w.expires_at > now()) AS workers,
                       coalesce(sum(w.slots) FILTER (WHERE w.expires_at > now()), 0)::int AS slots,
                       greatest(0, min(extract(epoch FROM now() - w.expires_at) + w.lease_s))::float8 AS beat_age_s
                FROM tailrace.workers w
                """
            ),
        )[0]

    def environments(self) -> list[EnvironmentState]:
        """Read which environments are halted, and how far new runs have been found in each."""
        return _all(
            EnvironmentState,
            self._ask(
                """
                SELECT e.name AS environment, extract(epoch FROM now() - e.halted_at)::float8 AS halted_s,
                       (SELECT max(extract(epoch FROM now() - d.covered_to))::float8 FROM tailrace.discoveries d
                        WHERE d.environment_id = e.id) AS discovery_lag_s
                FROM tailrace.environments e ORDER BY e.name
                """
            ),
        )

    def backfills(self) -> list[BackfillState]:
        """Read how far the backfills are that are not over."""
        return _all(
            BackfillState,
            self._ask(
                """
                SELECT e.name AS environment, count(*) AS running, sum(b.seen)::bigint AS seen,
                       sum(b.requested)::bigint AS requested, count(*) FILTER (WHERE b.attempt > 0) AS failing
                FROM tailrace.backfills b JOIN tailrace.environments e ON e.id = b.environment_id
                WHERE b.state = 'running' GROUP BY 1 ORDER BY 1
                """
            ),
        )

    def chores(self) -> Chores:
        """Read what waits for maintenance, how large the archive is, and how full Postgres is of sessions.

        The size is Postgres' own count of pages, which it makes when it vacuums or analyzes a table.
        """
        return _all(
            Chores,
            self._ask(
                """
                SELECT o.unsent, o.unsent_age_s, k.uncompacted, p.partitions_ahead_s, t.tally_age_s, z.size_bytes,
                       (SELECT coalesce(sum(d.numbackends), 0)::int FROM pg_catalog.pg_stat_database d) AS sessions,
                       current_setting('max_connections')::int AS sessions_limit
                FROM (
                    SELECT count(*) AS unsent, max(extract(epoch FROM now() - u.created_at))::float8 AS unsent_age_s
                    FROM (SELECT created_at FROM tailrace.outbox WHERE sent_at IS NULL LIMIT :counted) u
                ) o
                CROSS JOIN (
                    SELECT count(*) AS uncompacted FROM (
                        SELECT FROM tailrace.streams s
                        WHERE s.state = 'sealed' AND s.keep_error IS NULL
                          AND (s.compacted_at IS NULL OR s.indexed_at IS NULL)
                        ORDER BY s.id LIMIT :waiting
                    ) waiting
                ) k
                CROSS JOIN (
                    SELECT coalesce(extract(epoch FROM max(d.day) + interval '1 day' - now()), 0)::float8
                           AS partitions_ahead_s
                    FROM tailrace.partition_days() d
                ) p
                CROSS JOIN (
                    SELECT greatest(0, max(extract(epoch FROM now() - t.taken_at)))::float8 AS tally_age_s
                    FROM tailrace.tallied t
                    WHERE t.day >= (now() AT TIME ZONE 'UTC')::date - 1 AND t.taken_at > '-infinity'
                ) t
                CROSS JOIN (
                    SELECT coalesce(sum(greatest(c.relpages, 0)), 0)::bigint * current_setting('block_size')::int
                           AS size_bytes
                    FROM pg_catalog.pg_class c
                    WHERE c.relnamespace = 'tailrace'::regnamespace
                       OR c.oid IN (SELECT m.reltoastrelid FROM pg_catalog.pg_class m
                                    WHERE m.relnamespace = 'tailrace'::regnamespace AND m.reltoastrelid <> 0)
                ) z
                """,
                counted=COUNTED,
                waiting=WAITING,
            ),
        )[0]


def _all(kind: type[T], rows: Sequence[sa.Row[Any]]) -> list[T]:
    return [kind(**row._mapping) for row in rows]
