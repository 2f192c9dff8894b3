"""A value is looked up by one for all, and again when it is too old."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from tailrace.serve.fresh import AGAIN_AFTER_S, Fresh
from tests.unit.serve.looped import looped


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Look:
    """Counts looks; the next one does what ``act`` does."""

    def __init__(self) -> None:
        self.count = 0
        self.act: Callable[[], None] = lambda: None

    def __call__(self) -> int:
        self.count += 1
        self.act()
        return self.count


def failing() -> None:
    raise LookupError("away")


@looped
async def test_it_is_looked_up_when_it_is_older_than_will_do() -> None:
    clock, look = Clock(), Look()
    fresh = Fresh(look, clock)
    assert await fresh.at_most(5) == 1
    clock.now += 5
    assert await fresh.at_most(5) == 1
    assert await fresh.at_most(4) == 2
    clock.now += 5.1
    assert await fresh.at_most(5) == 3


@looped
async def test_many_who_ask_at_once_have_one_look() -> None:
    look = Look()
    fresh = Fresh(look, Clock())
    assert set(await asyncio.gather(*(fresh.at_most(0) for _ in range(50)))) == {1}


@looped
async def test_whoever_leaves_ends_nobody_elses_look_and_begins_no_second() -> None:
    look, begun, go = Look(), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go.wait(30)

    look.act = wait
    fresh = Fresh(look, Clock())
    for _ in range(20):
        leaving = asyncio.create_task(fresh.at_most(0))
        await asyncio.to_thread(begun.wait, 30)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    staying = asyncio.create_task(fresh.at_most(0))
    await asyncio.sleep(0)
    go.set()
    assert await staying == 1


@looped
async def test_what_fails_is_told_to_all_and_not_tried_again_at_once() -> None:
    clock, look = Clock(), Look()
    fresh = Fresh(look, clock)
    look.act = failing
    told = await asyncio.gather(*(fresh.at_most(5) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [LookupError] * 3
    clock.now += AGAIN_AFTER_S
    with pytest.raises(LookupError):
        await fresh.at_most(5)
    assert look.count == 1
    look.act = lambda: None
    clock.now += 0.1
    assert await fresh.at_most(5) == 2


@looped
async def test_an_error_that_is_told_again_and_again_does_not_grow() -> None:
    look = Look()
    look.act = failing
    fresh = Fresh(look, Clock())
    depths = set()
    for _ in range(10):
        with pytest.raises(LookupError) as caught:
            await fresh.at_most(5)
        depths.add(len(caught.traceback))
    assert len(depths) <= 2
