"""What a person looks at in one stream: its holes, its chunks a page at a time, its text, parts and times. Every look
is bounded in rows, in characters and in time, however large the stream is; nothing here writes."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tailrace.model import HoleReason
from tailrace.store.bounded import ask

__all__ = [
    "STATEMENT_S",
    "Arrivals",
    "ShownChunk",
    "ShownHole",
    "ShownPart",
    "ShownQuarantine",
    "ShownText",
    "Stall",
    "Viewing",
]

STATEMENT_S: Final = 5.0
HOLES_SHOWN: Final = 1_000
STALLS_SHOWN: Final = 10
SHORTEST_STALL_MS: Final = 1_000


class ShownHole(NamedTuple):
    """Indices without a chunk. ``last_index`` None: it lies before the first, and how large it is nobody knows."""

    first_index: int
    last_index: int | None
    reason: str
    lost: bool


class ShownChunk(NamedTuple):
    """A chunk. ``data_text`` is cut; ``size_bytes`` is that of all of it."""

    chunk_index: int
    emitted_at: datetime | None
    type: str | None
    text_delta: str | None
    data_text: str
    size_bytes: int


class ShownText(NamedTuple):
    """The text of a generation. ``text`` is cut, ``characters`` are those of all of it; None: it holds no text."""

    generation: int
    text: str | None
    characters: int | None


class ShownPart(NamedTuple):
    """A row of view message_parts; texts and JSON are cut, ``characters`` are those of the longest before."""

    generation: int
    message: int
    superseded: bool
    step: int
    first_index: int
    last_index: int
    kind: str
    text: str | None
    tool_name: str | None
    state: str | None
    input: str | None
    output: str | None
    error_text: str | None
    data: str | None
    first_at: datetime | None
    last_at: datetime | None
    characters: int


class ShownQuarantine(NamedTuple):
    """What could not be a chunk, cut."""

    chunk_index: int
    reason: str
    raw: bytes
    size_bytes: int


class Stall(NamedTuple):
    """A pause between two chunks, by upstream's times: from one moment to another, in ms since 1970."""

    from_ms: int
    to_ms: int
    before_index: int


class Arrivals(NamedTuple):
    """When the chunks of a generation were written, by upstream's times in ms since 1970.

    ``counts``: how many in each of equal spans from the first to the last. ``stalls``: the pauses, longest first.
    """

    chunks: int
    first_ms: int
    last_ms: int
    counts: list[int]
    stalls: list[Stall]


