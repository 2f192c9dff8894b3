"""v1's last event is held by the Writer: it may be half a line, and only the end of its body tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from tailrace.hold import GRACE
from tailrace.model import Batch, Checkpoint, LeasedStream, RunEnd, StreamRef, Wire
from tailrace.store.commit import Committer, Fates, Flush
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.sink import Sink
from tailrace.store.writer import Writer, WriterLimits

HOLD_S = 2.0


class Clock:
    """Goes on when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Accepting(Committer):
    """Commits everything."""

    def __init__(self) -> None: ...

    def commit(self, flushes: list[Flush]) -> set[int]:
        return {flush.stream_id for flush in flushes}

    def fates(self, stream_ids: Iterable[int]) -> Fates:
        raise AssertionError("nothing was lost")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def writer(clock: Clock) -> Iterator[Writer]:
    made = Writer(Accepting(), WriterLimits(hold_s=HOLD_S), random=lambda: 0.5, clock=clock)
    made.start()
    yield made
    made.stop(5)


def sink_of(writer: Writer, stream_id: int) -> Sink:
    ref = StreamRef("run_1", str(stream_id))
    stream = LeasedStream(
        *(stream_id, ref, 1, 1, Wire.V1, Checkpoint(), 0, 0, 0, 0.0, RunEnd(), {}),
    )
    return writer.open(stream, BatchLimits())


def line(index: int) -> Batch:
    return Batch(Checkpoint(0, index), indices=[index], texts=[b"1"], emitted_ms=[1], size_bytes=1)


def a_turn_of(writer: Writer, other: Sink, index: int) -> None:
    """Have the Writer's thread go round: it does before this returns."""
    other.put(line(index), Wire.V1)
    other.flush()


def test_a_line_is_not_believed_just_because_the_process_was_stopped(writer: Writer, clock: Clock) -> None:
    held, other = sink_of(writer, 1), sink_of(writer, 2)
    held.hold(line(0), Wire.V1)
    clock.now += HOLD_S + 10  # nothing ran meanwhile, its reader neither
    a_turn_of(writer, other, 0)
    assert held.withdraw()


def test_a_line_is_believed_when_nothing_followed_for_long_enough(writer: Writer, clock: Clock) -> None:
    held, other = sink_of(writer, 1), sink_of(writer, 2)
    held.hold(line(0), Wire.V1)
    clock.now += (1 - GRACE) * HOLD_S
    a_turn_of(writer, other, 0)
    clock.now += GRACE * HOLD_S
    a_turn_of(writer, other, 1)
    assert not held.withdraw()
