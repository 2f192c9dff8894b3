"""All options together, all of a stream at once, several streams at once, and batches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace.model import Wire
from tailrace.streams import (
    AbortController,
    ChunkTypeError,
    SomeStreamsFailed,
    StreamAborted,
    StreamError,
    StreamRefused,
    StreamTimeout,
)
from tests.streamcases import LONG_S, Flavour, Place, World, numbers, running_flavour


@dataclass
class Progress:
    percent: int


class TestCombined:
    def test_all_options_together(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["0", "1", '"x"', "3", "4"])
        place.settle("ai")
        if place.source != "archive":
            place.faults.stream(place.run_id, "ai").answer(503)
        refused: list[Any] = []
        retried: list[Any] = []
        reader = api.streams.define("ai", type=int).read(
            place.run_id,
            timeout_in_seconds=300,
            start_index=1,
            signal=AbortController().signal,
            max_retries=5,
            on_retry=retried.append,
            on_invalid=refused.append,
            **place.options,
        )
        assert [api.next(reader) for _ in range(3)] == [1, 3, 4]
        place.finish()
        assert api.all(reader) == []
        assert [error.index for error in refused] == [2]
        assert len(retried) == (0 if place.source == "archive" else 1)

    @pytest.mark.parametrize(
        ("how", "caught"), [("quiet", "timed out"), ("abort", "cancelled"), ("fail", "error"), ("end", "complete")]
    )
    def test_three_branches(self, api: Flavour, live: Place, how: str, caught: str) -> None:
        """As in the vendor's example: timed out, cancelled, anything else."""
        live.write("ai", ["1"])
        controller = AbortController()
        if how == "fail":
            live.faults.stream(live.run_id, "ai").answer(401)
        if how == "end":
            live.finish()
        try:
            reader = api.streams.read(
                live.run_id, "ai", timeout_in_seconds=1.5, signal=controller.signal, **live.options
            )
            for _ in api.each(reader):
                if how == "abort":
                    controller.abort()
            said = "complete"
        except StreamTimeout:
            said = "timed out"
        except StreamAborted:
            said = "cancelled"
        except StreamError:
            said = "error"
        assert said == caught


class TestCollect:
    def test_chunks_and_text(self, api: Flavour, place: Place) -> None:
        place.write("ai", ['"Hello, "', '"wor"', '"ld"'])
        place.finish()
        place.settle("ai")
        seen: list[str] = []
        collected = api.call(api.streams.collect(place.run_id, "ai", type=str, on_chunk=seen.append, **place.options))
        assert (collected.chunks, collected.text) == (["Hello, ", "wor", "ld"], "Hello, world")
        assert seen == collected.chunks

    def test_text_of_ai_messages(self, api: Flavour, place: Place) -> None:
        parts: list[dict[str, str]] = [
            {"type": "start", "messageId": "m"},
            {"type": "reasoning-delta", "id": "r", "delta": "hm"},
            {"type": "text-start", "id": "a"},
            {"type": "text-delta", "id": "a", "delta": "One"},
            {"type": "text-start", "id": "b"},
            {"type": "text-delta", "id": "b", "delta": "Two"},
            {"type": "finish"},
        ]
        place.write("ai", [json.dumps(part) for part in parts])
        place.finish()
        place.settle("ai")
        ai = api.streams.define("ai")
        collected = api.call(ai.collect(place.run_id, **place.options))
        assert (collected.text, collected.reasoning) == ("One\n\nTwo", "hm")
        assert collected.chunks == parts

    def test_the_rest_of_a_stream(self, api: Flavour, place: Place) -> None:
        place.write("ai", ['"a"', '"b"', '"c"', '"d"'])
        place.finish()
        place.settle("ai")
        collected = api.call(api.streams.collect(place.run_id, "ai", start_index=2, **place.options))
        assert (collected.chunks, collected.text) == (["c", "d"], "cd")

    def test_a_chunk_that_does_not_fit_ends_it_or_is_left_out(self, api: Flavour, place: Place) -> None:
        place.write("ai", ['"a"', "1", '"b"'])
        place.finish()
        place.settle("ai")
        ai = api.streams.define("ai", type=str)
        seen: list[str] = []
        with pytest.raises(ChunkTypeError):
            api.call(ai.collect(place.run_id, on_chunk=seen.append, **place.options))
        assert seen == ["a"]
        refused: list[Any] = []
        collected = api.call(ai.collect(place.run_id, on_invalid=refused.append, **place.options))
        assert (collected.chunks, collected.text, len(refused)) == (["a", "b"], "ab", 1)

    def test_an_error_of_the_callback_ends_it(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", "2"])
        place.finish()
        place.settle("ai")
        seen: list[int] = []

        def refuse(chunk: int) -> None:
            seen.append(chunk)
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            api.call(api.streams.collect(place.run_id, "ai", on_chunk=refuse, **place.options))
        assert seen == [1]
        assert place.left("ai")

    def test_an_error_of_reading_is_raised(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        seen: list[int] = []
        with pytest.raises(StreamTimeout):
            api.call(
                api.streams.collect(live.run_id, "ai", on_chunk=seen.append, timeout_in_seconds=1.5, **live.options)
            )
        assert seen == [1]

    def test_an_error_of_the_callback_leaves_upstream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])

        def refuse(chunk: object) -> None:
            raise RuntimeError("mine")

        with pytest.raises(RuntimeError, match="mine"):
            api.call(api.streams.collect(live.run_id, "ai", on_chunk=refuse, **live.options))
        assert live.left("ai")


