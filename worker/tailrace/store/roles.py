"""Who may do what in the database: the owner migrates, the runtime archives, everybody else has one errand each.

The statements are printed where they cannot be run: on many managed servers somebody else makes roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import exc, pool

from tailrace.store.engine import create_engine, is_unavailable, translated

__all__ = [
    "ENQUEUER",
    "MAINTENANCE",
    "MONITOR",
    "READER",
    "RUNTIME",
    "SERVER",
    "VIEWS",
    "RoleSetup",
    "set_up",
    "statements",
]

RUNTIME = "tailrace_runtime"
"""Workers."""
READER = "tailrace_reader"
"""Whoever queries the archive."""
ENQUEUER = "tailrace_enqueuer"
"""Applications that ask for runs in a transaction of their own."""
MONITOR = "tailrace_monitor"
"""Whoever watches: lag, states, workers; no chunk."""
MAINTENANCE = "tailrace_maintenance"
"""People and schedules that prune, forget, compact, export and verify, and who give keys; they can't add a chunk."""
SERVER = "tailrace_server"
"""`tailrace serve`: what is archived, for those whose keys it takes. It changes nothing of it and can give no key; it
asks for runs, as an application does, when somebody has that done in the console."""

VIEWS = ("chunks", "stream_text", "stream_stats", "run_overview", "message_parts", "gaps", "quarantined")
"""What a reader may select from; docs/sql.md describes each."""

# What has the rights of the tables' owner is executed only by those to whom it is granted.
READING = (
    *("chunks_range(text, text, bigint, bigint)", "stored_after(bigint, int, bigint)", "facts_of_stream(bigint)"),
    *("parts_of_stream(bigint)", "parts_of_stream(bigint, text[])", "text_of_stream(bigint)", "search_text(text)"),
    "changes_since(bigint, int)",
)
ASKING = ("request_ingest(text, text[], text, int, text, json, text)", "cancel_run(text, text)")
RETRYING = ("retry_run(text, text)",)
PARTITIONS = ("ensure_partitions(int, int)", "ensure_partition(date)", "drop_day(date)")

COUNTING = ("archived_days()", "recently_stored(bigint, int, double precision)")
"""Look into what is stored, and tell only of which days there is something, and how fast and how new it is."""

WATCHED = (
    *("alembic_version", "environments", "workers", "runs", "streams", "streams_now", "holes", "gaps"),
    *("backfills", "discoveries", "outbox", "schedules", "tallies", "tallied"),
    *("mismatches", "verifications", "verified_days"),
)
"""What says how the archive does, and holds nothing of a stream."""

SERVED = (
    *("access_keys", "environments", "forgotten", "runs", "streams", "streams_now"),
    *("segments", "holes", "quarantine"),
)
"""What is looked up to admit who asks, and to answer."""
LOOKED_AT = (
    *("audit", "run_overview", "stream_text", "workers", "backfills", "discoveries", "outbox", "tallies", "tallied"),
    *("mismatches", "verifications", "verified_days"),
)
"""What the console shows besides."""
LOOKING = (
    *("stored_after(bigint, int, bigint)", *COUNTING),
    *("parts_of_stream(bigint)", "parts_of_stream(bigint, text[])", "text_of_stream(bigint)", "search_text(text)"),
)
NOTED = {"access_keys": "last_used_at", "audit": "outcome"}
"""What a server changes of a row: one column. It adds rows to the audit, and rewrites none."""

# Tables by what is done to their rows; through the parents, so new partitions need nothing.
RUNTIME_WRITES = {
    "INSERT, UPDATE": ("environments", "runs", "backfills", "discoveries", "schedules"),
    "INSERT, UPDATE, DELETE": (
        *("workers", "streams", "segments", "facts", "outbox", "tallied"),
        *("mismatches", "verifications", "verified_days"),
    ),
    "INSERT, DELETE": ("holes", "quarantine", "search", "tallies"),
}
RUNTIME_CALLS = (*READING, *ASKING, *RETRYING, *PARTITIONS, *COUNTING)
MAINTENANCE_WRITES = {
    "INSERT, UPDATE, DELETE": (
        *("access_keys", "runs", "facts", "exported", "exporting", "forgotten"),
        *("mismatches", "verifications", "verified_days"),
    ),
    "INSERT, DELETE": ("search",),
    "UPDATE, DELETE": ("streams", "segments"),
    "DELETE": ("audit", "holes", "quarantine"),
    "INSERT": ("outbox",),
}


@dataclass(frozen=True, slots=True)
class RoleSetup:
    """What came of it. ``refused``: the server's words, when the roles could not be made; then ``script`` is to be run
    by somebody who may."""

    refused: str | None
    script: str


