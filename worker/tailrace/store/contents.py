"""What is stored of one stream, read part by part: the one place that knows how generations, segments and holes follow
each other. For whoever gives a stream out, in whatever form.

Each part is read by itself, so nothing is held while the caller thinks: no connection, no transaction, no snapshot.
That is safe because the archive only grows, and a stream's row never says more than is stored (design §1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from tailrace.model import UNSET_INDEX, HoleReason

_NOWHERE = 1 << 62


class StreamPlace(NamedTuple):
    """A stream's checkpoint: index, cursor and state are of one moment. ``wire`` None: it was never read."""

    id: int
    wire: str | None
    generation: int
    last_index: int
    cursor: dict[str, Any] | None
    state: str


class Stored(NamedTuple):
    """A chunk, byte for byte; or what could not be one, as it came: then ``reason`` says why, else it is ''.

    ``emitted_ms``: upstream's time of it; None when that is not known.
    """

    chunk_index: int
    text: bytes
    reason: str
    emitted_ms: int | None


class Part(NamedTuple):
    """A part of a generation: all that is stored of it up to ``last_index``, in order.

    ``ends``: it is all of the generation that there is. ``next_generation`` and ``next_index``: where the next part
    begins.
    """

    stored: list[Stored]
    last_index: int
    ends: bool
    next_generation: int
    next_index: int


def read_part(
    connection: sa.Connection, stream: StreamPlace, generation: int, first_index: int, most: int, full_bytes: int
) -> Part | None:
    """Read on in a stream, up to its checkpoint: ``most`` indices at most. None: there is no more.

    A part is full with ``full_bytes`` of chunks: the last of them may be larger than that.
    """
    here = {"stream_id": stream.id, "generation": generation}
    if (generation, first_index) > (stream.generation, stream.last_index):
        return None
    last = stream.last_index if generation == stream.generation else _last_of(connection, here)
    begin = _next_there_is(connection, here, first_index)
    upto = last
    stored: list[Stored] = []
    if begin <= last:
        upto = min(begin + most - 1, last)
        stored, size_bytes = _stored(connection, here, begin, upto, full_bytes)
        if size_bytes >= full_bytes:  # it was cut there
            upto = stored[-1].chunk_index
    if upto < last:
        return Part(stored, upto, False, generation, upto + 1)
    if generation < stream.generation:
        return Part(stored, upto, True, generation + 1, 0)
    return Part(stored, upto, True, generation, max(last + 1, first_index))


def _last_of(connection: sa.Connection, here: dict[str, int]) -> int:
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


def _next_there_is(connection: sa.Connection, here: dict[str, int], first: int) -> int:
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
    return _NOWHERE if found is None else int(found)


def _stored(
    connection: sa.Connection, here: dict[str, int], first: int, last: int, full_bytes: int
) -> tuple[list[Stored], int]:
    """Chunks between two indices, what could not be one too, and their bytes; cut where a part is full.

    What is in quarantine besides is left out: a repeat, and what is a chunk although nothing followed it.
    """
    rows = connection.execute(
        sa.text(
            """
            SELECT chunk_index, data_text, reason, raw, emitted_ms, size_bytes
            FROM (
                SELECT *, sum(size_bytes) OVER (ORDER BY chunk_index) - size_bytes AS before_bytes
                FROM (
                    SELECT
                        c.chunk_index, c.data_text, '' AS reason, CAST(NULL AS bytea) AS raw,
                        CAST(round(extract(epoch FROM c.emitted_at) * 1000) AS bigint) AS emitted_ms,
                        octet_length(c.data_text) AS size_bytes
                    FROM tailrace.segments g
                    CROSS JOIN LATERAL
                        tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
                    WHERE g.stream_id = :stream_id AND g.generation = :generation
                      -- The segment that holds the first, if one does, begins there.
                      AND g.first_index BETWEEN coalesce((
                          SELECT max(h.first_index) FROM tailrace.segments h
                          WHERE h.stream_id = :stream_id AND h.generation = :generation AND h.first_index <= :first
                      ), 0) AND :last
                      AND c.chunk_index BETWEEN :first AND :last
                    UNION ALL
                    SELECT chunk_index, NULL, reason, raw, NULL, octet_length(raw) FROM tailrace.quarantine
                    WHERE stream_id = :stream_id AND generation = :generation
                      AND chunk_index BETWEEN :first AND :last AND reason NOT IN ('repeat', 'unterminated')
                ) stored
            ) summed
            WHERE before_bytes < :full_bytes ORDER BY chunk_index
            """
        ),
        {**here, "first": first, "last": last, "full_bytes": full_bytes},
    ).all()
    stored = [
        Stored(index, text.encode() if raw is None else bytes(raw), reason, emitted_ms)
        for index, text, reason, raw, emitted_ms, _ in rows
    ]
    return stored, sum(row[-1] for row in rows)
