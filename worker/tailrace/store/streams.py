"""What a reader asks about its stream. One function a statement."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from tailrace.model import RunEnd
from tailrace.store.engine import autocommit, translated
from tailrace.store.leases import RUN_END
from tailrace.store.segments import unpack_fingerprints
from tailrace.wire.v2 import fingerprint_of_body


class StreamQueries:
    """Reads about one stream. Fits `ingest.loop.StreamFacts`."""

    def __init__(self, engine: sa.Engine, stream_id: int, window: int) -> None:
        self._engine = autocommit(engine)
        self._stream_id = stream_id
        self._window = window

    def run_end(self) -> RunEnd:
        """Read what the database knows of the run's end and the last sweep. Raises StoreUnavailable."""
        row = self._one(
            f"""
            SELECT {RUN_END}
            FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
            WHERE s.id = :stream_id
            """
        )
        if row is None:  # forgotten meanwhile: the fence will stop the reader
            return RunEnd()
        return RunEnd(row.over, row.over_for_s, row.swept_for_s)

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        """Return index and mark of the records among the last ``window`` indices of a generation, oldest first.

        Those of chunks are stored with them. A repeat's stands in its body, which quarantine keeps.
        """
        parameters = {"stream_id": self._stream_id, "generation": generation, "window": self._window}
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(
                sa.text(
                    """
                    SELECT g.first_index, g.index_offsets, g.fingerprints
                    FROM tailrace.segments g JOIN tailrace.streams s ON s.id = g.stream_id
                    WHERE g.stream_id = :stream_id AND g.generation = :generation AND g.fingerprints IS NOT NULL
                      AND g.first_index > s.last_chunk_index - :window - 2000
                    ORDER BY g.first_index
                    """
                ),
                parameters,
            ).all()
            repeats = connection.execute(
                sa.text(
                    """
                    SELECT q.chunk_index, q.raw
                    FROM tailrace.quarantine q JOIN tailrace.streams s ON s.id = q.stream_id
                    WHERE q.stream_id = :stream_id AND q.generation = :generation AND q.reason = 'repeat'
                      AND q.chunk_index > s.last_chunk_index - :window
                    """
                ),
                parameters,
            ).all()
        found: list[tuple[int, bytes]] = []
        for first, offsets, packed in rows:
            for at, mark in enumerate(unpack_fingerprints(packed)):
                found.append((first + (offsets[at] if offsets else at), mark))
        for index, raw in repeats:
            if (again := fingerprint_of_body(bytes(raw))) is not None:
                found.append((index, again))
        return sorted(found)

    def _one(self, statement: str) -> sa.Row[tuple[object, ...]] | None:
        with translated(), self._engine.connect() as connection:
            return connection.execute(sa.text(statement), {"stream_id": self._stream_id}).first()


def streams_of_run(engine: sa.Engine, run: int) -> Sequence[sa.Row[tuple[object, ...]]]:
    """Read the progress of a run's streams, by key."""
    with translated(), autocommit(engine).connect() as connection:
        return connection.execute(
            sa.text(
                """
                SELECT id, stream_key, state, verdict, wire, generation, last_chunk_index, chunk_count, byte_count,
                       hole_count, lost_count, quarantine_count, lag, attempt, last_error, next_attempt_at,
                       first_chunk_at, last_chunk_at, sealed_at
                FROM tailrace.streams WHERE run = :run ORDER BY stream_key
                """
            ),
            {"run": run},
        ).all()