def statements(
    runtime: str = RUNTIME,
    reader: str = READER,
    *,
    enqueuer: str = ENQUEUER,
    monitor: str = MONITOR,
    maintenance: str = MAINTENANCE,
    server: str = SERVER,
    timeout_s: int = 60,
    connection: psycopg.Connection | None = None,
) -> list[str]:
    """Return the statements, in order. Repeating them is harmless. The roles cannot log in by themselves: grant them
    to those that can (``GRANT tailrace_reader TO metabase``).

    A timeout that belongs to a role holds for those that log in *as* it; give members theirs with ALTER ROLE too.
    """
    composed = [
        *(each for name in (runtime, reader, enqueuer, monitor, maintenance, server) for each in _made(name)),
        *_runtime(sql.Identifier(runtime)),
        *_reader(sql.Identifier(reader), timeout_s),
        *_enqueuer(sql.Identifier(enqueuer)),
        *_monitor(sql.Identifier(monitor), timeout_s),
        *_maintenance(sql.Identifier(maintenance)),
        *_server(sql.Identifier(server)),
    ]
    return [each.as_string(connection) for each in composed]


def _made(name: str) -> Iterator[sql.Composable]:
    """Make the role, and take from it what an earlier version granted."""
    role = sql.Identifier(name)
    yield sql.SQL(
        "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {})"
        " THEN CREATE ROLE {} NOLOGIN; END IF; END $do$"
    ).format(sql.Literal(name), role)
    for what in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        yield sql.SQL(f"REVOKE ALL ON ALL {what} IN SCHEMA tailrace FROM {{}}").format(role)
    yield sql.SQL("GRANT USAGE ON SCHEMA tailrace TO {}").format(role)


def _runtime(role: sql.Identifier) -> Iterator[sql.Composable]:
    yield sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA tailrace TO {}").format(role)
    yield from _writes(RUNTIME_WRITES, role)
    yield sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA tailrace TO {}").format(role)
    yield from _calls(RUNTIME_CALLS, role)


def _reader(role: sql.Identifier, timeout_s: int) -> Iterator[sql.Composable]:
    yield from _selects(VIEWS, role)
    yield from _calls(READING, role)
    yield from _only_reads(role, timeout_s)


def _enqueuer(role: sql.Identifier) -> Iterator[sql.Composable]:
    yield from _calls(ASKING, role)


def _monitor(role: sql.Identifier, timeout_s: int) -> Iterator[sql.Composable]:
    yield from _selects(WATCHED, role)
    yield from _calls(("stored_after(bigint, int, bigint)", *COUNTING), role)
    yield from _only_reads(role, timeout_s)


def _maintenance(role: sql.Identifier) -> Iterator[sql.Composable]:
    yield sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA tailrace TO {}").format(role)
    yield from _writes(MAINTENANCE_WRITES, role)
    yield sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA tailrace TO {}").format(role)
    yield from _calls(RUNTIME_CALLS, role)


def _server(role: sql.Identifier) -> Iterator[sql.Composable]:
    yield from _selects((*SERVED, *LOOKED_AT), role)
    yield from _writes({"INSERT": ("audit",)}, role)
    yield from _calls((*LOOKING, *ASKING, *RETRYING), role)
    for table, column in NOTED.items():
        yield sql.SQL("GRANT UPDATE ({}) ON {} TO {}").format(
            sql.Identifier(column), sql.Identifier("tailrace", table), role
        )


def _selects(names: tuple[str, ...], role: sql.Identifier) -> Iterator[sql.Composable]:
    for name in names:
        yield sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier("tailrace", name), role)


def _writes(tables: dict[str, tuple[str, ...]], role: sql.Identifier) -> Iterator[sql.Composable]:
    for rights, names in tables.items():
        listed = sql.SQL(", ").join(sql.Identifier("tailrace", name) for name in names)
        yield sql.SQL(f"GRANT {rights} ON {{}} TO {{}}").format(listed, role)


def _calls(functions: tuple[str, ...], role: sql.Identifier) -> Iterator[sql.Composable]:
    for function in functions:
        yield sql.SQL(f"GRANT EXECUTE ON FUNCTION tailrace.{function} TO {{}}").format(role)


def _only_reads(role: sql.Identifier, timeout_s: int) -> Iterator[sql.Composable]:
    yield sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(role)
    yield sql.SQL("ALTER ROLE {} SET statement_timeout = {}").format(role, sql.Literal(f"{timeout_s}s"))


def set_up(
    database_url: str,
    runtime: str = RUNTIME,
    reader: str = READER,
    *,
    enqueuer: str = ENQUEUER,
    monitor: str = MONITOR,
    maintenance: str = MAINTENANCE,
    server: str = SERVER,
    timeout_s: int = 60,
) -> RoleSetup:
    """Make the roles and grant them what they need, in one transaction. Run it again after each migration.

    Raises:
        StoreUnavailable: Postgres did not answer.
    """
    made = statements(
        runtime,
        reader,
        enqueuer=enqueuer,
        monitor=monitor,
        maintenance=maintenance,
        server=server,
        timeout_s=timeout_s,
    )
    script = "".join(f"{statement};\n" for statement in made)
    engine = create_engine(database_url, poolclass=pool.NullPool)
    try:
        with translated(), engine.begin() as connection:
            for statement in made:
                connection.execute(sa.text(statement.replace(":", "\\:")))
    except exc.DBAPIError as error:
        if is_unavailable(error):
            raise
        return RoleSetup(str(error.orig).strip().partition("\n")[0], script)
    return RoleSetup(None, script)
