"""Many runs at once: watched together, found, and backfilled. One function a statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tailrace.errors import UnknownEnvironment
from tailrace.model import RunView
from tailrace.store.engine import autocommit, translated
from tailrace.store.leases import OVER

__all__ = ["Backfill", "Discovered", "ManyRuns", "OwnedBackfill"]


@dataclass(frozen=True, slots=True)
class Discovered:
    """How far new runs have been found. ``behind_s``: how long ago ``covered_to`` was."""

    covered_to: datetime
    now: datetime
    scan_due: bool


@dataclass(frozen=True, slots=True)
class OwnedBackfill:
    """A backfill that this process may take a step of, until its lease ends."""

    id: int
    token: int
    filters: dict[str, Any]
    since: datetime
    until: datetime
    cursor: str | None
    attempt: int


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill as it stands. ``open_runs``: runs of backfills of this environment that are not settled yet."""

    id: int
    state: str
    filters: dict[str, Any]
    since: datetime
    until: datetime
    pages: int
    seen: int
    requested: int
    open_runs: int
    last_error: str | None
    started_at: datetime
    finished_at: datetime | None


class ManyRuns:
    """The statements about many runs of one environment. Thread-safe."""

    def __init__(self, engine: sa.Engine, environment: str) -> None:
        self._engine = autocommit(engine)
        self._environment = environment

    # --- watching

    def observe(self, views: Mapping[int, RunView], watch_s: float) -> int:
        """Note what upstream says of many runs, by the ids of their rows; return the number of streams that are new.

        As `Runs.observe`, in one statement. A run that somebody has locked is left for the next look.
        """
        rows = self._execute(
            """
            WITH v AS MATERIALIZED (
                SELECT * FROM json_to_recordset(CAST(:views AS json)) AS v (
                    id bigint, status text, task text, tags json, created_at timestamptz, started_at timestamptz,
                    finished_at timestamptz, terminal boolean, keys json)
            ), free AS MATERIALIZED (
                SELECT r.id, r.listed_at FROM tailrace.runs r WHERE r.id IN (SELECT v.id FROM v) ORDER BY r.id
                FOR NO KEY UPDATE SKIP LOCKED
            ), r AS (
                UPDATE tailrace.runs r SET
                    state = 'watched', status = v.status, task_identifier = v.task,
                    tags = ARRAY(SELECT json_array_elements_text(v.tags)),
                    created_at = v.created_at, started_at = v.started_at, finished_at = v.finished_at,
                    terminal_at = CASE WHEN v.terminal THEN coalesce(r.terminal_at, now()) END,
                    keys_read_at = now(), listed_at = CASE WHEN r.selection IS NULL THEN now() END,
                    watch_attempt = 0, last_error = NULL,
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
                    {
                        "id": run,
                        "status": view.status,
                        "task": view.task_identifier,
                        "tags": list(view.tags),
                        "created_at": _iso(view.created_at),
                        "started_at": _iso(view.started_at),
                        "finished_at": _iso(view.finished_at),
                        "terminal": view.terminal,
                        "keys": list(view.stream_keys),
                    }
                    for run, view in views.items()
                ]
            ),
            watch_s=watch_s,
        )
        return len(rows)

    def seal(self, runs: Iterable[int], quiet_s: float, late_check_s: float = 0.0) -> int:
        """Seal those runs that can be, as `Runs.seal` does; return their number."""
        return len(
            self._execute(
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
        self._execute("UPDATE tailrace.runs SET next_watch_at = now() WHERE id = ANY(:runs)", runs=list(runs))

    # --- finding

    def request_listed(self, views: Iterable[RunView], priority: int) -> list[str]:
        """Ask for those runs that are neither archived nor forgotten; return their ids."""
        rows = self._execute(
            "SELECT * FROM tailrace.request_listed(:environment, CAST(:runs AS json), :priority) AS run_id",
            runs=_listed(views),
            priority=priority,
        )
        return [row.run_id for row in rows]

    def unknown(self, views: Sequence[RunView]) -> list[str]:
        """Return which of these runs `request_listed` would ask for; changes nothing."""
        rows = self._execute(
            """
            SELECT l.run_id FROM unnest(CAST(:run_ids AS text[])) AS l (run_id)
            JOIN tailrace.environments e ON e.name = :environment
            WHERE NOT EXISTS (
                SELECT FROM tailrace.runs r WHERE r.run_id = l.run_id AND r.environment_id = e.id
            ) AND NOT EXISTS (
                SELECT FROM tailrace.forgotten f
                WHERE f.environment_id = e.id AND f.run_hash = tailrace.run_hash(l.run_id)
            )
            """,
            run_ids=[view.run_id for view in views],
        )
        return [row.run_id for row in rows]

    def discovery(self, rule: str, look_s: float, scan_s: float) -> Discovered | None:
        """Take the next look for new runs, if one is due: nobody else does for ``look_s``. The first begins now."""
        rows = self._execute(
            """
            INSERT INTO tailrace.discoveries AS d (environment_id, rule, covered_to, next_look_at, next_scan_at)
            SELECT e.id, :rule, now(), now() + :look_s * interval '1 second', now() + :scan_s * interval '1 second'
            FROM tailrace.environments e WHERE e.name = :environment AND e.halted_at IS NULL
            ON CONFLICT (environment_id, rule) DO UPDATE SET
                next_look_at = excluded.next_look_at,
                next_scan_at = CASE WHEN d.next_scan_at <= now() THEN excluded.next_scan_at ELSE d.next_scan_at END
            WHERE d.next_look_at <= now()
            RETURNING covered_to, now() AS now, next_scan_at = now() + :scan_s * interval '1 second' AS scan_due
            """,
            rule=rule,
            look_s=look_s,
            scan_s=scan_s,
        )
        return Discovered(rows[0].covered_to, rows[0].now, rows[0].scan_due) if rows else None

    def discovered(self, rule: str, found: int, covered_to: datetime | None, error: str | None) -> None:
        """Note what a look brought. ``covered_to`` only grows; None: the list was not read to its end."""
        self._execute(
            """
            UPDATE tailrace.discoveries d
            SET found = d.found + :found, last_error = :error,
                covered_to = greatest(d.covered_to, CAST(:covered_to AS timestamptz))
            FROM tailrace.environments e
            WHERE e.id = d.environment_id AND e.name = :environment AND d.rule = :rule
            """,
            rule=rule,
            found=found,
            covered_to=covered_to,
            error=error[:2000] if error else None,
        )

    # --- backfilling

    def begin_backfill(self, since: datetime, until: datetime, filters: Mapping[str, Any]) -> int:
        """Make a backfill's row; return its id. One that runs already and reaches as far back is taken instead.

        Raises:
            UnknownEnvironment: nobody serves the environment, or ever did.
        """
        rows = self._execute(
            """
            WITH e AS (
                SELECT id FROM tailrace.environments WHERE name = :environment FOR NO KEY UPDATE
            ), running AS (
                SELECT b.id FROM tailrace.backfills b JOIN e ON e.id = b.environment_id
                WHERE b.state = 'running' AND b.filters::text = CAST(:filters AS json)::text
                  AND b.since <= :since AND b.until >= :until - interval '10 minutes' AND b.cursor IS NULL
                ORDER BY b.id LIMIT 1
            ), made AS (
                INSERT INTO tailrace.backfills (environment_id, filters, since, until)
                SELECT e.id, CAST(:filters AS json), :since, :until FROM e WHERE NOT EXISTS (SELECT FROM running)
                RETURNING id
            )
            SELECT id FROM running UNION ALL SELECT id FROM made
            """,
            since=since,
            until=until,
            filters=json.dumps(filters, sort_keys=True),
        )
        if not rows:
            raise UnknownEnvironment(f"The archive has no environment {self._environment!r}.")
        return int(rows[0].id)

    def claim_backfill(self, lease_s: float, backfill: int | None = None) -> OwnedBackfill | None:
        """Take the next step of a backfill that is due and that nobody is at work on."""
        rows = self._execute(
            """
            UPDATE tailrace.backfills b
            SET token = b.token + 1, leased_until = now() + :lease_s * interval '1 second'
            WHERE b.id = (
                SELECT b.id FROM tailrace.backfills b JOIN tailrace.environments e ON e.id = b.environment_id
                WHERE b.state = 'running' AND b.next_page_at <= now()
                  AND (b.leased_until IS NULL OR b.leased_until < now())
                  AND e.name = :environment AND e.halted_at IS NULL
                  AND (CAST(:backfill AS bigint) IS NULL OR b.id = :backfill)
                ORDER BY b.next_page_at LIMIT 1
                FOR NO KEY UPDATE OF b SKIP LOCKED)
            RETURNING b.id, b.token, b.filters, b.since, b.until, b.cursor, b.attempt
            """,
            lease_s=lease_s,
            backfill=backfill,
        )
        return OwnedBackfill(**rows[0]._mapping) if rows else None

    def note_page(
        self, owned: OwnedBackfill, views: Iterable[RunView], following: str | None, wait_s: float
    ) -> int | None:
        """Ask for what is new on a page and move on, both or neither; None when somebody else took the backfill."""
        row = self._execute(
            "SELECT tailrace.note_backfill_page(:id, :token, CAST(:runs AS json), :next, :wait_s) AS new",
            id=owned.id,
            token=owned.token,
            runs=_listed(views),
            next=following,
            wait_s=wait_s,
        )[0]
        return None if row.new is None else int(row.new)

    def postpone_backfill(self, owned: OwnedBackfill, wait_s: float, error: str | None) -> None:
        """Take the step later; ``error`` None: it only waits."""
        self._execute(
            """
            UPDATE tailrace.backfills SET
                next_page_at = now() + :wait_s * interval '1 second', leased_until = NULL, last_error = :error,
                attempt = CASE WHEN CAST(:error AS text) IS NULL THEN 0 ELSE attempt + 1 END
            WHERE id = :id AND token = :token AND state = 'running'
            """,
            id=owned.id,
            token=owned.token,
            wait_s=wait_s,
            error=error[:2000] if error else None,
        )

    def restart_backfill(self, owned: OwnedBackfill, error: str) -> None:
        """Begin again at the first page: upstream no longer takes the cursor."""
        self._execute(
            """
            UPDATE tailrace.backfills SET cursor = NULL, leased_until = NULL, last_error = :error, attempt = attempt + 1
            WHERE id = :id AND token = :token AND state = 'running'
            """,
            id=owned.id,
            token=owned.token,
            error=error[:2000],
        )

    def fail_backfill(self, owned: OwnedBackfill, error: str) -> None:
        """Return a backfill up: upstream refuses its filters."""
        self._execute(
            """
            UPDATE tailrace.backfills
            SET state = 'failed', last_error = :error, finished_at = now(), leased_until = NULL
            WHERE id = :id AND token = :token AND state = 'running'
            """,
            id=owned.id,
            token=owned.token,
            error=error[:2000],
        )

    def cancel_backfill(self, backfill: int) -> None:
        """Stop a backfill; what it has asked for is ingested."""
        self._execute(
            """
            UPDATE tailrace.backfills SET state = 'cancelled', finished_at = now()
            WHERE id = :id AND state = 'running'
            """,
            id=backfill,
        )

    def open_runs(self) -> int:
        """Count the runs that backfills asked for and that are not settled yet."""
        return int(
            self._execute(
                """
                SELECT count(*) AS n FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE r.state IN ('requested', 'watched') AND r.priority = 1 AND e.name = :environment
                """
            )[0].n
        )

    def backfill(self, backfill: int) -> Backfill:
        """Read how a backfill stands."""
        row = self._execute(
            """
            SELECT b.id, b.state, b.filters, b.since, b.until, b.pages, b.seen, b.requested,
                   (SELECT count(*) FROM tailrace.runs r
                    WHERE r.state IN ('requested', 'watched') AND r.priority = 1
                      AND r.environment_id = b.environment_id) AS open_runs,
                   b.last_error, b.started_at, b.finished_at
            FROM tailrace.backfills b WHERE b.id = :id
            """,
            id=backfill,
        )[0]
        return Backfill(**row._mapping)

    def _execute(self, statement: str, **parameters: object) -> Sequence[sa.Row[Any]]:
        with translated(), self._engine.connect() as connection:
            if ":environment" in statement:
                parameters["environment"] = self._environment
            result = connection.execute(sa.text(statement), parameters)
            return result.all() if result.returns_rows else []


def _listed(views: Iterable[RunView]) -> str:
    return json.dumps(
        [
            {
                "run_id": view.run_id,
                "status": view.status,
                "task_identifier": view.task_identifier,
                "tags": list(view.tags),
                "created_at": _iso(view.created_at),
                "started_at": _iso(view.started_at),
                "finished_at": _iso(view.finished_at),
            }
            for view in views
        ]
    )


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
