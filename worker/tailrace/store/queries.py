"""What people ask the archive from the command line. One function a statement; nothing here writes.

Statements about runs and streams are small. Chunks and the rows of a query are streamed: one row is in memory at a
time, however many there are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Buffer, Loader
from sqlalchemy import exc

from tailrace.errors import TerminalError
from tailrace.store.engine import autocommit, translated
from tailrace.store.leases import OVER

__all__ = [
    "Archive",
    "ChunkText",
    "Halted",
    "NotMigrated",
    "QueryRefused",
    "Rows",
    "RunStatus",
    "StreamStatus",
    "StreamText",
    "Violation",
    "refusal",
]

LAST_INDEX = 9_223_372_036_854_775_807
"""The largest index there can be: reading "to" it reads to the end."""


class NotMigrated(TerminalError):
    """The database has no archive yet: run `tailrace migrate`."""


class QueryRefused(TerminalError):
    """Postgres refused the query."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as the archive has it. ``status`` is upstream's word, ``state`` ours.

    ``asked_for_s``: how long ago it was asked for. ``over``: terminal upstream, and the end is confirmed. The counts
    are sums over its streams. ``selection``: the stream keys that were asked for; None: all.
    """

    id: int
    environment: str
    run_id: str
    state: str
    status: str | None
    over: bool
    task_identifier: str | None
    selection: list[str] | None
    requested_at: datetime
    asked_for_s: float
    finished_at: datetime | None
    sealed_at: datetime | None
    last_error: str | None
    next_watch_s: float
    streams: int
    sealed_streams: int
    failed_streams: int
    chunks: int
    bytes: int
    gaps: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream as the archive has it.

    ``checkpoint``: the last index that is stored or accounted for, -1 for none. ``gaps``: holes that are losses.
    ``worker``: who reads it now, None when nobody does. ``next_attempt_s``: until it is read again at the earliest.
    """

    stream_key: str
    state: str
    verdict: str
    wire: str | None
    generation: int
    checkpoint: int
    chunks: int
    bytes: int
    holes: int
    gaps: int
    quarantined: int
    lag: int | None
    attempt: int
    last_error: str | None
    worker: str | None
    next_attempt_s: float
    first_chunk_at: datetime | None
    last_chunk_at: datetime | None
    sealed_at: datetime | None
    id: int


@dataclass(frozen=True, slots=True)
class Halted:
    """An environment of which nothing is read, because upstream refused its key."""

    environment: str
    api_url: str
    since: datetime
    reason: str


class ChunkText(NamedTuple):
    """One chunk. ``text`` is its JSON as upstream sent it."""

    generation: int
    chunk_index: int
    text: bytes


class StreamText(NamedTuple):
    """The text that a stream's chunks add up to; None: they hold no text."""

    stream_key: str
    generation: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that is wrong with a stream: ``digest`` (its contents have changed), or a word of
    tailrace.verify_accounts."""

    run_id: str | None
    stream_key: str | None
    violation: str
    generation: int | None
    first_index: int | None
    last_index: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The answer to a query. ``json`` marks the columns that hold JSON, whose values are its text, as stored."""

    columns: list[str]
    json: list[bool]
    rows: Iterator[tuple[Any, ...]]


