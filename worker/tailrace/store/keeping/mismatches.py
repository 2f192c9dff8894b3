"""What is known to be wrong with streams of the archive: a row for each, from when it was first seen until all is well.

The table is described in migrations/schema/verification.sql.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

import sqlalchemy as sa

from tailrace.store.keeping.verification import Step
from tailrace.store.statements import Statements, fitting, refusing
from tailrace.store.verify import Checked, Violation

__all__ = ["Found", "Mismatch", "Mismatches"]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A stream with which something was wrong when it was last verified. The names are None when it is gone.

    ``since``: when that was first seen; ``seen_at``: last. ``violations``: words of `Violation`; ``detail``: the first
    one's.
    """

    stream_id: int
    environment: str | None
    run_id: str | None
    stream_key: str | None
    since: datetime
    seen_at: datetime
    violations: list[str]
    detail: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a step changed of what is known to be wrong: streams of which nothing was known before, and those with which
    all is well again (or which are gone)."""

    new: list[int]
    over: list[int]


class Mismatches:
    """The mismatches of one archive. Thread-safe. Raises as `Verification` does."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def note(self, step: Step) -> Found:
        """Note what is wrong with the streams of a step, and that nothing is with the others."""
        return self._note(step.checked, "m.stream_id >= :first AND m.stream_id < :end", first=step.first, end=step.end)

    def note_streams(self, streams: Sequence[int], checked: Checked) -> Found:
        """Note the same of these streams."""
        return self._note(checked, "m.stream_id = ANY (:streams)", streams=list(streams))

    def _note(self, checked: Checked, among: str, **parameters: object) -> Found:
        by_stream = groupby(sorted(checked.violations, key=_stream), _stream)
        found = [(stream, list(violations)) for stream, violations in by_stream]
        rows = self._all(
            f"""
            WITH over AS (
                DELETE FROM tailrace.mismatches m
                WHERE {among} AND m.stream_id <> ALL (CAST(:ids AS bigint[])) RETURNING m.stream_id
            ), known AS (
                SELECT m.stream_id FROM tailrace.mismatches m WHERE m.stream_id = ANY (CAST(:ids AS bigint[]))
            ), wrong AS (
                INSERT INTO tailrace.mismatches AS m (stream_id, violations, detail)
                SELECT f.stream_id, string_to_array(f.violations, ','), f.detail
                FROM unnest(CAST(:ids AS bigint[]), CAST(:violations AS text[]), CAST(:details AS text[]))
                    AS f (stream_id, violations, detail)
                ON CONFLICT (stream_id) DO UPDATE SET
                    seen_at = now(), violations = excluded.violations, detail = excluded.detail
                RETURNING m.stream_id
            )
            SELECT w.stream_id, true AS wrong FROM wrong w WHERE w.stream_id NOT IN (SELECT k.stream_id FROM known k)
            UNION ALL
            SELECT o.stream_id, false FROM over o
            ORDER BY 1
            """,
            ids=[stream for stream, _ in found],
            violations=[",".join(sorted({each.violation for each in violations})) for _, violations in found],
            details=[fitting(violations[0].detail) for _, violations in found],
            **parameters,
        )
        return Found([row.stream_id for row in rows if row.wrong], [row.stream_id for row in rows if not row.wrong])

    def known(self, limit: int = 100, *, only: Sequence[int] | None = None) -> list[Mismatch]:
        """Read what is known to be wrong, what was seen first first; ``only``: of these streams."""
        rows = self._all(
            """
            SELECT
                m.stream_id, e.name AS environment, r.run_id, s.stream_key, m.since, m.seen_at, m.violations, m.detail
            FROM tailrace.mismatches m
            LEFT JOIN tailrace.streams s ON s.id = m.stream_id
            LEFT JOIN tailrace.runs r ON r.id = s.run
            LEFT JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE CAST(:only AS bigint[]) IS NULL OR m.stream_id = ANY (CAST(:only AS bigint[]))
            ORDER BY m.since, m.stream_id LIMIT :limit
            """,
            only=None if only is None else list(only),
            limit=limit,
        )
        return [Mismatch(**row._mapping) for row in rows]

    def seen_since(self, moment: datetime, first: int, end: int) -> list[int]:
        """Find the streams, with ids from ``first`` to before ``end``, with which something was wrong since then."""
        rows = self._all(
            """
            SELECT m.stream_id FROM tailrace.mismatches m
            WHERE m.seen_at >= :moment AND m.stream_id >= :first AND m.stream_id < :end ORDER BY 1
            """,
            moment=moment,
            first=first,
            end=end,
        )
        return [row.stream_id for row in rows]

    def _all(self, statement: str, **parameters: object) -> Sequence[sa.Row[tuple[object, ...]]]:
        with refusing():
            return self._statements.execute(statement, **parameters)


def _stream(violation: Violation) -> int:
    return violation.stream_id
