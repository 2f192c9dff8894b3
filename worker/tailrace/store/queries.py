"""What people ask the archive from the command line. One function a statement; nothing here writes.

Statements about runs and streams are small. Chunks and the rows of a query are streamed: one row is in memory at a
time, however many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from psycopg.adapt import Buffer, Loader

from tailrace.store.ad_hoc import Rows, ad_hoc
from tailrace.store.run_end import OVER
from tailrace.store.statements import Statements, refusing

__all__ = [
    "Archive",
    "ChunkText",
    "Halted",
    "RunStatus",
    "StreamStatus",
    "StreamText",
]

LAST_INDEX = 9_223_372_036_854_775_807
"""The largest index there can be: reading "to" it reads to the end."""


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


class Archive:
    """Reads one archive. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def newest_runs(self, limit: int, environment: str | None) -> list[RunStatus]:
        """Read the runs that were asked for last, newest first."""
        # The newest first, by an index: their streams are added up afterwards, of these runs only. With an equals sign
        # Postgres may go through the runs of all environments: it expects to find some soon.
        its_id = "(SELECT id FROM tailrace.environments WHERE name = :environment)"
        of_one = f"WHERE r.environment_id BETWEEN {its_id} AND {its_id} ORDER BY r.environment_id DESC, r.id DESC"
        which = "ORDER BY r.id DESC" if environment is None else of_one
        rows = self._all(
            f"""
            {_RUN}
            WHERE r.id IN (SELECT r.id FROM tailrace.runs r {which} LIMIT :limit)
            ORDER BY r.id DESC
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
            FROM tailrace.streams_now s WHERE s.run = :run ORDER BY s.stream_key
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

    def chunks(self, stream: int, first: int = 0, last: int = LAST_INDEX) -> Iterator[ChunkText]:
        """Stream the chunks of one stream with indices from ``first`` to ``last``, in order, of every generation.

        Segments come in the order of their key, so nothing is sorted but what is inside one segment.
        """
        with refusing(), self._statements.streaming() as cursor:
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

    def query(self, statement: str, timeout_s: float) -> AbstractContextManager[Rows]:
        """Run one query of the user's; see `ad_hoc`."""
        return ad_hoc(self._statements, statement, timeout_s)

    def _all(self, statement: str, **parameters: object) -> Sequence[sa.RowMapping]:
        with refusing():
            return [row._mapping for row in self._statements.execute(statement, **parameters)]


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
    FROM tailrace.streams_now s WHERE s.run = r.id
) t
"""


class _Bytes(Loader):
    """Text as the bytes that the server sent: they are only written out again."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)
