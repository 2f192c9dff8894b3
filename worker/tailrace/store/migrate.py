"""Bring a database to a revision of the schema, from a checkout and from an installed wheel."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import pool

import tailrace
from tailrace.store.engine import create_engine, translated

__all__ = ["SCHEMA", "current", "downgrade", "ensure_partitions", "head", "is_known", "upgrade"]

SCHEMA = "tailrace"
"""Where everything of ours is, Alembic's version table included."""

_one_at_a_time = threading.Lock()  # Alembic keeps its context in module globals


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate up to `revision`, make the partitions of the coming days, and have changes go on where the archive came
    from another server (``tailrace.follow_server``).

    Two at once are safe: the second waits until the first is done. Nothing happens when there is nothing to do.

    Raises:
        StoreUnavailable: Postgres did not answer.
        sqlalchemy.exc.DBAPIError: a migration failed; it is rolled back, those before it stay.
    """
    with _one_at_a_time, translated():
        command.upgrade(_config(database_url), revision)
    if current(database_url) is not None:
        ensure_partitions(database_url)
        _follow_server(database_url)


def downgrade(database_url: str, revision: str) -> None:
    """Migrate down to `revision`; ``base`` deletes the archive and leaves an empty schema."""
    with _one_at_a_time, translated():
        command.downgrade(_config(database_url), revision)


def current(database_url: str) -> str | None:
    """The revision this database is at; None when it has never been migrated."""
    engine = create_engine(database_url, poolclass=pool.NullPool)
    with translated(), engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
        return context.get_current_revision()


def head() -> str:
    """The newest revision this code knows."""
    revision = ScriptDirectory.from_config(_config("")).get_current_head()
    assert revision is not None, "there is always a first revision"
    return revision


def is_known(revision: str) -> bool:
    """Whether this code knows a revision; one that it does not know was made by newer code."""
    try:
        return ScriptDirectory.from_config(_config("")).get_revision(revision) is not None
    except CommandError:
        return False


def ensure_partitions(database_url: str) -> int:
    """Make the missing daily partitions of `segments`; returns how many were made."""
    engine = create_engine(database_url, poolclass=pool.NullPool)
    with translated(), engine.begin() as connection:
        return int(connection.scalar(sa.text("SELECT tailrace.ensure_partitions()")) or 0)


def _follow_server(database_url: str) -> None:
    engine = create_engine(database_url, poolclass=pool.NullPool)
    with translated(), engine.begin() as connection:
        # Other revisions than the newest can be asked for.
        if connection.scalar(sa.text("SELECT to_regproc('tailrace.follow_server') IS NOT NULL")):
            connection.execute(sa.text("SELECT tailrace.follow_server()"))


def _config(database_url: str) -> Config:
    """Alembic's configuration without alembic.ini. The URL goes by attribute: a ``%`` in it means nothing there."""
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


def _scripts() -> Path:
    """The migrations: inside the package in a wheel, beside it in a checkout."""
    package = Path(tailrace.__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parents[1] / "migrations"