class Viewing:
    """Asks one archive about streams, by the ids of their rows. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
        NotMigrated, QueryRefused: it refused, or took longer than `STATEMENT_S`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def holes(self, stream: int, generation: int) -> list[ShownHole]:
        """Read the first `HOLES_SHOWN` holes of a generation, in order."""
        rows = self._ask(
            """
            SELECT h.first_index, h.last_index, h.reason FROM tailrace.holes h
            WHERE h.stream_id = :stream AND h.generation = :generation
            ORDER BY h.first_index, h.reason LIMIT :most
            """,
            stream=stream,
            generation=generation,
            most=HOLES_SHOWN,
        )
        return [ShownHole(first, last, reason, HoleReason(reason).lost) for first, last, reason in rows]

    def chunks(self, stream: int, generation: int, first: int, most: int, cut: int) -> list[ShownChunk]:
        """Read the chunks of a generation from an index on, ``most`` of them, each cut to so many characters."""
        rows = self._ask(
            """
            SELECT c.chunk_index, c.emitted_at, c.type, left(c.text_delta, :cut), left(c.data_text, :cut),
                   octet_length(c.data_text)
            FROM tailrace.segments g
            CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
            WHERE g.stream_id = :stream AND g.generation = :generation
              -- The segment that holds the first, if one does, begins there.
              AND g.first_index >= coalesce((
                  SELECT max(h.first_index) FROM tailrace.segments h
                  WHERE h.stream_id = :stream AND h.generation = :generation AND h.first_index <= :first
              ), 0)
              AND c.chunk_index >= :first
            ORDER BY g.first_index, c.chunk_index LIMIT :most
            """,
            stream=stream,
            generation=generation,
            first=first,
            most=most,
            cut=cut,
        )
        return [ShownChunk(*row) for row in rows]

    def texts(self, stream: int, cut: int) -> list[ShownText]:
        """Read the text of each generation that has chunks, as view stream_text puts it together, cut."""
        rows = self._ask(
            """
            SELECT t.generation, left(t.text, :cut), length(t.text) FROM tailrace.stream_text t
            WHERE t.stream_id = :stream ORDER BY t.generation
            """,
            stream=stream,
            cut=cut,
        )
        return [ShownText(*row) for row in rows]

    def parts(self, stream: int, generation: int, first: int, most: int, cut: int) -> list[ShownPart]:
        """Read the parts of AI SDK messages in a generation that begin at an index or later, ``most`` of them."""
        rows = self._ask(
            """
            SELECT p.generation, p.message, p.superseded, p.step, p.first_index, p.last_index, p.kind,
                   left(p.text, :cut), p.tool_name, p.state, left(p.input::text, :cut), left(p.output::text, :cut),
                   left(p.error_text, :cut), left(p.data::text, :cut), p.first_at, p.last_at,
                   greatest(length(p.text), length(p.input::text), length(p.output::text), length(p.error_text),
                            length(p.data::text), 0)
            FROM tailrace.parts_of_stream(:stream) p
            WHERE p.generation = :generation AND p.first_index >= :first
            ORDER BY p.first_index LIMIT :most
            """,
            stream=stream,
            generation=generation,
            first=first,
            most=most,
            cut=cut,
        )
        return [ShownPart(*row) for row in rows]

    def quarantined(self, stream: int, generation: int, most: int, cut: int) -> list[ShownQuarantine]:
        """Read what could not be a chunk, by index, each cut to so many bytes."""
        rows = self._ask(
            """
            SELECT q.chunk_index, q.reason, substr(q.raw, 1, :cut), octet_length(q.raw) FROM tailrace.quarantine q
            WHERE q.stream_id = :stream AND q.generation = :generation ORDER BY q.chunk_index, q.id LIMIT :most
            """,
            stream=stream,
            generation=generation,
            most=most,
            cut=cut,
        )
        return [ShownQuarantine(index, reason, bytes(raw), size) for index, reason, raw, size in rows]

    def arrivals(self, stream: int, generation: int, spans: int) -> Arrivals | None:
        """Read when the chunks of a generation were written; None when there is none."""
        (row,) = self._ask(
            """
            WITH chunk AS MATERIALIZED (
                SELECT g.first_index + coalesce(c.index_offset, c.n - 1) AS chunk_index, c.ms
                FROM tailrace.segments g
                CROSS JOIN LATERAL ROWS FROM (unnest(g.emitted_ms), unnest(g.index_offsets))
                    WITH ORDINALITY AS c (ms, index_offset, n)
                WHERE g.stream_id = :stream AND g.generation = :generation
            ), bounds AS (
                SELECT count(*) AS chunks, min(ms) AS first_ms, max(ms) AS last_ms FROM chunk
            ), counted AS (
                SELECT ((c.ms - b.first_ms) * :spans / greatest(1, b.last_ms - b.first_ms + 1))::int AS span,
                       count(*) AS n
                FROM chunk c CROSS JOIN bounds b GROUP BY 1
            ), paused AS (
                SELECT lag(c.ms) OVER (ORDER BY c.chunk_index) AS from_ms, c.ms AS to_ms, c.chunk_index FROM chunk c
            )
            SELECT
                b.chunks, b.first_ms, b.last_ms,
                (SELECT coalesce(json_object_agg(k.span, k.n), '{}') FROM counted k) AS counts,
                (SELECT coalesce(
                     json_agg(ARRAY[l.from_ms, l.to_ms, l.chunk_index] ORDER BY l.to_ms - l.from_ms DESC), '[]')
                 FROM (
                     SELECT * FROM paused p WHERE p.to_ms - p.from_ms >= :shortest
                     ORDER BY p.to_ms - p.from_ms DESC, p.chunk_index LIMIT :stalls
                 ) l) AS stalls
            FROM bounds b
            """,
            stream=stream,
            generation=generation,
            spans=spans,
            shortest=SHORTEST_STALL_MS,
            stalls=STALLS_SHOWN,
        )
        if not row.chunks:
            return None
        counts = [int(row.counts.get(str(span), 0)) for span in range(spans)]
        return Arrivals(row.chunks, row.first_ms, row.last_ms, counts, [Stall(*each) for each in row.stalls])

    def _ask(self, statement: str, **parameters: Any) -> list[Any]:
        return list(ask(self._engine, STATEMENT_S, statement, parameters))
