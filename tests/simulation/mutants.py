"""Deliberate faults in the core. The simulation must find each of them; if it does not, the simulation is at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tailrace.errors import StoreUnavailable
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Checkpoint, Outcome
from tailrace.store.commit import Flush
from tailrace.store.sink import Sink
from tailrace.store.writer import Writer
from tests.simulation import core
from tests.simulation.database import OPEN, TERM_S, Database, Row

SEEDS = range(2_000)
"""How far each is looked for; most show within a few, the rarest (a flush forgotten at the end) in one of 200."""


class NoFence(Database):
    """Neither token nor ``rev`` is looked at."""

    def commit(self, flush: Flush, worker: int) -> bool:
        row = self.rows[flush.stream_id]
        token, rev, holder = row.token, row.rev, row.holder
        row.token, row.rev, row.holder = flush.token, flush.rev, worker
        done = super().commit(flush, worker)
        row.token, row.rev = token, max(rev, row.rev)
        row.holder = holder if row.holder == worker else row.holder
        return done


class AnyHolder(Database):
    """Token and ``rev`` are looked at, but not who holds the lease."""

    def commit(self, flush: Flush, worker: int) -> bool:
        row = self.rows[flush.stream_id]
        holder = row.holder
        row.holder = worker
        done = super().commit(flush, worker)
        if row.holder is not None:
            row.holder = holder
        return done


class CheckpointFirst(Database):
    """Checkpoint and chunks are two transactions, and Postgres can fail between them."""

    def store(self, row: Row, flush: Flush) -> None:
        if self.world.dice.random() < self.world.p_lost_question:
            raise StoreUnavailable
        super().store(row, flush)


class LocalClock(Database):
    """Each worker renews and judges leases by its own clock."""

    def renew(self, worker: int, skew: float) -> None:
        self.expires[worker] = self.world.now + skew + TERM_S

    def claim(self, skew: float) -> list[int]:
        now, self.world.now = self.world.now, self.world.now + skew
        try:
            return [row.id for row in self.rows.values() if row.state in OPEN and self.free(row)]
        finally:
            self.world.now = now


def settle_without_flush(self: Sink, outcome: Outcome) -> None:
    """The rest of a stream is forgotten when its reader leaves."""
    desk: Any = self._desk
    desk._waiting.pop(self, None)
    desk.give_back(self.pending_bytes)
    self._nothing_waits()
    _settle(self, outcome)


def resume_ahead(self: V2Order) -> str | None:
    """A connection begins one record too far."""
    _resume(self)
    return None if self._next == 0 else str(self._next)


def resume_back(self: V2Order, checkpoint: Checkpoint, recent: list[tuple[int, bytes]], previous: object) -> None:
    """A reader goes on one record before the checkpoint, and takes what it gets for new.

    (To ask for one record more does no harm: what is held already is known again.)
    """
    last = checkpoint.last_index
    if last >= 0:
        checkpoint = Checkpoint(checkpoint.generation, last - 1, {"seq_num": last - 1})
        recent = [each for each in recent if each[0] < last]
    _begin(self, checkpoint, recent)


def guess(self: Writer, sinks: list[Sink]) -> None:
    """A commit whose answer was lost is taken for not done, and sent again as if it were new.

    (Taken for done it does no harm: the next commit meets the fence, and the stream is read again from its checkpoint.)
    """
    fates = self._committer.fates([sink.stream_id for sink in sinks])
    for sink in sinks:
        flight, fate = sink.in_flight, fates[sink.stream_id]
        if flight is not None and fate.token == flight.token:
            flight.rev = fate.rev
    _resolve(self, sinks)


_settle, _resolve = Sink.settle, Writer._resolve
_begin, _resume = V2Order.__init__, V2Order.resume

MUTANTS: dict[str, tuple[type[Database], Callable[[], Any]]] = {
    "fence removed": (NoFence, lambda: _nothing()),
    "fence without the holder": (AnyHolder, lambda: _nothing()),
    "checkpoint before chunks": (CheckpointFirst, lambda: _nothing()),
    "renewal by local clock": (LocalClock, lambda: _nothing()),
    "flush forgotten at the end": (Database, lambda: patch.object(Sink, "settle", settle_without_flush)),
    "resume one id back": (Database, lambda: patch.object(V2Order, "__init__", resume_back)),
    "resume one id ahead": (Database, lambda: patch.object(V2Order, "resume", resume_ahead)),
    "commit outcome guessed": (Database, lambda: patch.object(Writer, "_resolve", guess)),
}


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def caught(name: str) -> int | None:
    """Return the first seed that shows the mutant; None when it gets away."""
    database, mutation = MUTANTS[name]
    with mutation():
        return core.first_wrong(SEEDS, database)
