"""Choosing: which streams a process reads next, and how the work of the fleet stands. One function a statement.

What is chosen is *hinted* for a while: nobody else chooses it, unless whoever did so dies before. Only `leases` lets
anybody read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from tailrace.store.leases import FREE, OPEN, FleetLimit
from tailrace.store.statements import Statements

MANY_DUE = 20_000
"""More slots than any process has: it makes no difference by how many more are due."""

# Somebody who lives has sent a message to have it read, and the message is not too old.
HINTED = """(s.hinted_until > now() AND EXISTS (
    SELECT FROM tailrace.workers w WHERE w.id = s.hinted_by AND w.expires_at > now()))"""

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


class Choosing:
    """The statements by which one process chooses."""

    def __init__(self, engine: sa.Engine, worker_id: UUID, max_connections: int | None = None) -> None:
        """``max_connections``: how many streams all processes together may read at once; None: no limit."""
        self._statements = Statements(engine)
        self._worker_id = worker_id
        self._limit = FleetLimit(max_connections)

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
        if self._limit.most is None:
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
                LIMIT {self._limit.or_else("least(:limit, (SELECT tailrace.connections_left(:most, true)))", ":limit")}
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
            worker_id=self._worker_id,
            **self._limit.values,
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
            worker_id=self._worker_id,
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
            worker_id=self._worker_id,
        )
