"""The keys that may read over HTTP, as rows. One function a statement; none sees a key, only its hash."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import StoreUnavailable, TerminalError, UnknownEnvironment
from tailrace.store.statements import Statements

__all__ = ["AccessKey", "AccessKeys", "KeyExists", "ValidKey"]


class KeyExists(TerminalError):
    """There is or was a key of this name: each name is used once, so that it says for ever who had access."""


class AccessKey(NamedTuple):
    """What there is to know of a key. ``last_used_at`` is up to a minute late. ``acts``: it is good for more than
    reading."""

    name: str
    environment: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    revoked_at: datetime | None
    acts: bool


class ValidKey(NamedTuple):
    """A key that is not revoked. ``key_hash``: SHA-256 of it. ``acts``: it is good for more than reading."""

    id: int
    key_hash: bytes
    environment: str
    acts: bool = False


class AccessKeys:
    """The table. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def add(self, name: str, environment: str, key_hash: bytes, acts: bool = False) -> None:
        """Let a key read an environment. ``acts``: and have its runs ingested, retried and cancelled.

        Raises:
            UnknownEnvironment: there is none of this name.
            KeyExists: the name was used before.
        """
        try:
            added = self._statements.execute(
                """
                INSERT INTO tailrace.access_keys (environment_id, name, key_hash, acts)
                SELECT e.id, :name, :key_hash, :acts FROM tailrace.environments e WHERE e.name = :environment
                RETURNING id
                """,
                name=name,
                environment=environment,
                key_hash=key_hash,
                acts=acts,
            )
        except exc.IntegrityError as error:
            if isinstance(error.orig, psycopg.Error) and error.orig.diag.constraint_name == "access_keys_name_key":
                raise KeyExists(f"There is or was a key {name!r}: choose another name.") from None
            raise
        if not added:
            raise UnknownEnvironment(
                f"The archive has no environment {environment!r}: it gets one when a worker first serves it."
            )

    def revoke(self, name: str) -> bool | None:
        """Refuse a key from now on. Return whether it was valid; None when there is none of this name."""
        rows = self._statements.execute(
            """
            WITH was AS (SELECT id, revoked_at FROM tailrace.access_keys WHERE name = :name FOR UPDATE),
                 revoked AS (
                     UPDATE tailrace.access_keys k SET revoked_at = now() FROM was
                     WHERE k.id = was.id AND k.revoked_at IS NULL
                 )
            SELECT revoked_at IS NULL AS was_valid FROM was
            """,
            name=name,
        )
        return bool(rows[0].was_valid) if rows else None

    def all(self) -> list[AccessKey]:
        """Return every key that there is or was, by name."""
        rows = self._statements.execute(
            """
            SELECT k.name, e.name AS environment, k.created_at, k.created_by, k.last_used_at, k.revoked_at, k.acts
            FROM tailrace.access_keys k JOIN tailrace.environments e ON e.id = k.environment_id ORDER BY k.name
            """
        )
        return [AccessKey._make(row) for row in rows]

    def valid(self) -> list[ValidKey]:
        """Return the keys that are not revoked, in no order."""
        rows = self._statements.execute(
            """
            SELECT k.id, k.key_hash, e.name AS environment, k.acts
            FROM tailrace.access_keys k JOIN tailrace.environments e ON e.id = k.environment_id
            WHERE k.revoked_at IS NULL
            """
        )
        return [ValidKey(row.id, bytes(row.key_hash), row.environment, row.acts) for row in rows]

    def note_use(self, ids: Collection[int]) -> None:
        """Note that these keys were used now, unless that was noted within the last minute.

        Where it can't be noted (on a standby, by an account that may only read) it is not, and nothing is raised.
        """
        with suppress(StoreUnavailable, exc.DBAPIError):
            self._statements.execute(
                """
                UPDATE tailrace.access_keys SET last_used_at = now()
                WHERE id = ANY (CAST(:ids AS int[]))
                    AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
                """,
                ids=list(ids),
            )
