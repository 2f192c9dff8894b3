"""Deliberate faults in the core. The simulation must find each of them; if it does not, the simulation is at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tailrace.errors import StoreUnavailable
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Batch, Checkpoint, Outcome
from tailrace.store.commit import Fate, Flush
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


class RowsBehind(Database):
    """Whoever takes a lease goes on where the row says, though more is stored."""

    def follow(self, row: Row) -> None:
        row.added = None


class NoKey(Database):
    """A segment can be stored twice."""

    def commit(self, flush: Flush, worker: int) -> bool:
        self.rows[flush.stream_id].firsts.clear()
        return super().commit(flush, worker)


class AnyServer(Database):
    """A database that lost its last transactions calls itself as it did before."""

    def restore(self, rows: list[Row]) -> None:
        super().restore(rows)
        self.server = 0


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
    fates = self._committer.fates([sink.stream_id for sink in sinks]).of
    for sink in sinks:
        flight, fate = sink.in_flight, fates[sink.stream_id]
        if flight is not None and fate.token == flight.token:
            flight.rev = sink.rev = fate.position.rev
            flight.due = True
            sink.checkpoint = Checkpoint(fate.position.generation, fate.position.last_index, sink.checkpoint.cursor)
            flight.batches = flight.batches or [Batch(flight.checkpoint)]
    _resolve(self, sinks)


def by_rev(self: Writer, sink: Sink, fate: Fate | None) -> None:
    """Whether a commit took effect is told by the row's ``rev``, also where the row did not follow it."""
    flight = sink.in_flight
    if flight is not None and fate is not None:
        here = flight.after if fate.position.rev != sink.rev else sink.position
        fate = fate._replace(position=here._replace(rev=fate.position.rev))
    _compare(self, sink, fate)


def only_what_flies(self: Writer, sinks: list[Sink]) -> None:
    """Where another server answers, streams of which nothing is being sent are not compared."""
    self._committer.server = self._committer.fates([]).server
    _resolve(self, sinks)


_settle, _resolve, _compare = Sink.settle, Writer._resolve, Writer._compare
_begin, _resume = V2Order.__init__, V2Order.resume

MUTANTS: dict[str, tuple[type[Database], Callable[[], Any]]] = {
    "fence removed": (NoFence, lambda: _nothing()),
    "checkpoint before chunks": (CheckpointFirst, lambda: _nothing()),
    "renewal by local clock": (LocalClock, lambda: _nothing()),
    "flush forgotten at the end": (Database, lambda: patch.object(Sink, "settle", settle_without_flush)),
    "resume one id back": (Database, lambda: patch.object(V2Order, "__init__", resume_back)),
    "resume one id ahead": (Database, lambda: patch.object(V2Order, "resume", resume_ahead)),
    "rows that are behind": (RowsBehind, lambda: _nothing()),
    "segments without a key": (NoKey, lambda: _nothing()),
    "any server is believed": (AnyServer, lambda: _nothing()),
    "only what is sent is compared": (Database, lambda: patch.object(Writer, "_resolve", only_what_flies)),
    "fates by rev alone": (Database, lambda: patch.object(Writer, "_compare", by_rev)),
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
