"""Read an archived stream, part by part. The only place here that needs SQLAlchemy; imported when it is used."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc

from tailrace.ingest.v2_order import REPEAT_WINDOW
from tailrace.model import Checkpoint, HoleReason, StreamRef, StreamState, Wire
from tailrace.store.contents import StreamPlace, read_part
from tailrace.store.engine import autocommit, create_engine, end, translated
from tailrace.store.streams import RecentRecords, unpacked
from tailrace.streams.errors import NotConfigured, StreamError
from tailrace.streams.steps import PAGE_BYTES, ArchiveEnd, Chunk, Fetch, Gap, Page

CONNECTIONS = 4
MORE_CONNECTIONS = 4


class _Found(NamedTuple):
    """A run, and its stream; None: the run is known, but not this stream of it."""

    environment: str
    stream: StreamPlace | None


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
        found = self._find(connection, ref)
        if found is None:
            return Page([], [], fetch.generation, fetch.first_index, None, known=False)
        stream = found.stream
        if stream is None:
            return Page([], [], fetch.generation, fetch.first_index, ArchiveEnd(None, Checkpoint(), False, []))
        if fetch.latest:
            fetch = fetch._replace(generation=stream.generation, first_index=max(0, stream.last_index))
        generation = fetch.generation
        part = read_part(connection, stream, generation, fetch.first_index, fetch.size, PAGE_BYTES)
        if part is None:
            return Page([], [], generation, fetch.first_index, self._end(stream, fetch.recent))
        chunks = [Chunk(generation, index, text, reason) for index, text, reason, _ in part.stored]
        # The hole that ends a generation stands after its last index.
        gaps = self._gaps(connection, stream.id, generation, fetch.first_index, part.last_index + part.ends)
        return Page(chunks, gaps, part.next_generation, part.next_index, None)

    def _find(self, connection: sa.Connection, ref: StreamRef) -> _Found | None:
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
        for environment, *stream in rows:
            return _Found(environment, None if stream[0] is None else StreamPlace(*stream))
        return None

    def _gaps(self, connection: sa.Connection, stream: int, generation: int, first: int, last: int) -> list[Gap]:
        """Losses that begin between two indices."""
        rows = connection.execute(
            sa.text(
                """
                SELECT first_index, last_index, reason FROM tailrace.holes
                WHERE stream_id = :stream AND generation = :generation
                  AND first_index BETWEEN :first AND :last
                  AND reason IN ('trimmed', 'expired', 'recreated', 'missing') ORDER BY first_index
                """
            ),
            {"stream": stream, "generation": generation, "first": first, "last": last},
        ).all()
        return [Gap(generation, first, last, HoleReason(reason)) for first, last, reason in rows]

    def _end(self, row: StreamPlace, with_recent: bool) -> ArchiveEnd:
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
