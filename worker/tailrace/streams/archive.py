"""Read an archived stream, part by part. The only place here that needs SQLAlchemy; imported when it is used.

Each part is read by itself, so nothing is held while the caller thinks: no connection, no transaction, no snapshot.
That is safe because the archive only grows, and a stream's row never says more than is stored (design §1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.ingest.v2_order import REPEAT_WINDOW
from tailrace.model import UNSET_INDEX, Checkpoint, HoleReason, StreamRef, StreamState, Wire
from tailrace.store.engine import autocommit, create_engine, end, translated
from tailrace.store.streams import RecentRecords, unpacked
from tailrace.streams.errors import NotConfigured, StreamError
from tailrace.streams.steps import PAGE_BYTES, ArchiveEnd, Chunk, Fetch, Gap, Page

CONNECTIONS = 4
MORE_CONNECTIONS = 4


class _Row(NamedTuple):
    """A stream's row, as far as a reader needs it. ``id`` None: the run is known, but not this stream of it."""

    environment: str
    id: int | None
    wire: str | None
    generation: int | None
    last_index: int | None
    cursor: dict[str, Any] | None
    state: str | None


class ArchiveReader:
    """Reads one archive. Thread-safe; opens a connection when it needs one."""

    def __init__(self, url: str, environment: str | None) -> None:
        self._pool = create_engine(
            url, pool_size=CONNECTIONS, max_overflow=MORE_CONNECTIONS, application_name="tailrace-streams"
        )
        self._engine = autocommit(self._pool)
        self._environment = environment

    def close(self) -> None:
        end(self._pool)

    def read(self, ref: StreamRef, fetch: Fetch) -> Page:
        """Read on in a stream; at its checkpoint, say how to go on from there.

        Raises:
            StoreUnavailable: Postgres did not answer.
            StreamError: it did, and can't: no archive, no rights.
        """
        try:
            with translated(), self._engine.connect() as connection:
                return self._read(connection, ref, fetch)
        except exc.ProgrammingError as error:
            said = str(error.orig).partition("\n")[0]
            raise NotConfigured(
                f"The database has no archive that can be read ({said}). Run `tailrace migrate`."
            ) from error
        except (exc.SQLAlchemyError, ValueError) as error:
            raise StreamError(f"The archive can't be read: {str(error).partition(chr(10))[0]}") from error

    def _read(self, connection: sa.Connection, ref: StreamRef, fetch: Fetch) -> Page:
        row = self._row(connection, ref)
        if row is None:
            return Page([], [], fetch.generation, fetch.first_index, None, known=False)
        if row.id is None or row.generation is None or row.last_index is None:
            return Page([], [], fetch.generation, fetch.first_index, ArchiveEnd(None, Checkpoint(), False, []))
        if fetch.latest:
            fetch = fetch._replace(generation=row.generation, first_index=max(0, row.last_index))
        generation, first = fetch.generation, fetch.first_index
        if generation > row.generation or (generation == row.generation and first > row.last_index):
            return Page([], [], generation, first, self._end(row, fetch.recent))
        here = {"stream_id": row.id, "generation": generation}
        last = row.last_index if generation == row.generation else self._last_of(connection, here)
        first = self._next_there_is(connection, here, first)
        if first > last:
            chunks: list[Chunk] = []
            upto = last
        else:
            upto = min(first + fetch.size - 1, last)
            chunks, size = self._chunks(connection, row, ref, here, first, upto)
            if size >= PAGE_BYTES:  # it was cut there
                upto = chunks[-1].chunk_index
        # The hole that ends a generation stands after its last index.
        gaps = self._gaps(connection, here, fetch.first_index, upto if upto < last else last + 1)
        if upto < last:
            return Page(chunks, gaps, generation, upto + 1, None)
        if generation < row.generation:
            return Page(chunks, gaps, generation + 1, 0, None)
        return Page(chunks, gaps, generation, max(last + 1, fetch.first_index), None)

    def _row(self, connection: sa.Connection, ref: StreamRef) -> _Row | None:
        """The stream's checkpoint: index, cursor and state are of one moment."""
        rows = connection.execute(
            sa.text(
                """
                SELECT e.name, s.id, s.wire, s.generation, s.last_chunk_index, s.cursor, s.state
                FROM tailrace.runs r
                JOIN tailrace.environments e ON e.id = r.environment_id
                LEFT JOIN tailrace.streams_now s ON s.run = r.id AND s.stream_key = :stream_key
                WHERE r.run_id = :run_id AND (CAST(:environment AS text) IS NULL OR e.name = :environment)
                """
            ),
            {"run_id": ref.run_id, "stream_key": ref.stream_key, "environment": self._environment},
        ).all()
        if len(rows) > 1:
            names = ", ".join(sorted(row[0] for row in rows))
            raise NotConfigured(f"Run {ref.run_id} is in several environments ({names}): set TAILRACE_ENVIRONMENT")
        return _Row(*rows[0]) if rows else None

    def _last_of(self, connection: sa.Connection, here: dict[str, int]) -> int:
        """Where an earlier generation ended: a hole says that the next one began."""
        found = connection.execute(
            sa.text(
                """
                SELECT first_index - 1 FROM tailrace.holes
                WHERE stream_id = :stream_id AND generation = :generation AND reason = :reason
                """
            ),
            {**here, "reason": HoleReason.RECREATED.value},
        ).scalar()
        return UNSET_INDEX if found is None else int(found)

    def _next_there_is(self, connection: sa.Connection, here: dict[str, int], first: int) -> int:
        """The next index that may have something, so that a large hole costs nothing. Past the end when nothing has."""
        found = connection.execute(
            sa.text(
                """
                SELECT least(
                    (SELECT CASE WHEN g.last_index >= :first THEN CAST(:first AS bigint) END FROM tailrace.segments g
                     WHERE g.stream_id = :stream_id AND g.generation = :generation AND g.first_index <= :first
                     ORDER BY g.first_index DESC LIMIT 1),
                    (SELECT g.first_index FROM tailrace.segments g
                     WHERE g.stream_id = :stream_id AND g.generation = :generation AND g.first_index > :first
                     ORDER BY g.first_index LIMIT 1),
                    (SELECT min(q.chunk_index) FROM tailrace.quarantine q
                     WHERE q.stream_id = :stream_id AND q.generation = :generation AND q.chunk_index >= :first)
                )
                """
            ),
            {**here, "first": first},
        ).scalar()
        return (1 << 62) if found is None else int(found)

    def _chunks(
        self, connection: sa.Connection, row: _Row, ref: StreamRef, here: dict[str, int], first: int, last: int
    ) -> tuple[list[Chunk], int]:
        """Chunks between two indices, what could not be one too, and their bytes; cut where a page is full."""
        rows = connection.execute(
            sa.text(
                """
                SELECT chunk_index, data_text, reason, raw, size_bytes
                FROM (
                    SELECT *, sum(size_bytes) OVER (ORDER BY chunk_index) - size_bytes AS before_bytes
                    FROM (
                        SELECT chunk_index, data_text, '' AS reason, CAST(NULL AS bytea) AS raw,
                            octet_length(data_text) AS size_bytes
                        FROM tailrace.chunks_range(:run_id, :stream_key, :first, :last)
                        WHERE environment = :environment AND generation = :generation
                        UNION ALL
                        SELECT chunk_index, NULL, reason, raw, octet_length(raw) FROM tailrace.quarantine
                        WHERE stream_id = :stream_id AND generation = :generation
                          AND chunk_index BETWEEN :first AND :last AND reason NOT IN ('repeat', 'unterminated')
                    ) stored
                ) summed
                WHERE before_bytes < :page_bytes ORDER BY chunk_index
                """
            ),
            {
                **here,
                "first": first,
                "last": last,
                "run_id": ref.run_id,
                "stream_key": ref.stream_key,
                "environment": row.environment,
                "page_bytes": PAGE_BYTES,
            },
        ).all()
        chunks = [
            Chunk(here["generation"], index, text.encode() if raw is None else bytes(raw), reason)
            for index, text, reason, raw, _ in rows
        ]
        return chunks, sum(row[-1] for row in rows)

    def _gaps(self, connection: sa.Connection, here: dict[str, int], first: int, last: int) -> list[Gap]:
        """Losses that begin between two indices."""
        rows = connection.execute(
            sa.text(
                """
                SELECT first_index, last_index, reason FROM tailrace.holes
                WHERE stream_id = :stream_id AND generation = :generation
                  AND first_index BETWEEN :first AND :last
                  AND reason IN ('trimmed', 'expired', 'recreated', 'missing') ORDER BY first_index
                """
            ),
            {**here, "first": first, "last": last},
        ).all()
        return [Gap(here["generation"], first, last, HoleReason(reason)) for first, last, reason in rows]

    def _end(self, row: _Row, with_recent: bool) -> ArchiveEnd:
        assert row.id is not None
        assert row.generation is not None
        assert row.last_index is not None
        wire = None if row.wire is None else Wire(row.wire)
        recent: list[tuple[int, bytes]] = []
        if with_recent and wire is Wire.V2:
            # The archive may have grown since its row was read. What came after the checkpoint is still to be read, so
            # it must not be known already, or it would be taken for a repeat.
            asked = (row.id, row.generation)
            held = RecentRecords(self._pool, REPEAT_WINDOW).of([asked]).get(asked, [])
            recent = [mark for mark in unpacked(held) if mark[0] <= row.last_index]
        checkpoint = Checkpoint(row.generation, row.last_index, row.cursor)
        return ArchiveEnd(wire, checkpoint, row.state == StreamState.SEALED, recent)
