"""What readers ask about their streams. One function a statement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tailrace.model import RunEnd
from tailrace.store.run_end import RUN_END
from tailrace.store.segments import unpack_fingerprints
from tailrace.store.statements import Statements
from tailrace.wire.v2 import fingerprint_of_body


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


class RecentRecords:
    """Reads which records of v2 streams are the last that are held: those that a repeat is known by."""

    def __init__(self, engine: sa.Engine, window: int) -> None:
        """``window``: of so many indices before the last one of a generation."""
        self._statements = Statements(engine)
        self._window = window

    def of(self, generations: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[sa.Row[Any]]]:
        """Read what is held of each generation of a stream, given by the stream's id and its number; `unpacked` makes
        records of it. What holds nothing is left out. Raises StoreUnavailable.

        The fingerprints of chunks are stored with them. A repeat's stands in its body, which quarantine keeps.
        """
        rows = self._statements.execute(
            """
            SELECT asked.stream_id, asked.generation, found.*
            FROM unnest(CAST(:ids AS bigint[]), CAST(:generations AS int[])) AS asked (stream_id, generation)
            JOIN tailrace.streams_now s ON s.id = asked.stream_id
            CROSS JOIN LATERAL (  -- the checkpoint's, or of a generation before it what is stored
                SELECT CASE WHEN s.generation = asked.generation THEN s.last_chunk_index ELSE (
                    SELECT max(last.last_index) FROM tailrace.segments last
                    WHERE last.stream_id = asked.stream_id AND last.generation = asked.generation) END AS index
                OFFSET 0
            ) AS last
            CROSS JOIN LATERAL (
                SELECT g.first_index, g.index_offsets, g.fingerprints, CAST(NULL AS bytea) AS raw
                FROM tailrace.segments g
                WHERE g.stream_id = asked.stream_id AND g.generation = asked.generation
                  AND g.fingerprints IS NOT NULL AND g.first_index > last.index - :window - 2000
                UNION ALL
                SELECT q.chunk_index, NULL, NULL, q.raw
                FROM tailrace.quarantine q
                WHERE q.stream_id = asked.stream_id AND q.generation = asked.generation AND q.reason = 'repeat'
                  AND q.chunk_index > last.index - :window
            ) AS found
            """,
            ids=[stream_id for stream_id, _ in generations],
            generations=[generation for _, generation in generations],
            window=self._window,
        )
        found: dict[tuple[int, int], list[sa.Row[Any]]] = {}
        for row in rows:
            found.setdefault((row.stream_id, row.generation), []).append(row)
        return found


def unpacked(rows: Sequence[sa.Row[Any]]) -> list[tuple[int, bytes]]:
    """Return index and fingerprint of the records of one generation that `RecentRecords` found, oldest first."""
    found: list[tuple[int, bytes]] = []
    for row in rows:
        if row.raw is not None:
            if (again := fingerprint_of_body(bytes(row.raw))) is not None:
                found.append((row.first_index, again))
        else:
            for at, fingerprint in enumerate(unpack_fingerprints(row.fingerprints)):
                found.append((row.first_index + (row.index_offsets[at] if row.index_offsets else at), fingerprint))
    return sorted(found)
