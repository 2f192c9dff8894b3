"""An upstream that does what a test says, connection by connection, and what a reader of it needs besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from worker.ingest.loop import Reader, ReadPolicy, Signal
from worker.model import (
    Checkpoint,
    Delivery,
    LeasedStream,
    Settlement,
    Standing,
    StreamRef,
    Take,
    V1Record,
    V2Record,
    Wire,
)
from worker.source.tail import Connection
from worker.wire.v2 import decode_read_batch

NOW_MS = 1_795_000_000_000


@dataclass
class Answer:
    """One connection: what it brings, and how it ends. ``end`` None is a clean end; an exception is raised."""

    wire: Wire
    deliveries: list[Delivery | Callable[[], None]] = field(default_factory=list)
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

    def _deliveries(self, answer: Answer) -> Iterator[Delivery]:
        for each in answer.deliveries:
            if isinstance(each, Delivery):
                yield each
            else:
                each()
                yield Delivery([])
        if answer.end is not None:
            raise answer.end

    def interrupt(self) -> None:
        self.interrupted += 1


class Shelf:
    """Keeps what a reader stores. Fits `loop.Sink` and `loop.Surroundings`. ``late`` makes a withdrawal too late."""

    def __init__(self, standing: Standing | None = None) -> None:
        self.state = standing or Standing()
        self.takes: list[Take] = []
        self.held: Take | None = None
        self.wires: list[Wire] = []
        self.lags: list[int] = []
        self.troubles: list[tuple[str | None, int]] = []
        self.late = False

    def put(self, take: Take, wire: Wire) -> None:
        self.confirm()
        self.takes.append(take)
        self.wires.append(wire)

    def hold(self, take: Take, wire: Wire) -> None:
        self.confirm()
        self.held = take
        self.wires.append(wire)
        if self.late:
            self.confirm()

    def confirm(self) -> None:
        if self.held is not None:
            self.takes.append(self.held)
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

    def standing(self) -> Standing:
        return self.state

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        return []

    @property
    def texts(self) -> list[bytes]:
        return [text for take in self.takes for text in take.texts]


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
    standing: Standing | None = None,
    *,
    attempt: int = 0,
    silent_s: float = 0.0,
    lost_count: int = 0,
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
        standing=standing or Standing(),
        options={},
        not_before_ms=NOW_MS - 60_000,
    )


@dataclass
class Played:
    """What became of a reader."""

    settlement: Settlement
    shelf: Shelf
    script: Script
    signal: PatientSignal
    clock: Clock
    alarms: list[str]


def play(
    *answers: Answer,
    stream: LeasedStream | None = None,
    shelf: Shelf | None = None,
    policy: ReadPolicy | None = None,
    signal: PatientSignal | None = None,
    clock: Clock | None = None,
) -> Played:
    """Run a reader over the answers until it leaves the stream."""
    stream = stream or leased()
    shelf = shelf or Shelf(stream.standing)
    clock = clock or Clock()
    script, signal, alarms = Script(*answers), signal or PatientSignal(clock), list[str]()
    reader = Reader(
        *(stream, script, shelf, shelf, policy or ReadPolicy(), signal),
        clock=clock,
        random=lambda: 1.0,
        pause=lambda: None,
        alarm=alarms.append,
    )
    return Played(reader.run(), shelf, script, signal, clock, alarms)


def v1(*records: tuple[int, int, str], alive: bool = True) -> Delivery:
    return Delivery([V1Record(NOW_MS + ms, seq, text) for ms, seq, text in records], alive_after=alive)


def v2(*numbers: int, tail: int | None = None, text: str = "") -> Delivery:
    records = ",".join(
        f'{{"seq_num":{n},"timestamp":{NOW_MS},"body":"{{\\"data\\":{text or n},\\"id\\":\\"i{n}\\"}}"}}'
        for n in numbers
    )
    delivery = decode_read_batch(f'{{"records":[{records}]}}')
    assert all(isinstance(record, V2Record) for record in delivery.records)
    return delivery._replace(tail=tail)


PING = Delivery([], alive_after=True)
DONE = Delivery([], closing=True, alive_after=True)


def tail(seq_num: int) -> Delivery:
    return Delivery([], tail=seq_num, alive_after=True)
