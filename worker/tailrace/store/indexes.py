"""Indexes that migrations build while everybody reads and writes on. Each can be broken off and is finished next time.

For a connection in autocommit: `CREATE INDEX CONCURRENTLY` takes no part in a transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

__all__ = ["build_index", "build_partitioned_index", "patient"]

LOCK_TIMEOUT = "5s"
"""How long a migration may wait for a lock: everybody behind it waits too. Better to fail and be run again."""

_SET = sa.text("SELECT set_config(:name, :value, false)")


@contextmanager
def patient(connection: sa.Connection) -> Iterator[None]:
    """Let the session wait, until the end of the block: building waits for every open transaction, and takes no lock
    meanwhile. What comes after it must not keep others waiting again."""
    with _set(connection, statement_timeout="0", lock_timeout="0"):
        yield


@contextmanager
def _set(connection: sa.Connection, **settings: str) -> Iterator[None]:
    before = {name: connection.scalar(sa.text("SELECT current_setting(:name)"), {"name": name}) for name in settings}
    try:
        for name, value in settings.items():
            connection.execute(_SET, {"name": name, "value": value})
        yield
    finally:
        if not connection.invalidated:
            for name, value in before.items():
                connection.execute(_SET, {"name": name, "value": value})


def build_index(connection: sa.Connection, name: str, definition: str) -> None:
    """Build an index, ``definition`` being what follows its name; one that was broken off is removed first."""
    valid = _valid(connection, name)
    if valid is False:
        connection.execute(sa.text(f"DROP INDEX CONCURRENTLY tailrace.{name}"))
    if not valid:
        connection.execute(sa.text(f"CREATE INDEX CONCURRENTLY {name} {definition}"))


def build_partitioned_index(connection: sa.Connection, name: str, suffix: str, definition: str) -> None:
    """Build an index of all segments, part by part; it becomes valid with the last one.

    ``definition`` is what follows the table's name; ``suffix`` ends the names of the parts.

    Raises:
        sqlalchemy.exc.OperationalError: a lock that holds up others did not come within `LOCK_TIMEOUT`, whatever
            `patient` allows; the next call goes on.
    """
    if _valid(connection, name) is None:
        # Only a definition. Partitions made from here on have theirs.
        with _set(connection, lock_timeout=LOCK_TIMEOUT):
            connection.execute(sa.text(f"CREATE INDEX {name} ON ONLY tailrace.segments {definition}"))
    attached = set(connection.scalars(sa.text(_CHILDREN), {"parent": f"tailrace.{name}"}))
    for partition in connection.scalars(sa.text(_CHILDREN), {"parent": "tailrace.segments"}).all():
        part = f"{partition}_{suffix}"
        if part not in attached:
            build_index(connection, part, f"ON tailrace.{partition} {definition}")
            with _set(connection, lock_timeout=LOCK_TIMEOUT):
                connection.execute(sa.text(f"ALTER INDEX tailrace.{name} ATTACH PARTITION tailrace.{part}"))


_CHILDREN = """
    SELECT c.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = CAST(:parent AS regclass) ORDER BY 1"""


def _valid(connection: sa.Connection, name: str) -> bool | None:
    """Return whether an index is valid; None when there is none of this name."""
    found: bool | None = connection.scalar(
        sa.text("""
            SELECT i.indisvalid FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
            WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relname = :name"""),
        {"name": name},
    )
    return found
