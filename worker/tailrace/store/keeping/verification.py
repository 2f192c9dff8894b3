"""Verifying whole archives, in steps: which days there are, what a step is, and how much is verified. One function a
statement, each a transaction of its own, so that none holds vacuum back for longer than its step takes.

What is checked is in `store.verify`; the tables are described in migrations/schema/verification.sql.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa

from tailrace.store.statements import Statements, refusing
from tailrace.store.verify import Checked, checked_range, checked_streams

__all__ = ["ArchiveDay", "Coverage", "Step", "Verification"]

STREAMS_A_STEP = 1_000
BYTES_A_STEP = 4 << 20
SEGMENTS_A_STEP = 5_000
"""A step ends before the first stream that would be above one of these: each takes about a tenth of a second."""
MISMATCHES_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class ArchiveDay:
    """A day of the archive (UTC, on which streams were found). Its ids: from ``first_id`` to before ``end_id``."""

    day: date
    first_id: int
    end_id: int


@dataclass(frozen=True, slots=True)
class Step:
    """The streams with ids from ``first`` to before ``end``, and what came of looking at them."""

    first: int
    end: int
    checked: Checked


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the archive is verified. Of days that are over, by when their streams were found.

    ``oldest_at``: everything that was stored before it has been verified at least once since it was stored; a day that
    was never verified counts with its beginning. None: no day is over yet. ``streams``: how many were looked at when
    each day was last verified. ``mismatches``: streams with which something is wrong, 10 000 at most;
    ``mismatched_since``: the first of them.
    """

    days: int
    days_never_verified: int
    oldest_at: datetime | None
    streams: int
    mismatches: int
    mismatched_since: datetime | None


COVERAGE = """
SELECT
    count(*) AS days, count(*) FILTER (WHERE v.day IS NULL) AS days_never_verified,
    min(coalesce(v.verified_at, d.day::timestamp AT TIME ZONE 'UTC')) AS oldest_at,
    coalesce(sum(v.streams), 0)::bigint AS streams,
    (SELECT count(*) FROM (SELECT FROM tailrace.mismatches m LIMIT :most) m) AS mismatches,
    (SELECT min(m.since) FROM (SELECT m.since FROM tailrace.mismatches m LIMIT :most) m) AS mismatched_since
FROM tailrace.archived_days() d
LEFT JOIN tailrace.verified_days v ON v.day = d.day
WHERE d.end_id <= tailrace.stream_id_at(now())
  AND EXISTS (SELECT FROM tailrace.streams s WHERE s.id >= d.first_id AND s.id < d.end_id)
"""
"""Of `Coverage`; ``most``: so many mismatches are counted."""


