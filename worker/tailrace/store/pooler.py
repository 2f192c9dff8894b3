"""Whether a pooler (PgBouncer and the like) stands before Postgres, and when it gives a connection to somebody else.

By what the wire shows, so of any pooler; the one that the tests ask is PgBouncer.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import ExecStatus
from sqlalchemy import pool

from tailrace.store.engine import create_engine, translated

__all__ = ["Pooling", "pooling"]

TRIES = 3
WAIT_S = 3.0
"""How long a second connection is waited for: a pooler whose connections are all in use keeps one waiting."""


class Pooling(StrEnum):
    """For how long a client keeps the server's connection that a pooler gave it; NONE: there is no pooler.

    One that gives it for a statement lets no engine of ours connect.
    """

    NONE = "none"
    SESSION = "session"
    TRANSACTION = "transaction"


def pooling(database_url: str) -> Pooling:
    """Find out how connections to this database are pooled. Opens two connections and changes nothing.

    Postgres tells each client the pid of its backend, to cancel with; a pooler makes up a number of its own, so what
    `pg_backend_pid` returns is another. In transaction mode a backend that one client has used serves another while
    the first is still there. A pooler that has not done so in a few tries counts as one in session mode.

    Raises:
        StoreUnavailable: Postgres did not answer.

    Source: PgBouncer's documentation, "pool_mode"; PostgreSQL, "Message Formats", BackendKeyData.
    """
    engine = create_engine(database_url, poolclass=pool.NullPool, application_name="tailrace doctor")
    with translated(), _connected(engine) as first:
        if _pid(first) == first.info.backend_pid:
            return Pooling.NONE
        with _connected(engine) as second:
            for _ in range(TRIES):
                before = _pid(first)
                if not _begin(second):  # every backend belongs to somebody, one of them to a client that is idle
                    break
                if _pid(second) == before or _pid(first) != before:
                    return Pooling.TRANSACTION
                second.execute("ROLLBACK")
    return Pooling.SESSION


def _begin(connection: psycopg.Connection[Any]) -> bool:
    """Begin a transaction; False when that takes too long, and then the connection is of no more use."""
    pg, until = connection.pgconn, time.monotonic() + WAIT_S
    pg.send_query(b"BEGIN")
    pg.flush()
    while pg.is_busy():
        if not select.select([pg.socket], [], [], max(0.0, until - time.monotonic()))[0]:
            connection.close()
            return False
        pg.consume_input()
    begun = False
    while (result := pg.get_result()) is not None:
        begun = begun or result.status == ExecStatus.COMMAND_OK
    return begun


def _pid(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def _connected(engine: sa.Engine) -> Iterator[psycopg.Connection[Any]]:
    lent = engine.raw_connection()
    try:
        driver = lent.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.autocommit = True
        yield driver
    finally:
        lent.invalidate()
