"""A worker process in virtual time: the real `Reader` per stream and the real `Writer`, and the loops around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.errors import LeaseLost, StoreUnavailable
from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.model import RunEnd
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.sink import Sink
from tailrace.store.writer import Writer, WriterLimits
from tests.simulation.database import ModelCommitter

if TYPE_CHECKING:
    from tests.simulation.core import World

RENEW_S = 2.0
POLICY = Timing(
    wait_s=1, park_after_s=1e9, quiet_s=2.0, slice_s=12.0, retry_base_s=0.5, retry_cap_s=4.0, reconnect_s=0.5
)


class Died(BaseException):
    """The process is gone. Nothing in the code under test may catch it."""


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

    def _wait_for_change(self) -> None:
        self.worker.wait(0.05)
        self.round()

    def flush_and_wait(self, sink: Sink) -> None:
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
            with self.changed:
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

    # --- the threads of a process, as `service` has them

    def _keep(self) -> None:
        """`LeaseKeeper`."""
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
                StreamFacts(world, stream),
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


class StreamFacts:
    """Fits `ingest.reader.StreamFacts`."""

    def __init__(self, world: World, stream: int) -> None:
        self._world = world
        self._stream = stream

    def run_end(self) -> RunEnd:
        if not self._world.postgres_up:
            raise StoreUnavailable
        return self._world.database.run_end(self._stream)

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        return list(self._world.database.rows[self._stream].fingerprints)
