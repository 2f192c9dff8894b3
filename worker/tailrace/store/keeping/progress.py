"""How far a verification has come, and who is at it: a row, from which whoever comes next goes on.

The table is described in migrations/schema/verification.sql.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from tailrace.store.keeping.verification import ArchiveDay
from tailrace.store.statements import Statements, refusing

__all__ = ["Place", "Progress"]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a verification has come.

    ``since``: days before it are left out. ``streams``: looked at on days that are finished. ``day``: the last one that
    was begun, None before the first; of it streams below ``reached`` have been looked at, ``day_streams`` of them.
    ``reached``: None when that day is finished.
    """

    begun_at: datetime
    since: date | None
    streams: int
    day: date | None
    day_streams: int
    reached: int | None


class Progress:
    """The progress of the verification of one name, for one that takes part in it. Raises as `Verification` does."""

    def __init__(self, engine: sa.Engine, name: str, holder: uuid.UUID) -> None:
        self._statements = Statements(engine, name=name, holder=str(holder))

    def take(self, term_s: float) -> Place | None:
        """Take it, or hold it on; it is made if there is none. None when another holds it."""
        rows = self._all(
            f"""
            INSERT INTO tailrace.verifications AS v (name, held_by, held_until)
            VALUES (:name, CAST(:holder AS uuid), now() + :term_s * interval '1 second')
            ON CONFLICT (name) DO UPDATE SET held_by = excluded.held_by, held_until = excluded.held_until
            WHERE v.held_by = excluded.held_by OR v.held_until < now()
            RETURNING {_PLACE}
            """,
            term_s=term_s,
        )
        return Place(**rows[0]._mapping) if rows else None

    def begin(self, since: date | None) -> Place | None:
        """Begin it anew; None when it is held no more."""
        rows = self._all(
            f"""
            UPDATE tailrace.verifications v SET
                begun_at = now(), since = CAST(:since AS date), streams = 0, day = NULL, day_begun_at = NULL,
                day_streams = 0, reached = NULL
            WHERE v.name = :name AND v.held_by = CAST(:holder AS uuid)
            RETURNING {_PLACE}
            """,
            since=since,
        )
        return Place(**rows[0]._mapping) if rows else None

    def enter(self, day: ArchiveDay) -> bool:
        """Begin with a day; False when it is held no more."""
        rows = self._all(
            """
            UPDATE tailrace.verifications v SET
                day = :day, day_begun_at = now(), day_streams = 0, reached = :first
            WHERE v.name = :name AND v.held_by = CAST(:holder AS uuid)
            RETURNING v.name
            """,
            day=day.day,
            first=day.first_id,
        )
        return bool(rows)

    def reach(self, reached: int, more: int, term_s: float) -> bool:
        """Note that streams of its day below ``reached`` have been looked at, ``more`` of them since the last time, and
        hold it for another term; False when it is held no more."""
        rows = self._all(
            """
            UPDATE tailrace.verifications v SET
                reached = :reached, day_streams = v.day_streams + :more,
                held_until = now() + :term_s * interval '1 second'
            WHERE v.name = :name AND v.held_by = CAST(:holder AS uuid)
            RETURNING v.name
            """,
            reached=reached,
            more=more,
            term_s=term_s,
        )
        return bool(rows)

    def finish_day(self) -> bool:
        """Note that its day is verified; False when it is held no more."""
        rows = self._all(
            """
            WITH done AS (
                UPDATE tailrace.verifications v SET streams = v.streams + v.day_streams, reached = NULL
                WHERE v.name = :name AND v.held_by = CAST(:holder AS uuid) AND v.reached IS NOT NULL
                RETURNING v.day, v.day_begun_at, v.day_streams
            )
            INSERT INTO tailrace.verified_days AS known (day, verified_at, streams)
            SELECT d.day, d.day_begun_at, d.day_streams FROM done d
            ON CONFLICT (day) DO UPDATE SET
                verified_at = greatest(known.verified_at, excluded.verified_at), finished_at = now(),
                streams = excluded.streams
            RETURNING known.day
            """,
        )
        return bool(rows)

    def release(self) -> None:
        """Let others go on with it, if it is held."""
        self._all(
            """
            UPDATE tailrace.verifications v SET held_by = NULL, held_until = '-infinity'
            WHERE v.name = :name AND v.held_by = CAST(:holder AS uuid)
            """,
        )

    def end(self) -> None:
        """Forget it, if it is held: it is over."""
        self._all("DELETE FROM tailrace.verifications v WHERE v.name = :name AND v.held_by = CAST(:holder AS uuid)")

    def _all(self, statement: str, **parameters: object) -> Sequence[sa.Row[tuple[object, ...]]]:
        with refusing():
            return self._statements.execute(statement, **parameters)


_PLACE = "v.begun_at, v.since, v.streams, v.day, v.day_streams, v.reached"
