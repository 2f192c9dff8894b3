"""Export sealed streams as files for DuckDB, Trino or ClickHouse: Parquet or JSON lines, on a disk or in a bucket.

A file is written whole and under its final name only when it is complete; then the rows of ``exported`` say which
streams are in it. A row of ``exporting`` names it before it is begun. So an export that goes on after it was killed
removes what was cut off and writes the streams that no row names: none is there twice. Needs pyarrow (``pip install
tailrace[export]``).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from tailrace.errors import BadSettings, TerminalError, WorkerError
from tailrace.store.statements import Statements

__all__ = ["Export", "ExportFailed", "ExportFormat", "Exported", "Verified", "digest_of"]

CHUNKS_PER_FILE = 1_000_000
ROWS_AT_A_TIME = 20_000
BYTES_AT_A_TIME = 64 << 20
DIGEST_BLOCK = 10_000


class ExportFormat(StrEnum):
    PARQUET = "parquet"
    JSONL = "jsonl"


class ExportFailed(WorkerError):
    """A file does not hold what the archive holds."""


class NoArrow(TerminalError):
    """pyarrow is not installed: pip install 'tailrace[export]'."""


class _Stream(NamedTuple):
    id: int
    run: int
    chunks: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written."""

    path: str
    streams: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that was read back and compared by digest; ``wrong``: ids of streams whose contents differ."""

    path: str
    streams: int
    wrong: list[int]


class Export:
    """One target: a directory, or a URI that pyarrow knows (``s3://bucket/prefix``, ``gs://...``).

    One process at a time for each target: a second one cuts off the file that the first is at work on.
    """

    def __init__(self, engine: sa.Engine, target: str, form: ExportFormat, *, filesystem: Any = None) -> None:
        """``filesystem``: pyarrow's, for tests and for credentials of one's own; then ``target`` is a path in it.

        Raises:
            NoArrow
            BadSettings: pyarrow can't make sense of the target.
        """
        self._target = target.rstrip("/")
        self._statements = Statements(engine, target=self._target)
        self._form = form
        fs = _arrow_fs()
        if filesystem is not None:
            self._fs, self._root = filesystem, self._target
        else:
            try:
                if "://" in target:
                    self._fs, self._root = fs.FileSystem.from_uri(self._target)
                else:
                    self._fs, self._root = fs.LocalFileSystem(), self._target
            except (OSError, ValueError, NotImplementedError) as error:
                raise BadSettings(f"can't export to {target!r}: {error}") from error

    # --- writing

    def run(
        self, since: datetime | None = None, until: datetime | None = None, environment: str | None = None
    ) -> Iterator[Exported]:
        """Write what is sealed, compacted and not exported to this target yet, oldest first, file by file.

        Times are those of archiving (as retention counts).

        Raises:
            StoreUnavailable, ExportFailed; OSError: the target.
        """
        self._remove_cut_off()
        while True:
            streams = self._next(since, until, environment)
            if not streams:
                return
            path = self._path(streams[0].id)
            self._begin(path)
            with self._writing(path) as write:
                for rows in self._rows([stream.id for stream in streams]):
                    write(rows)
            self._note(streams, path)
            yield Exported(path, len(streams), sum(stream.chunks for stream in streams))

    def _remove_cut_off(self) -> None:
        """Remove the files that were begun and not noted: their streams will be in others."""
        rows = self._statements.execute("SELECT path FROM tailrace.exporting WHERE target = :target")
        for path in [row.path for row in rows]:
            for name in (f"{path}.unfinished", path):
                if self._fs.get_file_info(name).type != _arrow_fs().FileType.NotFound:
                    self._fs.delete_file(name)
            self._statements.execute(
                "DELETE FROM tailrace.exporting WHERE target = :target AND path = :path", path=path
            )

    def _begin(self, path: str) -> None:
        self._statements.execute(
            "INSERT INTO tailrace.exporting (target, path) VALUES (:target, :path) ON CONFLICT DO NOTHING", path=path
        )

    def changed(self) -> int:
        """Count the exported streams that have been opened again since, and hold other contents now."""
        return int(
            self._statements.execute(
                """
                SELECT count(*) AS n FROM tailrace.exported x JOIN tailrace.streams s ON s.id = x.stream_id
                WHERE x.target = :target AND s.digest IS DISTINCT FROM x.digest
                """,
            )[0].n
        )

    def _next(self, since: datetime | None, until: datetime | None, environment: str | None) -> list[_Stream]:
        """Choose the streams of the next file: whole streams, up to so many chunks, at least one."""
        rows = self._statements.execute(
            """
            SELECT s.id, s.run, s.chunk_count AS chunks, s.digest
            FROM tailrace.streams s
            JOIN tailrace.runs r ON r.id = s.run
            JOIN tailrace.environments e ON e.id = r.environment_id
            WHERE s.state = 'sealed' AND s.compacted_at IS NOT NULL AND s.chunk_count > 0
              AND (CAST(:since AS timestamptz) IS NULL OR s.id >= tailrace.stream_id_at(:since))
              AND (CAST(:until AS timestamptz) IS NULL OR s.id < tailrace.stream_id_at(:until))
              AND (CAST(:environment AS text) IS NULL OR e.name = :environment)
              AND NOT EXISTS (SELECT FROM tailrace.exported x WHERE x.target = :target AND x.stream_id = s.id)
            ORDER BY s.id LIMIT 10000
            """,
            since=since,
            until=until,
            environment=environment,
        )
        chosen: list[_Stream] = []
        chunks = 0
        for row in rows:
            stream = _Stream(row.id, row.run, row.chunks, bytes(row.digest))
            if chosen and chunks + stream.chunks > CHUNKS_PER_FILE:
                break
            chosen.append(stream)
            chunks += stream.chunks
        return chosen

    def _path(self, first: int) -> str:
        """A file is named for its first stream, which no finished file holds."""
        return f"{self._root}/chunks-{first}.{self._form.value}"

    def _rows(self, streams: Sequence[int]) -> Iterator[list[tuple[Any, ...]]]:
        """Read the chunks of these streams in order, some at a time."""
        batch: list[tuple[Any, ...]] = []
        size = 0
        for stream in streams:
            with self._statements.streaming() as cursor:
                for row in cursor.stream(_CHUNKS, {"stream": stream}):
                    batch.append(row)
                    size += len(row[9])
                    if len(batch) >= ROWS_AT_A_TIME or size >= BYTES_AT_A_TIME:
                        yield batch
                        batch, size = [], 0
        if batch:
            yield batch

    @contextmanager
    def _writing(self, path: str) -> Iterator[Any]:
        self._fs.create_dir(self._root, recursive=True)
        unfinished = f"{path}.unfinished"
        if self._form is ExportFormat.PARQUET:
            import pyarrow
            import pyarrow.parquet

            schema = _schema()
            with (
                self._fs.open_output_stream(unfinished) as file,
                pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
            ):

                def write(rows: list[tuple[Any, ...]]) -> None:
                    columns = list(zip(*rows, strict=True))
                    arrays = [pyarrow.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
                    writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))

                yield write
        else:
            with self._fs.open_output_stream(unfinished) as file:

                def write_lines(rows: list[tuple[Any, ...]]) -> None:
                    file.write(b"".join(_line(row) for row in rows))

                yield write_lines
        # An error leaves the unfinished file behind; the next attempt removes it.
        self._fs.move(unfinished, path)

    def _note(self, streams: Sequence[_Stream], path: str) -> None:
        """Note what is in a file, if all of it is still as it was; else remove the file.

        Raises:
            ExportFailed: nothing of it is in the archive any more.
        """
        given: dict[str, object] = {"path": path, "ids": [stream.id for stream in streams]}
        same = """
            SELECT s.id, s.run, s.chunk_count, s.digest
            FROM unnest(CAST(:ids AS bigint[]), CAST(:digests AS bytea[])) AS x (id, digest)
            JOIN tailrace.streams s ON s.id = x.id AND s.digest = x.digest
            """
        still = self._statements.execute(
            f"""
            WITH same AS MATERIALIZED ({same}), whole AS (
                DELETE FROM tailrace.exporting
                WHERE target = :target AND path = :path
                  AND (SELECT count(*) FROM same) = cardinality(CAST(:ids AS bigint[]))
                RETURNING path
            ), noted AS (
                INSERT INTO tailrace.exported (target, stream_id, run, path, chunk_count, digest)
                SELECT :target, same.id, same.run, whole.path, same.chunk_count, same.digest FROM same CROSS JOIN whole
                ON CONFLICT (target, stream_id) DO NOTHING
            )
            SELECT count(*) AS n FROM same
            """,
            digests=[stream.digest for stream in streams],
            **given,
        )[0].n
        if still < len(streams):
            # Opened again, forgotten or dropped while they were being written: a file must not hold what no row names.
            self._remove_cut_off()
            if not still:
                raise ExportFailed(f"{path}: all of its streams changed while it was being written; run it again")

    # --- reading back

    def verify(self) -> Iterator[Verified]:
        """Read each file that is not verified yet, and compare every stream in it with its digest.

        Raises:
            OSError: a file is missing or can't be read.
        """
        paths = self._statements.execute(
            "SELECT DISTINCT path FROM tailrace.exported WHERE target = :target AND verified_at IS NULL ORDER BY path",
        )
        for (path,) in paths:
            found = dict(self._digests(path))
            expected = {
                row.stream_id: bytes(row.digest)
                for row in self._statements.execute(
                    "SELECT stream_id, digest FROM tailrace.exported WHERE target = :target AND path = :path",
                    path=path,
                )
            }
            wrong = sorted(
                stream for stream in expected.keys() | found.keys() if expected.get(stream) != found.get(stream)
            )
            if not wrong:
                self._statements.execute(
                    "UPDATE tailrace.exported SET verified_at = now() WHERE target = :target AND path = :path",
                    path=path,
                )
            yield Verified(path, len(expected), wrong)

    def _digests(self, path: str) -> Iterator[tuple[int, bytes]]:
        current, hashes = None, _Hashes()
        for stream, generation, index, text in self._contents(path):
            if stream != current:
                if current is not None:
                    yield current, hashes.digest()
                current, hashes = stream, _Hashes()
            hashes.add(generation, index, text.encode())
        if current is not None:
            yield current, hashes.digest()

    def _contents(self, path: str) -> Iterator[tuple[int, int, int, str]]:
        """Read stream, generation, index and text of every chunk in a file."""
        if self._form is ExportFormat.PARQUET:
            import pyarrow.parquet

            names = ["stream_id", "generation", "chunk_index", "data"]
            with self._fs.open_input_file(path) as file:
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(ROWS_AT_A_TIME, columns=names):
                    yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        else:
            with self._fs.open_input_stream(path) as file:
                left = b""
                while block := file.read(1 << 20):
                    *lines, left = (left + block).split(b"\n")
                    for line in lines:
                        read = json.loads(line)
                        yield read["stream_id"], read["generation"], read["chunk_index"], read["data"]


# `data` is the JSON text, verbatim; not a nested type: key order, doubled keys and 1.10 would be lost.
COLUMNS = (
    *("environment", "run_id", "task_identifier", "tags", "stream_key", "verdict", "stream_id", "generation"),
    *("chunk_index", "data", "type", "text_delta", "emitted_at", "committed_at"),
)

_CHUNKS = """
SELECT
    e.name, r.run_id, r.task_identifier, r.tags, s.stream_key, s.verdict, g.stream_id, g.generation, c.chunk_index,
    c.data_text, c.type, c.text_delta, c.emitted_at, c.committed_at
FROM tailrace.streams s
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.segments g ON g.stream_id = s.id
CROSS JOIN LATERAL tailrace.unpack(
    g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd, g.committed_at, g.committed, g.change_id, g.change_ids
) c
WHERE s.id = %(stream)s
ORDER BY g.generation, g.first_index, c.chunk_index
"""


def _schema() -> Any:
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    kinds = {
        "tags": pa.list_(pa.string()),
        "stream_id": pa.int64(),
        "generation": pa.int32(),
        "chunk_index": pa.int64(),
        "emitted_at": moment,
        "committed_at": moment,
    }
    return pa.schema(
        [(name, kinds.get(name, pa.large_string() if name == "data" else pa.string())) for name in COLUMNS]
    )


def _line(row: tuple[Any, ...]) -> bytes:
    fields = dict(zip(COLUMNS, row, strict=True))
    for name in ("emitted_at", "committed_at"):
        fields[name] = fields[name].isoformat() if fields[name] else None
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


class _Hashes:
    """The digest of a stream, chunk by chunk, as tailrace.stream_digest works it out."""

    def __init__(self) -> None:
        self._blocks = hashlib.sha256()
        self._block = hashlib.sha256()
        self._count = 0

    def add(self, generation: int, index: int, text: bytes) -> None:
        if self._count and self._count % DIGEST_BLOCK == 0:
            self._blocks.update(self._block.digest())
            self._block = hashlib.sha256()
        self._block.update(hashlib.sha256(struct.pack("!iq", generation, index) + text).digest())
        self._count += 1

    def digest(self) -> bytes:
        blocks = self._blocks.copy()
        if self._count:
            blocks.update(self._block.digest())
        return blocks.digest()


def digest_of(chunks: Iterator[tuple[int, int, bytes]]) -> bytes:
    """Work out the digest of (generation, index, text) in order; that of the archive is ``streams.digest``."""
    hashes = _Hashes()
    for generation, index, text in chunks:
        hashes.add(generation, index, text)
    return hashes.digest()


def _arrow_fs() -> Any:
    try:
        import pyarrow.fs
    except ImportError:
        raise NoArrow from None
    return pyarrow.fs