class Archive:
    """Reads one archive. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = autocommit(engine)

    def newest_runs(self, limit: int, environment: str | None) -> list[RunStatus]:
        """Read the runs that were asked for last, newest first."""
        rows = self._all(
            f"""
            {_RUN}
            WHERE CAST(:environment AS text) IS NULL OR e.name = :environment
            ORDER BY r.id DESC LIMIT :limit
            """,
            limit=limit,
            environment=environment,
        )
        return [RunStatus(**row) for row in rows]

    def runs_named(self, run_id: str, environment: str | None) -> list[RunStatus]:
        """Read the run in each environment that has one of this id."""
        rows = self._all(
            f"""
            {_RUN}
            WHERE r.run_id = :run_id AND (CAST(:environment AS text) IS NULL OR e.name = :environment)
            ORDER BY e.name
            """,
            run_id=run_id,
            environment=environment,
        )
        return [RunStatus(**row) for row in rows]

    def streams(self, run: int) -> list[StreamStatus]:
        """Read the streams of a run, by key. ``run`` is `RunStatus.id`."""
        rows = self._all(
            """
            SELECT
                s.id, s.stream_key, s.state, s.verdict, s.wire, s.generation, s.last_chunk_index AS checkpoint,
                s.chunk_count AS chunks, s.byte_count AS bytes, s.hole_count AS holes, s.lost_count AS gaps,
                s.quarantine_count AS quarantined, s.lag, s.attempt, s.last_error,
                (SELECT w.host || ':' || w.pid FROM tailrace.workers w
                 WHERE w.id = s.worker_id AND w.expires_at > now()) AS worker,
                greatest(0, extract(epoch FROM s.next_attempt_at - now()))::float8 AS next_attempt_s,
                s.first_chunk_at, s.last_chunk_at, s.sealed_at
            FROM tailrace.streams s WHERE s.run = :run ORDER BY s.stream_key
            """,
            run=run,
        )
        return [StreamStatus(**row) for row in rows]

    def halted(self, environment: str | None = None) -> list[Halted]:
        """Read which environments are halted."""
        rows = self._all(
            """
            SELECT name AS environment, api_url, halted_at AS since, coalesce(halted_reason, '') AS reason
            FROM tailrace.environments
            WHERE halted_at IS NOT NULL AND (CAST(:environment AS text) IS NULL OR name = :environment)
            ORDER BY name
            """,
            environment=environment,
        )
        return [Halted(**row) for row in rows]

    def live_workers(self) -> int:
        """Count the processes that hold leases or could."""
        return int(self._all("SELECT count(*) AS n FROM tailrace.workers WHERE expires_at > now()")[0]["n"])

    def partitioned_days(self) -> float:
        """Say for how many days from now on new streams have a place to be stored; 0 when today has none."""
        rows = self._all(
            """
            SELECT extract(epoch FROM max(day) + interval '1 day' - now())::float8 / 86400 AS days
            FROM (
                SELECT to_timestamp(right(c.relname, 8), 'YYYYMMDD') AS day
                FROM pg_catalog.pg_inherits i
                JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'tailrace.segments'::regclass AND c.relname ~ '^segments_[0-9]{8}$'
            ) made
            """
        )
        return max(0.0, float(rows[0]["days"] or 0.0))

    def server(self) -> tuple[str, str]:
        """Ask the server for its version and the encoding of the database; the cheapest proof that it answers."""
        row = self._all(
            "SELECT current_setting('server_version') AS version, current_setting('server_encoding') AS encoding"
        )[0]
        return str(row["version"]), str(row["encoding"])

    def chunks(self, stream: int, first: int = 0, last: int = LAST_INDEX) -> Iterator[ChunkText]:
        """Stream the chunks of one stream with indices from ``first`` to ``last``, in order, of every generation.

        Segments come in the order of their key, so nothing is sorted but what is inside one segment.
        """
        with self._streaming() as cursor:
            cursor.adapters.register_loader("text", _Bytes)
            for row in cursor.stream(
                """
                SELECT g.generation, c.chunk_index, c.data_text
                FROM tailrace.segments g
                CROSS JOIN LATERAL
                    tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
                WHERE g.stream_id = %(stream)s AND g.last_index >= %(first)s AND g.first_index <= %(last)s
                  AND c.chunk_index BETWEEN %(first)s AND %(last)s
                ORDER BY g.generation, g.first_index, c.chunk_index
                """,
                {"stream": stream, "first": first, "last": last},
            ):
                yield ChunkText(*row)

    def texts(self, run: RunStatus, stream_key: str | None) -> list[StreamText]:
        """Read the text of a run's streams, or of one of them."""
        rows = self._all(
            """
            SELECT stream_key, generation, text FROM tailrace.stream_text
            WHERE environment = :environment AND run_id = :run_id
              AND (CAST(:stream_key AS text) IS NULL OR stream_key = :stream_key)
            ORDER BY stream_key, generation
            """,
            environment=run.environment,
            run_id=run.run_id,
            stream_key=stream_key,
        )
        return [StreamText(**row) for row in rows]

    def violations(self, run: RunStatus | None) -> tuple[int, list[Violation]]:
        """Check a run's streams, or all: their accounts, and that sealed ones hold what they held when their digest was
        worked out. Give how many streams were checked, and what is wrong."""
        streams = [stream.id for stream in self.streams(run.id)] if run is not None else None
        found = []
        for stream in [None] if streams is None else streams:
            rows = self._all(
                """
                SELECT r.run_id, s.stream_key, v.violation, v.generation, v.first_index, v.last_index, v.detail
                FROM tailrace.verify_accounts(CAST(:stream AS bigint)) v
                LEFT JOIN tailrace.streams s ON s.id = v.stream_id
                LEFT JOIN tailrace.runs r ON r.id = s.run
                UNION ALL
                SELECT r.run_id, s.stream_key, 'digest', NULL, NULL, NULL, 'the contents are not what they were'
                FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
                WHERE s.digest IS NOT NULL AND (CAST(:stream AS bigint) IS NULL OR s.id = :stream)
                  AND s.digest <> tailrace.stream_digest(s.id)
                ORDER BY 1, 2, 4, 5
                """,
                stream=stream,
            )
            found += [Violation(**row) for row in rows]
        count = len(streams) if streams is not None else self._all("SELECT count(*) AS n FROM tailrace.streams")[0]["n"]
        return int(count), found

    @contextmanager
    def query(self, statement: str, timeout_s: float) -> Iterator[Rows]:
        """Run one statement of the user's in a read-only transaction and stream its rows.

        Raises:
            QueryRefused: it is wrong, writes, is more than one statement, returns no rows, or takes longer than
                ``timeout_s`` (0: no limit).
        """
        with self._streaming() as cursor:
            connection = cursor.connection
            with connection.transaction():
                connection.execute("SET TRANSACTION READ ONLY")
                connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{round(timeout_s * 1000)}ms"])
                columns, types = _describe(connection, statement)
                json_types = {connection.adapters.types[name].oid for name in ("json", "jsonb")}
                for name in ("json", "jsonb"):
                    cursor.adapters.register_loader(name, _Text)
                try:
                    # Closed first, also when not all rows were taken: the connection is locked as long as it streams.
                    with closing(_generator(cursor.stream(statement.encode()))) as rows:
                        yield Rows(columns, [each in json_types for each in types], rows)
                except psycopg.errors.ReadOnlySqlTransaction as error:  # elsewhere this says: ask the new primary
                    raise refusal(error) from error

    @contextmanager
    def _streaming(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        """Return a cursor of the driver's own: it can stream, and ``%`` and ``:`` in a statement mean nothing to it."""
        with _reading(), self._engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            with driver.cursor() as cursor:
                yield cursor

    def _all(self, statement: str, **parameters: object) -> Sequence[sa.RowMapping]:
        with _reading(), self._engine.connect() as connection:
            return connection.execute(sa.text(statement), parameters).mappings().all()


_RUN = f"""
SELECT
    r.id, e.name AS environment, r.run_id, r.state, r.status, coalesce({OVER}, false) AS over, r.task_identifier,
    r.selection, r.requested_at, extract(epoch FROM now() - r.requested_at)::float8 AS asked_for_s, r.finished_at,
    r.sealed_at, r.last_error, greatest(0, extract(epoch FROM r.next_watch_at - now()))::float8 AS next_watch_s,
    t.streams, t.sealed_streams, t.failed_streams, t.chunks, t.bytes, t.gaps, t.quarantined
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
CROSS JOIN LATERAL (
    SELECT
        count(*) AS streams,
        count(*) FILTER (WHERE s.state = 'sealed') AS sealed_streams,
        count(*) FILTER (WHERE s.state = 'failed') AS failed_streams,
        coalesce(sum(s.chunk_count), 0)::bigint AS chunks,
        coalesce(sum(s.byte_count), 0)::bigint AS bytes,
        coalesce(sum(s.lost_count), 0)::bigint AS gaps,
        coalesce(sum(s.quarantine_count), 0)::bigint AS quarantined
    FROM tailrace.streams s WHERE s.run = r.id
) t
"""


_MISSING = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedTable,
)


