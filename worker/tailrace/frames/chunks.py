"""The chunks of a run, segment by segment, as record batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format

from tailrace.frames.columns import ARRAY_HEAD, SIZE, int4s, int8s, repeated, split, texts
from tailrace.streams.errors import NotArchived, NotConfigured

BATCH_CHUNKS = 100_000
BATCH_BYTES = 16 << 20

SCHEMA = pa.schema(
    [
        ("run_id", pa.dictionary(pa.int32(), pa.string())),
        ("stream_key", pa.dictionary(pa.int32(), pa.string())),
        ("generation", pa.int32()),
        ("chunk_index", pa.int64()),
        ("data", pa.large_string()),
        ("emitted_at", pa.timestamp("ms", tz="UTC")),
        ("committed_at", pa.timestamp("us", tz="UTC")),
    ]
)

_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999; a time outside them is null, as in view ``chunks``."""
_EPOCH_US = 946_684_800_000_000
"""Postgres counts from 2000."""

_STREAMS = """
SELECT e.name, s.id, s.stream_key
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
LEFT JOIN tailrace.streams s ON s.run = r.id AND (%(key)s::text IS NULL OR s.stream_key = %(key)s)
WHERE r.run_id = %(run_id)s AND (%(environment)s::text IS NULL OR e.name = %(environment)s)
ORDER BY s.stream_key
"""

_SEGMENTS = """
SELECT generation, first_index, chunk_count, data, emitted_ms, index_offsets, committed_at, committed
FROM tailrace.segments WHERE stream_id = %s ORDER BY generation, first_index
"""


def of_run(
    connection: psycopg.Connection[Any], environment: str | None, run_id: str, key: str | None
) -> Iterator[pa.RecordBatch]:
    """Read the chunks of a run, or of one stream of it, ordered by stream, generation and index.

    Raises:
        NotArchived
        NotConfigured: it is in several environments.
    """
    asked = {"run_id": run_id, "key": key, "environment": environment}
    found = connection.execute(_STREAMS, asked).fetchall()
    if not found:
        raise NotArchived(f"The archive does not know run {run_id}")
    environments = sorted({name for name, _, _ in found})
    if len(environments) > 1:
        names = ", ".join(environments)
        raise NotConfigured(f"Run {run_id} is in several environments ({names}): set TAILRACE_ENVIRONMENT")
    streams = [(stream_id, key) for _, stream_id, key in found if stream_id is not None]
    run_ids, keys = pa.array([run_id]), pa.array([key for _, key in streams], pa.string())
    batch = _Batch()
    empty = True
    for number, (stream_id, _) in enumerate(streams):
        for segment in _segments(connection, stream_id):
            batch.add(segment)
            if batch.full:
                yield batch.take(run_ids, keys, number)
                empty = False
        if batch.sizes:
            yield batch.take(run_ids, keys, number)
            empty = False
    if empty:
        yield batch.take(run_ids, keys, 0)


class _Segment(NamedTuple):
    """A row of `segments`; arrays and JSON as Postgres sends them."""

    generation: int
    first_index: int
    chunk_count: int
    data: bytes
    emitted_ms: bytes
    index_offsets: bytes | None
    committed_at: bytes
    committed: bytes | None


class _Raw(Loader):
    """A value as Postgres sends it."""

    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def _segments(connection: psycopg.Connection[Any], stream_id: int) -> Iterator[_Segment]:
    with connection.cursor(binary=True) as cursor:
        for name in ("json", "timestamptz"):
            cursor.adapters.register_loader(name, _Raw)
        for name in ("int8", "int4", "timestamptz"):
            cursor.adapters.register_loader(connection.adapters.types[name].array_oid, _Raw)
        for row in cursor.stream(_SEGMENTS, [stream_id]):
            yield _Segment(*row)


class _Batch:
    """Segments of one stream on their way to one record batch."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.sizes: list[int] = []
        self._size_bytes = 0
        self._texts: list[bytes] = []
        self._generations = array("i")
        self._indices = array("q")
        self._emitted: list[bytes] = []
        self._committed: list[bytes] = []

    @property
    def full(self) -> bool:
        return len(self.sizes) >= BATCH_CHUNKS or self._size_bytes >= BATCH_BYTES

    def add(self, segment: _Segment) -> None:
        count, first = segment.chunk_count, segment.first_index
        data, sizes = split(segment.data)
        self.sizes.extend(sizes)
        self._size_bytes += len(data)
        self._texts.append(data[1:])
        self._generations.extend(array("i", [segment.generation]) * count)
        if segment.index_offsets is None:
            self._indices.extend(range(first, first + count))
        else:
            self._indices.extend(first + offset for offset in int4s(segment.index_offsets))
        self._emitted.append(segment.emitted_ms[ARRAY_HEAD:])
        if segment.committed is None:
            self._committed.append((SIZE.pack(8) + segment.committed_at) * count)
        else:
            self._committed.append(segment.committed[ARRAY_HEAD:])

    def take(self, run_ids: Any, keys: Any, number: int) -> pa.RecordBatch:
        """Return what was added, of the stream of this number, and begin anew."""
        count = len(self.sizes)
        emitted_ms = int8s(b"".join(self._emitted))
        dated = pc.and_(pc.greater_equal(emitted_ms, _FIRST_MS), pc.less_equal(emitted_ms, _LAST_MS))
        columns = [
            repeated(0, run_ids, count),
            repeated(number, keys, count),
            pa.array(self._generations, pa.int32()),
            pa.array(self._indices, pa.int64()),
            texts(self._texts, self.sizes),
            pc.if_else(dated, emitted_ms, pa.scalar(None, pa.int64())).cast(SCHEMA.field("emitted_at").type),
            pc.add(int8s(b"".join(self._committed)), _EPOCH_US).cast(SCHEMA.field("committed_at").type),
        ]
        self._begin()
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
