"""Sealed streams made large and searchable: the statements of the background work. One function a statement.

What happens is in migrations/schema/compaction.sql; each call is one transaction of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.errors import WorkerError
from tailrace.store.engine import is_unavailable
from tailrace.store.statements import Statements, fitting

__all__ = ["Compacted", "Compaction", "KeepFailed"]


class KeepFailed(WorkerError):
    """A sealed stream could not be compacted or made searchable. It stays sealed and readable as it is."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """How many segments a stream had and has."""

    segments_before: int
    segments_after: int


class Compaction:
    """Compacts and indexes sealed streams. Thread-safe; any number of processes may do it at once."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def due(self, limit: int) -> list[int]:
        """Choose sealed streams that are not compacted or not searchable yet, oldest first. Takes nothing."""
        rows = self._statements.execute(
            """
            SELECT s.id FROM tailrace.streams s
            WHERE s.state = 'sealed' AND s.keep_error IS NULL AND (s.compacted_at IS NULL OR s.indexed_at IS NULL)
            ORDER BY s.id LIMIT :limit
            """,
            limit=limit,
        )
        return [row.id for row in rows]

    def compact(self, stream_id: int) -> Compacted | None:
        """Compact one stream; None when it is not sealed, or somebody else is at work on it.

        Raises:
            KeepFailed: the contents are not what they were, or Postgres refuses. Noted; not tried again by itself.
        """
        rows = self._keep(stream_id, "SELECT * FROM tailrace.compact_stream(:stream_id)")
        return Compacted(rows[0].segments_before, rows[0].segments_after) if rows else None

    def index(self, stream_id: int) -> int | None:
        """Make one stream's text searchable; return the number of pieces, None when it is not sealed.

        Raises:
            KeepFailed: as `compact`.
        """
        rows = self._keep(stream_id, "SELECT tailrace.index_text(:stream_id) AS pieces")
        return int(rows[0].pieces) if rows and rows[0].pieces is not None else None

    def retry_failed(self) -> int:
        """Forget what went wrong, so that it is tried again; return the number of streams."""
        forgotten = "UPDATE tailrace.streams SET keep_error = NULL WHERE keep_error IS NOT NULL RETURNING id"
        return len(self._statements.execute(forgotten))

    def digest(self, stream_id: int) -> bytes:
        """Work out the digest of what is stored of a stream."""
        (row,) = self._statements.execute("SELECT tailrace.stream_digest(:stream_id) AS digest", stream_id=stream_id)
        return bytes(row.digest)

    def _keep(self, stream_id: int, statement: str) -> Sequence[sa.Row[Any]]:
        try:
            return self._statements.execute(statement, stream_id=stream_id)
        except exc.DBAPIError as error:
            if is_unavailable(error):
                raise
            said = str(error.orig).strip().partition("\n")[0]
            self._statements.execute(
                "UPDATE tailrace.streams SET keep_error = :said WHERE id = :stream_id AND state = 'sealed'",
                stream_id=stream_id,
                said=fitting(said),
            )
            raise KeepFailed(f"stream {stream_id}: {said}") from error
