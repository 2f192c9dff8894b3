"""Events between those who read and the one who waits: bounded, and never in anybody's way."""

from __future__ import annotations

import asyncio
import threading
import warnings

import pytest

from tailrace.model import Arrival, Wire
from tailrace.streams import Client, aio, aio_waiter, waiter
from tailrace.streams.session import WAITING_EVENTS
from tailrace.streams.steps import Ended, Fetch, Look, Opened

OPENED = Opened(Wire.V2, None)
LONG_S = 30.0


def arrival(number: int) -> Arrival:
    return Arrival([], tail=number)


def test_a_connection_waits_while_its_events_wait() -> None:
    inbox = waiter.Inbox()
    inbox.begin(1)
    done: list[int] = []

    def fill() -> None:
        for number in range(6):
            assert inbox.put(1, arrival(number))
            done.append(number)

    thread = threading.Thread(target=fill)
    thread.start()
    found = []
    for _ in range(6):
        got = inbox.get(LONG_S)
        assert got is not None
        found.append(got[1])
        assert len(done) <= len(found) + WAITING_EVENTS
    thread.join(LONG_S)
    assert found == [arrival(number) for number in range(6)]


def test_one_that_is_not_wanted_any_more_is_told() -> None:
    inbox = waiter.Inbox()
    inbox.begin(1)
    for number in range(WAITING_EVENTS):
        assert inbox.put(1, arrival(number))
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(inbox.put(1, arrival(9))))
    thread.start()
    inbox.end(1)
    thread.join(LONG_S)
    assert told == [False]
    assert inbox.put(1, arrival(9)) is False
    assert inbox.put(2, arrival(9)) is False


def test_a_call_wakes_whoever_waits_once() -> None:
    inbox = waiter.Inbox()
    inbox.begin(1)
    inbox.wake()
    assert inbox.get(None) is None
    assert inbox.get(0.0) is None
    thread = threading.Timer(0.0, inbox.wake)
    thread.start()
    assert inbox.get(LONG_S) is None
    thread.join(LONG_S)


def test_a_signal_handler_may_wake_the_thread_that_it_interrupts() -> None:
    inbox = waiter.Inbox()
    with inbox._changed:
        inbox.wake()
    assert inbox.get(None) is None


def test_what_has_ended_leaves_nothing() -> None:
    inbox = waiter.Inbox()
    inbox.begin(1)
    inbox.put(1, OPENED)
    inbox.put(1, Ended())
    assert inbox.get(LONG_S) == (1, OPENED)
    assert inbox.get(LONG_S) == (1, Ended())
    assert inbox._waiting == {}


def test_in_asyncio_too() -> None:
    async def run() -> None:
        inbox = aio_waiter.Inbox(asyncio.get_running_loop())
        done: list[int] = []

        async def fill() -> None:
            for number in range(6):
                await inbox.put(1, arrival(number))
                done.append(number)
            await inbox.put(1, Ended())

        task = asyncio.create_task(fill())
        found = []
        for _ in range(6):
            got = await inbox.get(LONG_S)
            assert got is not None
            found.append(got[1])
            assert len(done) <= len(found) + WAITING_EVENTS
        assert found == [arrival(number) for number in range(6)]
        assert await inbox.get(LONG_S) == (1, Ended())
        await task
        assert inbox._waiting == {}
        assert await inbox.get(0.0) is None
        threading.Timer(0.0, inbox.wake).start()
        assert await inbox.get(LONG_S) is None

    asyncio.run(run())


def test_a_wait_that_is_cancelled_loses_nothing() -> None:
    async def run() -> None:
        inbox = aio_waiter.Inbox(asyncio.get_running_loop())
        wait = asyncio.create_task(inbox.get(LONG_S))
        await asyncio.sleep(0)
        wait.cancel()
        await inbox.put(1, OPENED)
        await asyncio.gather(wait, return_exceptions=True)
        assert await inbox.get(LONG_S) == (1, OPENED)

    asyncio.run(run())


@pytest.mark.parametrize("request_", [Look(live=False), Fetch(0, 0, 1, recent=False)], ids=["look", "fetch"])
def test_what_is_left_before_it_has_begun_leaves_nothing_behind(request_: Look | Fetch) -> None:
    """No coroutine that was never awaited: Python would warn whoever uses the API."""

    async def run() -> None:
        client = Client("tr_dev_x", api_url="http://127.0.0.1:1", database_url="postgresql://127.0.0.1:1/x")
        waiter = aio.read("run_1", client=client)._waiter
        waiter._start(aio_waiter.Inbox(asyncio.get_running_loop()), 1, "default", request_)
        await waiter.aclose()
        client.close()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run())
    assert [str(each.message) for each in caught] == []
