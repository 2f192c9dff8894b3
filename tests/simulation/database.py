"""A model of the archive's database: the statements of `store.commit` and `store.leases`, each at once, all or nothing."""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tailrace.errors import StoreUnavailable
from tailrace.model import Checkpoint, Hole, LeasedStream, RunEnd, StreamRef, StreamState, Wire
from tailrace.store.commit import AnotherServer, Committer, Fate, Fates, Flush, FlushRefused, Position

if TYPE_CHECKING:
    from tests.simulation.core import World
    from tests.simulation.process import SimWorker

OPEN = ("pending", "active", "parked")
TERM_S = 8.0


@dataclass
class Row:
    """One stream's row in the model database, and what belongs to it."""

    id: int
    token: int = 0
    rev: int = 0
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    added: Checkpoint | None = None  # of the last segment that the row has not followed
    wire: Wire | None = None
    state: StreamState = StreamState.PENDING
    holder: int | None = None
    settled_by: int | None = None
    due_at: float = 0.0
    swept_at: float | None = None
    swept_index: int | None = None
    chunks: list[tuple[int, bytes, int]] = field(default_factory=list)  # index, text, token it was written under
    holes: list[Hole] = field(default_factory=list)
    fingerprints: list[tuple[int, bytes]] = field(default_factory=list)
    firsts: set[tuple[int, int]] = field(default_factory=set)  # generation and first index of segments: their key
    owners: list[tuple[int, int]] = field(default_factory=list)  # (token, worker), as leases were given


class Database:
    """The statements of `store.commit` and `store.leases`, each at once and all or nothing. Its clock is the world's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[int, Row] = {}
        self.expires: dict[int, float] = {}
        self.over_at: float | None = None
        self.fence = True
        self.server = 0

    def dump(self) -> list[Row]:
        return copy.deepcopy(list(self.rows.values()))

    def restore(self, rows: list[Row]) -> None:
        """What was committed since then never happened: it is another server."""
        self.server += 1
        for row in rows:
            vars(self.rows[row.id]).update(vars(row))

    def renew(self, worker: int, skew: float) -> None:
        """``skew`` is how wrong the worker's own clock is; it does not matter."""
        self.expires[worker] = self.world.now + TERM_S

    def free(self, row: Row) -> bool:
        return row.holder is None or self.expires.get(row.holder, -1.0) <= self.world.now

    def claim(self, skew: float) -> list[int]:
        return [
            row.id
            for row in self.rows.values()
            if row.state in ("pending", "active", "parked") and row.due_at <= self.world.now and self.free(row)
        ]

    def acquire(self, worker: int, stream: int) -> LeasedStream | None:
        row = self.rows[stream]
        if row.state not in ("pending", "active", "parked") or not (self.free(row) or row.holder == worker):
            return None
        row.holder, row.state = worker, StreamState.ACTIVE
        row.token += 1
        row.rev += 1
        row.owners.append((row.token, worker))
        self.follow(row)
        cursor = json.loads(json.dumps(row.checkpoint.cursor))
        return LeasedStream(
            id=row.id,
            ref=StreamRef("run_1", str(row.id)),
            token=row.token,
            rev=row.rev,
            wire=row.wire,
            checkpoint=Checkpoint(row.checkpoint.generation, row.checkpoint.last_index, cursor),
            attempt=0,
            chunk_count=len(row.chunks),
            lost_count=0,
            silent_s=0.0,
            run_end=self.run_end(row.id),
            options={},
        )

    def follow(self, row: Row) -> None:
        """The row tells what is stored."""
        row.checkpoint, row.added = row.added or row.checkpoint, None

    def position(self, row: Row) -> Position:
        stored = row.added or row.checkpoint
        return Position(row.rev, stored.generation, stored.last_index)

    def run_end(self, stream: int) -> RunEnd:
        row, now = self.rows[stream], self.world.now
        over = self.over_at is not None
        swept = row.swept_at is not None and row.swept_index == row.checkpoint.last_index
        return RunEnd(
            over, now - self.over_at if self.over_at is not None else 0.0, now - (row.swept_at or 0) if swept else None
        )

    def commit(self, flush: Flush, worker: int) -> bool:
        row = self.rows[flush.stream_id]
        if self.fence and (row.token, row.rev, row.holder) != (flush.token, flush.rev, worker):
            return False
        first = next(
            ((batch.checkpoint.generation, batch.indices[0]) for batch in flush.batches if batch.indices), None
        )
        if first in row.firsts:
            raise FlushRefused("23505: segments_pkey")
        if first is not None:
            row.firsts.add(first)
        row.wire = flush.wire or row.wire
        if flush.follows:
            row.rev += 1
            row.checkpoint, row.added = flush.checkpoint, None
        else:
            row.added = flush.checkpoint
        self.store(row, flush)
        settled = flush.outcome
        if settled is not None:
            row.state, row.holder, row.settled_by = settled.state, None, worker
            row.due_at = self.world.now + settled.delay_s
            if settled.swept:
                row.swept_at, row.swept_index = self.world.now, flush.checkpoint.last_index
        return True

    def store(self, row: Row, flush: Flush) -> None:
        for batch in flush.batches:
            row.chunks += [(at, text, flush.token) for at, text in zip(batch.indices, batch.texts, strict=True)]
            row.fingerprints += list(zip(batch.indices, batch.fingerprints, strict=False))  # v1 has none
            row.holes += batch.holes


