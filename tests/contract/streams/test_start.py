"""A read starts at any index, and goes on where another stopped."""

from __future__ import annotations

import pytest

from tailrace.model import HoleReason, Wire
from tests.streamcases import Flavour, Place, World, numbers
from tests.upstream.drafts import control_draft, fence_draft


class TestStart:
    @pytest.mark.parametrize("index", [0, 1, 9, 30])
    def test_a_read_starts_at_any_index_on_both_wires(self, api: Flavour, place: Place, index: int) -> None:
        place.write("ai", numbers(10))
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", start_index=index, **place.options)
        assert api.all(reader) == [{"n": each} for each in range(index, 10)]

    def test_lines_that_share_an_entry_or_lie_over_several_are_counted(
        self, api: Flavour, world: World, source: str
    ) -> None:
        place = world.place(Wire.V1, source)
        for piece in ("0\n1\n2\n", '{"n"', ":3", "}\n4\n5", "\n", "6\n"):
            place.store.append_entry(place.run_id, "ai", piece)
        place.finish()
        place.settle("ai")
        expected = [0, 1, 2, {"n": 3}, 4, 5, 6]
        for index in (0, 1, 3, 5, 7):
            reader = api.streams.read(place.run_id, "ai", start_index=index, **place.options)
            assert api.all(reader) == expected[index:]

    def test_v2_counts_what_is_no_chunk_too(self, api: Flavour, world: World, source: str) -> None:
        place = world.place(Wire.V2, source)
        place.write("ai", ["0", "1"])
        place.store.append_records(place.run_id, "ai", [fence_draft("x"), control_draft("turn-complete")])
        place.write("ai", ["4", "5"])
        place.store.repeat_record(place.run_id, "ai", 5)
        place.write("ai", ["7"])
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert api.all(reader) == [0, 1, 4, 5, 7]
        for index, rest in ((2, [4, 5, 7]), (5, [5, 7]), (6, [7])):
            reader = api.streams.read(place.run_id, "ai", start_index=index, **place.options)
            assert api.all(reader) == rest

    @pytest.mark.parametrize("at", [0, 8])
    def test_a_read_goes_on_where_another_stopped(self, api: Flavour, place: Place, at: int) -> None:
        place.write("ai", numbers(10))
        place.finish()
        place.settle("ai")
        first = api.streams.read(place.run_id, "ai", **place.options)
        for _ in range(at + 1):
            api.next(first)
        rest = api.streams.read(place.run_id, "ai", last_event_id=first.last_event_id, **place.options)
        assert api.all(rest) == [{"n": each} for each in range(at + 1, 10)]
        api.close(first)

    def test_after_the_last_chunk_there_is_nothing(self, api: Flavour, place: Place) -> None:
        place.write("ai", numbers(4))
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert len(api.all(reader)) == 4
        for more in ({"last_event_id": reader.last_event_id}, {"start_index": reader.last_index + 1}):
            assert api.all(api.streams.read(place.run_id, "ai", **more, **place.options)) == []

    def test_v1_goes_on_where_another_stopped_although_upstream_has_trimmed(self, api: Flavour, world: World) -> None:
        """Counting would go wrong: after the trim, the first line that upstream has is another one."""
        place = world.place(Wire.V1)
        place.write("ai", numbers(250))
        reader = api.streams.read(place.run_id, "ai", **place.options)
        for _ in range(200):
            api.next(reader)
        api.close(reader)
        place.store.trim_entries(place.run_id, "ai", 100)
        place.finish()
        rest = api.streams.read(place.run_id, "ai", last_event_id=reader.last_event_id, **place.options)
        assert api.all(rest) == [{"n": each} for each in range(200, 250)]
        assert rest.gaps == []

    def test_an_index_that_is_not_there_yet_is_waited_for(self, api: Flavour, live: Place) -> None:
        live.write("ai", numbers(3))
        background = api.in_background(api.streams.read(live.run_id, "ai", start_index=1_500, **live.options))
        assert live.begun("ai")
        live.write("ai", numbers(900, 3))
        live.finish()
        assert background.result() == []

    def test_v2_begins_far_in_without_reading_everything(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", numbers(3_000))
        place.finish()
        reader = api.streams.read(place.run_id, "ai", start_index=2_900, **place.options)
        assert api.all(reader) == [{"n": each} for each in range(2_900, 3_000)]
        assert place.requests("ai")[0].last_event_id == "1899"

    def test_what_is_lost_is_told(self, api: Flavour, world: World, source: str) -> None:
        place = world.place(Wire.V2, source)
        place.write("ai", numbers(10))
        place.store.trim_records(place.run_id, "ai", 4)
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert api.all(reader) == [{"n": each} for each in range(4, 10)]
        assert reader.gaps == [(0, 0, 3, HoleReason.TRIMMED)]
