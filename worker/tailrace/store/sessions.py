"""Whether a connection has a session of its own: behind a pooler in transaction mode (PgBouncer's) it has none."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import exc, pool

from tailrace.store.engine import autocommit, create_engine, translated

__all__ = ["keeps_sessions"]

LOOKS = 5


def keeps_sessions(database_url: str) -> bool:
    """Whether what a connection sets or locks is still its own in its next transaction.

    Told by who serves it: a pooler in transaction mode that is idle gives two connections the same server process in
    turn, and one that is busy gives one connection another process each time. A pooler in session mode does neither.

    Raises:
        StoreUnavailable
    """
    engine = autocommit(create_engine(database_url, poolclass=pool.NullPool))
    with translated(), engine.connect() as one:
        try:
            with engine.connect() as two:
                mine, others = set[int](), set[int]()
                for _ in range(LOOKS):
                    mine.add(_served_by(one))
                    others.add(_served_by(two))
                return len(mine) == len(others) == 1 and mine != others
        except exc.OperationalError:  # there is no second connection to be had
            return len({_served_by(one) for _ in range(LOOKS)}) == 1


def _served_by(connection: sa.Connection) -> int:
    return int(connection.scalar(sa.text("SELECT pg_catalog.pg_backend_pid()")) or 0)
