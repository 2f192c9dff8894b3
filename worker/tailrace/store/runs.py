"""Runs: asked for, watched, sealed. One function a statement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import UnknownEnvironment
from tailrace.model import RunView
from tailrace.store.engine import autocommit, translated
from tailrace.store.keeping.forget import refusing_forgotten
from tailrace.store.leases import OVER


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A run whose status and keys are due to be looked at. ``asked_for_s``: how long ago it was asked for."""

    id: int
    run_id: str
    known: bool
    asked_for_s: float
    attempt: int


class Runs:
    """The statements about runs of one environment."""

    def __init__(self, engine: sa.Engine, environment: str) -> None:
        self._engine = autocommit(engine)
        self._environment = environment

    @property
    def environment(self) -> str:
        return self._environment

    def enrol(self, api_url: str) -> None:
        """Make the environment's row, or correct its address; a key that was refused gets a new chance."""
        self._execute(
            """
            INSERT INTO tailrace.environments (name, api_url) VALUES (:environment, :api_url)
            ON CONFLICT (name) DO UPDATE SET api_url = excluded.api_url, halted_at = NULL, halted_reason = NULL
            """,
            api_url=api_url,
        )

    def request(
        self,
        run_id: str,
        streams: Sequence[str] | None,
        options: dict[str, Any],
        priority: int,
        then: str | None = None,
    ) -> int:
        """Ask for a run; return the id of its row. Asking again widens, never narrows. ``then``: a task to be called.

        Raises:
            UnknownEnvironment: nobody serves the environment, or ever did.
        """
        try:
            with refusing_forgotten():
                row = self._execute(
                    """
                    SELECT tailrace.request_ingest(
                        :run_id, :streams, :environment, :priority, :then, CAST(:options AS json)) AS id
                    """,
                    run_id=run_id,
                    streams=list(streams) if streams else None,
                    priority=priority,
                    then=then,
                    options=json.dumps(options) if options else None,
                )[0]
        except exc.DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.NoDataFound):
                raise UnknownEnvironment(f"The archive has no environment {self._environment!r}.") from None
            raise
        return int(row.id)

    def cancel(self, run_id: str) -> int | None:
        """Stop a run; return the number of streams that were stopped, None when there is no such run."""
        row = self._execute("SELECT tailrace.cancel_run(:run_id, :environment) AS stopped", run_id=run_id)[0]
        return None if row.stopped is None else int(row.stopped)

    def retry(self, run_id: str) -> int | None:
        """Take failed and cancelled streams up again; return their number, None when there is no such run."""
        row = self._execute("SELECT tailrace.retry_run(:run_id, :environment) AS revived", run_id=run_id)[0]
        return None if row.revived is None else int(row.revived)

    def claim_watch(self, limit: int, claim_s: float, run: int | None = None) -> list[WatchedRun]:
        """Choose runs that are due to be looked at, and keep others from it for ``claim_s``."""
        rows = self._execute(
            """
            WITH due AS (
                SELECT r.id FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE r.state IN ('requested', 'watched') AND r.next_watch_at <= now()
                  AND e.name = :environment AND e.halted_at IS NULL
                  AND (CAST(:run AS bigint) IS NULL OR r.id = :run)
                ORDER BY r.next_watch_at
                LIMIT :limit
                FOR NO KEY UPDATE OF r SKIP LOCKED
            )
            UPDATE tailrace.runs r SET next_watch_at = now() + :claim_s * interval '1 second'
            FROM due WHERE r.id = due.id
            RETURNING r.id, r.run_id, r.state = 'watched' AS known, r.watch_attempt,
                      extract(epoch FROM now() - r.requested_at)::float8 AS asked_for_s
            """,
            limit=limit,
            claim_s=claim_s,
            run=run,
        )
        return [WatchedRun(row.id, row.run_id, row.known, row.asked_for_s, row.watch_attempt) for row in rows]

    def observe(self, run: WatchedRun, view: RunView, watch_s: float) -> int:
        """Note what upstream says of a run, and make a row for each stream that is new; return their number.

        A run that asks for certain streams gets those and no others, named by the feed or not: input streams never are.
        What was not there when all were last listed is younger than that; the others can be as old as the run.
        """
        rows = self._execute(
            """
            WITH before AS (
                SELECT coalesce(listed_at, :created_at) AS listed_at FROM tailrace.runs WHERE id = :id
            ), r AS (
                UPDATE tailrace.runs SET
                    state = 'watched', status = :status, task_identifier = :task, tags = :tags,
                    created_at = :created_at, started_at = :started_at, finished_at = :finished_at,
                    terminal_at = CASE WHEN :terminal THEN coalesce(terminal_at, now()) END,
                    keys_read_at = now(), listed_at = CASE WHEN selection IS NULL THEN now() END,
                    watch_attempt = 0, last_error = NULL,
                    next_watch_at = now() + :watch_s * interval '1 second'
                WHERE id = :id AND state IN ('requested', 'watched')
                RETURNING id, selection
            )
            INSERT INTO tailrace.streams (run, stream_key, not_before)
            SELECT r.id, k, before.listed_at FROM r, before, unnest(coalesce(r.selection, :keys)) k
            ON CONFLICT (run, stream_key) DO NOTHING
            RETURNING id
            """,
            id=run.id,
            status=view.status,
            task=view.task_identifier,
            tags=list(view.tags),
            created_at=view.created_at,
            started_at=view.started_at,
            finished_at=view.finished_at,
            terminal=view.terminal,
            watch_s=watch_s,
            keys=list(view.stream_keys),
        )
        return len(rows)

    def seal(self, run: WatchedRun, quiet_s: float, late_check_s: float = 0.0) -> bool:
        """Seal a run that is over, whose keys were read after the quiet period and whose streams are all settled.

        ``late_check_s``: after so long it is looked at once more, if it has not been yet; 0: never.
        """
        return bool(
            self._execute(
                f"""
                UPDATE tailrace.runs r SET state = 'sealed', sealed_at = now(),
                    late_check_at = coalesce(
                        r.late_check_at,
                        CASE WHEN :late_check_s > 0 THEN now() + :late_check_s * interval '1 second' END)
                WHERE r.id = :id AND r.state = 'watched' AND {OVER}
                  AND r.keys_read_at >= r.terminal_at + :quiet_s * interval '1 second'
                  AND NOT EXISTS (
                    SELECT FROM tailrace.streams s
                    WHERE s.run = r.id AND s.state IN ('pending', 'active', 'parked'))
                RETURNING r.id
                """,
                id=run.id,
                quiet_s=quiet_s,
                late_check_s=late_check_s,
            )
        )

    def postpone(self, run: WatchedRun, error: str, delay_s: float) -> None:
        """Look at a run again later: it could not be read now."""
        self._execute(
            """
            UPDATE tailrace.runs SET watch_attempt = watch_attempt + 1, last_error = :error,
                   next_watch_at = now() + :delay_s * interval '1 second'
            WHERE id = :id AND state IN ('requested', 'watched')
            """,
            id=run.id,
            error=error[:2000],
            delay_s=delay_s,
        )

    def fail(self, run: WatchedRun, error: str) -> None:
        """Return a run up: upstream does not know it. Streams that nobody reads fail with it."""
        self._execute(
            """
            WITH r AS (
                UPDATE tailrace.runs SET state = 'failed', last_error = :error
                WHERE id = :id AND state IN ('requested', 'watched') RETURNING id
            )
            UPDATE tailrace.streams s SET state = 'failed', verdict = 'failed', last_error = :error
            FROM r WHERE s.run = r.id AND s.state IN ('pending', 'parked') AND s.worker_id IS NULL
            """,
            id=run.id,
            error=error[:2000],
        )

    def halt(self, reason: str) -> bool:
        """Stop everything of this environment: upstream refuses its key. True the first time."""
        return bool(
            self._execute(
                """
                UPDATE tailrace.environments SET halted_at = now(), halted_reason = :reason
                WHERE name = :environment AND halted_at IS NULL RETURNING id
                """,
                reason=reason[:2000],
            )
        )

    def halted(self) -> str | None:
        """Return why the environment is halted; None when it is not."""
        rows = self._execute(
            "SELECT halted_reason FROM tailrace.environments WHERE name = :environment AND halted_at IS NOT NULL"
        )
        return str(rows[0].halted_reason) if rows else None

    def state(self, run: int) -> sa.Row[Any]:
        """Read one run's row."""
        return self._execute(
            """
            SELECT id, run_id, state, status, last_error, selection, requested_at, sealed_at, terminal_at,
                   extract(epoch FROM now() - requested_at)::float8 AS asked_for_s
            FROM tailrace.runs WHERE id = :id
            """,
            id=run,
        )[0]

    def _execute(self, statement: str, **parameters: object) -> Sequence[sa.Row[Any]]:
        with translated(), self._engine.connect() as connection:
            if ":environment" in statement:
                parameters["environment"] = self._environment
            result = connection.execute(sa.text(statement), parameters)
            return result.all() if result.returns_rows else []