class ModelCommitter(Committer):
    """What the Writer talks to: the database, over a connection that loses questions and answers."""

    def __init__(self, worker: SimWorker) -> None:
        self._worker = worker
        self.server: int | None = None  # type: ignore[assignment]

    def commit(self, flushes: list[Flush]) -> set[int]:
        world, worker = self._worker.world, self._worker
        dice = world.dice
        worker.maybe_die()
        if world.postgres_up and self.server is None:
            self.server = world.database.server
        server = self.server
        chosen = [flush for flush in flushes if dice.random() > world.p_locked]
        if world.postgres_up and dice.random() < world.p_late:  # given up, and it comes through after all
            sent = [copy.copy(flush) for flush in chosen]
            world.spawn(None, lambda: self._arrives_late(sent, server), dice.uniform(0.0, 3.0))
            raise StoreUnavailable
        if not world.postgres_up or dice.random() < world.p_lost_question:
            raise StoreUnavailable
        done = self._arrives(chosen, server)
        worker.maybe_die()
        if dice.random() < world.p_lost_answer:
            raise StoreUnavailable
        return done

    def _arrives(self, flushes: list[Flush], server: int | None) -> set[int]:
        """The statement is executed: all of it or, if any of it is refused, nothing."""
        database = self._worker.world.database
        if server != database.server:
            raise AnotherServer
        before = copy.deepcopy([database.rows[flush.stream_id] for flush in flushes])
        try:
            return {flush.stream_id for flush in flushes if database.commit(flush, self._worker.number)}
        except FlushRefused:
            for row in before:
                vars(database.rows[row.id]).update(vars(row))
            raise

    def _arrives_late(self, flushes: list[Flush], server: int | None) -> None:
        """Nobody waits for the answer."""
        with contextlib.suppress(AnotherServer, FlushRefused):
            self._arrives(flushes, server)

    def fates(self, stream_ids: object) -> Fates:
        world = self._worker.world
        self._worker.maybe_die()
        if not world.postgres_up or world.dice.random() < world.p_lost_question:
            raise StoreUnavailable
        rows = [world.database.rows[stream] for stream in stream_ids]  # type: ignore[attr-defined]
        return Fates(world.database.server, {row.id: self._fate(row) for row in rows})  # type: ignore[arg-type]

    def _fate(self, row: Row) -> Fate:
        last = row.settled_by if row.holder is None else row.holder
        return Fate(row.token, last == self._worker.number, self._worker.world.database.position(row))

    def takes_json(self, text: bytes) -> bool:
        return True
