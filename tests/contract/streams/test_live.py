"""A stream is followed while it is written, and ends when its run is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tailrace.model import HoleReason, Wire
from tailrace.streams import Client
from tests.streamcases import LONG_S, PACE, Background, Flavour, Place, World

PATIENT = replace(PACE, hold_s=5.0)


class TestLive:
    def test_each_chunk_comes_as_it_is_written(self, api: Flavour, live: Place) -> None:
        """The writer waits for the reader each time."""
        reader = api.streams.read(live.run_id, "ai", **live.options)
        for number in range(10):
            live.write("ai", [str(number)])
            assert api.next(reader) == number
        live.finish()
        assert api.all(reader) == []

    def test_a_clean_end_is_no_end(self, api: Flavour, live: Place) -> None:
        """Upstream closes a silent stream; whoever reads goes on."""
        live.write("ai", ["0"])
        reader = api.streams.read(live.run_id, "ai", **live.options)
        assert api.next(reader) == 0
        background = api.in_background(reader)
        traffic = live.world.server.traffic
        assert traffic.wait_until(lambda: len(live.requests("ai")) >= 3, LONG_S)
        live.write("ai", ["1"])
        live.finish()
        assert background.result() == [1]

    def test_what_is_written_just_before_the_end_is_read(self, api: Flavour, live: Place) -> None:
        reader = api.streams.read(live.run_id, "ai", **live.options)
        background = api.in_background(reader)
        assert live.begun("ai")
        for number in range(5):
            live.write("ai", [str(number)])
        live.finish()
        assert background.result() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("status", ["COMPLETED_WITH_ERRORS", "EXPIRED", "TIMED_OUT"])
    def test_a_run_that_failed_is_over(self, api: Flavour, world: World, status: str) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["0"])
        place.finish(status)
        assert api.all(api.streams.read(place.run_id, "ai", **place.options)) == [0]

    def test_a_cancelled_run_is_over_when_its_end_is_known(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["0"])
        live.store.set_status(live.run_id, "CANCELED")
        background = api.in_background(api.streams.read(live.run_id, "ai", **live.options))
        assert live.begun("ai")
        live.write("ai", ["1"])  # its worker has not stopped yet
        live.finish("CANCELED")
        assert background.result() == [0, 1]

    def test_a_recreated_stream_is_read_from_its_beginning(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["1", "2", "3"])
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert [api.next(reader) for _ in range(3)] == [1, 2, 3]
        place.store.recreate_stream(place.run_id, "ai")
        place.write("ai", ["4"])
        assert api.next(reader) == 4
        place.finish()
        assert api.all(reader) == []
        assert [gap.reason for gap in reader.gaps] == [HoleReason.RECREATED]

    def test_half_a_line_is_never_given(self, api: Flavour, world: World) -> None:
        """Upstream sends it as if it were whole when it closes, and the rest when it is asked again."""
        place = world.place(Wire.V1)
        patient = Client("tr_dev_replay", api_url=world.server.url, timing=PATIENT)
        place.store.append_entry(place.run_id, "ai", '1\n{"text":"Hel')
        reader = api.streams.read(place.run_id, "ai", client=patient)
        assert api.next(reader) == 1
        background = api.in_background(reader)
        assert world.server.traffic.wait_until(lambda: len(place.requests("ai")) >= 3, LONG_S)
        place.store.append_entry(place.run_id, "ai", 'lo"}\n2\n')
        place.finish()
        assert background.result() == [{"text": "Hello"}, 2]

    def test_a_line_without_an_end_is_given_when_the_run_is_over(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V1)
        patient = Client("tr_dev_replay", api_url=world.server.url, timing=PATIENT)
        place.store.append_entry(place.run_id, "ai", '1\n"whole, as it is')
        place.store.append_entry(place.run_id, "ai", ' without a line end"')
        place.finish()
        reader = api.streams.read(place.run_id, "ai", client=patient)
        assert api.all(reader) == [1, "whole, as it is without a line end"]

    def test_a_silent_stream_takes_no_new_connection_for_each_look_at_its_run(self, api: Flavour, live: Place) -> None:
        reader = api.streams.read(live.run_id, "ai", timeout_in_seconds=None, **live.options)
        background = api.in_background(reader)
        traffic = live.world.server.traffic
        assert traffic.wait_until(lambda: live.looks() >= 6, LONG_S)
        live.finish()
        assert background.result() == []
        looks = traffic.requests(f"/realtime/v1/runs/{live.run_id}")
        assert len({look.peer for look in looks}) <= 2, (
            "one for the stream, one for the run, and they may change places"
        )

    def test_large_chunks_come_whole(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ['"' + "x" * 100_000 + '"'] * 300)
        place.finish()
        reader = api.streams.read(place.run_id, "ai", **place.options)
        api.next(reader)
        assert place.begun("ai")
        assert len(api.all(reader)) == 299


def test_a_background_that_fails_is_heard() -> None:
    with pytest.raises(ZeroDivisionError):
        Background(lambda: 1 // 0).result()
