"""How Alembic runs Tailrace's migrations, from `alembic` and from `tailrace.store.migrate`.

Everything stays in the schema `tailrace`, Alembic's own version table included: a host application's tables and its own
Alembic in the same database are neither read nor touched. Nothing is generated from models: migrations are SQL.

Needs a session of Postgres: the lock and the timeouts belong to it, and PgBouncer in transaction mode keeps none.
"""

from __future__ import annotations

import logging.config
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import context
from sqlalchemy import pool

from tailrace.errors import BadSettings, StoreUnavailable
from tailrace.store.engine import create_engine
from tailrace.store.indexes import LOCK_TIMEOUT
from tailrace.store.migrate import SCHEMA
from tailrace.store.sessions import keeps_sessions

STATEMENT_TIMEOUT = "5min"

MIGRATION_LOCK = 7246712353002
"""Key of the advisory lock. Not the one of `tailrace.ensure_partitions`, which a migration calls."""

MIGRATION_LOCK_WAIT_S = 600.0


def database_url() -> str:
    """The URL that `tailrace.store.migrate` handed over, else the environment's."""
    given = context.config.attributes.get("database_url")
    url = given or os.environ.get("TAILRACE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not url:
        raise BadSettings("Set DATABASE_URL (or TAILRACE_DATABASE_URL) to the database to migrate.")
    return str(url)


OPTIONS: dict[str, Any] = {
    "version_table": "alembic_version",
    "version_table_schema": SCHEMA,
    "transaction_per_migration": True,
}


@contextmanager
def alone(connection: sa.Connection) -> Iterator[None]:
    """Hold the migration lock for this session.

    Asks again and again and does not wait inside Postgres: a waiting statement holds a snapshot, and `CREATE INDEX
    CONCURRENTLY` of the one at work would wait for that for ever.
    """
    give_up = time.monotonic() + MIGRATION_LOCK_WAIT_S
    while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": MIGRATION_LOCK}):
        connection.commit()
        if time.monotonic() > give_up:
            raise StoreUnavailable("Another migration of this database has been at work for ten minutes.")
        time.sleep(0.25)
    connection.commit()
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.rollback()
            connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
            connection.commit()


def prepare(connection: sa.Connection) -> None:
    """Set the session up: short waits, no search_path, and a schema for the version table.

    Raises:
        BadSettings: the database is not UTF8. Another encoding has no place for most of what upstream sends.
    """
    encoding = connection.scalar(sa.text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise BadSettings(
            f"The database has the encoding {encoding}, and an archive needs UTF8: make another one with "
            "CREATE DATABASE ... TEMPLATE template0 ENCODING 'UTF8'."
        )
    for name, value in (
        ("lock_timeout", LOCK_TIMEOUT),
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("search_path", ""),
        ("client_min_messages", "warning"),
    ):
        connection.execute(sa.text("SELECT set_config(:name, :value, false)"), {"name": name, "value": value})
    # IF NOT EXISTS would ask for the right to create schemas even where the schema is there.
    if not connection.scalar(sa.text("SELECT to_regnamespace(:schema) IS NOT NULL"), {"schema": SCHEMA}):
        connection.execute(sa.schema.CreateSchema(SCHEMA))
    connection.commit()


def run_online() -> None:
    """Raises BadSettings where the database is not one that can be migrated, or is not reached in such a way."""
    url = database_url()
    if not keeps_sessions(url):
        raise BadSettings(
            "The database is behind a connection pooler in transaction mode (as PgBouncer's), and a migration needs a "
            "session of its own: set DATABASE_URL, for this command, to the address of Postgres itself, or of the "
            "pooler in session mode."
        )
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection, alone(connection):
        prepare(connection)
        context.configure(connection=connection, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()


def run_offline() -> None:
    """`alembic upgrade head --sql`: print the statements for somebody else to run."""
    context.configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"}, **OPTIONS)
    with context.begin_transaction():
        context.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        context.run_migrations()


if context.config.config_file_name is not None:  # only the `alembic` command reads alembic.ini
    logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    run_offline()
else:
    run_online()
