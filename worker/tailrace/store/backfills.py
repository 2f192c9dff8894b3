"""Runs that upstream lists and nobody named: new ones found, old ones backfilled. One function a statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from tailrace.errors import UnknownEnvironment
from tailrace.model import RunView
from tailrace.store.runs import described
from tailrace.store.statements import PATIENCE, Statements, fitting, impatient

__all__ = ["Backfill", "Discovered", "ListedRuns", "OwnedBackfill"]


@dataclass(frozen=True, slots=True)
class Discovered:
    """How far new runs have been found: all that the list named up to ``covered_to``. ``scan_due``: read it."""

    covered_to: datetime
    now: datetime
    scan_due: bool


@dataclass(frozen=True, slots=True)
class OwnedBackfill:
    """A backfill that this process may take a step of, until its lease ends.

    ``refusals``: how often upstream has refused since it last gave a page, the first time ``refused_s`` ago.
    """

    id: int
    token: int
    filters: dict[str, Any]
    since: datetime
    until: datetime
    cursor: str | None
    attempt: int
    refusals: int = 0
    refused_s: float = 0.0


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


class ListedRuns:
    """The statements that find and backfill runs of one environment. Thread-safe."""

    def __init__(self, engine: sa.Engine, environment: str) -> None:
        self._statements = Statements(engine, environment=environment)
        self.environment = environment

    # --- finding

    def request_listed(self, views: Iterable[RunView], priority: int) -> list[str]:
        """Ask for those runs that are neither archived nor forgotten; return their ids.

        Raises:
            StoreUnavailable: also when somebody's open transaction has asked for one of them.
        """
        with impatient():
            rows = self._statements.execute(
                f"""
                WITH {PATIENCE}
                SELECT l.run_id FROM patience
                CROSS JOIN LATERAL tailrace.request_listed(:environment, CAST(:runs AS json), :priority) AS l (run_id)
                WHERE patience.is_set IS NOT NULL
                """,
                runs=_listed(views),
                priority=priority,
            )
        return [row.run_id for row in rows]

    def unknown(self, views: Sequence[RunView]) -> list[str]:
        """Return which of these runs `request_listed` would ask for; changes nothing."""
        rows = self._statements.execute(
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
        rows = self._statements.execute(
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
        self._statements.execute(
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
            error=fitting(error) if error else None,
        )

    # --- backfilling

    def begin_backfill(self, since: datetime, until: datetime, filters: Mapping[str, Any]) -> int:
        """Make a backfill's row; return its id. One that runs already and reaches as far back is taken instead.

        Raises:
            UnknownEnvironment: nobody serves the environment, or ever did.
        """
        rows = self._statements.execute(
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
            raise UnknownEnvironment(f"The archive has no environment {self.environment!r}.")
        return int(rows[0].id)

    def claim_backfill(self, lease_s: float, backfill: int | None = None) -> OwnedBackfill | None:
        """Take the next step of a backfill that is due and that nobody is at work on."""
        rows = self._statements.execute(
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
            RETURNING b.id, b.token, b.filters, b.since, b.until, b.cursor, b.attempt, b.refusals,
                      coalesce(extract(epoch FROM now() - b.troubled_at), 0)::float8 AS refused_s
            """,
            lease_s=lease_s,
            backfill=backfill,
        )
        return OwnedBackfill(**rows[0]._mapping) if rows else None

    def note_page(
        self, owned: OwnedBackfill, views: Iterable[RunView], following: str | None, wait_s: float
    ) -> int | None:
        """Ask for what is new on a page and move on, both or neither; None when somebody else took the backfill.

        Raises:
            StoreUnavailable: also when somebody's open transaction has asked for one of these runs.
        """
        with impatient():
            row = self._statements.execute(
                f"""
                WITH {PATIENCE}
                SELECT tailrace.note_backfill_page(:id, :token, CAST(:runs AS json), :next, :wait_s) AS new
                FROM patience WHERE patience.is_set IS NOT NULL
                """,
                id=owned.id,
                token=owned.token,
                runs=_listed(views),
                next=following,
                wait_s=wait_s,
            )[0]
        return None if row.new is None else int(row.new)

    def postpone_backfill(self, owned: OwnedBackfill, wait_s: float, error: str | None) -> None:
        """Take the step later; ``error`` None: it only waits."""
        self._statements.execute(
            """
            UPDATE tailrace.backfills SET
                next_page_at = now() + :wait_s * interval '1 second', leased_until = NULL, last_error = :error,
                attempt = CASE WHEN CAST(:error AS text) IS NULL THEN 0 ELSE attempt + 1 END
            WHERE id = :id AND token = :token AND state = 'running'
            """,
            id=owned.id,
            token=owned.token,
            wait_s=wait_s,
            error=fitting(error) if error else None,
        )

    def refused_backfill(self, owned: OwnedBackfill, cursor: str | None, error: str, wait_s: float) -> None:
        """Take the step later, from ``cursor`` on: upstream refuses it now. None: from the first page on."""
        self._statements.execute(
            """
            UPDATE tailrace.backfills SET
                cursor = :cursor, leased_until = NULL, last_error = :error, attempt = attempt + 1,
                troubled_at = coalesce(troubled_at, now()), refusals = refusals + 1,
                next_page_at = now() + :wait_s * interval '1 second'
            WHERE id = :id AND token = :token AND state = 'running'
            """,
            id=owned.id,
            token=owned.token,
            cursor=cursor,
            error=fitting(error),
            wait_s=wait_s,
        )

    def fail_backfill(self, owned: OwnedBackfill, error: str) -> None:
        """Note that a backfill failed: upstream refuses its filters."""
        self._statements.execute(
            """
            UPDATE tailrace.backfills
            SET state = 'failed', last_error = :error, finished_at = now(), leased_until = NULL
            WHERE id = :id AND token = :token AND state = 'running'
            """,
            id=owned.id,
            token=owned.token,
            error=fitting(error),
        )

    def being_read(self, at_most: int) -> int:
        """Count the runs that backfills asked for and that are still to be read, up to ``at_most``.

        What has been read to its end, and only waits to be sealed, is not counted.
        """
        return int(
            self._statements.execute(
                """
                SELECT count(*) AS n FROM (
                    SELECT FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
                    WHERE r.state IN ('requested', 'watched') AND r.priority = 1 AND e.name = :environment
                      AND (r.state = 'requested' OR EXISTS (
                          SELECT FROM tailrace.streams s
                          WHERE s.run = r.id AND s.state IN ('pending', 'active', 'parked')
                            AND s.swept_index IS DISTINCT FROM s.last_chunk_index))
                    LIMIT :at_most) r
                """,
                at_most=at_most,
            )[0].n
        )

    def backfill(self, backfill: int) -> Backfill:
        """Read how a backfill stands."""
        row = self._statements.execute(
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


def _listed(views: Iterable[RunView]) -> str:
    return json.dumps([described(view) for view in views])
