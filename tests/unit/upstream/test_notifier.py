"""Readers wake at once, whoever rings, and miss no ring."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from tests.unit.serve.virtual_time import now_s, run_virtually
from tests.upstream.notifier import Notifier


def test_what_is_there_already_needs_no_ring() -> None:
    assert run_virtually(Notifier().until(lambda: [1], 5)) == [1]


def test_without_a_ring_the_wait_is_as_long_as_asked() -> None:
    async def wait() -> float:
        assert await Notifier().until(lambda: False, 5) is False
        return now_s()

    assert 5 <= run_virtually(wait()) < 5.001


def test_a_ring_from_another_thread_wakes_every_reader() -> None:
    notifier = Notifier()
    found: list[int] = []
    looks = 0
    everyone_waits = threading.Event()

    def look() -> list[int]:
        nonlocal looks
        looks += 1
        if looks == 6:  # each reader looks twice before it waits
            everyone_waits.set()
        return found

    def write() -> None:
        assert everyone_waits.wait(5)
        found.append(1)
        notifier.ring()

    async def read() -> list[list[int]]:
        return await asyncio.gather(*[notifier.until(look, 30) for _ in range(3)])

    writer = threading.Thread(target=write)
    writer.start()
    assert asyncio.run(read()) == [[1]] * 3
    writer.join()


def test_a_change_between_the_look_and_the_wait_is_seen() -> None:
    notifier = Notifier()
    looks = iter([False, True])
    assert run_virtually(notifier.until(lambda: next(looks), 5)) is True


def test_a_ring_for_another_thing_is_not_an_answer() -> None:
    notifier = Notifier()

    async def wait() -> tuple[bool, float]:
        asyncio.get_running_loop().call_later(1, notifier.ring)
        return await notifier.until(lambda: False, 5), now_s()

    answer, at_s = run_virtually(wait())
    assert (answer, round(at_s)) == (False, 5)


def test_a_reader_whose_loop_was_closed_does_not_disturb_the_writer() -> None:
    notifier = Notifier()
    loop = asyncio.new_event_loop()

    async def begin(look: Callable[[], bool]) -> asyncio.Task[bool]:
        task = asyncio.ensure_future(notifier.until(look, 30))
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(begin(lambda: False))
    loop.close()
    notifier.ring()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is abandoned on purpose
