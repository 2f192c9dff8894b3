"""What a database says of itself, of the role that asks and of the fleet: all that `tailrace doctor` asks of Postgres.

One function a statement; each is answered in bounded time whatever the archive holds, and nothing here writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from tailrace.store.leases import OPEN
from tailrace.store.roles import RUNTIME_CALLS, RUNTIME_WRITES
from tailrace.store.statements import Statements, refusing

__all__ = ["Connections", "Diagnosis", "Fleet", "KnownRun", "Rights", "Schedule", "Server"]

_WRITES = [
    (privilege, table)
    for privileges, tables in RUNTIME_WRITES.items()
    for privilege in privileges.split(", ")
    for table in tables
]
COUNTED = 10_000
"""What waits is counted so far; more makes no difference."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server and a database of it. ``number``: as ``server_version_num``. ``ahead_s``: how far its clock is before
    this machine's, at least: it may have answered at any moment while it was asked."""

    version: str
    number: int
    encoding: str
    standby: bool
    read_only: bool
    ahead_s: float

    @property
    def refuses_writes(self) -> str | None:
        """Why nothing can be written to it, as far as its settings say; None: it can."""
        if self.standby:
            return "the server is a standby"
        return "it is read-only (default_transaction_read_only)" if self.read_only else None


@dataclass(frozen=True, slots=True)
class Connections:
    """How many connections there are of those that a limit allows. ``limit``: whose it is, in words."""

    used: int
    allowed: int
    limit: str

    @property
    def free(self) -> int:
        return max(0, self.allowed - self.used)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may do. ``may_create``: a schema in this database. ``lacking``: of what a worker needs, in words."""

    role: str
    may_create: bool
    schema: bool
    may_use: bool
    lacking: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers that live, and what waits for them.

    ``reading``: streams that they lease. ``overdue``: streams that have been due for longer than a worker needs to
    choose them. ``asked``: runs that somebody asked for and nobody has looked at since. The last two up to `COUNTED`.
    """

    workers: int
    slots: int
    reading: int
    overdue: int
    asked: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """An entry of a beat's schedule that has been sent. ``every_s``: how often it should come."""

    name: str
    every_s: float
    last_at: datetime
    ago_s: float


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of an environment. ``shown``: upstream has shown it to a worker, whose key is thus of its environment."""

    run_id: str
    shown: bool


class Diagnosis:
    """Asks one database. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
        QueryRefused: it did not let this role know.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def server(self) -> Server:
        """Ask for what holds of the whole database; the cheapest proof that it answers."""
        asked_at = time.time()  # the clocks that are compared
        row = self._one(
            """
            SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
                   current_setting('server_encoding') AS encoding, pg_is_in_recovery() AS standby,
                   current_setting('transaction_read_only') = 'on' AS read_only,
                   extract(epoch FROM clock_timestamp())::float8 AS at
            """
        )
        ahead_s = max(0.0, row["at"] - time.time()) or min(0.0, row["at"] - asked_at)
        return Server(row["version"], row["number"], row["encoding"], row["standby"], row["read_only"], ahead_s)

    def connections(self) -> Connections:
        """Return the limit that this role meets first: the server's, the database's or its own.

        A superuser meets that of the server alone, and may use those that are kept for superusers.
        """
        rows = self._all(
            """
            WITH me AS (SELECT oid, rolsuper, rolconnlimit FROM pg_roles WHERE rolname = current_user),
                 here AS (SELECT oid, datconnlimit FROM pg_database WHERE datname = current_database()),
                 open AS (SELECT usesysid, datid FROM pg_stat_activity WHERE usesysid IS NOT NULL AND datid IS NOT NULL)
            SELECT count(*) AS used,
                   current_setting('max_connections')::int - CASE WHEN (SELECT rolsuper FROM me) THEN 0 ELSE
                       current_setting('superuser_reserved_connections')::int
                       + coalesce(current_setting('reserved_connections', true), '0')::int END AS allowed,
                   'the server' AS "limit"
            FROM open
            UNION ALL
            SELECT count(*), (SELECT datconnlimit FROM here), 'the database'
            FROM open WHERE datid = (SELECT oid FROM here)
            UNION ALL
            SELECT count(*), (SELECT rolconnlimit FROM me), 'the role'
            FROM open WHERE usesysid = (SELECT oid FROM me)
            """
        )
        superuser = bool(self._one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")["rolsuper"])
        found = [Connections(int(row["used"]), int(row["allowed"]), str(row["limit"])) for row in rows]
        limits = found[:1] if superuser else [each for each in found if each.allowed >= 0]
        return min(limits, key=lambda each: each.free)

    def timeouts(self) -> dict[str, float]:
        """Return after how many seconds the server ends what takes too long, by the name of the setting; only those
        that are set. They are those of a connection of this role to this database."""
        rows = self._all(
            """
            SELECT name, setting::float8 / 1000 AS seconds FROM pg_settings
            WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
              AND setting::float8 > 0
            ORDER BY name
            """
        )
        return {str(row["name"]): float(row["seconds"]) for row in rows}

    def rights(self) -> Rights:
        """Return what this role lacks of the rights that `tailrace roles` gives a worker."""
        row = self._one(
            """
            SELECT current_user::text AS role, has_database_privilege(current_database(), 'CREATE') AS may_create,
                   to_regnamespace('tailrace') IS NOT NULL AS schema,
                   coalesce(has_schema_privilege(to_regnamespace('tailrace')::oid, 'USAGE'), false) AS may_use
            """
        )
        lacking = self._lacking() if row["may_use"] else ()
        return Rights(row["role"], row["may_create"], row["schema"], row["may_use"], lacking)

    def _lacking(self) -> tuple[str, ...]:
        rows = self._all(
            """
            SELECT needed.privilege || ' on ' || string_agg(c.relname, ', ' ORDER BY c.relname) AS lacking
            FROM pg_class c CROSS JOIN LATERAL (
                SELECT 'SELECT' AS privilege
                UNION SELECT w.privilege
                FROM unnest(CAST(:privileges AS text[]), CAST(:tables AS text[])) AS w (privilege, name)
                WHERE w.name = c.relname
            ) needed
            WHERE c.relnamespace = to_regnamespace('tailrace') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
              AND NOT has_table_privilege(c.oid, needed.privilege)
            GROUP BY needed.privilege
            UNION ALL
            SELECT 'USAGE on ' || string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c
            WHERE c.relnamespace = to_regnamespace('tailrace')
              AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(c.oid, 'USAGE') ELSE false END
            HAVING count(*) > 0
            UNION ALL
            SELECT 'EXECUTE on ' || string_agg(f.name, ', ')
            FROM unnest(CAST(:functions AS text[])) AS f (name)
            WHERE NOT coalesce(has_function_privilege(to_regprocedure('tailrace.' || f.name)::oid, 'EXECUTE'), true)
            HAVING count(*) > 0
            ORDER BY 1
            """,
            functions=list(RUNTIME_CALLS),
            privileges=[privilege for privilege, _ in _WRITES],
            tables=[table for _, table in _WRITES],
        )
        return tuple(str(row["lacking"]) for row in rows)

    def revision(self) -> str | None:
        """Return the revision of the schema; None when it has none, because nobody has migrated."""
        if self._one("SELECT to_regclass('tailrace.alembic_version') IS NULL AS none")["none"]:
            return None
        rows = self._all("SELECT version_num FROM tailrace.alembic_version")
        return str(rows[0]["version_num"]) if rows else None

    def partitioned_days(self) -> float:
        """Return for how many days from now on new streams have a place to be stored; 0 when today has none."""
        rows = self._all(
            """
            SELECT extract(epoch FROM max(day) + interval '1 day' - now())::float8 / 86400 AS days
            FROM (
                SELECT to_timestamp(right(c.relname, 8), 'YYYYMMDD') AS day
                FROM pg_catalog.pg_inherits i
                JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'tailrace.segments'::regclass AND c.relname ~ '^segments_[0-9]{8}$'
            ) made
            """
        )
        return max(0.0, float(rows[0]["days"] or 0.0))

    def came_from_elsewhere(self) -> bool:
        """Return whether changes were last numbered on another server; False when this role may not ask."""
        may = """
            SELECT pg_catalog.has_table_privilege('tailrace.counted_on', 'SELECT')
                   AND pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS may
            """
        if not self._all(may)[0]["may"]:
            return False
        return bool(
            self._all(
                """
                SELECT FROM tailrace.counted_on c, pg_catalog.pg_control_system() here
                WHERE c.system_identifier <> here.system_identifier
                """
            )
        )

    def fleet(self, overdue_s: float) -> Fleet:
        """Count the living workers, what they read and what waits; ``overdue_s``: for how long at least."""
        row = self._one(
            f"""
            WITH alive AS (SELECT w.id, w.slots FROM tailrace.workers w WHERE w.expires_at > now())
            SELECT (SELECT count(*) FROM alive) AS workers, (SELECT coalesce(sum(slots), 0) FROM alive) AS slots,
                   (SELECT count(*) FROM tailrace.streams s JOIN alive a ON a.id = s.worker_id WHERE {OPEN}) AS reading,
                   (SELECT count(*) FROM (
                        SELECT FROM tailrace.streams s
                        JOIN tailrace.runs r ON r.id = s.run
                        JOIN tailrace.environments e ON e.id = r.environment_id
                        WHERE {OPEN} AND s.worker_id IS NULL AND e.halted_at IS NULL
                          AND s.next_attempt_at < now() - :overdue_s * interval '1 second' LIMIT :most) o) AS overdue,
                   (SELECT count(*) FROM (
                        SELECT FROM tailrace.runs r WHERE r.state = 'requested' AND r.watch_attempt = 0
                          AND r.next_watch_at < now() - :overdue_s * interval '1 second' LIMIT :most) a) AS asked
            """,
            overdue_s=overdue_s,
            most=COUNTED,
        )
        return Fleet(**{name: int(row[name]) for name in ("workers", "slots", "reading", "overdue", "asked")})

    def schedules(self) -> list[Schedule]:
        """Read when each entry of a beat's schedule last came, by name."""
        rows = self._all(
            """
            SELECT name, every_s, last_at, extract(epoch FROM now() - last_at)::float8 AS ago_s
            FROM tailrace.schedules ORDER BY name
            """
        )
        return [Schedule(**row) for row in rows]

    def api_url(self, environment: str) -> str | None:
        """Return where the workers of an environment found it last; None when no worker has served it yet."""
        rows = self._all(
            """
            SELECT e.api_url FROM tailrace.environments e
            WHERE e.name = :environment AND EXISTS (SELECT FROM tailrace.runs r WHERE r.environment_id = e.id)
            """,
            environment=environment,
        )
        return str(rows[0]["api_url"]) if rows else None

    def recent_runs(self, environment: str, within_s: float, limit: int) -> list[KnownRun]:
        """Read runs of an environment that were asked for lately, newest first: up to ``limit`` that upstream has
        shown, and as many that were given up because it did not know them."""
        rows = self._all(
            """
            WITH newest AS (
                SELECT r.id, r.run_id, r.status IS NOT NULL AS shown FROM (
                    SELECT * FROM tailrace.runs
                    WHERE id >= tailrace.stream_id_at(now() - :within_s * interval '1 second')
                    ORDER BY id DESC LIMIT :most
                ) r JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE e.name = :environment AND (r.status IS NOT NULL OR r.state = 'failed')
            )
            (SELECT run_id, shown FROM newest WHERE shown ORDER BY id DESC LIMIT :limit)
            UNION ALL
            (SELECT run_id, shown FROM newest WHERE NOT shown ORDER BY id DESC LIMIT :limit)
            """,
            most=COUNTED,
            environment=environment,
            within_s=within_s,
            limit=limit,
        )
        return [KnownRun(**row) for row in rows]

    def _one(self, statement: str, **parameters: object) -> sa.RowMapping:
        return self._all(statement, **parameters)[0]

    def _all(self, statement: str, **parameters: object) -> Sequence[sa.RowMapping]:
        with refusing():
            return [row._mapping for row in self._statements.execute(statement, **parameters)]
