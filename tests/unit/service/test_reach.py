"""While upstream is away one looks for all; its first answer wakes them; one stream's trouble is its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from structlog.testing import capture_logs

from tailrace.errors import NotFound, SourceUnavailable, StreamStalled, WorkerError
from tailrace.ingest.signal import Signal
from tailrace.service.reach import LOOK_S, MANY, Reach
from tailrace.telemetry import CALM_S

DOWN = SourceUnavailable("connection refused")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def asked(reach: Reach, whose: object, error: WorkerError | None) -> None:
    try:
        with reach.asking(whose):
            if error is not None:
                raise error
    except WorkerError:
        return


def away(clock: Clock | None = None) -> Reach:
    reach = Reach(clock or Clock(), lambda: 0.5)
    for stream in range(MANY):
        asked(reach, stream, DOWN)
    assert reach.away
    return reach


@contextmanager
def waiting(reach: Reach, count: int) -> Iterator[tuple[list[Signal], threading.Semaphore]]:
    """Readers that wait, one after the other, and how many of them went on."""
    signals, went_on = [Signal() for _ in range(count)], threading.Semaphore(0)

    def wait(signal: Signal) -> None:
        reach.wait(signal)
        went_on.release()

    with ExitStack() as ends:
        for number, signal in enumerate(signals):
            thread = threading.Thread(target=wait, args=(signal,), daemon=True)
            thread.start()
            ends.callback(thread.join, 10)
            ends.callback(signal.leave)
            while len(reach._waiting) <= number and thread.is_alive():
                pass
        yield signals, went_on


def test_one_stream_that_can_not_be_read_is_no_outage() -> None:
    reach = Reach()
    for _ in range(100):
        asked(reach, "bad", DOWN)
    assert not reach.away


def test_nor_are_many_one_at_a_time() -> None:
    reach = Reach()
    for stream in range(100):
        asked(reach, stream, DOWN)
        asked(reach, "good", None)
    assert not reach.away


@pytest.mark.parametrize("error", [DOWN, SourceUnavailable("", status=503), StreamStalled("silent")])
def test_many_that_can_not_be_asked_are(error: WorkerError) -> None:
    reach = Reach()
    for stream in range(MANY):
        assert not reach.away
        asked(reach, stream, error)
    assert reach.away


@pytest.mark.parametrize(
    "error", [NotFound("no"), SourceUnavailable("", status=500), SourceUnavailable("", status=429, retry_after_s=9.0)]
)
def test_an_answer_is_one_whatever_it_says(error: WorkerError) -> None:
    reach = away()
    asked(reach, "any", error)
    assert not reach.away


def test_nobody_waits_while_it_is_there() -> None:
    Reach().wait(Signal())


def test_one_looks_when_it_is_time_and_then_the_next() -> None:
    clock = Clock()
    reach = away(clock)
    with waiting(reach, 3) as (signals, went_on):
        assert not went_on.acquire(timeout=0.05)
        for _ in range(2):
            clock.now += LOOK_S
            signals[0].poke()
            signals[1].poke()
            assert went_on.acquire(timeout=5)
            assert not went_on.acquire(timeout=0.05), "one at a time"
            asked(reach, "it", DOWN)


def test_one_that_does_not_wait_takes_its_turn_among_them() -> None:
    clock = Clock()
    reach = away(clock)
    assert not reach.may_look()
    clock.now += LOOK_S
    assert reach.may_look()
    assert not reach.may_look()
    asked(reach, "it", None)
    assert reach.may_look()


def test_an_answer_wakes_all() -> None:
    reach = away()
    with waiting(reach, 20) as (_, went_on):
        asked(reach, "another", None)
        for _ in range(20):
            assert went_on.acquire(timeout=5)


def test_who_is_called_leaves_and_the_next_is_the_first() -> None:
    clock = Clock()
    reach = away(clock)
    with waiting(reach, 2) as (signals, went_on):
        signals[0].leave()
        assert went_on.acquire(timeout=5)
        clock.now += LOOK_S
        signals[1].poke()
        assert went_on.acquire(timeout=5)


def test_an_outage_is_told_once_and_its_end_once_however_many_meet_it() -> None:
    clock = Clock()
    with capture_logs() as lines:
        reach = away(clock)
        for stream in range(100):
            asked(reach, stream, DOWN)
        asked(reach, 1, None)  # one answer between outages is no end
        for stream in range(MANY):
            asked(reach, stream, DOWN)
        for _ in range(3):
            clock.now += CALM_S
            asked(reach, 1, None)
    assert [(line["log_level"], line["event"], line["environment"]) for line in lines] == [
        ("warning", "upstream_failed", "default"),
        ("info", "upstream_recovered", "default"),
    ]


def test_the_trouble_of_one_stream_is_not_told_as_upstreams() -> None:
    reach = Reach(Clock())
    with capture_logs() as lines:
        for _ in range(100):
            asked(reach, 1, DOWN)
    assert lines == []