def test_on_chunk_may_be_a_coroutine_function(world: World) -> None:
    place = world.place(Wire.V2)
    place.write("ai", ["1", "2"])
    place.finish()
    seen: list[int] = []

    async def send(chunk: int) -> None:
        seen.append(chunk)

    with running_flavour("aio") as api:
        api.call(api.streams.collect(place.run_id, "ai", on_chunk=send, **place.options))
    assert seen == [1, 2]


class TestSeveral:
    def test_gather_gives_a_list_for_each(self, api: Flavour, place: Place) -> None:
        place.write("ai", ['"a"', '"b"'])
        place.write("progress", ['{"percent":1}', '{"percent":2}'])
        place.finish()
        place.settle("ai", "progress", "empty")
        ai = api.streams.define("ai", type=str)
        progress = api.streams.define("progress", type=Progress)
        found = api.call(api.streams.gather(place.run_id, ai, progress, "empty", **place.options))
        assert found == (["a", "b"], [Progress(1), Progress(2)], [])

    def test_read_many_gives_chunks_as_they_come(self, api: Flavour, live: Place) -> None:
        ai = api.streams.define("ai", type=str)
        reader = api.streams.read_many(live.run_id, [ai, "progress"], **live.options)
        for number in range(4):
            live.write("progress", [str(number)])
            assert api.next(reader) == ("progress", number)
            live.write("ai", ['"x"'])
            assert api.next(reader) == ("ai", "x")
        live.finish()
        assert api.all(reader) == []

    def test_read_many_reads_what_is_archived(self, api: Flavour, place: Place) -> None:
        place.write("a", numbers(5))
        place.write("b", numbers(5, 5))
        place.finish()
        place.settle("a", "b")
        found = api.all(api.streams.read_many(place.run_id, ["a", "b"], **place.options))
        for key, first in (("a", 0), ("b", 5)):
            assert [chunk["n"] for at, chunk in found if at == key] == list(range(first, first + 5))

    def test_a_stream_that_fails_does_not_hide_the_others(self, api: Flavour, live: Place) -> None:
        live.write("good", ["1", "2"])
        live.write("bad", ["3"])
        live.finish()
        live.faults.stream(live.run_id, "bad").answer(422)
        with pytest.raises(SomeStreamsFailed, match="1 of 2 streams") as caught:
            api.call(api.streams.gather(live.run_id, "bad", "good", **live.options))
        assert caught.value.results == [[], [1, 2]]
        assert list(caught.value.errors) == ["bad"]
        assert isinstance(caught.value.errors["bad"], StreamRefused)
        live.faults.stream(live.run_id, "bad").answer(422)
        found: list[Any] = []
        with pytest.raises(SomeStreamsFailed):
            found.extend(api.each(api.streams.read_many(live.run_id, ["bad", "good"], **live.options)))
        assert found == [("good", 1), ("good", 2)]

    def test_a_chunk_that_does_not_fit_fails_its_stream_and_hides_no_other(self, api: Flavour, place: Place) -> None:
        place.write("good", ["1", "2", "3"])
        place.write("bad", ["4", '"x"', "5"])
        place.finish()
        place.settle("good", "bad")
        streams = [api.streams.define(key, type=int) for key in ("bad", "good")]
        with pytest.raises(SomeStreamsFailed) as caught:
            api.call(api.streams.gather(place.run_id, *streams, **place.options))
        assert caught.value.results == [[4], [1, 2, 3]]
        (error,) = caught.value.errors.values()
        assert isinstance(error, ChunkTypeError)
        assert (error.key, error.index, error.raw) == ("bad", 1, '"x"')
        found: list[Any] = []
        with pytest.raises(SomeStreamsFailed):
            found.extend(api.each(api.streams.read_many(place.run_id, streams, **place.options)))
        assert sorted(found) == [("bad", 4), ("good", 1), ("good", 2), ("good", 3)]
        assert place.left("bad")
        refused: list[Any] = []
        found = api.call(api.streams.gather(place.run_id, *streams, on_invalid=refused.append, **place.options))
        assert found == ([4, 5], [1, 2, 3])
        assert [each.index for each in refused] == [1]

    def test_the_only_one_fails_like_any_other(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        with pytest.raises(SomeStreamsFailed) as caught:
            api.call(api.streams.gather(live.run_id, "ai", timeout_in_seconds=1.5, **live.options))
        assert caught.value.results == [[1]]
        assert isinstance(caught.value.errors["ai"], StreamTimeout)

    def test_all_start_at_the_same_index(self, api: Flavour, place: Place) -> None:
        place.write("a", numbers(5))
        place.write("b", numbers(3))
        place.finish()
        place.settle("a", "b")
        found = api.call(api.streams.gather(place.run_id, "a", "b", start_index=2, **place.options))
        assert found == ([{"n": 2}, {"n": 3}, {"n": 4}], [{"n": 2}])

    def test_an_abort_ends_all(self, api: Flavour, live: Place) -> None:
        controller = AbortController()
        reader = api.streams.read_many(live.run_id, ["a", "b"], signal=controller.signal, **live.options)
        background = api.in_background(reader)
        assert live.begun("a")
        assert live.begun("b")
        controller.abort()
        with pytest.raises(StreamAborted):
            background.result()
        assert live.left("a")
        assert live.left("b")

    def test_the_run_is_asked_for_once_for_all(self, api: Flavour, live: Place) -> None:
        keys = [f"k{number}" for number in range(8)]
        for key in keys:
            live.write(key, ["1"])
        live.finish()
        assert api.call(api.streams.gather(live.run_id, *keys, **live.options)) == ([1],) * 8
        assert live.looks() < 8


class TestBatches:
    @pytest.mark.parametrize(("count", "sizes"), [(0, []), (10, [10]), (23, [10, 10, 3])])
    def test_the_last_may_be_shorter(self, api: Flavour, place: Place, count: int, sizes: list[int]) -> None:
        place.write("ai", numbers(count))
        place.finish()
        place.settle("ai")
        found = api.all(api.streams.batches(api.streams.read(place.run_id, "ai", **place.options), size=10))
        assert [len(batch) for batch in found] == sizes
        assert [chunk["n"] for batch in found for chunk in batch] == list(range(count))

    def test_one_that_is_full_does_not_wait_for_its_age(self, api: Flavour, place: Place) -> None:
        place.write("ai", numbers(6))
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", **place.options)
        batches = api.streams.batches(reader, size=2, max_age_s=LONG_S)
        assert [[chunk["n"] for chunk in batch] for batch in api.all(batches)] == [[0, 1], [2, 3], [4, 5]]

    def test_what_came_before_a_chunk_that_does_not_fit_is_given_first(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", "2", "3", '"x"'])
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", type=int, **place.options)
        batches = api.streams.batches(reader, size=2)
        assert [api.next(batches), api.next(batches)] == [[1, 2], [3]]
        with pytest.raises(ChunkTypeError):
            api.next(batches)
        api.close(reader)

    def test_an_old_one_is_given_short(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["1", "2"])
        reader = api.streams.read(place.run_id, "ai", **place.options)
        batches = api.streams.batches(reader, size=10, max_age_s=0.1)
        assert api.next(batches) == [1, 2]
        place.write("ai", ["3"])
        assert api.next(batches) == [3]
        place.write("ai", ["4"])
        place.finish()
        assert api.all(batches) == [[4]]

    def test_what_came_before_an_error_is_given_first(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1", "2", "3"])
        reader = api.streams.read(live.run_id, "ai", timeout_in_seconds=1.5, **live.options)
        batches = api.streams.batches(reader, size=2)
        assert [api.next(batches), api.next(batches)] == [[1, 2], [3]]
        with pytest.raises(StreamTimeout):
            api.next(batches)

    def test_an_abort_gives_nothing_more(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1", "2", "3"])
        controller = AbortController()
        batches = api.streams.batches(
            api.streams.read(live.run_id, "ai", signal=controller.signal, **live.options), size=2
        )
        assert api.next(batches) == [1, 2]
        controller.abort()
        with pytest.raises(StreamAborted):
            api.next(batches)
