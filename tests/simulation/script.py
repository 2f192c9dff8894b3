"""An upstream that does what a test says, connection by connection, and what a reader of it needs besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.model import (
    Arrival,
    Batch,
    Checkpoint,
    LeasedStream,
    Outcome,
    RunEnd,
    StreamRef,
    V1Record,
    V2Record,
    Wire,
)
from tailrace.source.connection import Connection
from tailrace.wire.v2 import decode_read_batch

NOW_MS = 1_795_000_000_000


@dataclass
class Answer:
    """One connection: what it brings, and how it ends. ``end`` None is a clean end; an exception is raised.

    What is called may return an arrival; else nothing that counts has come.
    """

    wire: Wire
    arrivals: list[Arrival | Callable[[], Arrival | None]] = field(default_factory=list)
    end: BaseException | None = None
    refused: BaseException | None = None


class Script:
    """Gives the answers in their order; what is asked after the last is an error of the test. Fits `loop.Upstream`."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str | None, int]] = []
        self.interrupted = 0

    @property
    def left(self) -> int:
        return len(self._answers)

    @contextmanager
    def connect(self, last_event_id: str | None, wait_s: int) -> Iterator[Connection]:
        self.asked.append((last_event_id, wait_s))
        assert self._answers, "nobody expected another connection"
        answer = self._answers.pop(0)
        if answer.refused is not None:
            raise answer.refused
        yield Connection(answer.wire, NOW_MS, self._deliveries(answer))

    def _deliveries(self, answer: Answer) -> Iterator[Arrival]:
        for each in answer.arrivals:
            if isinstance(each, Arrival):
                yield each
            else:
                yield each() or Arrival([])
        if answer.end is not None:
            raise answer.end

    def interrupt(self) -> None:
        self.interrupted += 1


class Shelf:
    """Keeps what a reader stores. Fits `loop.Sink` and `loop.StreamFacts`. ``late`` makes a withdrawal too late."""

    def __init__(self, run_end: RunEnd | None = None) -> None:
        self.state = run_end or RunEnd()
        self.batches: list[Batch] = []
        self.held: Batch | None = None
        self.wires: list[Wire] = []
        self.lags: list[int] = []
        self.troubles: list[tuple[str | None, int]] = []
        self.reasons: list[str | None] = []  # why it was stuck
        self.late = False

    def put(self, batch: Batch, wire: Wire) -> None:
        self.confirm()
        self.batches.append(batch)
        self.wires.append(wire)

    def hold(self, batch: Batch, wire: Wire) -> None:
        self.confirm()
        self.held = batch
        self.wires.append(wire)
        if self.late:
            self.confirm()

    def confirm(self) -> None:
        if self.held is not None:
            self.batches.append(self.held)
            self.held = None

    def withdraw(self) -> bool:
        held, self.held = self.held, None
        return held is not None

    def flush(self) -> None:
        raise AssertionError("nobody asked for it")

    def lag(self, records: int) -> None:
        self.lags.append(records)

    def trouble(self, error: str | None, attempt: int) -> None:
        self.troubles.append((error, attempt))

    def stuck(self, reason: str | None) -> None:
        self.reasons.append(reason)

    def run_end(self) -> RunEnd:
        return self.state

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        return []

    @property
    def texts(self) -> list[bytes]:
        return [text for batch in self.batches for text in batch.texts]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class PatientSignal(Signal):
    """A signal whose waits take no time but the clock's."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.waits: list[float] = []

    def wait(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        self._clock.now += max(0.0, timeout_s)


def leased(
    wire: Wire | None = None,
    checkpoint: Checkpoint | None = None,
    run_end: RunEnd | None = None,
    *,
    attempt: int = 0,
    silent_s: float = 0.0,
    lost_count: int = 0,
    stuck: str | None = None,
) -> LeasedStream:
    return LeasedStream(
        id=1,
        ref=StreamRef("run_1", "ai"),
        token=1,
        rev=1,
        wire=wire,
        checkpoint=checkpoint or Checkpoint(),
        attempt=attempt,
        chunk_count=0,
        lost_count=lost_count,
        silent_s=silent_s,
        run_end=run_end or RunEnd(),
        options={},
        not_before_ms=NOW_MS - 60_000,
        stuck=stuck,
    )


@dataclass
class Played:
    """What became of a reader."""

    outcome: Outcome
    shelf: Shelf
    script: Script
    signal: PatientSignal
    clock: Clock
    alarms: list[str]
    reader: Reader


def play(
    *answers: Answer,
    stream: LeasedStream | None = None,
    shelf: Shelf | None = None,
    timing: Timing | None = None,
    signal: PatientSignal | None = None,
    clock: Clock | None = None,
) -> Played:
    """Run a reader over the answers until it leaves the stream."""
    stream = stream or leased()
    shelf = shelf or Shelf(stream.run_end)
    clock = clock or Clock()
    script, signal, alarms = Script(*answers), signal or PatientSignal(clock), list[str]()
    reader = Reader(
        *(stream, script, shelf, shelf, timing or Timing(), signal),
        clock=clock,
        random=lambda: 1.0,
        pause=lambda: None,
        alarm=alarms.append,
    )
    return Played(reader.run(), shelf, script, signal, clock, alarms, reader)


def v1(*records: tuple[int, int, str], alive: bool = True) -> Arrival:
    return Arrival([V1Record(NOW_MS + ms, seq, text) for ms, seq, text in records], alive_after=alive)


def v2(*numbers: int, tail: int | None = None, text: str = "") -> Arrival:
    records = ",".join(
        f'{{"seq_num":{n},"timestamp":{NOW_MS},"body":"{{\\"data\\":{text or n},\\"id\\":\\"i{n}\\"}}"}}'
        for n in numbers
    )
    arrival = decode_read_batch(f'{{"records":[{records}]}}')
    assert all(isinstance(record, V2Record) for record in arrival.records)
    return arrival._replace(tail=tail)


PING = Arrival([], alive_after=True)
DONE = Arrival([], alive_after=True)


def tail(seq_num: int) -> Arrival:
    return Arrival([], tail=seq_num, alive_after=True)
