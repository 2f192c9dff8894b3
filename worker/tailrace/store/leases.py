"""Leases: who may write which stream. One function a statement; the database's clock decides.

A process keeps one row in ``workers`` alive; a stream is leased while the row of its ``worker_id`` has not expired.
Every takeover makes the stream's ``token`` grow, and each write carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
import structlog

from tailrace.model import Checkpoint, LeasedStream, RunEnd, StreamRef, Wire
from tailrace.store.run_end import OVER, RUN_END
from tailrace.store.statements import Statements

log = structlog.get_logger("tailrace")

MANY_DUE = 20_000
"""More slots than any process has: it makes no difference by how many more are due."""

# Nobody holds the lease, or its holder's row has expired.
FREE = """(s.worker_id IS NULL OR NOT EXISTS (
    SELECT FROM tailrace.workers w WHERE w.id = s.worker_id AND w.expires_at > now()))"""

# Somebody who lives has sent a message to have it read, and the message is not too old.
HINTED = """(s.hinted_until > now() AND EXISTS (
    SELECT FROM tailrace.workers w WHERE w.id = s.hinted_by AND w.expires_at > now()))"""

OPEN = "s.state IN ('pending', 'active', 'parked')"

# The holders of leases that are dead, whether their rows have expired or are gone: a few steps through an index,
# however many streams there are.
DEAD = f"""
    holders (id) AS (
        (SELECT s.worker_id FROM tailrace.streams s
         WHERE {OPEN} AND s.worker_id IS NOT NULL ORDER BY s.worker_id LIMIT 1)
        UNION ALL
        SELECT (SELECT s.worker_id FROM tailrace.streams s
                WHERE {OPEN} AND s.worker_id > h.id ORDER BY s.worker_id LIMIT 1)
        FROM holders h WHERE h.id IS NOT NULL
    ), dead AS (
        SELECT h.id FROM holders h
        WHERE h.id IS NOT NULL
          AND NOT EXISTS (SELECT FROM tailrace.workers w WHERE w.id = h.id AND w.expires_at > now())
    )"""

# May be chosen: open, due, free, not hinted, and its environment is read.
DUE = f"""s.state IN ('pending', 'active', 'parked') AND s.next_attempt_at <= now() AND {FREE}
    AND {HINTED} IS NOT TRUE"""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """What a process says of itself."""

    id: UUID
    host: str
    pid: int
    pool: str
    slots: int


@dataclass(frozen=True, slots=True)
class Balance:
    """The work of the whole fleet.

    ``reading``: streams that are leased by the living. ``due``: those that wait for somebody, up to `MANY_DUE`.
    ``overdue``: of these, those that have waited for longer than a process needs to choose them. ``slots``: of all the
    living.
    """

    reading: int
    due: int
    overdue: int
    slots: int


class Leases:
    """The lease statements of one process."""

    def __init__(
        self, engine: sa.Engine, worker: WorkerRow, lease_s: float, max_connections: int | None = None
    ) -> None:
        """``max_connections``: how many streams all processes together may read at once; None: no limit."""
        self._statements = Statements(engine)
        self._worker = worker
        self._lease_s = lease_s
        self._max_connections = max_connections
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
        return self._statements.execute(
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
        row = self._statements.execute("SELECT tailrace.follow_clock() AS back_s")[0]
        if row.back_s:
            log.warning("clock_went_back", seconds=round(row.back_s, 1))

    def excess(self) -> int:
        """Return by how many the living leases exceed the limit of the fleet.

        A process whose row expired and came back holds its leases again, while others hold those that were given in
        their place.
        """
        if self._max_connections is None:
            return 0
        # Asked for a limit that nobody reaches, the function gives what is left of it; only it looks under the lock.
        taken = "CAST(:all AS int) - tailrace.connections_left(:all, false)"
        row = self._statements.execute(f"SELECT {taken} AS taken", all=2**31 - 1)[0]
        return max(0, int(row.taken) - self._max_connections)

    def retire(self) -> None:
        """End this process's row: whatever it still leases is free at once."""
        self._statements.execute("DELETE FROM tailrace.workers WHERE id = :id", id=self._worker.id)

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

    def claim(self, environments: list[str], limit: int, hint_s: float, run: int | None = None) -> list[int]:
        """Choose up to ``limit`` streams that are due and free, and keep others from choosing them for ``hint_s``.

        What a worker that died was reading goes first. Live runs go before backfills. Within these, environments take
        turns, and within an environment runs do: the first stream of each, then the second, those that are being read
        counted both times. Of one turn, v1 goes first (upstream keeps little of it) and what was never read (it may be
        v1), then what has waited longest. Nothing is chosen of an environment whose key is refused, nor beyond the
        limit of the fleet. ``run`` restricts it to one run.
        """
        if limit <= 0:
            return []
        if self._max_connections is None:
            chosen = self._claim_all(environments, limit, hint_s, run)
            if chosen is not None:
                return chosen
        # More are ranked than are taken: others may be choosing the same at this moment, and what they hold is skipped.
        rows = self._statements.execute(
            f"""
            WITH open AS MATERIALIZED (
                SELECT s.id, s.run, s.wire, s.next_attempt_at, s.worker_id IS NULL AS settled,
                       r.priority, r.environment_id, {FREE} AS free,
                       {DUE} AND e.name = ANY(:environments) AND e.halted_at IS NULL
                       AND (CAST(:run AS bigint) IS NULL OR s.run = :run) AS due
                FROM tailrace.streams s
                JOIN tailrace.runs r ON r.id = s.run
                JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE s.state IN ('pending', 'active', 'parked')
            ), held AS (
                SELECT run, environment_id, count(*) AS streams FROM open WHERE NOT free GROUP BY run, environment_id
            ), turns AS (
                SELECT o.id, o.settled, o.priority, o.environment_id, o.wire IS DISTINCT FROM 'v2' AS v1,
                       o.next_attempt_at, coalesce(h.streams, 0) + row_number()
                         OVER (PARTITION BY o.run ORDER BY o.wire IS DISTINCT FROM 'v2' DESC, o.next_attempt_at) AS turn
                FROM open o LEFT JOIN held h USING (run) WHERE o.due
            ), ranked AS (
                SELECT t.*, coalesce(h.streams, 0) + row_number()
                         OVER (PARTITION BY t.environment_id, t.settled, t.priority
                               ORDER BY t.turn, t.v1 DESC, t.next_attempt_at) AS place
                FROM turns t LEFT JOIN (
                    SELECT environment_id, sum(streams) AS streams FROM held GROUP BY environment_id
                ) h USING (environment_id)
            ), first AS MATERIALIZED (
                SELECT * FROM ranked ORDER BY settled, priority, place, turn, v1 DESC, next_attempt_at
                LIMIT 2 * :limit + 100
            ), taken AS (
                SELECT s.id
                FROM tailrace.streams s JOIN first c ON c.id = s.id
                WHERE {DUE}
                ORDER BY c.settled, c.priority, c.place, c.turn, c.v1 DESC, c.next_attempt_at
                LIMIT {self._room("least(:limit, (SELECT tailrace.connections_left(:most, true)))", ":limit")}
                FOR NO KEY UPDATE OF s SKIP LOCKED
            )
            UPDATE tailrace.streams s
            SET hinted_until = now() + :hint_s * interval '1 second', hinted_by = :worker_id
            FROM taken WHERE s.id = taken.id
            RETURNING s.id
            """,
            environments=environments,
            limit=limit,
            hint_s=hint_s,
            run=run,
            worker_id=self._worker.id,
            **self._most(),
        )
        return [row.id for row in rows]

    def _claim_all(self, environments: list[str], limit: int, hint_s: float, run: int | None) -> list[int] | None:
        """Choose all streams that are due, if they are no more than ``limit``; None: they are more.

        Nobody has to be put before anybody then, and what is open and not due is not looked at.
        """
        row = self._statements.execute(
            f"""
            WITH RECURSIVE {DEAD}, due AS MATERIALIZED (
                SELECT f.id FROM (
                    SELECT s.id, s.run FROM tailrace.streams s
                    WHERE {OPEN} AND s.worker_id IS NULL AND s.next_attempt_at <= now() AND {HINTED} IS NOT TRUE
                    UNION ALL
                    SELECT s.id, s.run FROM dead d JOIN tailrace.streams s ON s.worker_id = d.id
                    WHERE {OPEN} AND s.next_attempt_at <= now() AND {HINTED} IS NOT TRUE
                ) f
                JOIN tailrace.runs r ON r.id = f.run
                JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE e.name = ANY(:environments) AND e.halted_at IS NULL
                  AND (CAST(:run AS bigint) IS NULL OR f.run = :run)
                LIMIT :limit + 1
            ), taken AS (
                SELECT s.id FROM tailrace.streams s
                WHERE s.id IN (SELECT id FROM due) AND (SELECT count(*) FROM due) <= :limit AND {DUE}
                ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
            ), hinted AS (
                UPDATE tailrace.streams s
                SET hinted_until = now() + :hint_s * interval '1 second', hinted_by = :worker_id
                FROM taken WHERE s.id = taken.id
                RETURNING s.id
            )
            SELECT (SELECT count(*) FROM due) AS due, ARRAY(SELECT id FROM hinted) AS ids
            """,
            environments=environments,
            limit=limit,
            hint_s=hint_s,
            run=run,
            worker_id=self._worker.id,
        )[0]
        return None if row.due > limit else list(row.ids)

    def balance(self, environments: list[str], overdue_s: float) -> Balance:
        """Count what is read, what waits, and the slots of the fleet. Due streams are counted up to `MANY_DUE`.

        ``overdue_s``: what has waited for so long is overdue.
        """
        row = self._statements.execute(
            f"""
            WITH due AS (
                SELECT s.next_attempt_at < now() - :overdue_s * interval '1 second' AS overdue
                FROM tailrace.streams s
                JOIN tailrace.runs r ON r.id = s.run
                JOIN tailrace.environments e ON e.id = r.environment_id
                WHERE {OPEN} AND s.worker_id IS NULL AND s.next_attempt_at <= now() AND {HINTED} IS NOT TRUE
                  AND e.name = ANY(:environments) AND e.halted_at IS NULL
                LIMIT :many
            ), alive AS (
                SELECT w.id, w.slots FROM tailrace.workers w WHERE w.expires_at > now()
            )
            SELECT (SELECT count(*) FROM tailrace.streams s JOIN alive a ON a.id = s.worker_id WHERE {OPEN}) AS reading,
                   (SELECT count(*) FROM due) AS due, (SELECT count(*) FROM due WHERE overdue) AS overdue,
                   (SELECT coalesce(sum(slots), 0) FROM alive) AS slots
            """,
            environments=environments,
            overdue_s=overdue_s,
            many=MANY_DUE,
        )[0]
        return Balance(int(row.reading), int(row.due), int(row.overdue), int(row.slots))

    def waiting(self, environments: list[str], at_most: int) -> tuple[int, int]:
        """Count the streams that are due and read by nobody, up to ``at_most``; and the processes that live."""
        row = self._statements.execute(
            f"""
            SELECT (SELECT count(*) FROM (
                        SELECT FROM tailrace.streams s
                        JOIN tailrace.runs r ON r.id = s.run
                        JOIN tailrace.environments e ON e.id = r.environment_id
                        WHERE {DUE} AND e.name = ANY(:environments) AND e.halted_at IS NULL
                        LIMIT :at_most) due) AS streams,
                   (SELECT count(*) FROM tailrace.workers WHERE expires_at > now()) AS workers
            """,
            environments=environments,
            at_most=at_most,
        )[0]
        return int(row.streams), int(row.workers)

    def unhint(self, stream_ids: Sequence[int]) -> None:
        """Give claimed streams back: they will not be read now. Those whose rows somebody has locked wait."""
        self._statements.execute(
            """
            UPDATE tailrace.streams SET hinted_until = NULL WHERE id IN (
                SELECT id FROM tailrace.streams
                WHERE id = ANY(:ids) AND hinted_by = :worker_id AND hinted_until IS NOT NULL
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
            """,
            ids=list(stream_ids),
            worker_id=self._worker.id,
        )

    def acquire(self, stream_ids: Sequence[int]) -> list[LeasedStream]:
        """Take the leases of those streams that are open and free.

        A stream that this process leases already comes back too, under a new token: whoever calls makes sure that no
        reader of its own is at work on it.
        """
        taken = self._statements.execute(
            f"""
            WITH free AS (
                SELECT s.id FROM tailrace.streams s
                WHERE s.id = ANY(:ids)
                  AND s.state IN ('pending', 'active', 'parked')
                  AND ({FREE} OR s.worker_id = :worker_id)
                ORDER BY s.id
                LIMIT {self._room("(SELECT tailrace.connections_left(:most, false))", "ALL")}
                FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE tailrace.streams s
            SET worker_id = :worker_id, token = s.token + 1, rev = s.rev + 1, state = 'active', hinted_until = NULL
            FROM free
            WHERE s.id = free.id
            RETURNING s.id, s.token
            """,
            ids=list(stream_ids),
            worker_id=self._worker.id,
            **self._most(),
        )
        return self._leased({row.id: row.token for row in taken}) if taken else []

    def _leased(self, tokens: dict[int, int]) -> list[LeasedStream]:
        """Have the rows of streams follow what is stored, and return the streams as they are then.

        Not in the statement that takes the lease: its snapshot can be older than the last commit under the lease
        before, which made no new version of the row.
        """
        rows = self._statements.execute(
            f"""
            WITH behind AS MATERIALIZED (
                SELECT s.id, a.*
                FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS bigint[])) AS u (id, token)
                JOIN tailrace.streams s ON s.id = u.id AND s.token = u.token
                CROSS JOIN LATERAL tailrace.stored_after(s.id, s.generation, s.last_chunk_index) a
            ), followed AS (
                UPDATE tailrace.streams s SET
                    rev = s.rev + 1, last_chunk_index = b.last_index, cursor = b.cursor,
                    chunk_count = s.chunk_count + b.chunks, byte_count = s.byte_count + b.bytes, lag = NULL,
                    first_chunk_at = coalesce(s.first_chunk_at, b.first_committed_at),
                    last_chunk_at = least(b.last_committed_at, now())
                FROM behind b JOIN unnest(CAST(:ids AS bigint[]), CAST(:tokens AS bigint[])) AS u (id, token) USING (id)
                WHERE s.id = b.id AND s.token = u.token
                RETURNING s.*
            )
            SELECT s.id, r.run_id, s.stream_key, s.token, s.rev, s.wire, s.generation, s.last_chunk_index, s.cursor,
                   s.attempt, s.chunk_count, s.lost_count, r.options, e.name AS environment, {RUN_END},
                   extract(epoch FROM now() - coalesce(s.last_chunk_at, s.created_at))::float8 AS silent_s,
                   (extract(epoch FROM s.not_before) * 1000)::bigint AS not_before_ms,
                   CASE WHEN s.attempt = 0 THEN 0
                        ELSE coalesce(extract(epoch FROM now() - s.troubled_at), 0) END::float8 AS troubled_s
            FROM (
                SELECT * FROM followed
                UNION ALL
                SELECT s.* FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS bigint[])) AS u (id, token)
                JOIN tailrace.streams s ON s.id = u.id AND s.token = u.token
                WHERE s.id NOT IN (SELECT id FROM behind)
            ) s
            JOIN tailrace.runs r ON r.id = s.run
            JOIN tailrace.environments e ON e.id = r.environment_id
            ORDER BY s.id
            """,
            ids=list(tokens),
            tokens=list(tokens.values()),
        )
        return [
            LeasedStream(
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
            )
            for row in rows
        ]

    def orphans(self, reading: Sequence[int]) -> dict[int, int]:
        """Find the streams that this process leases, other than ``reading``; return their tokens."""
        rows = self._statements.execute(
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
        self._statements.execute(
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
        rows = self._statements.execute(
            f"""
            SELECT s.id, {OVER} AS over, coalesce(s.worker_id = :worker_id, false) AS ours
            FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
            WHERE s.id = ANY(:ids) AND ({OVER} OR s.worker_id IS DISTINCT FROM :worker_id)
            """,
            ids=list(stream_ids),
            worker_id=self._worker.id,
        )
        return [(row.id, row.over, row.ours) for row in rows]

    def _room(self, limited: str, unlimited: str) -> str:
        """Choose the LIMIT of a statement: only a limit for the fleet needs the lock that goes with it."""
        return unlimited if self._max_connections is None else limited

    def _most(self) -> dict[str, int]:
        return {} if self._max_connections is None else {"most": self._max_connections}
