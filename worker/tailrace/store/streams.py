"""What readers ask about their streams. One function a statement."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from tailrace.model import RunEnd
from tailrace.store.run_end import RUN_END
from tailrace.store.segments import unpack_fingerprints
from tailrace.store.statements import Statements
from tailrace.wire.v2 import fingerprint_of_body

# The last index of a generation: the checkpoint's, or of one before it what is stored.
_LAST = """CASE WHEN s.generation = :generation THEN s.last_chunk_index ELSE (
    SELECT max(last.last_index) FROM tailrace.segments last
    WHERE last.stream_id = :stream_id AND last.generation = :generation) END"""


class RunEnds:
    """Reads of the runs of streams whether they are over."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def of(self, stream_ids: Sequence[int]) -> dict[int, RunEnd]:
        """Read what the database knows of the end of each stream's run, and of the stream's last sweep; those that were
        forgotten meanwhile are left out. Raises StoreUnavailable."""
        rows = self._statements.execute(
            f"""
            SELECT s.id, {RUN_END}
            FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
            WHERE s.id = ANY(:ids)
            """,
            ids=list(stream_ids),
        )
        return {row.id: RunEnd(row.over, row.over_for_s, row.swept_for_s) for row in rows}


class StreamQueries:
    """Reads about one stream."""

    def __init__(self, engine: sa.Engine, stream_id: int, window: int) -> None:
        self._statements = Statements(engine, stream_id=stream_id)
        self._window = window

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        """Return index and fingerprint of the records among the last ``window`` indices of a generation, oldest first.

        Those of chunks are stored with them. A repeat's stands in its body, which quarantine keeps.
        """
        within = {"generation": generation, "window": self._window}
        packed = self._statements.execute(
            f"""
            SELECT g.first_index, g.index_offsets, g.fingerprints
            FROM tailrace.segments g JOIN tailrace.streams_now s ON s.id = g.stream_id
            WHERE g.stream_id = :stream_id AND g.generation = :generation AND g.fingerprints IS NOT NULL
              AND g.first_index > {_LAST} - :window - 2000
            ORDER BY g.first_index
            """,
            **within,
        )
        repeats = self._statements.execute(
            f"""
            SELECT q.chunk_index, q.raw
            FROM tailrace.quarantine q JOIN tailrace.streams_now s ON s.id = q.stream_id
            WHERE q.stream_id = :stream_id AND q.generation = :generation AND q.reason = 'repeat'
              AND q.chunk_index > {_LAST} - :window
            """,
            **within,
        )
        found: list[tuple[int, bytes]] = []
        for row in packed:
            for at, fingerprint in enumerate(unpack_fingerprints(row.fingerprints)):
                found.append((row.first_index + (row.index_offsets[at] if row.index_offsets else at), fingerprint))
        for row in repeats:
            if (again := fingerprint_of_body(bytes(row.raw))) is not None:
                found.append((row.chunk_index, again))
        return sorted(found)
