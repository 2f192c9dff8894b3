"""The group commit: one flush of many streams is one statement, so no row lock is held across a round trip.

Everything that belongs to a stream is in it: the fence (token and holder), the checkpoint, segments, holes, quarantine,
and how its reader leaves it. A stream that another transaction has locked is left out and tried again; one whose token,
holder or ``rev`` is not what we think it is changes nothing.

A flush that only adds chunks locks the stream's row and makes no new version of it; its last segment carries the
cursor. Thus what a commit costs does not depend on how long somebody's snapshot has been open. ``rev`` then does not
tell whether it took effect: what is stored does. Nor does it tell that a database lost its last transactions: that
happens only where another server answers, or the same one anew, so a commit names who confirmed all before it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tailrace.errors import StoreUnavailable, WorkerError
from tailrace.model import Batch, Checkpoint, Outcome, Wire
from tailrace.store import arrays
from tailrace.store.engine import autocommit, translated
from tailrace.store.segments import SEGMENT_MAX_CHUNKS, Segment, cut_segments, pack_fingerprints
from tailrace.store.statements import fitting

# u: one row a stream. l: the streams that nobody else has locked, in one order. p: those that pass the fence. f: the
# rows that follow. g, h, q: what belongs to the streams that passed. The arrays ms and offsets hold those of all
# segments, one after another. A row without an id: it is another server.
COMMIT = """
WITH u AS MATERIALIZED (
  SELECT * FROM unnest(
    %(id)b::bigint[], %(token)b::bigint[], %(rev)b::bigint[], %(generation)b::int[], %(last_index)b::bigint[],
    %(cursor)b::json[], %(wire)b::text[], %(chunks)b::bigint[], %(bytes)b::bigint[], %(holes)b::bigint[],
    %(lost)b::bigint[], %(quarantined)b::bigint[], %(lag)b::bigint[], %(state)b::text[], %(delay_s)b::float8[],
    %(attempt)b::int[], %(error)b::text[], %(verdict)b::text[], %(swept)b::bool[], %(follows)b::bool[],
    %(adds)b::bool[], %(stuck)b::bool[], %(doubt)b::text[]
  ) AS u(id, token, rev, generation, last_index, cursor, wire, chunks, bytes, holes, lost, quarantined, lag,
         state, delay_s, attempt, error, verdict, swept, follows, adds, stuck, doubt)
), l AS MATERIALIZED (
  SELECT s.id, s.token, s.rev, s.worker_id FROM tailrace.streams s
  WHERE s.id IN (SELECT id FROM u) AND pg_postmaster_start_time() = %(server)s
  ORDER BY s.id FOR NO KEY UPDATE SKIP LOCKED
), p AS MATERIALIZED (
  SELECT u.id FROM u JOIN l USING (id)
  WHERE l.token = u.token AND l.rev = u.rev AND l.worker_id = %(worker)s
), f AS (
  UPDATE tailrace.streams s SET
    rev = s.rev + 1,
    generation = u.generation,
    last_chunk_index = u.last_index,
    cursor = u.cursor,
    wire = coalesce(u.wire, s.wire),
    chunk_count = s.chunk_count + u.chunks,
    byte_count = s.byte_count + u.bytes,
    hole_count = s.hole_count + u.holes,
    lost_count = s.lost_count + u.lost,
    quarantine_count = s.quarantine_count + u.quarantined,
    lag = coalesce(u.lag, s.lag),
    first_chunk_at = CASE WHEN u.chunks > 0 THEN coalesce(s.first_chunk_at, now()) ELSE s.first_chunk_at END,
    last_chunk_at = CASE
        WHEN u.adds THEN now()
        WHEN u.chunks > 0 THEN (
          SELECT least(a.last_committed_at, now())
          FROM tailrace.stored_after(s.id, s.generation, s.last_chunk_index) a)
        ELSE s.last_chunk_at END,
    attempt = u.attempt,
    troubled_at = CASE WHEN u.attempt = 0 THEN NULL WHEN s.attempt = 0 THEN now()
                       ELSE coalesce(s.troubled_at, now()) END,
    last_error = u.error,
    stuck_at = CASE WHEN u.stuck THEN coalesce(s.stuck_at, now()) END,
    verdict = coalesce(u.verdict, s.verdict),
    doubt = CASE WHEN u.verdict IS NULL THEN s.doubt ELSE u.doubt END,
    swept_at = CASE WHEN u.swept THEN now() ELSE s.swept_at END,
    swept_index = CASE WHEN u.swept THEN u.last_index ELSE s.swept_index END,
    sealed_at = CASE WHEN u.state = 'sealed' THEN now() ELSE s.sealed_at END,
    state = coalesce(u.state, s.state),
    next_attempt_at = CASE WHEN u.state IS NULL THEN s.next_attempt_at
                           ELSE now() + u.delay_s * interval '1 second' END,
    worker_id = CASE WHEN u.state IS NULL THEN s.worker_id END,
    settled_by = CASE WHEN u.state IS NULL THEN s.settled_by ELSE s.worker_id END
  FROM u JOIN p USING (id)
  WHERE s.id = u.id AND u.follows
), g AS (
  INSERT INTO tailrace.segments
    (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms, index_offsets, odd, fingerprints,
     cursor)
  SELECT v.id, v.generation, v.first_index, v.last_index, v.chunks, v.data,
         (%(ms)b::bigint[])[v.chunks_from : v.chunks_from + v.chunks - 1],
         CASE WHEN v.offsets_from > 0 THEN (%(offsets)b::int[])[v.offsets_from : v.offsets_from + v.chunks - 1] END,
         v.odd, v.fingerprints, v.cursor
  FROM unnest(
    %(g_id)b::bigint[], %(g_generation)b::int[], %(g_first)b::bigint[], %(g_last)b::bigint[], %(g_chunks)b::int[],
    %(g_data)b::json[], %(g_chunks_from)b::int[], %(g_offsets_from)b::int[], %(g_odd)b::bool[],
    %(g_fingerprints)b::bytea[], %(g_cursor)b::json[]
  ) AS v(id, generation, first_index, last_index, chunks, data, chunks_from, offsets_from, odd, fingerprints, cursor)
  JOIN p ON p.id = v.id
), h AS (
  INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
  SELECT v.* FROM unnest(
    %(h_id)b::bigint[], %(h_generation)b::int[], %(h_first)b::bigint[], %(h_last)b::bigint[], %(h_reason)b::text[]
  ) AS v(id, generation, first_index, last_index, reason)
  JOIN p ON p.id = v.id
), q AS (
  INSERT INTO tailrace.quarantine (stream_id, generation, chunk_index, reason, raw)
  SELECT v.* FROM unnest(
    %(q_id)b::bigint[], %(q_generation)b::int[], %(q_index)b::bigint[], %(q_reason)b::text[], %(q_raw)b::bytea[]
  ) AS v(id, generation, chunk_index, reason, raw)
  JOIN p ON p.id = v.id
)
SELECT id FROM p UNION ALL SELECT NULL WHERE pg_postmaster_start_time() <> %(server)s
"""

# A commit that ended the lease has no holder any more; then it tells by whom it was.
FATES = """
SELECT s.id, s.token, s.rev, coalesce(s.worker_id, s.settled_by) IS NOT DISTINCT FROM %(worker)s AS ours,
       s.generation, coalesce(a.last_index, s.last_chunk_index), pg_postmaster_start_time()
