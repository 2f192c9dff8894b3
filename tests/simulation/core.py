"""The core in virtual time: several workers, each with the real `Reader` per stream and the real `Writer`, on one model of
the database, one model of upstream and one model of the leases. Nothing sleeps; a seed decides everything.

Every reader, Writer and control loop is a greenlet that goes back to the world's scheduler wherever the real one would
wait or talk to somebody; there a process can die, be suspended, or lose an answer.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from greenlet import getcurrent, greenlet

from worker.errors import LeaseLost, SourceUnavailable, StoreUnavailable
from worker.ingest.loop import Reader, ReadPolicy, Signal
from worker.model import (
    Checkpoint,
    Delivery,
    Hole,
    Kind,
    LeasedStream,
    Standing,
    StreamRef,
    StreamState,
    V2Record,
    Wire,
)
from worker.replay.entries import BEGINNING, Entry, LineJoiner, V1Id
from worker.source.tail import Connection
from worker.store.batch import BatchLimits
from worker.store.commit import Committer, Fate, Flush
from worker.store.writer import Sink, Writer, WriterLimits
from worker.wire.events import Framer
from worker.wire.v1 import V1Decoder, parse_id

OPEN = ("pending", "active", "parked")
TERM_S = 8.0
RENEW_S = 2.0
POLICY = ReadPolicy(
    wait_s=1, park_after_s=1e9, quiet_s=2.0, slice_s=12.0, retry_base_s=0.5, retry_cap_s=4.0, reconnect_s=0.5
)


class Died(BaseException):
    """The process is gone. Nothing in the code under test may catch it."""


@dataclass
class Row:
    """One stream's row in the model database, and what belongs to it."""

    id: int
    token: int = 0
    rev: int = 0
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    wire: Wire | None = None
    state: StreamState = StreamState.PENDING
    holder: int | None = None
    due_at: float = 0.0
    swept_at: float | None = None
    swept_index: int | None = None
    chunks: list[tuple[int, bytes, int]] = field(default_factory=list)  # index, text, token it was written under
    holes: list[Hole] = field(default_factory=list)
    marks: list[tuple[int, bytes]] = field(default_factory=list)
    owners: list[tuple[int, int]] = field(default_factory=list)  # (token, worker), as leases were given


