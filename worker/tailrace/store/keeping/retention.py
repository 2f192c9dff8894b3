"""Retention: drop whole days of the archive. One function a statement; the statements are functions of the database.

A day is dropped in steps, each of which can be cut off and is finished the next time: the rows of its streams go first
(so that nobody can write to them any more), then its partition is detached without keeping writers waiting, then it is
dropped.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.store.engine import is_unavailable
from tailrace.store.statements import Statements, driver_of

__all__ = ["Day", "DayFate", "Retention"]

STREAMS_AT_A_TIME = 5_000
DETACH_WAIT_S = 10.0
"""How long a reader that has the day open is waited for; then it goes the next time. Nothing waits behind us, but new
partitions."""

# Locks that do not come in time, and what it looks like when somebody else drops the same day.
_IN_USE = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.ObjectInUse,
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UndefinedTable,
)


class DayFate(StrEnum):
    """What became of a day that is old enough to go."""

    DROPPED = "dropped"
    WOULD_DROP = "would be dropped"
    OPEN = "has streams that are still open"
    NOT_EXPORTED = "has streams that no verified export holds"
    BUSY = "is in use by somebody; next time"


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the archive (UTC, by when streams were found). ``streams``: how many it has or had."""

    day: date
    streams: int
    fate: DayFate


class Retention:
    """Drops days. Thread-safe; several at once do no harm."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def prune(self, keep_days: int, *, exported_to: str | None = None) -> list[Day]:
        """Drop the days that ended more than ``keep_days`` days ago; never one with an open stream.

        ``exported_to``: only days of which that export holds every stream, read back and found equal.

        Raises:
            StoreUnavailable
        """
        return [self._drop(day, exported_to) for day in self.old_days(keep_days)]

    def preview(self, keep_days: int, *, exported_to: str | None = None) -> list[Day]:
        """Return what `prune` would do, and do nothing."""
        days = []
        for day in self.old_days(keep_days):
            fate = self._obstacle(day, exported_to) or DayFate.WOULD_DROP
            days.append(Day(day, self._streams(day), fate))
        return days

    def old_days(self, keep_days: int) -> list[date]:
        """Find the days that have a partition, detached or not, and ended that long ago; oldest first."""
        rows = self._statements.execute(
            """
            SELECT d.day FROM tailrace.partition_days() d
            WHERE d.end_id <= tailrace.stream_id_at(now() - :keep_days * interval '1 day')
            ORDER BY d.day
            """,
            keep_days=keep_days,
        )
        return [row.day for row in rows]

    def _drop(self, day: date, exported_to: str | None) -> Day:
        streams = self._streams(day)
        obstacle = self._obstacle(day, exported_to)
        if obstacle is not None:
            return Day(day, streams, obstacle)
        while True:
            clear = "SELECT tailrace.clear_day(:day, :limit) AS n"
            cleared = self._statements.execute(clear, day=day, limit=STREAMS_AT_A_TIME)[0].n
            if cleared is None:
                return Day(day, streams, DayFate.OPEN)
            if cleared == 0:
                break
        try:
            self._detach(day)
            self._statements.execute("SELECT tailrace.drop_day(:day)", day=day)
        except exc.DBAPIError as error:
            if is_unavailable(error) or not isinstance(error.orig, _IN_USE):
                raise
            return Day(day, streams, DayFate.BUSY)
        return Day(day, streams, DayFate.DROPPED)

    def _detach(self, day: date) -> None:
        """Detach the day's partition without a lock that writers wait for. Only the tables' owner can; others leave it
        to ``drop_day``, which waits half a second for such a lock and else gives up."""
        name = f"segments_{day:%Y%m%d}"
        rows = self._statements.execute(
            """
            SELECT i.inhdetachpending AS pending, pg_catalog.pg_has_role(c.relowner, 'USAGE') AS ours
            FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'tailrace.segments'::regclass AND c.relname = :name
            """,
            name=name,
        )
        if rows and rows[0].ours:
            how = "FINALIZE" if rows[0].pending else "CONCURRENTLY"
            self._execute_within(DETACH_WAIT_S, f"ALTER TABLE tailrace.segments DETACH PARTITION tailrace.{name} {how}")

    def _obstacle(self, day: date, exported_to: str | None) -> DayFate | None:
        row = self._statements.execute(
            """
            SELECT
                coalesce(bool_or(s.state IN ('pending', 'active', 'parked')), false) AS open,
                coalesce(bool_or(x.stream_id IS NULL), false) AS missing
            FROM tailrace.streams s
            LEFT JOIN tailrace.exported x
                ON x.stream_id = s.id AND x.target = :target AND x.verified_at IS NOT NULL AND x.digest = s.digest
            WHERE s.id >= tailrace.stream_id_at(CAST(:day AS date)::timestamp AT TIME ZONE 'UTC')
              AND s.id < tailrace.stream_id_at((CAST(:day AS date) + 1)::timestamp AT TIME ZONE 'UTC')
            """,
            day=day,
            target=exported_to,
        )[0]
        if row.open:
            return DayFate.OPEN
        return DayFate.NOT_EXPORTED if exported_to is not None and row.missing else None

    def _streams(self, day: date) -> int:
        return int(
            self._statements.execute(
                """
                SELECT count(*) AS n FROM tailrace.streams s
                WHERE s.id >= tailrace.stream_id_at(CAST(:day AS date)::timestamp AT TIME ZONE 'UTC')
                  AND s.id < tailrace.stream_id_at((CAST(:day AS date) + 1)::timestamp AT TIME ZONE 'UTC')
                """,
                day=day,
            )[0].n
        )

    def _execute_within(self, seconds: float, statement: str) -> None:
        """Execute a statement that takes no part in a transaction, and cancel it when it has not ended by then.

        From outside: a timeout of the session would stay with it behind PgBouncer, and it can't have a transaction's.
        """
        with self._statements.connected() as connection:
            timer = threading.Timer(seconds, driver_of(connection).cancel_safe)
            timer.daemon = True
            timer.start()
            try:
                connection.execute(sa.text(statement))
            finally:
                timer.cancel()
                timer.join()  # else it could cancel what the next borrower of this connection does