FROM tailrace.streams s LEFT JOIN LATERAL tailrace.stored_after(s.id, s.generation, s.last_chunk_index) a ON true
WHERE s.id = ANY(%(id)b::bigint[])
"""

SERVER = "SELECT pg_postmaster_start_time()"

DATA_STATES = ("22", "23", "54")
"""SQLSTATE classes that blame the data: data exception, a CHECK of segments or holes, program limit exceeded."""

PARTITIONS = """
SELECT tailrace.ensure_partition(day)
FROM (SELECT DISTINCT (to_timestamp((id >> 20) / 1000.0) AT TIME ZONE 'UTC')::date AS day
      FROM unnest(%(id)b::bigint[]) AS u (id)) AS days
"""
"""Ids begin with the millisecond at which the stream was created, by which segments are partitioned."""

IS_JSON = "SELECT %(text)s::json IS NOT NULL"


class FlushRefused(WorkerError):
    """Postgres refuses a flush for its data: nothing of it is stored."""


class AnotherServer(StoreUnavailable):
    """Not the server that confirmed the commits before, which may have been lost: nothing was stored."""


class NoPartition(StoreUnavailable):
    """The partition of a stream's segments is missing: nothing was stored."""


@dataclass(slots=True)
class Flush:
    """What is to be committed for one stream: its batches in order, and how its reader leaves it, if it does.

    ``error`` and ``attempt``: why it can't be read at present, of a reader that stays. ``stuck``: it can, and brings
    nothing although there is more.

    ``checkpoint`` is the stream's state once this is committed. ``due``: the row of the stream is to follow, though all
    of this could be added without. ``behind_chunks``, ``behind_bytes``: of what was committed before, what the row has
    not followed.
    """

    stream_id: int
    token: int
    rev: int
    wire: Wire | None
    checkpoint: Checkpoint
    batches: list[Batch] = field(default_factory=list)
    outcome: Outcome | None = None
    lag: int | None = None
    error: str | None = None
    attempt: int = 0
    stuck: bool = False
    max_chunks: int = SEGMENT_MAX_CHUNKS
    due: bool = True
    behind_chunks: int = 0
    behind_bytes: int = 0

    @property
    def chunks(self) -> int:
        return sum(len(batch.texts) for batch in self.batches)

    @property
    def bytes(self) -> int:
        """Of the chunks' texts."""
        return sum(sum(map(len, batch.texts)) for batch in self.batches)

    @property
    def follows(self) -> bool:
        """Whether the stream's row is updated, and ``rev`` grows: always, unless there is nothing but chunks."""
        return (
            self.due
            or self.outcome is not None
            or self.error is not None
            or self.attempt > 0
            or self.stuck
            or not self.chunks
            or any(batch.holes or batch.quarantined for batch in self.batches)
        )

    @property
    def after(self) -> Position:
        """Where the stream is once this is committed."""
        return Position(self.rev + self.follows, self.checkpoint.generation, self.checkpoint.last_index)


