"""The core in virtual time: several workers, each with the real `Reader` per stream and the real `Writer`, on one model of
the database, one model of upstream and one model of the leases. Nothing sleeps; a seed decides everything.

Every reader, Writer and control loop is a greenlet that goes back to the world's scheduler wherever the real one would
wait or talk to somebody; there a process can die, be suspended, or lose an answer.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator

from greenlet import getcurrent, greenlet

from tests.simulation.database import TERM_S, Database, Row
from tests.simulation.process import Died, SimWorker
from tests.simulation.upstreams import SimUpstream, SimV1, SimV2


class World:
    """One schedule: virtual time, the database, upstream, two or three workers, and what befalls them."""

    STREAMS = 2
    FAULTS_S = 25.0
    LIMIT_S = 90.0

    def __init__(self, seed: int, database: type[Database] = Database) -> None:
        self.dice = random.Random(seed)
        self.now = 0.0
        self.faults_until = self.FAULTS_S
        self.postgres_up = True
        self.database = database(self)
        self._numbers = itertools.count()
        self._queue: list[tuple[float, int, SimWorker | None, greenlet]] = []
        self._hub = getcurrent()
        dice = self.dice
        self.p_die = dice.choice((0.0, 0.002, 0.01))
        self.p_lost_answer = dice.choice((0.0, 0.05, 0.2))
        self.p_lost_question = dice.choice((0.0, 0.05, 0.2))
        self.p_late = dice.choice((0.0, 0.0, 0.1))
        self.p_locked = dice.choice((0.0, 0.2))
        self.p_refused = dice.choice((0.0, 0.1))
        self.p_cut = dice.choice((0.0, 0.1))
        self.p_lie = dice.choice((0.0, 0.0, 0.05, 0.2))
        self.kills = self.stops = self.outages = self.restores = self.told_lies = 0
        self.upstreams: dict[int, SimUpstream] = {}
        for stream in range(self.STREAMS):
            texts = [b'{"s":%d,"n":%d}' % (stream, n) for n in range(dice.randint(0, 20))]
            self.upstreams[stream] = dice.choice((SimV1, SimV2))(self, texts)
            self.database.rows[stream] = Row(stream)
        self.workers = [SimWorker(self, number) for number in range(dice.randint(1, 3))]
        self.spawn(None, self._befall)

    def run(self) -> None:
        """Until everything is sealed, or time is up."""
        while self._queue and self.now < self.LIMIT_S and not self.sealed():
            at, _, worker, green = heapq.heappop(self._queue)
            if worker is not None:
                if not worker.alive:
                    continue
                if worker.stopped_until > max(at, self.now):
                    heapq.heappush(self._queue, (worker.stopped_until, next(self._numbers), worker, green))
                    continue
            self.now = max(self.now, at)
            if self.database.over_at is None and self.now >= 15.0:
                self.database.over_at = self.now
            green.switch()

    def begin_lies(self, upstream: SimUpstream) -> None:
        """Whether anything may lie on this connection. After two that lied, one does not: more would be believed."""
        upstream.lied = upstream.lied + 1 if upstream.lies else 0
        upstream.lies = False

    def lies(self, upstream: SimUpstream) -> bool:
        """Whether something between upstream and a reader says what is not so, this time."""
        lie = upstream.lied < 2 and self.dice.random() < self.p_lie
        upstream.lies = upstream.lies or lie
        self.told_lies += lie
        return lie

    def sealed(self) -> bool:
        return all(row.state == "sealed" for row in self.database.rows.values())

    def spawn(self, worker: SimWorker | None, work: Callable[[], None], after_s: float = 0.0) -> None:
        def body() -> None:
            try:
                work()
            except Died:
                return

        heapq.heappush(self._queue, (self.now + after_s, next(self._numbers), worker, greenlet(body, self._hub)))

    def sleep(self, worker: SimWorker | None, seconds: float) -> None:
        heapq.heappush(self._queue, (self.now + max(seconds, 0.001), next(self._numbers), worker, getcurrent()))
        self._hub.switch()

    def kill(self, worker: SimWorker) -> None:
        """It is gone; another takes its place a little later."""
        worker.alive = False
        self.kills += 1
        self.spawn(None, lambda: self.workers.append(SimWorker(self, len(self.workers))), self.dice.uniform(0.5, 5))

    def _befall(self) -> None:
        """Suspend workers for longer than a lease; take Postgres away; make a worker's clock jump."""
        dice = self.dice
        while self.now < self.faults_until:
            self.sleep(None, dice.uniform(1, 6))
            alive = [worker for worker in self.workers if worker.alive]
            what = dice.random()
            if what < 0.25 and alive:
                self.stops += 1
                dice.choice(alive).stopped_until = self.now + dice.choice((1.0, TERM_S + 4))
            elif what < 0.45:
                self.outages += 1
                self.postgres_up = False
                self.sleep(None, dice.uniform(0.2, 10))
                self.postgres_up = True
            elif what < 0.65 and alive:
                dice.choice(alive).skew += dice.choice((-3600.0, -30.0, 5.0, 3600.0))
            elif what < 0.8 and alive:
                self.kill(dice.choice(alive))
            elif what < 0.9:
                before = self.database.dump()
                self.sleep(None, dice.uniform(0.1, 6))
                self.restores += 1
                self.database.restore(before)  # a standby without the last transactions takes over
        for worker in self.workers:
            worker.stopped_until = 0.0
        self.p_late = self.p_lost_answer = self.p_lost_question = self.p_refused = self.p_cut = self.p_die = 0.0
        self.p_lie = 0.0

    # --- what must hold

    def violations(self) -> Iterator[str]:
        """Everything that is wrong once the schedule is over."""
        if not self.sealed():
            yield f"not everything is sealed {self.now - self.faults_until:.0f} s after the last fault"
        for row in self.database.rows.values():
            texts = self.upstreams[row.id].texts
            indices = [index for index, _, _ in row.chunks]
            if len(set(indices)) != len(indices):
                yield f"stream {row.id}: a chunk is stored twice"
            if indices != sorted(indices):
                yield f"stream {row.id}: out of order"
            if any(text != texts[index] for index, text, _ in row.chunks):
                yield f"stream {row.id}: not what was sent"
            if row.checkpoint.last_index != max(indices, default=-1) or len(indices) != row.checkpoint.last_index + 1:
                yield f"stream {row.id}: the checkpoint says {row.checkpoint.last_index}, stored are {len(indices)}"
            if row.holes:
                yield f"stream {row.id}: a hole where nothing was lost"
            if self.sealed() and len(indices) != len(texts):
                yield f"stream {row.id}: sealed with {len(indices)} of {len(texts)}"
            tokens = [token for _, _, token in row.chunks]
            if tokens != sorted(tokens):
                yield f"stream {row.id}: written with an old token"


def play(seed: int, database: type[Database] = Database) -> World:
    """Run one schedule."""
    world = World(seed, database)
    world.run()
    return world


def wrong(seeds: range, database: type[Database] = Database) -> list[tuple[int, list[str]]]:
    return [(seed, found) for seed in seeds if (found := list(play(seed, database).violations()))]


def first_wrong(seeds: range, database: type[Database] = Database) -> int | None:
    """The first seed that shows a violation."""
    return next((seed for seed in seeds if any(play(seed, database).violations())), None)
