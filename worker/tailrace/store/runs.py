"""Runs of one environment: asked for, watched, sealed; and whether its runs are read. One function a statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import UnknownEnvironment
from tailrace.model import RunView
from tailrace.store.keeping.forget import refusing_forgotten
from tailrace.store.run_end import OVER
from tailrace.store.statements import Statements, fitting


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A run whose status and keys are due to be looked at.

    ``asked_for_s``: how long ago it was asked for. ``over``: it has ended, as far as is known. ``attempt``: how often
    in a row looking brought nothing. ``refusals``: how often upstream has refused to show it since it last did, the
    first time ``refused_s`` ago. ``due_at``: since when it has been due, in seconds since 1970.
    """

    id: int
    run_id: str
    known: bool
    over: bool
    asked_for_s: float
    attempt: int
    refusals: int
    refused_s: float
    due_at: float

    @property
    def sought(self) -> bool:
        """It has been looked for in vain, and never been seen."""
        return not self.known and self.attempt > 0


# In SQL, of a run r: `WatchedRun.sought`.
SOUGHT = "(r.state = 'requested' AND r.watch_attempt > 0)"


class Runs:
    """The statements about runs of one environment. Thread-safe."""

    def __init__(self, engine: sa.Engine, environment: str) -> None:
        self._statements = Statements(engine, environment=environment)
        self._environment = environment

    @property
    def environment(self) -> str:
        return self._environment

    def enrol(self, api_url: str) -> None:
        """Make the environment's row, or correct its address; a key that was refused gets a new chance."""
        self._statements.execute(
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

        Who asks for a sealed run has it read again; see ``tailrace.request_ingest``.

        Raises:
            UnknownEnvironment: nobody serves the environment, or ever did.
        """
        try:
            with refusing_forgotten():
                row = self._statements.execute(
                    """
                    SELECT tailrace.request_ingest(
                        :run_id, :streams, :environment, :priority, :then, CAST(:options AS json)) AS id
                    """,
                    run_id=run_id,
                    streams=None if streams is None else list(streams),
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
        row = self._statements.execute("SELECT tailrace.cancel_run(:run_id, :environment) AS stopped", run_id=run_id)[0]
        return None if row.stopped is None else int(row.stopped)

    def retry(self, run_id: str) -> int | None:
        """Take failed and cancelled streams up again; return their number, None when there is no such run."""
        row = self._statements.execute("SELECT tailrace.retry_run(:run_id, :environment) AS revived", run_id=run_id)[0]
        return None if row.revived is None else int(row.revived)

    def claim_watch(self, limit: int, claim_s: float, run: int | None = None, sought: int = 10) -> list[WatchedRun]:
        """Choose runs that are due to be looked at, and keep others from it for ``claim_s``.

        First up to ``limit`` that are new or known, those first that have been due longest. Then up to ``sought`` that
        upstream did not know when last asked, those first that were asked for least often: thousands of wrong ids must
        not stand before a run that is there.
        """
        due = """
            SELECT r.id, r.next_watch_at AS due_at
            FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE r.state IN ('requested', 'watched') AND r.next_watch_at <= now()
              AND e.name = :environment AND e.halted_at IS NULL
              AND (CAST(:run AS bigint) IS NULL OR r.id = :run)
            """
        rows = self._statements.execute(
            f"""
            WITH first AS (
                {due} AND NOT {SOUGHT}
                ORDER BY r.next_watch_at LIMIT :limit FOR NO KEY UPDATE OF r SKIP LOCKED
            ), others AS (
                {due} AND {SOUGHT}
                ORDER BY r.watch_attempt, r.next_watch_at LIMIT :sought FOR NO KEY UPDATE OF r SKIP LOCKED
            ), due AS (
                SELECT * FROM first UNION ALL SELECT * FROM others
            )
            UPDATE tailrace.runs r SET next_watch_at = now() + :claim_s * interval '1 second'
            FROM due WHERE r.id = due.id
            RETURNING r.id, r.run_id, r.state = 'watched' AS known, {OVER} AS over, r.watch_attempt AS attempt,
                      extract(epoch FROM now() - r.requested_at)::float8 AS asked_for_s, r.refusals,
                      coalesce(extract(epoch FROM now() - r.troubled_at), 0)::float8 AS refused_s,
                      extract(epoch FROM due.due_at)::float8 AS due_at
            """,
            limit=limit,
            sought=sought,
            claim_s=claim_s,
            run=run,
        )
        runs = [WatchedRun(**row._mapping) for row in rows]
        return sorted(runs, key=lambda run: (run.attempt if run.sought else 0, run.due_at))

    def sought_among(self, run_ids: Iterable[str]) -> dict[int, str]:
        """Return those of these runs that were looked for in vain, due or not: the ids of their rows and their own."""
        rows = self._statements.execute(
            f"""
            SELECT r.id, r.run_id FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE r.run_id = ANY(:run_ids) AND e.name = :environment AND {SOUGHT}
            """,
            run_ids=list(run_ids),
        )
        return {row.id: row.run_id for row in rows}

    def unseen(self, runs: Iterable[int]) -> None:
        """Note that new runs were looked for in vain among many: what comes now goes first."""
        self._statements.execute(
            """
            UPDATE tailrace.runs SET watch_attempt = 1
            WHERE id = ANY(:runs) AND state = 'requested' AND watch_attempt = 0
            """,
            runs=list(runs),
        )

    def observe(self, views: Mapping[int, RunView], watch_s: float) -> int:
        """Note what upstream says of runs, by the ids of their rows, and make a row for each stream that is new.

        Return the number of new streams. A run that asks for certain streams gets those and no others, named by the
        feed or not: input streams never are. What was not there when all were last listed is younger than that; the
        others can be as old as the run.

        A run that somebody has locked is left out: whoever asks for it again makes it due again, and whoever settles it
        needs no look.
        """
        rows = self._statements.execute(
            """
            WITH v AS MATERIALIZED (
                SELECT * FROM json_to_recordset(CAST(:views AS json)) AS v (
                    id bigint, status text, task_identifier text, tags json, created_at timestamptz,
                    started_at timestamptz, finished_at timestamptz, terminal boolean, keys json)
            ), free AS MATERIALIZED (
                SELECT r.id, r.listed_at FROM tailrace.runs r WHERE r.id IN (SELECT v.id FROM v) ORDER BY r.id
                FOR NO KEY UPDATE SKIP LOCKED
            ), r AS (
                UPDATE tailrace.runs r SET
                    state = 'watched', status = v.status, task_identifier = v.task_identifier,
                    tags = ARRAY(SELECT json_array_elements_text(v.tags)),
                    created_at = v.created_at, started_at = v.started_at, finished_at = v.finished_at,
                    terminal_at = CASE WHEN v.terminal THEN coalesce(r.terminal_at, now()) END,
                    keys_read_at = now(), listed_at = CASE WHEN r.selection IS NULL THEN now() END,
                    watch_attempt = 0, troubled_at = NULL, refusals = 0, last_error = NULL,
                    next_watch_at = now() + :watch_s * interval '1 second'
                FROM v JOIN free USING (id)
                WHERE r.id = v.id AND r.state IN ('requested', 'watched')
                RETURNING r.id, r.selection, v.keys, coalesce(free.listed_at, v.created_at) AS listed_before
            )
            INSERT INTO tailrace.streams (run, stream_key, not_before)
            SELECT r.id, k.k, r.listed_before FROM r CROSS JOIN LATERAL (
                SELECT unnest(r.selection) AS k
                UNION SELECT json_array_elements_text(r.keys) WHERE r.selection IS NULL
            ) k
            ON CONFLICT (run, stream_key) DO NOTHING
            RETURNING id
            """,
            views=json.dumps(
                [
                    described(view) | {"id": run, "terminal": view.terminal, "keys": list(view.stream_keys)}
                    for run, view in views.items()
                ]
            ),
            watch_s=watch_s,
        )
        return len(rows)

    def seal(self, runs: Iterable[int], quiet_s: float, late_check_s: float = 0.0) -> int:
        """Seal those runs that are over, whose keys were read after the quiet period and whose streams are all settled.

        Return their number. A run that somebody has locked is left for the next look. ``late_check_s``: after so long a
        run is looked at once more, if it has not been since somebody asked for it; 0: never.
        """
        return len(
            self._statements.execute(
                f"""
                UPDATE tailrace.runs r SET state = 'sealed', sealed_at = now(),
                    late_check_at = coalesce(
                        r.late_check_at,
                        CASE WHEN :late_check_s > 0 THEN now() + :late_check_s * interval '1 second' END)
                WHERE r.id IN (
                    SELECT r.id FROM tailrace.runs r
                    WHERE r.id = ANY(:runs) AND r.state = 'watched' AND {OVER}
                      AND r.keys_read_at >= r.terminal_at + :quiet_s * interval '1 second'
                      AND NOT EXISTS (
                        SELECT FROM tailrace.streams s
                        WHERE s.run = r.id AND s.state IN ('pending', 'active', 'parked'))
                    ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED)
                RETURNING r.id
                """,
                runs=list(runs),
                quiet_s=quiet_s,
                late_check_s=late_check_s,
            )
        )

    def give_back(self, runs: Iterable[int]) -> None:
        """Let others look at runs that were claimed and not looked at."""
        due = "UPDATE tailrace.runs SET next_watch_at = now() WHERE id = ANY(:runs)"
        self._statements.execute(due, runs=list(runs))

    def postpone(self, run: WatchedRun, error: str, delay_s: float, *, refused: bool = False) -> None:
        """Look at a run again later: it could not be read now. ``refused``: because upstream refuses to show it."""
        self._statements.execute(
            """
            UPDATE tailrace.runs SET watch_attempt = watch_attempt + 1, last_error = :error,
                   troubled_at = CASE WHEN :refused THEN coalesce(troubled_at, now()) ELSE troubled_at END,
                   refusals = refusals + CAST(:refused AS int),
                   next_watch_at = now() + :delay_s * interval '1 second'
            WHERE id = :id AND state IN ('requested', 'watched')
            """,
            id=run.id,
            error=fitting(error),
            delay_s=delay_s,
            refused=refused,
        )

    def unserved(self, run: WatchedRun, reason: str, delay_s: float) -> None:
        """Note that upstream no longer has a run that is over: no other stream keys than those we know will come."""
        self._statements.execute(
            """
            UPDATE tailrace.runs SET watch_attempt = watch_attempt + 1, last_error = :reason, keys_read_at = now(),
                   next_watch_at = now() + :delay_s * interval '1 second'
            WHERE id = :id AND state = 'watched'
            """,
            id=run.id,
            reason=fitting(reason),
            delay_s=delay_s,
        )

    def fail(self, run: WatchedRun, error: str) -> None:
        """Note that a run failed, and with it its streams that are not settled: the fence moves, so readers leave."""
        self._statements.execute(
            """
            WITH r AS (
                UPDATE tailrace.runs SET state = 'failed', last_error = :error
                WHERE id = :id AND state IN ('requested', 'watched') RETURNING id
            )
            UPDATE tailrace.streams s SET state = 'failed', verdict = 'failed', last_error = :error,
                   worker_id = NULL, token = s.token + 1, rev = s.rev + 1, hinted_until = NULL
            FROM r WHERE s.run = r.id AND s.state IN ('pending', 'active', 'parked')
            """,
            id=run.id,
            error=fitting(error),
        )

    def halt(self, reason: str) -> bool:
        """Stop everything of this environment: upstream refuses its key. True the first time."""
        return bool(
            self._statements.execute(
                """
                UPDATE tailrace.environments SET halted_at = now(), halted_reason = :reason, probed_at = NULL
                WHERE name = :environment AND halted_at IS NULL RETURNING id
                """,
                reason=fitting(reason),
            )
        )

    def claim_probe(self, every_s: float) -> bool:
        """Return whether it is for the caller to ask if the key of this halted environment is taken again."""
        return bool(
            self._statements.execute(
                """
                UPDATE tailrace.environments SET probed_at = now()
                WHERE name = :environment AND halted_at IS NOT NULL
                  AND coalesce(probed_at, halted_at) <= now() - :every_s * interval '1 second'
                RETURNING id
                """,
                every_s=every_s,
            )
        )

    def resume(self) -> None:
        """Let a halted environment go on."""
        self._statements.execute(
            """
            UPDATE tailrace.environments SET halted_at = NULL, halted_reason = NULL, probed_at = NULL
            WHERE name = :environment
            """
        )

    def halted(self) -> str | None:
        """Return why the environment is halted; None when it is not."""
        rows = self._statements.execute(
            "SELECT halted_reason FROM tailrace.environments WHERE name = :environment AND halted_at IS NOT NULL"
        )
        return str(rows[0].halted_reason) if rows else None


def described(view: RunView) -> dict[str, Any]:
    """Return what upstream says of a run as the statements take it: fit for JSON, under the names of the columns."""
    return {
        "run_id": view.run_id,
        "status": view.status,
        "task_identifier": view.task_identifier,
        "tags": list(view.tags),
        "created_at": _iso(view.created_at),
        "started_at": _iso(view.started_at),
        "finished_at": _iso(view.finished_at),
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