class _Bytes(Loader):
    """Text as the bytes that the server sent: they are only written out again."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class _Text(Loader):
    """JSON as its text: Python's own objects would lose key order, ``1.10`` and doubled keys."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


def _describe(connection: psycopg.Connection[Any], statement: str) -> tuple[list[str], list[int]]:
    """Have the server check a statement without running it; return the names and types of its columns."""
    encoding = connection.info.encoding
    pg = connection.pgconn
    for result in (pg.prepare(b"", statement.encode(encoding)), pg.describe_prepared(b"")):
        if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result, encoding)
    if not result.nfields:
        raise QueryRefused("The statement returns no rows. Only statements that read can be run here.")
    names = [(result.fname(at) or b"").decode(encoding) for at in range(result.nfields)]
    return names, [result.ftype(at) for at in range(result.nfields)]


def _generator(rows: Iterator[tuple[Any, ...]]) -> Generator[tuple[Any, ...], None, None]:
    yield from rows


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what Postgres says to a reader into our errors."""
    try:
        with translated():
            yield
    except (exc.DBAPIError, psycopg.Error) as error:
        cause = getattr(error, "orig", None) or error
        raise refusal(cause) from error


def refusal(error: BaseException) -> TerminalError:
    """Put what Postgres said to a statement into one line, with what to do about it."""
    if not isinstance(error, psycopg.Error):
        return QueryRefused(str(error))
    said = error.diag.message_primary or str(error).partition("\n")[0]
    if isinstance(error, _MISSING) and "tailrace" in said:
        return NotMigrated(f"{said}. If the database is not up to date, `tailrace migrate` brings it there.")
    if isinstance(error, psycopg.errors.UndefinedTable):
        return QueryRefused(f"{said}. The archive is in schema tailrace: tailrace.chunks, tailrace.stream_text, ...")
    if isinstance(error, psycopg.errors.SyntaxError) and "multiple commands" in said:
        return QueryRefused("Only one statement can be run at a time.")
    if isinstance(error, psycopg.errors.QueryCanceled):
        return QueryRefused(f"{said}. Give it longer with --timeout.")
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return QueryRefused(f"{said}. Statements run here can read only.")
    hint = f" ({error.diag.message_hint})" if error.diag.message_hint else ""
    return QueryRefused(f"{said}{hint}")