class Database:
    """The statements of `store.commit` and `store.leases`, each at once and all or nothing. Its clock is the world's."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rows: dict[int, Row] = {}
        self.expires: dict[int, float] = {}
        self.over_at: float | None = None
        self.fence = True

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
            standing=self.standing(row.id),
            options={},
        )

    def standing(self, stream: int) -> Standing:
        row, now = self.rows[stream], self.world.now
        over = self.over_at is not None
        swept = row.swept_at is not None and row.swept_index == row.checkpoint.last_index
        return Standing(
            over, now - self.over_at if self.over_at is not None else 0.0, now - (row.swept_at or 0) if swept else None
        )

    def commit(self, flush: Flush) -> bool:
        row = self.rows[flush.stream_id]
        if self.fence and (row.token != flush.token or row.rev != flush.rev):
            return False
        row.rev += 1
        row.checkpoint, row.wire = flush.checkpoint, flush.wire or row.wire
        self.store(row, flush)
        settled = flush.settlement
        if settled is not None:
            row.state, row.holder = settled.state, None
            row.due_at = self.world.now + settled.delay_s
            if settled.swept:
                row.swept_at, row.swept_index = self.world.now, flush.checkpoint.last_index
        return True

    def store(self, row: Row, flush: Flush) -> None:
        for take in flush.takes:
            row.chunks += [(at, text, flush.token) for at, text in zip(take.indices, take.texts, strict=True)]
            row.marks += list(zip(take.indices, take.marks, strict=False))  # v1 has none
            row.holes += take.holes


class ModelCommitter(Committer):
    """What the Writer talks to: the database, over a connection that loses questions and answers."""

    def __init__(self, worker: SimWorker) -> None:
        self._worker = worker

    def commit(self, flushes: list[Flush]) -> set[int]:
        world, worker = self._worker.world, self._worker
        dice = world.dice
        worker.maybe_die()
        if not world.postgres_up or dice.random() < world.p_lost_question:
            raise StoreUnavailable
        chosen = [flush for flush in flushes if dice.random() > world.p_locked]
        done = {flush.stream_id for flush in chosen if world.database.commit(flush)}
        worker.maybe_die()
        if dice.random() < world.p_lost_answer:
            raise StoreUnavailable
        return done

    def fates(self, stream_ids: object) -> dict[int, Fate]:
        world = self._worker.world
        self._worker.maybe_die()
        if not world.postgres_up or world.dice.random() < world.p_lost_question:
            raise StoreUnavailable
        rows = world.database.rows
        return {stream: Fate(rows[stream].token, rows[stream].rev) for stream in stream_ids}  # type: ignore[attr-defined]

    def takes_json(self, text: bytes) -> bool:
        return True


class SimWriter(Writer):
    """The real Writer; its thread's work is done by whoever would wait for it, one round at a time."""

    def __init__(self, worker: SimWorker) -> None:
        world = worker.world
        super().__init__(
            ModelCommitter(worker),
            WriterLimits(buffer_max_bytes=400, stream_max_bytes=200, hold_s=0.5),
            random=world.dice.random,
            clock=worker.monotonic,
        )
        self.worker = worker

    def _wait_for_room(self, sink: Sink, size_bytes: int) -> None:
        while True:
            sink.check()
            own = sink.size_bytes + size_bytes <= self._limits.stream_max_bytes or sink.size_bytes == 0
            if self._bytes == 0 or (self._bytes + size_bytes <= self._limits.buffer_max_bytes and own):
                return
            sink.urgent = True
            self.worker.wait(0.05)
            self.round()

    def _flush_and_wait(self, sink: Sink) -> None:
        sink.check()
        while sink in self._waiting or sink.in_flight is not None:
            sink.urgent = True
            self.round()
            if sink in self._waiting or sink.in_flight is not None:
                self.worker.wait(0.1)
            sink.check()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._holding or self._flying)

    def round(self) -> None:
        """One turn of `Writer._run`'s loop."""
        if not self._in_doubt:
            with self._changed:
                self._pick()
        if not self._flying:
            return
        try:
            if self._in_doubt:
                self._resolve(list(self._flying))
                self._in_doubt = False
            if self._flying:
                self._commit(list(self._flying))
        except StoreUnavailable:
            self._in_doubt = True


class SimUpstream:
    """A stream upstream: what is written becomes visible as time passes; connections break anywhere."""

    def __init__(self, world: World, texts: list[bytes], pieces: int) -> None:
        self.world = world
        self.texts = texts
        self.written_at = sorted(world.dice.uniform(0, 14) for _ in range(pieces))

    def visible(self) -> int:
        """How many of its pieces are written by now."""
        return bisect_right(self.written_at, self.world.now)

    def tail_for(self, worker: SimWorker) -> SimTail:
        raise NotImplementedError


class SimV2(SimUpstream):
    """A piece is a record."""

    def __init__(self, world: World, texts: list[bytes]) -> None:
        super().__init__(world, texts, len(texts))

    def tail_for(self, worker: SimWorker) -> SimTail:
        return SimV2Tail(self, worker)