class Verification:
    """Verifies one archive. Thread-safe; any number of processes may do it at once.

    Raises, whatever is called:
        StoreUnavailable: Postgres did not answer.
        TerminalError: Postgres refused, for want of a migration or of rights.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def days(self) -> list[ArchiveDay]:
        """Find the days of the archive, oldest first; some may be empty."""
        rows = self._all("SELECT d.day, d.first_id, d.end_id FROM tailrace.archived_days() d ORDER BY d.day")
        return [ArchiveDay(**row._mapping) for row in rows]

    def streams_from(self, first: int, end: int) -> int:
        """Count the streams with ids from ``first`` to before ``end``."""
        rows = self._all(
            "SELECT count(*) AS n FROM tailrace.streams s WHERE s.id >= :first AND s.id < :end", first=first, end=end
        )
        return int(rows[0].n)

    def step_end(self, first: int, end: int) -> int:
        """Choose where a step from ``first`` ends: at ``end``, or before that when it would be too much for one.

        It holds one stream at least, however large.
        """
        rows = self._all(
            """
            WITH near AS MATERIALIZED (
                SELECT s.id, s.byte_count FROM tailrace.streams s
                WHERE s.id >= :first AND s.id < :end ORDER BY s.id LIMIT CAST(:streams AS int) + 1
            ), summed AS (
                SELECT n.id, row_number() OVER so_far AS n, sum(n.byte_count) OVER so_far AS bytes
                FROM near n WINDOW so_far AS (ORDER BY n.id)
            )
            SELECT least(
                :end,
                (SELECT min(s.id) FROM summed s WHERE s.n > :streams OR s.n > 1 AND s.bytes > :bytes),
                -- Of one stream, or of none: rows whose stream is gone are looked at too.
                (SELECT greatest(g.stream_id, CAST(:first AS bigint) + 1) FROM tailrace.segments g
                 WHERE g.stream_id >= :first AND g.stream_id < :end
                 ORDER BY g.stream_id, g.generation, g.first_index OFFSET :segments LIMIT 1)
            ) AS end_id
            """,
            first=first,
            end=end,
            streams=STREAMS_A_STEP,
            bytes=BYTES_A_STEP,
            segments=SEGMENTS_A_STEP,
        )
        return int(rows[0].end_id)

    def check(self, first: int, end: int) -> Step:
        """Check the streams with ids from ``first`` to before ``end``; changes nothing."""
        with refusing():
            return Step(first, end, checked_range(self._statements, first, end))

    def check_streams(self, streams: Sequence[int]) -> Checked:
        """Check these streams; changes nothing."""
        with refusing():
            return checked_streams(self._statements, streams)

    def coverage(self) -> Coverage:
        """Read how much is verified. Costs by the number of days, not of streams."""
        rows = self._all(COVERAGE, most=MISMATCHES_COUNTED)
        return Coverage(**rows[0]._mapping)

    def next_day(self, night: datetime, within_days: int) -> ArchiveDay | None:
        """Choose the day that is next: of those that are over the one that was verified longest ago, or never and is
        oldest. None: so many have been verified since ``night`` began that at this rate all are in ``within_days``."""
        rows = self._all(
            """
            WITH candidate AS (
                SELECT d.day, d.first_id, d.end_id, v.verified_at, coalesce(v.finished_at >= :night, false) AS done,
                       EXISTS (
                           SELECT FROM tailrace.streams s WHERE s.id >= d.first_id AND s.id < d.end_id
                       ) AS counts
                FROM tailrace.archived_days() d
                LEFT JOIN tailrace.verified_days v ON v.day = d.day
                WHERE d.end_id <= tailrace.stream_id_at(now())
            )
            SELECT c.day, c.first_id, c.end_id FROM candidate c
            WHERE NOT c.done AND (
                SELECT count(*) FILTER (WHERE c.counts AND c.done)
                       < greatest(1, ceil(count(*) FILTER (WHERE c.counts) / CAST(:within_days AS float8)))
                FROM candidate c
            )
            ORDER BY coalesce(c.verified_at, c.day::timestamp AT TIME ZONE 'UTC'), c.day LIMIT 1
            """,
            night=night,
            within_days=within_days,
        )
        return ArchiveDay(**rows[0]._mapping) if rows else None

    def may_note(self) -> bool:
        """Whether this account has the right to note what it finds, and how far it is."""
        rows = self._all(
            """
            SELECT bool_and(has_table_privilege(CAST(t.name AS text), 'SELECT')
                            AND has_table_privilege(CAST(t.name AS text), 'INSERT')
                            AND has_table_privilege(CAST(t.name AS text), 'UPDATE')
                            AND has_table_privilege(CAST(t.name AS text), 'DELETE')) AS may
            FROM (VALUES ('tailrace.verified_days'), ('tailrace.verifications'), ('tailrace.mismatches')) AS t (name)
            """
        )
        return bool(rows[0].may)

    def now(self) -> datetime:
        """Ask the database for its time, in UTC."""
        now: datetime = self._all("SELECT now() AS now")[0].now
        return now.astimezone(UTC)

    def _all(self, statement: str, **parameters: object) -> Sequence[sa.Row[tuple[object, ...]]]:
        with refusing():
            return self._statements.execute(statement, **parameters)
