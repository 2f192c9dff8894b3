"""A read that is aborted, closed or let go of leaves upstream."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import time
import weakref
from typing import Any

import pytest

from tailrace.model import Wire
from tailrace.streams import AbortController, AbortSignal, ChunkTypeError, Client, StreamAborted, aio
from tests.chaos.fleet import wait_for
from tests.streamcases import LONG_S, PACE, Flavour, Place, World, numbers


class TestAbort:
    def test_a_blocked_read_is_aborted(self, api: Flavour, live: Place) -> None:
        controller = AbortController()
        background = api.in_background(
            api.streams.read(live.run_id, "ai", signal=controller.signal, timeout_in_seconds=None, **live.options)
        )
        assert live.begun("ai")
        controller.abort("the user left")
        with pytest.raises(StreamAborted, match="the user left") as caught:
            background.result()
        assert caught.value.reason == "the user left"
        assert live.left("ai")

    def test_a_read_that_waits_for_headers_is_aborted(self, api: Flavour, live: Place) -> None:
        live.faults.stream(live.run_id, "ai").silence()
        controller = AbortController()
        background = api.in_background(api.streams.read(live.run_id, "ai", signal=controller.signal, **live.options))
        traffic = live.world.server.traffic
        assert traffic.wait_until(lambda: bool(live.requests("ai")), LONG_S)
        controller.abort()
        with pytest.raises(StreamAborted):
            background.result()

    def test_a_read_of_a_dead_connection_is_aborted(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"] * 5)
        live.faults.stream(live.run_id, "ai").hang(after_bytes=50)
        controller = AbortController()
        background = api.in_background(api.streams.read(live.run_id, "ai", signal=controller.signal, **live.options))
        assert live.begun("ai")
        controller.abort()
        with pytest.raises(StreamAborted):
            background.result()
        assert live.left("ai")

    @pytest.mark.parametrize("source", ["archive", "auto"])
    def test_a_read_of_a_silent_database_is_aborted(self, api: Flavour, world: World, source: str) -> None:
        controller = AbortController()
        with socket.create_server(("127.0.0.1", 0)) as database:
            database.settimeout(LONG_S)
            url = f"postgresql://nobody@127.0.0.1:{database.getsockname()[1]}/x"
            client = Client("tr_dev_replay", api_url=world.server.url, database_url=url, timing=PACE)
            reader = api.streams.read("run_1", "ai", client=client, source=source, signal=controller.signal)
            background = api.in_background(reader)
            connection, _ = database.accept()
            with connection:
                controller.abort()
                with pytest.raises(StreamAborted):
                    background.result()
        client.close()

    def test_a_read_between_two_attempts_is_aborted(self, api: Flavour, live: Place) -> None:
        live.faults.stream(live.run_id, "ai").answer(503, times=1000)
        controller = AbortController()
        seen: list[Any] = []

        def abort(retry: Any) -> None:
            seen.append(retry)
            controller.abort()

        reader = api.streams.read(live.run_id, "ai", signal=controller.signal, on_retry=abort, **live.options)
        with pytest.raises(StreamAborted):
            api.next(reader)
        assert len(seen) == 1
        live.faults.clear()

    def test_aborted_in_the_loop_the_next_step_raises_whatever_has_come(self, api: Flavour, place: Place) -> None:
        place.write("ai", numbers(50))
        place.finish()
        place.settle("ai")
        controller = AbortController()
        found: list[Any] = []

        def consume() -> None:
            reader = api.streams.read(place.run_id, "ai", signal=controller.signal, **place.options)
            for chunk in api.each(reader):
                found.append(chunk)
                if len(found) == 3:
                    controller.abort()

        with pytest.raises(StreamAborted):
            consume()
        assert found == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert place.left("ai")

    def test_an_aborted_signal_reads_nothing(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1"])
        place.finish()
        place.settle("ai")
        controller = AbortController()
        controller.abort()
        reader = api.streams.read(place.run_id, "ai", signal=controller.signal, **place.options)
        with pytest.raises(StreamAborted):
            api.next(reader)
        assert place.requests("ai") == []

    def test_a_signal_with_a_time_aborts_by_itself(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        began = time.monotonic()
        reader = api.streams.read(live.run_id, "ai", signal=AbortSignal.timeout(0.8), **live.options)
        assert api.next(reader) == 1
        with pytest.raises(StreamAborted) as caught:
            api.next(reader)
        assert 0.8 <= time.monotonic() - began < LONG_S
        assert isinstance(caught.value.reason, TimeoutError)

    def test_one_signal_ends_many_reads_and_any_of_many_ends_one(self, api: Flavour, world: World) -> None:
        controller, other = AbortController(), AbortController()
        places = [world.place(Wire.V2) for _ in range(4)]
        readers = [
            api.streams.read(
                each.run_id, "ai", signal=AbortSignal.any([controller.signal, other.signal]), **each.options
            )
            for each in places
        ]
        background = [api.in_background(reader) for reader in readers]
        for each in places:
            assert each.begun("ai")
        controller.abort()
        for each in background:
            with pytest.raises(StreamAborted):
                each.result()

    def test_another_thread_may_abort_while_it_is_read(self, api: Flavour, live: Place) -> None:
        controller = AbortController()
        reader = api.streams.read(live.run_id, "ai", signal=controller.signal, **live.options)
        live.write("ai", ["1"])
        assert api.next(reader) == 1
        thread = threading.Thread(target=controller.abort)
        thread.start()
        with pytest.raises(StreamAborted):
            api.all(reader)
        thread.join()


class TestLeaving:
    def test_closing_leaves_upstream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        reader = api.streams.read(live.run_id, "ai", **live.options)
        assert api.next(reader) == 1
        assert live.begun("ai")
        api.close(reader)
        assert live.left("ai")
        api.close(reader)
        assert api.all(reader) == []

    def test_letting_go_leaves_upstream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        reader = api.streams.read(live.run_id, "ai", **live.options)
        assert api.next(reader) == 1
        assert live.begun("ai")
        del reader
        assert live.left("ai")

    def test_letting_go_after_a_chunk_that_does_not_fit_leaves_upstream(self, api: Flavour, live: Place) -> None:
        """At once, not when the collector comes by."""
        live.write("ai", ['"a"'])
        reader = api.streams.read(live.run_id, "ai", type=int, **live.options)
        gone = weakref.ref(reader)
        gc.disable()
        try:
            with contextlib.suppress(ChunkTypeError):
                api.next(reader)
            del reader
            wait_for(lambda: gone() is None, 10, "nothing holds the reader")
        finally:
            gc.enable()
        assert live.left("ai")

    def test_a_read_that_never_began_asks_nothing(self, api: Flavour, live: Place) -> None:
        reader = api.streams.read(live.run_id, "ai", **live.options)
        api.close(reader)
        del reader
        assert live.requests("ai") == []

    def test_an_error_of_the_callers_leaves_upstream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ['"a"'])

        def refuse(error: ChunkTypeError) -> None:
            raise RuntimeError("mine") from error

        reader = api.streams.read(live.run_id, "ai", type=int, on_invalid=refuse, **live.options)
        with pytest.raises(RuntimeError, match="mine"):
            api.next(reader)
        assert live.left("ai")


class TestTheLoopEnds:
    """A loop that ends closes no connection; `tests.leaks` finds those that a read has left."""

    @pytest.mark.parametrize("steps", range(0, 160, 10))
    def test_while_a_read_connects(self, world: World, steps: int) -> None:
        place = world.place(Wire.V2)

        async def begin_and_go() -> None:
            waiting = asyncio.create_task(anext(aio.as_sse(place.run_id, "ai", **place.options)))
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()  # as an ASGI server does whose client has left

        asyncio.run(begin_and_go())

    @pytest.mark.parametrize("closed", [True, False])
    def test_when_enough_was_read(self, world: World, closed: bool) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["1", "2"])

        async def first() -> Any:
            reader = aio.read(place.run_id, "ai", **place.options)
            chunk = await anext(reader)
            if closed:
                await reader.aclose()
            return chunk

        assert asyncio.run(first()) == 1
        assert place.left("ai")

    def test_while_a_reader_is_kept(self, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["1"])
        kept = []

        async def first() -> Any:
            kept.append(aio.read(place.run_id, "ai", **place.options))
            return await anext(kept[0])

        async def another() -> Any:
            return await anext(kept[0])

        assert asyncio.run(first()) == 1
        assert place.left("ai")
        with pytest.raises(RuntimeError, match="loop"):  # no end: nobody would know that the rest is missing
            asyncio.run(another())
