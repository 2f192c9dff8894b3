"""The outbox: what others are to be told of a run. One function a statement.

A trigger writes a row in the transaction that seals a run, fails it or opens it again. The row stays for an hour after
it was sent, with the broker's epoch, a word that it keeps: a broker that has lost its memory has another, and then
what it may have forgotten is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from tailrace.store.statements import Statements, fitting

KEPT = "interval '1 hour'"
"""For how long a message that was sent may still lie in the broker unread."""
CLAIM_S = 30.0
"""How long nobody else sends what somebody is sending; then whoever claimed it has died."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be told. ``tasks``: whom the run's requests named. ``streams``: verdict and accounts by stream key."""

    id: int
    environment: str
    run_id: str
    event: str
    tasks: tuple[str, ...]
    streams: dict[str, dict[str, Any]]
    attempt: int


class Outbox:
    """The outbox's statements for the runs of some environments."""

    def __init__(self, engine: sa.Engine, environments: Callable[[], list[str]]) -> None:
        """``environments`` returns their names; these can change."""
        self._statements = Statements(engine)
        self._environments = environments

    def claim(self, limit: int) -> list[Message]:
        """Choose messages that are due, oldest first, and keep others from sending them for a while."""
        rows = self._statements.execute(
            """
            WITH due AS (
                SELECT o.id FROM tailrace.outbox o
                JOIN tailrace.runs r ON r.id = o.run
                JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE o.sent_at IS NULL AND o.next_attempt_at <= now() AND e.name = ANY(:environments)
                ORDER BY o.id
                LIMIT :limit
                FOR NO KEY UPDATE OF o SKIP LOCKED
            )
            UPDATE tailrace.outbox o SET next_attempt_at = now() + :claim_s * interval '1 second'
            FROM due, tailrace.runs r, tailrace.environments e
            WHERE o.id = due.id AND r.id = o.run AND e.id = r.environment_id
            RETURNING o.id, o.event, o.attempt, e.name AS environment, r.run_id, r.then_tasks, (
                SELECT coalesce(json_object_agg(s.stream_key, json_build_object(
                    'state', s.state, 'verdict', s.verdict, 'chunks', s.chunk_count, 'gaps', s.lost_count,
                    'quarantined', s.quarantine_count, 'error', s.last_error)), '{}')
                FROM tailrace.streams s WHERE s.run = r.id) AS streams
            """,
            environments=self._environments(),
            limit=limit,
            claim_s=CLAIM_S,
        )
        return [
            Message(
                row.id, row.environment, row.run_id, row.event, tuple(row.then_tasks), dict(row.streams), row.attempt
            )
            for row in sorted(rows, key=lambda row: int(row.id))
        ]

    def sent(self, message_ids: Sequence[int], epoch: str) -> None:
        """Note that messages are with the broker, in this epoch of it, or are for nobody."""
        self._statements.execute(
            "UPDATE tailrace.outbox SET sent_at = now(), epoch = :epoch, last_error = NULL WHERE id = ANY(:ids)",
            ids=list(message_ids),
            epoch=epoch,
        )

    def postpone(self, message_id: int, error: str, delay_s: float) -> None:
        """Send a message again later: it could not be sent now."""
        self._statements.execute(
            """
            UPDATE tailrace.outbox SET attempt = attempt + 1, last_error = :error,
                   next_attempt_at = now() + :delay_s * interval '1 second'
            WHERE id = :id
            """,
            id=message_id,
            error=fitting(error),
            delay_s=delay_s,
        )

    def repeat_lost(self, epoch: str) -> int:
        """Have those messages sent again that were sent in another epoch of the broker; return their number."""
        return len(
            self._statements.execute(
                f"""
                UPDATE tailrace.outbox o SET sent_at = NULL, next_attempt_at = now()
                FROM tailrace.runs r, tailrace.environments e
                WHERE r.id = o.run AND e.id = r.environment_id AND e.name = ANY(:environments)
                  AND o.sent_at > now() - {KEPT} AND o.epoch <> :epoch
                RETURNING o.id
                """,
                environments=self._environments(),
                epoch=epoch,
            )
        )

    def sweep(self) -> None:
        """Remove what was sent long ago."""
        self._statements.execute(f"DELETE FROM tailrace.outbox WHERE sent_at < now() - {KEPT}")
