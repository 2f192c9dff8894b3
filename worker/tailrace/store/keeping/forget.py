"""Forget runs for privacy: everywhere at once, with a proof, and for good. One function a statement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import TerminalError, UnknownEnvironment, WorkerError
from tailrace.store.statements import Statements

__all__ = ["Forgetting", "Forgot", "NotForgotten", "RunForgotten", "refusing_forgotten"]


class RunForgotten(TerminalError):
    """The run was forgotten and is not archived again; `tailrace forget --allow-again` lifts it."""


@contextmanager
def refusing_forgotten() -> Iterator[None]:
    """Turn the database's refusal of a forgotten run into `RunForgotten`."""
    try:
        yield
    except exc.IntegrityError as error:
        if isinstance(error.orig, psycopg.Error) and error.orig.diag.constraint_name == "runs_forgotten":
            raise RunForgotten from None
        raise


class NotForgotten(WorkerError):
    """Something of a run is left although it was deleted."""


@dataclass(frozen=True, slots=True)
class Forgot:
    """What was done. ``archived``: there was something. ``exports``: files that still hold the run; they are not
    touched."""

    environment: str
    run_id: str
    archived: bool
    streams: int
    exports: list[str]


class Forgetting:
    """Deletes runs and leaves tombstones."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def runs_with_tag(self, environment: str, tag: str) -> list[str]:
        """Find the archived runs that have this tag."""
        rows = self._statements.execute(
            """
            SELECT r.run_id FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE r.tags @> ARRAY[CAST(:tag AS text)] AND e.name = :environment ORDER BY r.id
            """,
            tag=tag,
            environment=environment,
        )
        return [row.run_id for row in rows]

    def forget(self, environment: str, run_id: str) -> Forgot:
        """Delete a run everywhere, prove it, and keep it from coming back. Repeating it does no harm.

        Raises:
            UnknownEnvironment: there is none of this name.
            NotForgotten: the proof failed.
            StoreUnavailable: what became of it is unknown; repeat it.
        """
        self._check(environment)
        done = self._statements.execute(
            "SELECT * FROM tailrace.forget_run(:environment, :run_id)", environment=environment, run_id=run_id
        )[0]
        # A statement of its own: it sees what others committed meanwhile.
        left = self._statements.execute(
            "SELECT * FROM tailrace.traces_of(:environment, :run_id, :stream_ids)",
            environment=environment,
            run_id=run_id,
            stream_ids=list(done.stream_ids),
        )
        if left:
            places = ", ".join(f"{row.place} ({row.rows_left})" for row in left)
            raise NotForgotten(f"Of run {run_id} something is left: {places}. Repeat the command.")
        return Forgot(environment, run_id, done.archived, len(done.stream_ids), list(done.exports))

    def allow_again(self, environment: str, run_id: str) -> bool:
        """Lift the tombstone of a run; False when there was none."""
        self._check(environment)
        return bool(
            self._statements.execute(
                """
                DELETE FROM tailrace.forgotten f USING tailrace.environments e
                WHERE e.id = f.environment_id AND e.name = :environment AND f.run_hash = tailrace.run_hash(:run_id)
                RETURNING 1
                """,
                environment=environment,
                run_id=run_id,
            )
        )

    def _check(self, environment: str) -> None:
        if not self._statements.execute("SELECT 1 FROM tailrace.environments WHERE name = :name", name=environment):
            raise UnknownEnvironment(f"The archive has no environment {environment!r}.")
