"""Rows of an archive for tests of the schema, written by hand: no code of the store is involved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from tailrace.wire.chunk_json import PLAIN, check

EPOCH_MS = 1_790_000_000_000


class Archive:
    """A migrated database, and what tests put into it."""

    def __init__(self, url: str) -> None:
        self.connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(url, autocommit=True)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, values).fetchall()  # type: ignore[arg-type]

    def row(self, query: str, *values: object) -> tuple[Any, ...]:
        (row,) = self.rows(query, *values)
        return row

    def value(self, query: str, *values: object) -> Any:
        (value,) = self.row(query, *values)
        return value

    def run(self, query: str, *values: object) -> int:
        """Run a statement; returns how many rows it changed."""
        return self.connection.execute(query, values).rowcount  # type: ignore[arg-type]

    def stream(self, run_id: str = "run_1", key: str = "ai", environment: str = "default") -> int:
        """A stream, and its run unless it is there."""
        run = self.value("SELECT tailrace.request_ingest(%s, NULL, %s)", run_id, environment)
        stream: int = self.value(
            "INSERT INTO tailrace.streams (run, stream_key) VALUES (%s, %s) RETURNING id", run, key
        )
        return stream

    def segment(
        self,
        stream: int,
        texts: Sequence[str],
        *,
        first: int = 0,
        generation: int = 0,
        offsets: Sequence[int] | None = None,
        odd: bool | None = None,
        emitted_ms: Sequence[int] | None = None,
    ) -> None:
        """Chunks as the Writer stores them; ``odd`` as it finds out, unless given."""
        if odd is None:
            odd = any(check(text.encode()) != PLAIN for text in texts)
        self.run(
            """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data,
                                              emitted_ms, index_offsets, odd)
               VALUES (%s, %s, %s, %s, %s, %b, %s::bigint[], %s::int[], %s)""",
            stream,
            generation,
            first,
            first + (offsets[-1] if offsets else len(texts) - 1),
            len(texts),
            Json(f"[{','.join(texts)}]"),
            list(emitted_ms or range(EPOCH_MS, EPOCH_MS + len(texts))),
            list(offsets) if offsets else None,
            odd,
        )

    def hole(self, stream: int, first: int, last: int | None, reason: str, generation: int = 0) -> None:
        self.run(
            """INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
               VALUES (%s, %s, %s, %s, %s)""",
            stream,
            generation,
            first,
            last,
            reason,
        )

    def quarantine(self, stream: int, index: int, raw: bytes = b"raw", generation: int = 0) -> None:
        self.run(
            """INSERT INTO tailrace.quarantine (stream_id, generation, chunk_index, reason, raw)
               VALUES (%s, %s, %s, 'not JSON', %s)""",
            stream,
            generation,
            index,
            raw,
        )

    def settle(self, stream: int, last_index: int, texts: Sequence[str] = (), generation: int = 0) -> None:
        """Set the stream's checkpoint, and its counts to what is stored."""
        self.run(
            """UPDATE tailrace.streams s SET
                   generation = %s, last_chunk_index = %s, chunk_count = %s, byte_count = %s,
                   hole_count = (SELECT count(*) FROM tailrace.holes h WHERE h.stream_id = s.id),
                   lost_count = (SELECT count(*) FROM tailrace.holes h WHERE h.stream_id = s.id
                                 AND h.reason IN ('trimmed', 'expired', 'recreated', 'missing')),
                   quarantine_count = (SELECT count(*) FROM tailrace.quarantine q WHERE q.stream_id = s.id)
               WHERE id = %s""",
            generation,
            last_index,
            len(texts),
            sum(len(text.encode()) for text in texts),
            stream,
        )

    def whole_stream(self, texts: Sequence[str], run_id: str = "run_1", key: str = "ai", **how: Any) -> int:
        """A stream with these chunks in one segment, its accounts in order."""
        stream = self.stream(run_id, key)
        self.segment(stream, texts, **how)
        self.settle(stream, len(texts) - 1, texts)
        return stream


class Json(str):
    """A text that is bound as type json, untouched."""


class _JsonDumper(psycopg.adapt.Dumper):
    format = psycopg.pq.Format.BINARY
    oid = 114

    def dump(self, obj: str) -> bytes:
        return obj.encode()


psycopg.adapters.register_dumper(Json, _JsonDumper)
