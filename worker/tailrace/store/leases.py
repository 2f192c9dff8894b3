"""Leases: who may write which stream. One function a statement; the database's clock decides.

A process keeps one row in ``workers`` alive; a stream is leased while the row of its ``worker_id`` has not expired.
Every takeover makes the stream's ``token`` grow, and each write carries it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from tailrace import metrics
from tailrace.model import Checkpoint, LeasedStream, RunEnd, StreamRef, Wire
from tailrace.store.run_end import OVER, RUN_END
from tailrace.store.statements import Statements

log = structlog.get_logger("tailrace")

# Nobody holds the lease, or its holder's row has expired.
FREE = """(s.worker_id IS NULL OR NOT EXISTS (
    SELECT FROM tailrace.workers w WHERE w.id = s.worker_id AND w.expires_at > now()))"""

OPEN = "s.state IN ('pending', 'active', 'parked')"

# Of a stream s, its run r and the environment e: the columns of a `LeasedStream`.
LEASED = f"""
s.id, r.run_id, r.traceparent, s.stream_key, s.token, s.rev, s.wire, s.generation, s.last_chunk_index, s.cursor,
s.attempt, s.chunk_count, s.lost_count, r.options, e.name AS environment, {RUN_END},
extract(epoch FROM now() - coalesce(s.last_chunk_at, s.created_at))::float8 AS silent_s,
(extract(epoch FROM s.not_before) * 1000)::bigint AS not_before_ms,
CASE WHEN s.attempt = 0 THEN 0 ELSE coalesce(extract(epoch FROM now() - s.troubled_at), 0) END::float8 AS troubled_s,
CASE WHEN s.stuck_at IS NOT NULL THEN coalesce(s.last_error, 'stuck') END AS stuck
"""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a process says of itself."""

    id: UUID
    host: str
    pid: int
    pool: str
    slots: int


@dataclass(frozen=True, slots=True)
class FleetLimit:
    """How many streams all processes together may read at once, in a statement. ``most`` None: no limit."""

    most: int | None

    def or_else(self, limited: str, unlimited: str) -> str:
        """Choose the LIMIT of a statement: only a limit for the fleet needs the lock that goes with it."""
        return unlimited if self.most is None else limited

    @property
    def values(self) -> dict[str, int]:
        return {} if self.most is None else {"most": self.most}


