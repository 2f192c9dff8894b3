"""A stream is given whole, once and in order, whatever is in it, from upstream and the archive alike."""

from __future__ import annotations

import json

import pytest

from tailrace.model import Wire
from tailrace.streams import AbortController, AbortSignal, StreamAborted
from tests.streamcases import LONG_S, Flavour, Place, World, numbers

ODD_TEXTS = [
    '{"b":1,"a":1.10}',
    '{"a":1,"a":2}',
    "null",
    '""',
    "0",
    "false",
    "{}",
    '"\\u0000"',
    '"\\ud83d"',
    '"\u2028\u2029\u0085"',
    "123456789012345678901234567890",
    "[" * 200 + "]" * 200,
    '"' + "x" * 200_000 + '"',
]


class TestWhole:
    def test_all_chunks_come_once_and_in_order(self, api: Flavour, place: Place) -> None:
        place.write("ai", numbers(25))
        place.finish()
        place.settle("ai")
        assert api.all(api.streams.read(place.run_id, "ai", **place.options)) == [{"n": each} for each in range(25)]

    def test_chunks_of_every_shape_come_as_they_were_sent(self, api: Flavour, place: Place) -> None:
        place.write("ai", ODD_TEXTS)
        place.finish()
        place.settle("ai")
        found = api.all(api.streams.read(place.run_id, "ai", **place.options))
        assert found == [json.loads(text) for text in ODD_TEXTS]

    def test_the_default_stream_needs_no_name(self, api: Flavour, place: Place) -> None:
        place.write("default", ['"a"'])
        place.finish()
        place.settle("default")
        assert api.all(api.streams.read(place.run_id, **place.options)) == ["a"]

    def test_a_defined_stream_is_read_by_its_definition(self, api: Flavour, place: Place) -> None:
        place.write("ai-output", ['"a"', '"b"'])
        place.finish()
        place.settle("ai-output")
        ai = api.streams.define("ai-output", type=str)
        assert api.all(ai.read(place.run_id, **place.options)) == ["a", "b"]
        assert api.all(api.streams.read(place.run_id, ai, **place.options)) == ["a", "b"]

    def test_a_stream_that_was_never_written_is_empty(self, api: Flavour, place: Place) -> None:
        place.finish()
        place.settle("nothing")
        assert api.all(api.streams.read(place.run_id, "nothing", **place.options)) == []

    def test_a_key_may_hold_anything(self, api: Flavour, place: Place) -> None:
        key = "a/b?c=d#e%2F ü\u2028.."
        place.write(key, ["1"])
        place.finish()
        place.settle(key)
        assert api.all(api.streams.read(place.run_id, key, **place.options)) == [1]

    def test_a_reader_knows_where_it_is(self, api: Flavour, place: Place) -> None:
        place.write("ai", numbers(4))
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert (reader.last_index, reader.last_event_id) == (-1, None)
        api.next(reader)
        api.next(reader)
        assert reader.last_index == 1
        assert reader.last_event_id is not None
        api.all(reader)
        assert reader.last_index == 3
        assert reader.gaps == []

    def test_the_end_is_the_end(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1"])
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert api.all(reader) == [1]
        assert api.all(reader) == []
        assert place.left("ai")

    def test_a_long_stream_comes_over_several_pages_and_connections(
        self, api: Flavour, world: World, source: str
    ) -> None:
        place = world.place(Wire.V2, source)
        place.write("ai", numbers(1_500))
        place.finish()
        place.settle("ai")
        found = api.all(api.streams.read(place.run_id, "ai", **place.options))
        assert [chunk["n"] for chunk in found] == list(range(1_500))

    def test_two_readers_of_a_stream_do_not_disturb_each_other(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", "2", "3"])
        place.finish()
        place.settle("ai")
        ai = api.streams.define("ai", type=int)
        one, other = ai.read(place.run_id, **place.options), ai.read(place.run_id, **place.options)
        assert [api.next(one), api.next(other), api.next(one)] == [1, 1, 2]
        assert (api.all(other), api.all(one)) == ([2, 3], [3])

    def test_one_that_is_closed_or_let_go_of_early_leaves_upstream(self, api: Flavour, place: Place) -> None:
        place.write("ai", numbers(20))
        place.settle("ai")
        first = api.streams.read(place.run_id, "ai", **place.options)
        second = api.streams.read(place.run_id, "ai", **place.options)
        assert api.next(first) == api.next(second) == {"n": 0}
        api.close(first)
        assert api.all(first) == []
        del second
        assert place.left("ai")

    def test_any_of_several_signals_ends_it_with_its_own_reason(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", "2"])
        place.settle("ai")
        controller = AbortController()
        signal = AbortSignal.any([AbortSignal.timeout(LONG_S), controller.signal])
        reader = api.streams.read(place.run_id, "ai", signal=signal, **place.options)
        assert api.next(reader) == 1
        controller.abort("enough")
        with pytest.raises(StreamAborted, match="enough") as caught:
            api.next(reader)
        assert caught.value.reason == "enough"
        assert api.all(reader) == []
        assert place.left("ai")
