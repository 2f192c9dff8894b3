"""Statements executed: each by itself, its rows at once or as a stream; and what Postgres refuses in our own words."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import StoreUnavailable, TerminalError
from tailrace.redaction import excerpt
from tailrace.store.engine import autocommit, translated, turn_of

__all__ = [
    "PATIENCE",
    "NotMigrated",
    "QueryRefused",
    "Statements",
    "TookTooLong",
    "driver_of",
    "fitting",
    "impatient",
    "refusal",
    "refusing",
]

REASON_MAX_CHARS = 2_000


class NotMigrated(TerminalError):
    """The database has no archive yet: run `tailrace migrate`."""


class QueryRefused(TerminalError):
    """Postgres refused the query."""


class TookTooLong(QueryRefused):
    """Postgres ended the query when its time was over."""


class Statements:
    """Executes statements in autocommit, each on a connection of the pool that it gives back. Thread-safe.

    ``common``: parameters of every statement that names them.

    Raises, whatever is executed:
        StoreUnavailable: Postgres did not answer.
    """

    def __init__(self, engine: sa.Engine, **common: object) -> None:
        self._engine = autocommit(engine)
        self._common = common

    def execute(self, statement: str, **parameters: object) -> Sequence[sa.Row[Any]]:
        """Execute a statement with ``:name`` parameters; return its rows, none when it returns none."""
        with self.connected() as connection:
            result = connection.execute(_text(statement), self._common | parameters)
            return result.all() if result.returns_rows else []

    @contextmanager
    def connected(self) -> Iterator[sa.Connection]:
        """Lend a connection for what is more than one statement."""
        with translated(), turn_of(self._engine), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def streaming(self) -> Iterator[psycopg.Cursor[Any]]:
        """Lend a cursor of psycopg, whose `stream` holds one row in memory at a time."""
        with self.connected() as connection, driver_of(connection).cursor() as cursor:
            yield cursor


# There are so many statements and no more. To look for the parameters of one takes a tenth of executing it.
_text = functools.lru_cache(maxsize=1_000)(sa.text)


PATIENCE = "patience AS MATERIALIZED (SELECT set_config('lock_timeout', '500ms', true) AS is_set)"
"""For the WITH of a statement that needs a row which somebody's open transaction may have locked: it is told so soon,
and keeps no connection from others. It must read ``patience.is_set IS NOT NULL`` from it before it touches the row."""


@contextmanager
def impatient() -> Iterator[None]:
    """Turn what a statement with `PATIENCE` says of a lock into `StoreUnavailable`: another try may find it gone."""
    try:
        yield
    except exc.DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise
        raise StoreUnavailable("somebody's open transaction has locked the run") from error


def driver_of(connection: sa.Connection) -> psycopg.Connection[Any]:
    """Return psycopg's connection, for what SQLAlchemy has no word for."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def fitting(reason: str) -> str:
    """Make what is said of an error fit a column: whatever upstream's words are, the reason must reach its row, and no
    secret with it (of an error that is not ours too)."""
    text = reason.encode(errors="replace").decode().replace("\0", "\ufffd")
    return excerpt(text, REASON_MAX_CHARS)


_MISSING = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what Postgres says to a statement of a person's into our errors."""
    try:
        with translated():
            yield
    except (exc.DBAPIError, psycopg.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise refusal(cause) from error


def refusal(error: BaseException) -> TerminalError:
    """Put what Postgres said to a statement into one line, with what to do about it."""
    if not isinstance(error, psycopg.Error):
        return QueryRefused(str(error))
    said = error.diag.message_primary or str(error).partition("\n")[0]
    if isinstance(error, _MISSING) and "tailrace" in said:
        return NotMigrated(f"{said}. If the database is not up to date, `tailrace migrate` brings it there.")
    if isinstance(error, psycopg.errors.UndefinedTable):
        return QueryRefused(f"{said}. The archive is in schema tailrace: tailrace.chunks, tailrace.stream_text, ...")
    if isinstance(error, psycopg.errors.SyntaxError) and "multiple commands" in said:
        return QueryRefused("Only one statement can be run at a time.")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return TookTooLong(f"{said}. Give it longer with --timeout.")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return QueryRefused(f"{said}. Statements run here can read only.")
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return QueryRefused(f"{said}{hint}")
