"""Who may do what in the database: the owner migrates, the runtime writes, readers see the views.

The statements are printed where they cannot be run: on many managed servers somebody else makes roles.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import exc, pool

from tailrace.store.engine import create_engine, is_unavailable, translated

__all__ = ["READER", "RUNTIME", "VIEWS", "RoleSetup", "set_up", "statements"]

RUNTIME = "tailrace_runtime"
READER = "tailrace_reader"

VIEWS = ("chunks", "stream_text", "stream_stats", "run_overview", "message_parts", "gaps", "quarantined")
"""What a reader may select from; docs/sql.md describes each."""

# With the rights of the tables' owner, because they make and drop partitions.
OWNERS_FUNCTIONS = ("ensure_partitions(int, int)", "ensure_partition(date)", "drop_day(date)")


@dataclass(frozen=True, slots=True)
class RoleSetup:
    """What came of it. ``refused``: the server's words, when the roles could not be made; then ``script`` is to be run
    by somebody who may."""

    refused: str | None
    script: str


def statements(
    runtime: str = RUNTIME, reader: str = READER, *, timeout_s: int = 60, connection: psycopg.Connection | None = None
) -> list[str]:
    """Return the statements, in order. Repeating them is harmless. The roles cannot log in by themselves: grant them
    to those that can (``GRANT tailrace_reader TO metabase``).

    A timeout that belongs to a role holds for those that log in *as* it; give members theirs with ALTER ROLE too.
    """
    rt, rd = sql.Identifier(runtime), sql.Identifier(reader)
    composed: list[sql.Composable] = []

    def add(text: str, **parts: sql.Composable) -> None:
        composed.append(sql.SQL(text).format(**parts))

    for name, role in ((runtime, rt), (reader, rd)):
        add(
            "DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {name})"
            " THEN CREATE ROLE {role} NOLOGIN; END IF; END $do$",
            name=sql.Literal(name),
            role=role,
        )
    add("GRANT USAGE ON SCHEMA tailrace TO {rt}, {rd}", rt=rt, rd=rd)
    # The runtime: every table through its parent, so new partitions need nothing.
    add("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tailrace TO {rt}", rt=rt)
    add("REVOKE INSERT, UPDATE, DELETE ON tailrace.alembic_version FROM {rt}", rt=rt)
    add("GRANT USAGE ON ALL SEQUENCES IN SCHEMA tailrace TO {rt}", rt=rt)
    for function in OWNERS_FUNCTIONS:
        composed.append(sql.SQL(f"GRANT EXECUTE ON FUNCTION tailrace.{function} TO ") + rt)
    # The reader: the views, and the functions that they and the queries of docs/sql.md call (EXECUTE is everybody's).
    for view in VIEWS:
        add("GRANT SELECT ON {view} TO {rd}", view=sql.Identifier("tailrace", view), rd=rd)
    add("ALTER ROLE {rd} SET default_transaction_read_only = on", rd=rd)
    add("ALTER ROLE {rd} SET statement_timeout = {limit}", rd=rd, limit=sql.Literal(f"{timeout_s}s"))
    return [each.as_string(connection) for each in composed]


def set_up(database_url: str, runtime: str = RUNTIME, reader: str = READER, *, timeout_s: int = 60) -> RoleSetup:
    """Make the roles and grant them what they need, in one transaction. Run it again after each migration.

    Raises:
        StoreUnavailable: Postgres did not answer.
    """
    made = statements(runtime, reader, timeout_s=timeout_s)
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
