"""What people had done, and what came of it. A row is written before anything is done: nothing is done without one."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import sqlalchemy as sa

from tailrace.errors import UnknownEnvironment
from tailrace.store.statements import Statements, fitting

__all__ = ["Action", "Audit", "Done"]


class Action(StrEnum):
    """What can be done to a run."""

    INGEST = "ingest"
    RETRY = "retry"
    CANCEL = "cancel"


class Done(NamedTuple):
    """A row. ``outcome`` None: it is not known."""

    at: datetime
    who: str
    action: Action
    outcome: str | None


class Audit:
    """The table. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def begin(self, who: str, key_id: int | None, environment: str, run_id: str, action: Action) -> int:
        """Note that somebody will have something done; return the row. With ``key_id`` the key's name is noted.

        Raises:
            UnknownEnvironment: there is none of this name.
        """
        rows = self._statements.execute(
            """
            INSERT INTO tailrace.audit (who, environment_id, run_id, action)
            SELECT coalesce((SELECT 'key ' || k.name FROM tailrace.access_keys k WHERE k.id = :key_id), :who),
                   e.id, :run_id, :action
            FROM tailrace.environments e WHERE e.name = :environment
            RETURNING id
            """,
            who=fitting(who),
            key_id=key_id,
            environment=environment,
            run_id=run_id,
            action=action.value,
        )
        if not rows:
            raise UnknownEnvironment(f"The archive has no environment {environment!r}.")
        return int(rows[0].id)

    def end(self, row: int, outcome: str) -> None:
        """Note what came of it."""
        self._statements.execute(
            "UPDATE tailrace.audit SET outcome = :outcome WHERE id = :row", row=row, outcome=fitting(outcome)
        )

    def of_run(self, environment: str, run_id: str, most: int) -> list[Done]:
        """Read what was done to a run, newest first."""
        rows = self._statements.execute(
            """
            SELECT a.at, a.who, a.action, a.outcome FROM tailrace.audit a
            JOIN tailrace.environments e ON e.id = a.environment_id
            WHERE a.run_id = :run_id AND e.name = :environment ORDER BY a.id DESC LIMIT :most
            """,
            environment=environment,
            run_id=run_id,
            most=most,
        )
        return [Done(row.at, row.who, Action(row.action), row.outcome) for row in rows]