class Position(NamedTuple):
    """How far a stream is: no two commits leave it at the same."""

    rev: int
    generation: int
    last_index: int


class Fate(NamedTuple):
    """What is stored of a stream. ``ours``: it is, or was last, leased to this process."""

    token: int
    ours: bool
    position: Position


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of streams, by id. ``server``: who says so, by the moment of its start."""

    server: datetime
    of: dict[int, Fate]


class Committer:
    """Writes flushes of streams that ``worker`` leases. One connection of the pool is used as long as a call lasts.

    The holder is part of the fence: a database that lost its last transactions gives tokens out a second time, and then
    two processes have the same.
    """

    def __init__(self, engine: sa.Engine, worker: UUID) -> None:
        self._engine = autocommit(engine)
        self._worker = worker
        self.server: datetime | None = None
        """Who confirmed all commits so far, by the moment of its start. Whoever sets another has compared what is
        stored with what was confirmed."""

    def commit(self, flushes: list[Flush]) -> set[int]:
        """Commit in one statement; return the ids of the streams whose flush took effect.

        A stream that does not come back was locked, is leased to another or has moved on: look at its `fates`.

        Raises:
            StoreUnavailable: no answer. What became of the flushes is unknown: look at their `fates`. Or there was no
                partition for them: it has been made.
            AnotherServer: see `server`.
            FlushRefused: Postgres refuses the data; nothing was stored.
        """
        if self.server is None:  # nothing has been confirmed yet
            self.server = self._run(SERVER, {})[0][0]
        try:
            parameters = _parameters(flushes) | {"worker": self._worker, "server": self.server}
        except (ValueError, OverflowError, struct.error) as error:  # what no column can hold; nothing was sent
            raise FlushRefused(f"{type(error).__name__}: {error}") from error
        try:
            done = {row[0] for row in self._run(COMMIT, parameters)}
        except NoPartition:
            self._run(PARTITIONS, {"id": parameters["id"]})
            raise
        if None in done:
            raise AnotherServer("Postgres was started anew, or is another server: what is stored is compared first.")
        return done

    def fates(self, stream_ids: Iterable[int]) -> Fates:
        """Read what is stored of streams. Raises StoreUnavailable."""
        rows = self._run(FATES, {"id": arrays.int8s(list(stream_ids)), "worker": self._worker})
        found = {
            stream_id: Fate(token, ours, Position(rev, generation, last_index))
            for stream_id, token, rev, ours, generation, last_index, _ in rows
        }
        return Fates(rows[0][-1] if rows else self._run(SERVER, {})[0][0], found)

    def takes_json(self, text: bytes) -> bool:
        """Ask Postgres whether it takes this text as JSON. Raises StoreUnavailable."""
        try:
            self._run(IS_JSON, {"text": text.decode()})
        except (FlushRefused, UnicodeDecodeError):
            return False
        return True

    def _run(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        try:
            with translated(), self._engine.connect() as connection:
                return [tuple(row) for row in connection.exec_driver_sql(statement, parameters)]
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.CheckViolation) and error.orig.diag.constraint_name is None:
                # No constraint of ours: the day's partition is gone. That says nothing of the data.
                raise NoPartition(f"Postgres has no place for the chunks: {error.orig.diag.message_primary}") from error
            if isinstance(error.orig, psycopg.Error) and (error.orig.sqlstate or "").startswith(DATA_STATES):
                raise FlushRefused(f"{error.orig.sqlstate}: {error.orig.diag.message_primary}") from error
            raise


def _parameters(flushes: list[Flush]) -> dict[str, object]:
    """Lay the flushes out as the arrays of the statement."""
    follows = [flush.follows for flush in flushes]
    cut: list[tuple[int, Segment]] = []
    cursors: list[bytes | None] = []  # of segments
    for flush, followed in zip(flushes, follows, strict=True):
        cut += [(flush.stream_id, segment) for segment in cut_segments(flush.batches, flush.max_chunks)]
        cursors += [None] * (len(cut) - len(cursors))
        if not followed:
            cursors[-1] = _cursor(flush.checkpoint)
    holes = [(flush.stream_id, hole) for flush in flushes for batch in flush.batches for hole in batch.holes]
    quarantined = [
        (flush.stream_id, item) for flush in flushes for batch in flush.batches for item in batch.quarantined
    ]
    chunks_from, offsets_from = [], []
    offsets: list[int] = []
    position = 1
    for _, segment in cut:
        chunks_from.append(position)
        position += len(segment.texts)
        first, last = segment.indices[0], segment.indices[-1]
        if last - first + 1 == len(segment.indices):
            offsets_from.append(0)
        else:
            offsets_from.append(len(offsets) + 1)
            offsets.extend(index - first for index in segment.indices)
    outcomes = [flush.outcome for flush in flushes]
    return {
        "id": arrays.int8s([flush.stream_id for flush in flushes]),
        "token": arrays.int8s([flush.token for flush in flushes]),
        "rev": arrays.int8s([flush.rev for flush in flushes]),
        "generation": arrays.int4s([flush.checkpoint.generation for flush in flushes]),
        "last_index": arrays.int8s([flush.checkpoint.last_index for flush in flushes]),
        "cursor": arrays.jsons([_cursor(flush.checkpoint) for flush in flushes]),
        "wire": arrays.texts([flush.wire for flush in flushes]),
        "chunks": arrays.int8s([flush.behind_chunks + flush.chunks for flush in flushes]),
        "bytes": arrays.int8s([flush.behind_bytes + flush.bytes for flush in flushes]),
        "holes": arrays.int8s([sum(len(batch.holes) for batch in flush.batches) for flush in flushes]),
        "lost": arrays.int8s([sum(h.reason.lost for batch in flush.batches for h in batch.holes) for flush in flushes]),
        "quarantined": arrays.int8s([sum(len(batch.quarantined) for batch in flush.batches) for flush in flushes]),
        "lag": arrays.int8s([flush.lag for flush in flushes]),
        "state": arrays.texts([outcome.state if outcome else None for outcome in outcomes]),
        "delay_s": arrays.float8s([outcome.delay_s if outcome else 0.0 for outcome in outcomes]),
        "attempt": arrays.int4s([(flush.outcome or flush).attempt for flush in flushes]),
        "error": arrays.texts([_fitting((flush.outcome or flush).error) for flush in flushes]),
        "verdict": arrays.texts([outcome.verdict if outcome else None for outcome in outcomes]),
        "doubt": arrays.texts([outcome.doubt if outcome else None for outcome in outcomes]),
        "swept": arrays.bools([outcome.swept if outcome else False for outcome in outcomes]),
        "follows": arrays.bools(follows),
        "stuck": arrays.bools([flush.stuck for flush in flushes]),
        "adds": arrays.bools([flush.chunks > 0 for flush in flushes]),
        "g_cursor": arrays.jsons(cursors),
        "g_id": arrays.int8s([stream_id for stream_id, _ in cut]),
        "g_generation": arrays.int4s([segment.generation for _, segment in cut]),
        "g_first": arrays.int8s([segment.indices[0] for _, segment in cut]),
        "g_last": arrays.int8s([segment.indices[-1] for _, segment in cut]),
        "g_chunks": arrays.int4s([len(segment.texts) for _, segment in cut]),
        "g_data": arrays.jsons([b"[" + b",".join(segment.texts) + b"]" for _, segment in cut]),
        "g_chunks_from": arrays.int4s(chunks_from),
        "g_offsets_from": arrays.int4s(offsets_from),
        "g_odd": arrays.bools([segment.odd for _, segment in cut]),
        "g_fingerprints": arrays.byteas([pack_fingerprints(segment.fingerprints) for _, segment in cut]),
        "ms": arrays.int8s(list(chain.from_iterable(segment.emitted_ms for _, segment in cut))),
        "offsets": arrays.int4s(offsets),
        "h_id": arrays.int8s([stream_id for stream_id, _ in holes]),
        "h_generation": arrays.int4s([hole.generation for _, hole in holes]),
        "h_first": arrays.int8s([hole.first_index for _, hole in holes]),
        "h_last": arrays.int8s([hole.last_index for _, hole in holes]),
        "h_reason": arrays.texts([hole.reason for _, hole in holes]),
        "q_id": arrays.int8s([stream_id for stream_id, _ in quarantined]),
        "q_generation": arrays.int4s([item.generation for _, item in quarantined]),
        "q_index": arrays.int8s([item.chunk_index for _, item in quarantined]),
        "q_reason": arrays.texts([item.reason for _, item in quarantined]),
        "q_raw": arrays.byteas([item.raw for _, item in quarantined]),
    }


def _cursor(checkpoint: Checkpoint) -> bytes:
    return json.dumps(checkpoint.cursor).encode()


def _fitting(error: str | None) -> str | None:
    return None if error is None else fitting(error)
