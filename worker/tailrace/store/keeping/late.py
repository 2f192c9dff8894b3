"""The late check: sealed runs are looked at once more, and reopened if there is more. One function a statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from tailrace.model import Checkpoint, StreamRef, Wire
from tailrace.store.statements import Statements


@dataclass(frozen=True, slots=True)
class LateRun:
    """A sealed run that is due.

    ``over_for_s``, ``sealed_for_s``: how long ago it ended and was sealed. ``wants_all``: all of its streams were asked
    for. ``keys``: those of the streams it has.
    """

    id: int
    run_id: str
    over_for_s: float
    sealed_for_s: float
    wants_all: bool
    keys: frozenset[str]


@dataclass(frozen=True, slots=True)
class LateStream:
    """A sealed stream, as far as one has to know it to see whether there is more."""

    id: int
    ref: StreamRef
    wire: Wire
    checkpoint: Checkpoint


class LateChecks:
    """The statements about late checks of one environment."""

    def __init__(self, engine: sa.Engine, environment: str) -> None:
        self._statements = Statements(engine, environment=environment)

    def claim(self, limit: int, claim_s: float) -> list[LateRun]:
        """Choose runs that are due, and keep others from them for ``claim_s``."""
        rows = self._statements.execute(
            """
            WITH due AS (
                SELECT r.id FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE r.state = 'sealed' AND r.late_check_at > r.sealed_at AND r.late_check_at <= now()
                  AND e.name = :environment AND e.halted_at IS NULL
                ORDER BY r.late_check_at
                LIMIT :limit
                FOR NO KEY UPDATE OF r SKIP LOCKED
            )
            UPDATE tailrace.runs r
            SET late_check_at = now() + :claim_s * interval '1 second'
            FROM due WHERE r.id = due.id
            RETURNING r.id, r.run_id, r.selection IS NULL AS wants_all,
                      extract(epoch FROM now() - coalesce(r.finished_at, r.terminal_at))::float8 AS over_for_s,
                      extract(epoch FROM now() - r.sealed_at)::float8 AS sealed_for_s,
                      ARRAY(SELECT s.stream_key FROM tailrace.streams s WHERE s.run = r.id) AS keys
            """,
            limit=limit,
            claim_s=claim_s,
        )
        return [
            LateRun(row.id, row.run_id, row.over_for_s, row.sealed_for_s, row.wants_all, frozenset(row.keys))
            for row in rows
        ]

    def streams(self, run: LateRun) -> list[LateStream]:
        """Read the sealed streams of a run."""
        rows = self._statements.execute(
            """
            SELECT id, stream_key, wire, generation, last_chunk_index, cursor
            FROM tailrace.streams WHERE run = :run AND state = 'sealed' AND wire IS NOT NULL ORDER BY id
            """,
            run=run.id,
        )
        return [
            LateStream(
                row.id,
                StreamRef(run.run_id, row.stream_key),
                Wire(row.wire),
                Checkpoint(row.generation, row.last_chunk_index, row.cursor),
            )
            for row in rows
        ]

    def done(self, run: LateRun) -> None:
        """Note that a run has been looked at and there was nothing."""
        self._statements.execute(
            "UPDATE tailrace.runs SET late_check_at = sealed_at WHERE id = :run AND state = 'sealed'", run=run.id
        )

    def reopen(self, run: LateRun, stream_ids: Sequence[int]) -> bool:
        """Watch a run again, and read again those of its streams that have more. False when it is sealed no more.

        When it is sealed anew it gets another late check: whoever wrote so late may write again.
        """
        return bool(
            self._statements.execute(
                """
                WITH r AS (
                    UPDATE tailrace.runs SET state = 'watched', sealed_at = NULL, late_check_at = NULL,
                           next_watch_at = now(), watch_attempt = 0, last_error = NULL
                    WHERE id = :run AND state = 'sealed' RETURNING id
                ), s AS (
                    UPDATE tailrace.streams s
                    SET state = 'active', verdict = 'open', sealed_at = NULL, attempt = 0, next_attempt_at = now(),
                        last_error = NULL
                    FROM r WHERE s.run = r.id AND s.state = 'sealed' AND s.id = ANY(:ids)
                )
                SELECT id FROM r
                """,
                run=run.id,
                ids=list(stream_ids),
            )
        )
