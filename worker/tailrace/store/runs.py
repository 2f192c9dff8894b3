"""Runs of one environment: asked for, watched, sealed; and whether its runs are read. One function a statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import UnknownEnvironment
from tailrace.model import RunView
from tailrace.store.keeping.forget import refusing_forgotten
from tailrace.store.run_end import OVER, SETTLES_AT
from tailrace.store.statements import PATIENCE, Statements, fitting, impatient
from tailrace.tracing import traces


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """A run that its row says is to be looked at: asked for, or in trouble.

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


@dataclass(frozen=True, slots=True)
class Standing:
    """How a known run stands. ``open``: it is watched still. ``settled``: its keys have been read for the last time.

    ``settles_in_s``: in how many seconds they can be, less than 0 if they could be before; None: it is not over.
    ``row_read_at``: when its keys were read last, as the row says. ``noted``: nothing that upstream said of it just now
    is left to be noted: somebody had its row locked, or something was noted that was asked for later.
    """

    id: int
    run_id: str
    open: bool
    settles_in_s: float | None
    settled: bool
    row_read_at: datetime | None = None
    noted: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What upstream said of a run, and when it was asked: seconds since 1970 by Postgres' clock, or a little earlier.

    ``read_at``: when all of its keys were read before, likewise. It counts only if the row tells what it told then,
    ``row_read_at`` (`Standing`): else somebody else has noted something, or the database has lost what we noted.
    """

    view: RunView
    asked_at: float
    read_at: float | None = None
    row_read_at: datetime | None = None


# In SQL, of a run r: `WatchedRun.sought`.
SOUGHT = "(r.state = 'requested' AND r.watch_attempt > 0)"

# In SQL, of a run r, with :quiet_s: the columns of `Standing`.
STANDING = f"""
r.id, r.run_id, r.state IN ('requested', 'watched') AS open,
extract(epoch FROM {SETTLES_AT} - now())::float8 AS settles_in_s,
coalesce(r.keys_read_at >= {SETTLES_AT}, false) AS settled, r.keys_read_at AS row_read_at
"""

# In SQL, of a run r and what upstream says of it, v: the row does not say so.
DIFFERS = f"""
r.state IN ('requested', 'watched')
AND (r.next_watch_at IS NOT NULL OR r.state = 'requested'
     OR (r.status, r.task_identifier, r.tags, r.created_at, r.started_at, r.finished_at)
        IS DISTINCT FROM (v.status, v.task_identifier, v.words, v.created_at, v.started_at, v.finished_at)
     OR (r.terminal_at IS NOT NULL) <> v.terminal
     OR (r.keys_read_at < {SETTLES_AT} AND v.asked_at >= {SETTLES_AT})
     OR (r.selection IS NULL AND EXISTS (
         SELECT FROM json_array_elements_text(v.keys) k (k)
         WHERE NOT EXISTS (SELECT FROM tailrace.streams s WHERE s.run = r.id AND s.stream_key = k.k))))