class SimV1(SimUpstream):
    """A piece is an entry: a line, or half of one."""

    def __init__(self, world: World, texts: list[bytes]) -> None:
        pieces: list[bytes] = []
        for text in texts:
            middle = world.dice.choice((0, 0, len(text) // 2))
            pieces += [text[:middle], text[middle:] + b"\n"] if middle else [text + b"\n"]
        super().__init__(world, texts, len(pieces))
        # Two entries a millisecond: ids are compared as pairs.
        self.entries = [Entry(V1Id(1_000 + number // 2, number % 2), piece) for number, piece in enumerate(pieces)]

    def tail_for(self, worker: SimWorker) -> SimTail:
        return SimV1Tail(self, worker)


class SimTail:
    """Fits `ingest.loop.Upstream`."""

    wire: Wire

    def __init__(self, upstream: SimUpstream, worker: SimWorker) -> None:
        self.upstream = upstream
        self.worker = worker
        self.world = worker.world

    @contextmanager
    def connect(self, last_event_id: str | None, wait_s: int) -> Iterator[Connection]:
        self.worker.maybe_die()
        self.worker.wait(0.02)
        if self.world.dice.random() < self.world.p_refused:
            raise SourceUnavailable("refused", status=503)
        yield Connection(self.wire, None, self.deliveries(last_event_id, wait_s))

    def interrupt(self) -> None:
        pass

    def maybe_cut(self) -> None:
        self.worker.maybe_die()
        if self.world.dice.random() < self.world.p_cut:
            raise SourceUnavailable("cut")

    def deliveries(self, last_event_id: str | None, wait_s: int) -> Iterator[Delivery]:
        raise NotImplementedError


class SimV2Tail(SimTail):
    wire = Wire.V2

    def deliveries(self, last_event_id: str | None, wait_s: int) -> Iterator[Delivery]:
        world, texts = self.world, self.upstream.texts
        at = 0 if last_event_id is None else int(last_event_id) + 1
        idle_until = world.now + wait_s
        while True:
            self.worker.maybe_die()
            tail = self.upstream.visible()
            if at < tail:
                end = min(tail, at + world.dice.randint(1, 4))
                records = [
                    V2Record(n, 1_000 + n, Kind.DATA, texts[n], f"id{n:05}", texts[n].decode()) for n in range(at, end)
                ]
                at, idle_until = end, world.now + wait_s
                yield Delivery(records, tail=tail if end == tail else None, alive_after=True)
                self.maybe_cut()
                continue
            if world.now >= idle_until:
                yield Delivery([], tail=tail, closing=True)
                return
            yield Delivery([], tail=tail, alive_after=True)
            self.worker.wait(0.2)


class SimV1Tail(SimTail):
    """Its last event is certain only when something follows: the body may end with half a line as if it were whole."""

    wire = Wire.V1
    upstream: SimV1

    def deliveries(self, last_event_id: str | None, wait_s: int) -> Iterator[Delivery]:
        world, decoder, framer, joiner = self.world, V1Decoder(), Framer(1 << 20), LineJoiner()
        after = V1Id(*parse_id(last_event_id)) if last_event_id else BEGINNING
        idle_until = world.now + wait_s
        while True:
            self.worker.maybe_die()
            entries = [each for each in self.upstream.entries[: self.upstream.visible()] if each.id > after]
            if entries:
                entries = entries[: world.dice.randint(1, 4)]
                after, idle_until = entries[-1].id, world.now + wait_s
                if events := framer.feed(joiner.add(entries).decode()):
                    yield from decoder.decode(events)
                self.maybe_cut()
                continue
            if world.now >= idle_until:
                break
            if world.dice.random() < 0.1:
                yield Delivery([], alive_after=True)
            self.worker.wait(0.2)
        if last := framer.feed(joiner.close().decode()):
            yield from decoder.decode(last)
            self.worker.wait(world.dice.choice((0.01, 0.3)))  # the end comes in another packet
            self.maybe_cut()


class SimSignal(Signal):
    """Waits in virtual time."""

    def __init__(self, worker: SimWorker) -> None:
        super().__init__()
        self._worker = worker

    def wait(self, timeout_s: float) -> None:
        self._worker.wait(timeout_s)


class SimWorker:
    """One process: leases, control loop, Writer and readers, until it dies."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.alive = True
        self.stopped_until = 0.0
        self.skew = world.dice.choice((0.0, 0.0, -60.0, 60.0, 3600.0))
        self.writer = SimWriter(self)
        self.reading: dict[int, SimSignal] = {}
        self.leased: dict[int, int] = {}
        for loop in (self._keep, self._choose, self._write):
            world.spawn(self, loop)

    # --- where the schedule may bite

    def wait(self, seconds: float) -> None:
        self.world.sleep(self, seconds)

    def monotonic(self) -> float:
        """A clock that never jumps, as readers and Writer use it; ``skew`` is that of the wall clock."""
        return self.world.now + 1_000.0 * self.number

    def maybe_die(self) -> None:
        world = self.world
        if world.now < world.faults_until and world.dice.random() < world.p_die:
            world.kill(self)
            raise Died

    # --- the threads of a process, as `runtime` and `control` have them

    def _keep(self) -> None:
        """`Runtime._keep`."""
        database = self.world.database
        while True:
            if self.world.postgres_up:
                database.renew(self.number, self.skew)
                for stream in list(self.leased):
                    if database.rows[stream].holder != self.number and stream in self.reading:
                        self.reading[stream].leave()
                self._return_strays()
            self.wait(RENEW_S)

    def _return_strays(self) -> None:
        for row in self.world.database.rows.values():
            if row.holder == self.number and row.id not in self.reading:
                row.holder = None
                row.token += 1
                row.rev += 1

    def _choose(self) -> None:
        """`ControlLoop._choose`; hints are lost, late and doubled."""
        world = self.world
        while True:
            if world.postgres_up:
                for stream in world.database.claim(self.skew):
                    for _ in range(world.dice.choice((0, 1, 1, 1, 2))):
                        world.spawn(self, lambda stream=stream: self._read(stream), world.dice.uniform(0, 0.5))
            self.wait(1.0)

    def _write(self) -> None:
        """`Writer._run`."""
        while True:
            self.writer.round()
            self.wait(0.05 if self.writer.busy else 0.25)

    def _read(self, stream: int) -> None:
        """`Runtime.ingest_stream`."""
        world = self.world
        if stream in self.reading or not world.postgres_up:
            return
        signal = self.reading[stream] = SimSignal(self)
        try:
            leased = world.database.acquire(self.number, stream)
            self.maybe_die()
            if leased is None or world.dice.random() < world.p_lost_answer:
                return  # the answer was lost: the lease is a stray
            self.leased[stream] = leased.token
            sink = self.writer.open(
                leased, BatchLimits(max_chunks=world.dice.choice((1, 3, 8)), max_age_s=world.dice.choice((0.25, 5.0)))
            )
            reader = Reader(
                leased,
                world.upstreams[stream].tail_for(self),
                sink,
                Surroundings(world, stream),
                POLICY,
                signal,
                clock=self.monotonic,
                random=world.dice.random,
                pause=lambda: None,
            )
            try:
                sink.settle(reader.run())
            except LeaseLost:
                return
            finally:
                sink.abandon()
        finally:
            self.reading.pop(stream, None)
            self.leased.pop(stream, None)


class Surroundings:
    """Fits `ingest.loop.Surroundings`."""

    def __init__(self, world: World, stream: int) -> None:
        self._world = world
        self._stream = stream

    def standing(self) -> Standing:
        if not self._world.postgres_up:
            raise StoreUnavailable
        return self._world.database.standing(self._stream)

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        return list(self._world.database.rows[self._stream].marks)


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
        self.p_locked = dice.choice((0.0, 0.2))
        self.p_refused = dice.choice((0.0, 0.1))
        self.p_cut = dice.choice((0.0, 0.1))
        self.kills = self.stops = self.outages = 0
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
        for worker in self.workers:
            worker.stopped_until = 0.0
        self.p_lost_answer = self.p_lost_question = self.p_refused = self.p_cut = self.p_die = 0.0

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
