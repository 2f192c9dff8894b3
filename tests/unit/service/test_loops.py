"""A loop outlives whatever its turns raise, and says it once."""

from __future__ import annotations

import threading

from structlog.testing import capture_logs

from tailrace.errors import StoreUnavailable
from tailrace.service.loops import Loop


def test_a_loop_says_once_that_it_fails() -> None:
    outcomes: list[Exception | None] = [StoreUnavailable(), StoreUnavailable(), RuntimeError("x"), None, None]
    done = threading.Event()

    def turn() -> float:
        if not outcomes:
            done.set()
            return 60.0
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome
        return 0.0

    loop = Loop("test", turn, what="work", retry_s=lambda: 0.0, environment="staging")
    with capture_logs() as logs:
        loop.start()
        assert done.wait(10)
        loop.stop(10)
    assert [line["event"] for line in logs] == ["work_failed", "work_failed"]
    assert {line["environment"] for line in logs} == {"staging"}


def test_a_loop_that_waits_takes_a_turn_when_it_is_called_and_none_after_its_end() -> None:
    turns = threading.Semaphore(0)

    def turn() -> float:
        turns.release()
        return 60.0

    loop = Loop("test", turn, what="work", retry_s=lambda: 60.0)
    loop.start()
    assert turns.acquire(timeout=10)
    loop.wake()
    assert turns.acquire(timeout=10)
    loop.stop(10)
    loop.wake()
    assert not turns.acquire(blocking=False)


def test_a_loop_ends_when_it_need_not_go_on() -> None:
    served = threading.Event()
    ended = threading.Event()

    def goes_on() -> bool:
        if served.is_set():
            ended.set()
        return not served.is_set()

    loop = Loop("test", lambda: served.set() or 0.0, what="work", retry_s=lambda: 0.0, goes_on=goes_on)
    loop.start()
    assert ended.wait(10)
    loop.stop(10)
