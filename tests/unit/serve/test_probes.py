"""What a probe is told of a process that serves."""

from __future__ import annotations

import asyncio
import threading

from tailrace.errors import StoreUnavailable
from tailrace.serve.probes import Probes
from tests.unit.serve.looped import looped


async def there() -> None:
    return


async def away() -> None:
    raise StoreUnavailable("connection refused")


def test_before_it_serves_it_lives_and_is_not_ready() -> None:
    probes = Probes()
    assert probes.live() == []
    assert probes.ready() == ["it has not begun to serve"]


@looped
async def test_it_lives_and_is_ready_until_it_stops() -> None:
    probes = Probes()
    probes.begin(there)
    assert await asyncio.to_thread(probes.live) == []
    assert await asyncio.to_thread(probes.ready) == []
    probes.end()
    assert await asyncio.to_thread(probes.live) == []
    assert probes.ready() == ["it is stopping"]


@looped
async def test_a_database_that_is_away_makes_it_not_ready_and_is_no_reason_to_restart_it() -> None:
    probes = Probes()
    probes.begin(away)
    assert await asyncio.to_thread(probes.live) == []
    assert await asyncio.to_thread(probes.ready) == ["connection refused"]


@looped
async def test_a_loop_that_hangs_is_not_alive() -> None:
    probes, told, asked = Probes(answer_s=0.05), list[list[str]](), threading.Event()
    probes.begin(there)

    def ask() -> None:
        told.append(probes.live())
        asked.set()

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait(60)  # holds the loop until whoever asked was told
    thread.join()
    assert told == [["it did not answer within 0.05 s"]]


def test_a_loop_that_has_ended_is_told_of() -> None:
    probes = Probes()

    async def serve() -> None:
        probes.begin(there)

    asyncio.run(serve())
    assert probes.live() == ["it has stopped"]