class Leases:
    """The lease statements of one process."""

    def __init__(
        self,
        engine: sa.Engine,
        worker: WorkerRow,
        lease_s: float,
        max_connections: int | None = None,
        *,
        keeping: sa.Engine | None = None,
    ) -> None:
        """``max_connections``: how many streams all processes together may read at once; None: no limit.

        ``keeping``: for what keeps and ends the leases that there are, so that it waits behind nothing else.
        """
        self._statements = Statements(engine)
        self._keeping = Statements(engine if keeping is None else keeping)
        self._worker = worker
        self._lease_s = lease_s
        self._limit = FleetLimit(max_connections)
        self._slots = worker.slots

    @property
    def worker_id(self) -> UUID:
        return self._worker.id

    def leave(self) -> None:
        """Have the next renewal say that this process reads nothing any more: no share of the work is kept for it."""
        self._slots = 0

    def renew(self) -> bool:
        """Keep this process's row, and with it all its leases, alive for another term. Makes the row if need be.

        A row that has expired comes back to life: what nobody took meanwhile is still ours, what somebody took is
        fenced off by its token. True when it had expired: others may have given its places away (see `excess`).

        A lease that ends later than its term shows that the clock went back: all that would now wait is made due.
        """
        rows = self._renew()
        while not rows:
            self.follow_clock()
            rows = self._renew()
        return bool(rows[0].expired)

    def _renew(self) -> Sequence[sa.Row[Any]]:
        """Renew the row, and return whether it had expired; no row when it ends later than in a term."""
        return self._keeping.execute(
            """
            WITH before AS (SELECT expires_at <= now() AS expired FROM tailrace.workers WHERE id = :id)
            INSERT INTO tailrace.workers (id, host, pid, pool, slots, expires_at, lease_s)
            VALUES (:id, :host, :pid, :pool, :slots, now() + :lease_s * interval '1 second', :lease_s)
            ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at, slots = excluded.slots
            WHERE workers.expires_at < excluded.expires_at + interval '1 second'
            RETURNING coalesce((SELECT expired FROM before), false) AS expired
            """,
            id=self._worker.id,
            host=self._worker.host,
            pid=self._worker.pid,
            pool=self._worker.pool,
            slots=self._slots,
            lease_s=self._lease_s,
        )

    def follow_clock(self) -> None:
        """Make due what would wait because the clock was ahead and went back, if it did."""
        row = self._keeping.execute("SELECT tailrace.follow_clock() AS back_s")[0]
        if row.back_s:
            log.warning("clock_went_back", seconds=round(row.back_s, 1))

    def excess(self) -> int:
        """Return by how many the living leases exceed the limit of the fleet.

        A process whose row expired and came back holds its leases again, while others hold those that were given in
        their place.
        """
        if self._limit.most is None:
            return 0
        # Asked for a limit that nobody reaches, the function gives what is left of it; only it looks under the lock.
        taken = "CAST(:all AS int) - tailrace.connections_left(:all, false)"
        row = self._keeping.execute(f"SELECT {taken} AS taken", all=2**31 - 1)[0]
        return max(0, int(row.taken) - self._limit.most)

    def retire(self) -> None:
        """End this process's row: whatever it still leases is free at once."""
        self._keeping.execute("DELETE FROM tailrace.workers WHERE id = :id", id=self._worker.id)

    def ensure_partitions(self) -> None:
        """Make the partitions of the coming days."""
        self._statements.execute("SELECT tailrace.ensure_partitions()")

    def sweep_workers(self) -> None:
        """Remove the rows of processes that died a day ago: no stream is kept from anybody by them."""
        self._statements.execute("DELETE FROM tailrace.workers WHERE expires_at < now() - interval '1 day'")

    def soonest_expiry_s(self) -> float | None:
        """Return in how many seconds the next lease of another process ends, unless renewed; None: there is none."""
        rows = self._statements.execute(
            """
            SELECT min(extract(epoch FROM expires_at - now()))::float8 AS left_s
            FROM tailrace.workers WHERE expires_at > now() AND id <> :worker_id
            """,
            worker_id=self._worker.id,
        )
        return None if rows[0].left_s is None else float(rows[0].left_s)

    def acquire(self, stream_ids: Sequence[int]) -> list[LeasedStream]:
        """Take the leases of those streams that are open and free.

        A stream that this process leases already comes back too, under a new token: whoever calls makes sure that no
        reader of its own is at work on it.
        """
        rows = self._statements.execute(
            f"""
            WITH free AS (
                SELECT s.id, s.token > 0 AND s.settled_by IS NULL AS behind FROM tailrace.streams s
                WHERE s.id = ANY(:ids)
                  AND s.state IN ('pending', 'active', 'parked')
                  AND ({FREE} OR s.worker_id = :worker_id)
                ORDER BY s.id
                LIMIT {self._limit.or_else("(SELECT tailrace.connections_left(:most, false))", "ALL")}
                FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE tailrace.streams s
            SET worker_id = :worker_id, token = s.token + 1, rev = s.rev + 1, state = 'active', hinted_until = NULL,
                settled_by = NULL
            FROM free, tailrace.runs r, tailrace.environments e
            WHERE s.id = free.id AND r.id = s.run AND e.id = r.environment_id
            RETURNING {LEASED}, free.behind
            """,
            ids=list(stream_ids),
            worker_id=self._worker.id,
            **self._limit.values,
        )
        behind = {row.id: row.token for row in rows if row.behind}
        metrics.takeovers.inc(len(behind))
        return [_leased(row) for row in rows if not row.behind] + (self._follow(behind) if behind else [])

    def _follow(self, tokens: dict[int, int]) -> list[LeasedStream]:
        """Have the rows of streams that nobody left in order follow what is stored; return them as they are then.

        Not in the statement that takes the lease: its snapshot can be older than the last commit under the lease
        before, which made no new version of the row.
        """
        rows = self._statements.execute(
            f"""
            WITH leased AS (
                SELECT s.* FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS bigint[])) AS u (id, token)
                JOIN tailrace.streams s ON s.id = u.id AND s.token = u.token
            ), behind AS MATERIALIZED (
                SELECT s.id, s.token, a.*
                FROM leased s CROSS JOIN LATERAL tailrace.stored_after(s.id, s.generation, s.last_chunk_index) a
            ), followed AS (
                UPDATE tailrace.streams s SET
                    rev = s.rev + 1, last_chunk_index = b.last_index, cursor = b.cursor,
                    chunk_count = s.chunk_count + b.chunks, byte_count = s.byte_count + b.bytes, lag = NULL,
                    first_chunk_at = coalesce(s.first_chunk_at, b.first_committed_at),
                    last_chunk_at = least(b.last_committed_at, now())
                FROM behind b WHERE s.id = b.id AND s.token = b.token
                RETURNING s.*
            )
            SELECT {LEASED}
            FROM (
                SELECT * FROM followed
                UNION ALL SELECT * FROM leased WHERE id NOT IN (SELECT id FROM behind)
            ) s
            JOIN tailrace.runs r ON r.id = s.run
            JOIN tailrace.environments e ON e.id = r.environment_id
            """,
            ids=list(tokens),
            tokens=list(tokens.values()),
        )
        return [_leased(row) for row in rows]

    def begin_traces(self, given: Mapping[int, str]) -> dict[int, str]:
        """Put the runs of streams, as far as they are in no trace, into these; return what each has then.

        ``given``: a traceparent by the id of a stream, one for each run.
        """
        rows = self._statements.execute(
            """
            WITH u AS MATERIALIZED (
                SELECT u.id, s.run, u.traceparent
                FROM unnest(CAST(:ids AS bigint[]), CAST(:given AS text[])) AS u (id, traceparent)
                JOIN tailrace.streams s ON s.id = u.id
            ), locked AS MATERIALIZED (
                SELECT r.id FROM tailrace.runs r WHERE r.id IN (SELECT run FROM u) ORDER BY r.id FOR NO KEY UPDATE
            )
            UPDATE tailrace.runs r SET traceparent = coalesce(r.traceparent, u.traceparent)
            FROM u JOIN locked ON locked.id = u.run WHERE r.id = u.run
            RETURNING u.id, r.traceparent
            """,
            ids=list(given),
            given=list(given.values()),
        )
        return {row.id: row.traceparent for row in rows}

    def orphans(self, reading: Sequence[int]) -> dict[int, int]:
        """Find the streams that this process leases, other than ``reading``; return their tokens."""
        rows = self._keeping.execute(
            """
            SELECT s.id, s.token FROM tailrace.streams s
            WHERE s.state IN ('pending', 'active', 'parked') AND s.worker_id = :worker_id AND s.id <> ALL(:reading)
            """,
            worker_id=self._worker.id,
            reading=list(reading),
        )
        return {row.id: row.token for row in rows}

    def give_back(self, tokens: dict[int, int]) -> None:
        """End leases, as far as they still are the ones with these tokens. Nothing can be written with them then."""
        self._keeping.execute(
            """
            UPDATE tailrace.streams s SET worker_id = NULL, token = s.token + 1, rev = s.rev + 1
            FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS bigint[])) AS u (id, token)
            WHERE s.id = u.id AND s.token = u.token AND s.worker_id = :worker_id
            """,
            ids=list(tokens),
            tokens=list(tokens.values()),
            worker_id=self._worker.id,
        )

    def calls(self, stream_ids: Sequence[int]) -> list[tuple[int, bool, bool]]:
        """Look after streams that this process reads: id, whether the run is over, whether the lease is still ours.

        Those of which neither is news are left out: 5 000 quiet streams would be 5 000 rows every 2 s.
        """
        rows = self._keeping.execute(
            f"""
            SELECT s.id, {OVER} AS over, coalesce(s.worker_id = :worker_id, false) AS ours
            FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
            WHERE s.id = ANY(:ids) AND ({OVER} OR s.worker_id IS DISTINCT FROM :worker_id)
            """,
            ids=list(stream_ids),
            worker_id=self._worker.id,
        )
        return [(row.id, row.over, row.ours) for row in rows]


def _leased(row: Any) -> LeasedStream:
    return LeasedStream(
        id=row.id,
        ref=StreamRef(row.run_id, row.stream_key),
        token=row.token,
        rev=row.rev,
        wire=Wire(row.wire) if row.wire else None,
        checkpoint=Checkpoint(row.generation, row.last_chunk_index, row.cursor),
        attempt=row.attempt,
        chunk_count=row.chunk_count,
        lost_count=row.lost_count,
        silent_s=row.silent_s,
        run_end=RunEnd(row.over, row.over_for_s, row.swept_for_s),
        options=row.options,
        not_before_ms=row.not_before_ms,
        environment=row.environment,
        troubled_s=row.troubled_s,
        stuck=row.stuck,
        traceparent=row.traceparent,
    )
