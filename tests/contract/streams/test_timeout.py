"""A stream that is silent for too long while its run goes on is an error."""

from __future__ import annotations

import time

import pytest

from tailrace.model import Wire
from tailrace.streams import StreamError, StreamTimeout
from tests.streamcases import LONG_S, Flavour, Place, World


class TestTimeout:
    def test_a_stream_that_goes_quiet_times_out(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1", "2"])
        reader = api.streams.read(live.run_id, "ai", timeout_in_seconds=1.5, **live.options)
        assert [api.next(reader), api.next(reader)] == [1, 2]
        began = time.monotonic()
        with pytest.raises(StreamTimeout, match=r"1\.5 s") as caught:
            api.next(reader)
        assert 1.4 < time.monotonic() - began < LONG_S
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, StreamError)
        assert caught.value.timeout_in_seconds == 1.5
        assert live.left("ai")
        assert api.all(reader) == []

    def test_a_stream_that_is_over_just_ends(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        live.finish()
        assert api.all(api.streams.read(live.run_id, "ai", timeout_in_seconds=0.02, **live.options)) == [1]

    def test_time_that_the_caller_takes_does_not_count(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["1"])
        reader = api.streams.read(place.run_id, "ai", timeout_in_seconds=0.2, **place.options)
        assert api.next(reader) == 1
        assert place.left("ai")  # after 0.3 s of silence upstream closes
        place.write("ai", ["2"])
        assert api.next(reader) == 2
        api.close(reader)

    def test_a_timeout_over_several_connections(self, api: Flavour, live: Place) -> None:
        """Upstream closes cleanly every 0.3 s; the silence goes on."""
        reader = api.streams.read(live.run_id, "ai", timeout_in_seconds=0.8, **live.options)
        with pytest.raises(StreamTimeout):
            api.next(reader)
        assert len(live.requests("ai")) >= 2

    def test_a_cancelled_run_without_an_end_does_not_time_out(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        live.store.set_status(live.run_id, "CANCELED")
        assert api.all(api.streams.read(live.run_id, "ai", timeout_in_seconds=0.1, **live.options)) == [1]