"""

# And it is not older than what the row says.
NEWS = f"(r.keys_read_at IS NULL OR r.keys_read_at <= v.asked_at) AND {DIFFERS}"


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
        traceparent: str | None = None,
    ) -> int:
        """Ask for a run; return the id of its row. Asking again widens, never narrows. ``then``: a task to be called.

        ``traceparent``: the trace that asks; a run that is open stays in its own.

        Who asks for a sealed run has it read again; see ``tailrace.request_ingest``.

        Raises:
            UnknownEnvironment: nobody serves the environment, or ever did.
        """
        try:
            with impatient(), refusing_forgotten():
                row = self._statements.execute(
                    f"""
                    WITH {PATIENCE}
                    SELECT tailrace.request_ingest(
                        :run_id, :streams, :environment, :priority, :then, CAST(:options AS json), :traceparent) AS id
                    FROM patience WHERE patience.is_set IS NOT NULL
                    """,
                    run_id=run_id,
                    streams=None if streams is None else list(streams),
                    priority=priority,
                    then=then,
                    options=json.dumps(options) if options else None,
                    traceparent=traceparent,
                )[0]
        except exc.DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.NoDataFound):
                raise UnknownEnvironment(f"The archive has no environment {self._environment!r}.") from None
            raise
        return int(row.id)

    def cancel(self, run_id: str) -> int | None:
        """Stop a run; return the number of streams that were stopped, None when there is no such run."""
        with impatient():
            (row,) = self._statements.execute(
                f"""
                WITH {PATIENCE}
                SELECT tailrace.cancel_run(:run_id, :environment) AS stopped
                FROM patience WHERE patience.is_set IS NOT NULL
                """,
                run_id=run_id,
            )
        return None if row.stopped is None else int(row.stopped)

    def retry(self, run_id: str) -> int | None:
        """Take failed and cancelled streams up again; return their number, None when there is no such run."""
        row = self._statements.execute("SELECT tailrace.retry_run(:run_id, :environment) AS revived", run_id=run_id)[0]
        return None if row.revived is None else int(row.revived)

    def now(self) -> float:
        """Read Postgres' clock, in seconds since 1970."""
        return float(self._statements.execute("SELECT extract(epoch FROM clock_timestamp())::float8 AS now")[0].now)

    def hold_watch(self, worker: UUID) -> bool:
        """Return whether it is for this worker to watch the environment, which is not halted.

        It is taken over from a worker that has died.

        Two can believe it for a moment: nothing that they write is wrong then, and what is older says nothing.
        """
        rows = self._statements.execute(
            """
            WITH taken AS (
                UPDATE tailrace.environments e SET watched_by = :worker
                WHERE e.name = :environment AND e.watched_by IS DISTINCT FROM :worker
                  AND NOT EXISTS (SELECT FROM tailrace.workers w WHERE w.id = e.watched_by AND w.expires_at > now())
                  AND e.halted_at IS NULL
                RETURNING e.id
            )
            SELECT id FROM taken
            UNION ALL
            SELECT id FROM tailrace.environments
            WHERE name = :environment AND watched_by = :worker AND halted_at IS NULL
            """,
            worker=worker,
        )
        return bool(rows)

    def due(self, limit: int, sought: int, run: int | None = None, busy: Sequence[int] = ()) -> list[WatchedRun]:
        """Read which runs' rows say that they are to be looked at now, of all or of one; not those of ``busy``.

        First up to ``limit`` that are new or known, those first that have been due longest. Then up to ``sought`` that
        upstream did not know when last asked, those first that were asked for least often: thousands of wrong ids must
        not stand before a run that is there.
        """
        due = """
            SELECT r.* FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE r.state IN ('requested', 'watched') AND r.next_watch_at <= now()
              AND e.name = :environment AND e.halted_at IS NULL
              AND (CAST(:run AS bigint) IS NULL OR r.id = :run) AND r.id <> ALL(:busy)
            """
        rows = self._statements.execute(
            f"""
            SELECT r.id, r.run_id, r.state = 'watched' AS known, {OVER} AS over, r.watch_attempt AS attempt,
                   extract(epoch FROM now() - r.requested_at)::float8 AS asked_for_s, r.refusals,
                   coalesce(extract(epoch FROM now() - r.troubled_at), 0)::float8 AS refused_s,
                   extract(epoch FROM r.next_watch_at)::float8 AS due_at
            FROM (
                ({due} AND NOT {SOUGHT} ORDER BY r.next_watch_at LIMIT :limit)
                UNION ALL ({due} AND {SOUGHT} ORDER BY r.watch_attempt, r.next_watch_at LIMIT :sought)
            ) r
            """,
            limit=limit,
            sought=sought,
            run=run,
            busy=list(busy),
        )
        runs = [WatchedRun(**row._mapping) for row in rows]
        return sorted(runs, key=lambda run: (run.attempt if run.sought else 0, run.due_at))

    def standing(self, quiet_s: float, run: int | None = None) -> list[Standing]:
        """Read how the runs stand whose rows leave it to the watcher when they are looked at: all of them, or one."""
        rows = self._statements.execute(
            f"""
            SELECT {STANDING} FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE r.state IN ('requested', 'watched') AND r.next_watch_at IS NULL
              AND e.name = :environment AND e.halted_at IS NULL AND (CAST(:run AS bigint) IS NULL OR r.id = :run)
            """,
            quiet_s=quiet_s,
            run=run,
        )
        return [Standing(**row._mapping) for row in rows]

    def observe(self, seen: Mapping[int, Seen], quiet_s: float, worker: UUID) -> tuple[list[Standing], int]:
        """Note what upstream says of runs, by the ids of their rows, and make a row for each stream that is new.

        Return how the runs stand now, and the number of new streams. Nothing is written of a run of which upstream says
        what it said before. A run that asks for certain streams gets those and no others, named by the feed or not:
        input streams never are. What was not there when all were last listed is younger than that; the others can be as
        old as the run. What was asked for before the last answer that was noted says nothing: two may be watching.

        A run that somebody has locked, or that was asked about later, is left out, and its standing says so.
        When another than ``worker`` watches, and lives, the row says that the run is due: it is for that one to take it
        up. Else it is left to ``worker``, or to whoever watches next and reads `standing` first.
        """
        rows = self._statements.execute(
            f"""
            WITH v AS MATERIALIZED (
                SELECT v.*, ARRAY(SELECT json_array_elements_text(v.tags)) AS words,
                       least(now(), to_timestamp(v.asked_s)) AS asked_at
                FROM json_to_recordset(CAST(:seen AS json)) AS v (
                    id bigint, status text, task_identifier text, tags json, created_at timestamptz,
                    started_at timestamptz, finished_at timestamptz, terminal boolean, keys json,
                    asked_s double precision, read_s double precision, row_read_at timestamptz)
            ), news AS MATERIALIZED (
                SELECT r.id, r.listed_at, r.keys_read_at FROM tailrace.runs r JOIN v USING (id) WHERE {NEWS}
                ORDER BY r.id FOR NO KEY UPDATE OF r SKIP LOCKED
            ), r AS (
                UPDATE tailrace.runs r SET
                    state = 'watched', status = v.status, task_identifier = v.task_identifier, tags = v.words,
                    created_at = v.created_at, started_at = v.started_at, finished_at = v.finished_at,
                    terminal_at = CASE WHEN v.terminal THEN coalesce(r.terminal_at, now()) END,
                    keys_read_at = v.asked_at, listed_at = CASE WHEN r.selection IS NULL THEN v.asked_at END,
                    watch_attempt = 0, troubled_at = NULL, refusals = 0, last_error = NULL,
                    next_watch_at = (
                        SELECT now() FROM tailrace.environments e JOIN tailrace.workers w ON w.id = e.watched_by
                        WHERE e.id = r.environment_id AND w.id <> :worker AND w.expires_at > now())
                FROM v JOIN news USING (id)
                WHERE r.id = v.id AND r.state IN ('requested', 'watched')
                RETURNING r.*, v.keys, coalesce(
                    CASE WHEN news.listed_at IS NOT NULL AND news.keys_read_at = v.row_read_at
                         THEN greatest(news.listed_at, to_timestamp(v.read_s)) ELSE news.listed_at END,
                    v.created_at) AS listed_before
            ), made AS (
                INSERT INTO tailrace.streams (run, stream_key, not_before)
                SELECT r.id, k.k, r.listed_before FROM r CROSS JOIN LATERAL (
                    SELECT w.k, min(w.n) AS n FROM (
                        SELECT * FROM unnest(r.selection) WITH ORDINALITY AS s (k, n)
                        UNION ALL
                        SELECT * FROM json_array_elements_text(r.keys) WITH ORDINALITY AS j (k, n)
                        WHERE r.selection IS NULL
                    ) w GROUP BY w.k
                ) k
                -- Ids grow in the order in which upstream lists them: so does whoever shows the run.
                ORDER BY r.id, k.n
                ON CONFLICT (run, stream_key) DO NOTHING
                RETURNING run
            )
            SELECT {STANDING}, true AS noted, (SELECT count(*) FROM made) AS streams FROM r
            UNION ALL
            SELECT {STANDING}, ({DIFFERS}) IS NOT TRUE, 0 FROM tailrace.runs r JOIN v USING (id)
            WHERE r.id NOT IN (SELECT id FROM r)
            """,
            seen=json.dumps(
                [
                    described(each.view)
                    | {
                        "id": run,
                        "terminal": each.view.terminal,
                        "keys": list(each.view.stream_keys),
                        "asked_s": each.asked_at,
                        "read_s": each.read_at,
                        "row_read_at": _iso(each.row_read_at),
                    }
                    for run, each in seen.items()
                ]
            ),
            quiet_s=quiet_s,
            worker=worker,
        )
        found = max((row.streams for row in rows), default=0)
        standings = [
            Standing(row.id, row.run_id, row.open, row.settles_in_s, row.settled, row.row_read_at, row.noted)
            for row in rows
        ]
        return standings, found

    def seal(self, runs: Iterable[int], quiet_s: float, late_check_s: float = 0.0) -> list[int]:
        """Seal those runs that are over, whose keys were read after the quiet period and whose streams are all settled.

        Return them. A run that somebody has locked is left for the next look. ``late_check_s``: after so long a
        run is looked at once more, if it has not been since somebody asked for it; 0: never.
        """
        rows = self._statements.execute(
            f"""
            UPDATE tailrace.runs r SET state = 'sealed', sealed_at = now(),
                late_check_at = coalesce(
                    r.late_check_at,
                    CASE WHEN :late_check_s > 0 THEN now() + :late_check_s * interval '1 second' END)
            WHERE r.id IN (
                SELECT r.id FROM tailrace.runs r
                WHERE r.id = ANY(:runs) AND r.state = 'watched' AND {OVER} AND r.keys_read_at >= {SETTLES_AT}
                  AND NOT EXISTS (
                    SELECT FROM tailrace.streams s
                    WHERE s.run = r.id AND s.state IN ('pending', 'active', 'parked'))
                ORDER BY r.id FOR NO KEY UPDATE SKIP LOCKED)
            RETURNING r.id, r.run_id, r.traceparent
            """,
            runs=list(runs),
            quiet_s=quiet_s,
            late_check_s=late_check_s,
        )
        traces().sealed(self._environment, rows)
        return [row.id for row in rows]

    def postpone(self, run: WatchedRun, error: str, delay_s: float, *, refused: bool = False) -> None:
        """Look at a run again later: it could not be read now. ``refused``: because upstream refuses to show it."""
        with impatient():
            self._statements.execute(
                f"""
                WITH {PATIENCE}
                UPDATE tailrace.runs SET watch_attempt = watch_attempt + 1, last_error = :error,
                       troubled_at = CASE WHEN :refused THEN coalesce(troubled_at, now()) ELSE troubled_at END,
                       refusals = refusals + CAST(:refused AS int),
                       next_watch_at = now() + :delay_s * interval '1 second'
                FROM patience WHERE patience.is_set IS NOT NULL AND id = :id AND state IN ('requested', 'watched')
                """,
                id=run.id,
                error=fitting(error),
                delay_s=delay_s,
                refused=refused,
            )

    def unserved(self, run: WatchedRun, reason: str, delay_s: float) -> None:
        """Note that upstream no longer has a run that is over: no other stream keys than those we know will come."""
        with impatient():
            self._statements.execute(
                f"""
                WITH {PATIENCE}
                UPDATE tailrace.runs SET watch_attempt = watch_attempt + 1, last_error = :reason, keys_read_at = now(),
                       next_watch_at = now() + :delay_s * interval '1 second'
                FROM patience WHERE patience.is_set IS NOT NULL AND id = :id AND state = 'watched'
                """,
                id=run.id,
                reason=fitting(reason),
                delay_s=delay_s,
            )

    def fail(self, run: WatchedRun, error: str) -> None:
        """Note that a run failed, and with it its streams that are not settled: the fence moves, so readers leave."""
        with impatient():
            self._statements.execute(
                f"""
                WITH {PATIENCE}, r AS (
                    UPDATE tailrace.runs SET state = 'failed', last_error = :error
                    FROM patience WHERE patience.is_set IS NOT NULL AND id = :id AND state IN ('requested', 'watched')
                    RETURNING id
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
