"""What reading streams promises, blocking and asyncio, from upstream, from the archive and from one into the other.

Each test is written once and run on every way of reading that it is about.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from tests.streamcases import (
    FLAVOURS,
    LONG_S,
    PACE,
    SOURCES,
    Background,
    Flavour,
    Place,
    World,
    running_flavour,
    running_world,
)
from worker.embedded.postgres import Postgres
from worker.model import HoleReason, Wire
from worker.replay.records import Draft, control_draft, data_draft, fence_draft, undefined_draft
from worker.streams import (
    AbortController,
    AbortSignal,
    ChunkTypeError,
    Client,
    NotArchived,
    RetriesExhausted,
    SomeStreamsFailed,
    StreamAborted,
    StreamError,
    StreamRefused,
    StreamTimeout,
)

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


@dataclass
class Progress:
    percent: int


class Token(msgspec.Struct):
    text: str


class Model(pydantic.BaseModel):
    text: str


class Row(TypedDict):
    n: int


@pytest.fixture(scope="module")
def world(postgres_server: Postgres, template_database: str) -> Iterator[World]:
    with running_world(postgres_server, template_database) as world:
        yield world


@pytest.fixture(scope="module", params=FLAVOURS)
def api(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    with running_flavour(request.param) as flavour:
        yield flavour


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(params=list(Wire), ids=str)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture
def place(world: World, wire: Wire, source: str) -> Place:
    """A run of either wire, read from anywhere."""
    return world.place(wire, source)


@pytest.fixture
def live(world: World, wire: Wire) -> Place:
    """A run of either wire, read from upstream."""
    return world.place(wire)


def numbers(count: int, first: int = 0) -> list[str]:
    return [json.dumps({"n": number}) for number in range(first, first + count)]


# --- all of a stream, from everywhere


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


# --- start_index and resuming


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


# --- types


class TestTypes:
    @pytest.mark.parametrize(
        ("of", "text", "value"),
        [
            (str, '"a"', "a"),
            (int, "1", 1),
            (Progress, '{"percent":5}', Progress(5)),
            (Token, '{"text":"a"}', Token("a")),
            (Model, '{"text":"a"}', Model(text="a")),
            (Row, '{"n":1}', {"n": 1}),
            (Token | None, "null", None),
            (Any, "[1]", [1]),
        ],
    )
    def test_chunks_are_values_of_the_streams_type(
        self, api: Flavour, world: World, source: str, of: Any, text: str, value: Any
    ) -> None:
        place = world.place(Wire.V2, source)
        place.write("ai", [text])
        place.finish()
        place.settle("ai")
        assert api.all(api.streams.define("ai", type=of).read(place.run_id, **place.options)) == [value]
        assert api.all(api.streams.read(place.run_id, "ai", type=of, **place.options)) == [value]

    def test_a_chunk_that_does_not_fit_is_an_error_after_which_reading_goes_on(
        self, api: Flavour, place: Place
    ) -> None:
        place.write("ai", ['"a"', '{"text":1}', '"b"'])
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", type=str, **place.options)
        assert api.next(reader) == "a"
        with pytest.raises(ChunkTypeError, match="Expected `str`") as caught:
            api.next(reader)
        error = caught.value
        assert (error.key, error.index, error.raw, error.generation) == ("ai", 1, '{"text":1}', 0)
        assert isinstance(error, StreamError)
        assert isinstance(error, ValueError)
        assert api.all(reader) == ["b"]

    def test_or_goes_to_whoever_wants_it(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", '"a"', "2", '"b"'])
        place.finish()
        place.settle("ai")
        refused: list[ChunkTypeError] = []
        reader = api.streams.read(place.run_id, "ai", type=int, on_invalid=refused.append, **place.options)
        assert api.all(reader) == [1, 2]
        assert [(error.index, error.raw) for error in refused] == [(1, '"a"'), (3, '"b"')]

    def test_a_v1_line_that_is_no_json_does_not_fit_any_type(self, api: Flavour, world: World, source: str) -> None:
        place = world.place(Wire.V1, source)
        for line in ("1", "undefined", "NaN", "2"):
            place.store.append_entry(place.run_id, "ai", line + "\n")
        place.finish()
        place.settle("ai")
        refused: list[ChunkTypeError] = []
        reader = api.streams.read(place.run_id, "ai", on_invalid=refused.append, **place.options)
        assert api.all(reader) == [1, 2]
        assert [(error.index, error.raw) for error in refused] == [(1, "undefined"), (2, "NaN")]

    def test_nor_does_a_v2_body_that_is_no_envelope(self, api: Flavour, world: World, source: str) -> None:
        place = world.place(Wire.V2, source)
        drafts = [data_draft("1", "a"), Draft(b"not json"), undefined_draft("b"), data_draft("2", "c")]
        place.store.append_records(place.run_id, "ai", drafts)
        place.finish()
        place.settle("ai")
        refused: list[ChunkTypeError] = []
        reader = api.streams.read(place.run_id, "ai", on_invalid=refused.append, **place.options)
        assert api.all(reader) == [1, 2]
        assert [(error.index, error.raw) for error in refused] == [(1, "not json"), (2, '{"id":"b"}')]

    def test_a_chunk_above_the_limit_is_not_taken_in(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V1)
        place.write("ai", ["1", '"' + "x" * 50_000 + '"', "2"])
        place.finish()
        client = Client("tr_dev_replay", api_url=world.server.url, pace=PACE, event_max_bytes=20_000)
        refused: list[ChunkTypeError] = []
        reader = api.streams.read(place.run_id, "ai", client=client, on_invalid=refused.append)
        assert api.all(reader) == [1, 2]
        assert [(error.index, len(error.raw) < 20_000, "too_large" in str(error)) for error in refused] == [
            (1, True, True)
        ]


# --- live


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
        patient = Client("tr_dev_replay", api_url=world.server.url, pace=PATIENT)
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
        patient = Client("tr_dev_replay", api_url=world.server.url, pace=PATIENT)
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


PATIENT = replace(PACE, hold_s=5.0)


# --- timeout


class TestTimeout:
    def test_a_stream_that_goes_quiet_times_out(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1", "2"])
        reader = api.streams.read(live.run_id, "ai", timeout_in_seconds=0.5, **live.options)
        assert [api.next(reader), api.next(reader)] == [1, 2]
        began = time.monotonic()
        with pytest.raises(StreamTimeout, match=r"0\.5 s") as caught:
            api.next(reader)
        assert 0.4 < time.monotonic() - began < LONG_S
        assert isinstance(caught.value, TimeoutError)
        assert isinstance(caught.value, StreamError)
        assert caught.value.timeout_in_seconds == 0.5
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


# --- abort


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


# --- leaving


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


# --- retries


class TestRetries:
    @pytest.mark.parametrize("status", [404, 429, 500, 503])
    def test_a_status_that_may_pass_is_tried_again(self, api: Flavour, world: World, status: int) -> None:
        place = world.place(Wire.V2)
        place.write("ai", ["1"])
        place.faults.stream(place.run_id, "ai").answer(status, times=2)
        seen: list[Any] = []
        reader = api.streams.read(place.run_id, "ai", on_retry=seen.append, **place.options)
        assert api.next(reader) == 1
        api.close(reader)
        assert [(retry.key, retry.attempt) for retry in seen] == [("ai", 1), ("ai", 2)]
        assert str(status) in str(seen[0].error)

    @pytest.mark.parametrize("status", [400, 403, 409, 422])
    def test_one_that_will_not_is_raised_at_once(self, api: Flavour, world: World, status: int) -> None:
        place = world.place(Wire.V2)
        place.faults.stream(place.run_id, "ai").answer(status)
        with pytest.raises(StreamRefused) as caught:
            api.all(api.streams.read(place.run_id, "ai", **place.options))
        assert caught.value.status == status
        assert len(place.requests("ai")) == 1

    def test_after_so_many_attempts_it_gives_up(self, api: Flavour, live: Place) -> None:
        live.faults.stream(live.run_id, "ai").answer(503, times=10)
        seen: list[Any] = []
        reader = api.streams.read(live.run_id, "ai", max_retries=2, on_retry=seen.append, **live.options)
        with pytest.raises(RetriesExhausted, match="Tried 3 times") as caught:
            api.next(reader)
        assert (caught.value.attempts, caught.value.status, len(seen)) == (3, 503, 2)
        assert caught.value.__cause__ is not None
        live.faults.clear()

    def test_three_retries_is_the_default_and_none_is_possible(self, api: Flavour, live: Place) -> None:
        live.faults.stream(live.run_id, "ai").answer(503, times=5)
        with pytest.raises(RetriesExhausted) as caught:
            api.all(api.streams.read(live.run_id, "ai", **live.options))
        assert caught.value.attempts == 4
        with pytest.raises(RetriesExhausted) as caught:
            api.all(api.streams.read(live.run_id, "ai", max_retries=0, **live.options))
        assert caught.value.attempts == 1

    def test_a_run_that_nobody_knows(self, api: Flavour, world: World) -> None:
        with pytest.raises(RetriesExhausted) as caught:
            api.all(api.streams.read("run_of_nobody", "ai", client=world.client))
        assert caught.value.status == 404

    def test_a_run_that_appears_after_the_first_attempt(self, api: Flavour, world: World) -> None:
        seen: list[Any] = []

        def appear(retry: Any) -> None:
            if not seen:
                world.store.create_run("run_late_" + api.name, Wire.V2)
                world.store.append_chunk("run_late_" + api.name, "ai", "1")
                world.store.finish_run("run_late_" + api.name)
            seen.append(retry)

        reader = api.streams.read("run_late_" + api.name, "ai", client=world.client, on_retry=appear)
        assert api.all(reader) == [1]

    def test_nobody_answers(self, api: Flavour, world: World) -> None:
        client = Client("tr_dev_replay", api_url="http://127.0.0.1:1", pace=PACE)
        with pytest.raises(RetriesExhausted) as caught:
            api.all(api.streams.read("run_1", "ai", client=client))
        assert caught.value.status is None

    def test_a_wrong_key(self, api: Flavour, live: Place) -> None:
        client = Client("tr_dev_wrong_key", api_url=live.world.server.url, pace=PACE)
        with pytest.raises(StreamRefused) as caught:
            api.all(api.streams.read(live.run_id, "ai", client=client))
        assert caught.value.status == 401
        assert "tr_dev_wrong_key" not in str(caught.value)
        assert "TRIGGER_SECRET_KEY" in str(caught.value)

    @pytest.mark.parametrize("how", ["cut", "reset"])
    @pytest.mark.parametrize("after", [0, 60, 333, 1000])
    def test_a_connection_may_break_anywhere(self, api: Flavour, live: Place, how: str, after: int) -> None:
        live.write("ai", numbers(30))
        live.finish()
        getattr(live.faults.stream(live.run_id, "ai"), how)(after_bytes=after, times=3)
        reader = api.streams.read(live.run_id, "ai", **live.options)
        assert api.all(reader) == [{"n": each} for each in range(30)]
        assert reader.gaps == []

    def test_v2_ends_that_are_none(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", numbers(5))
        faults = place.faults.stream(place.run_id, "ai")
        faults.error_event(after_events=1)
        faults.no_done()
        faults.error_event()
        seen: list[Any] = []
        reader = api.streams.read(place.run_id, "ai", on_retry=seen.append, **place.options)
        assert [api.next(reader) for _ in range(5)] == [{"n": each} for each in range(5)]
        place.finish()
        assert api.all(reader) == []
        assert seen

    def test_a_body_that_is_compressed_unasked(self, api: Flavour, live: Place) -> None:
        live.write("ai", numbers(5))
        live.finish()
        live.faults.stream(live.run_id, "ai").gzip(times=5)
        assert len(api.all(api.streams.read(live.run_id, "ai", **live.options))) == 5

    def test_an_answer_that_is_no_event_stream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        live.finish()
        live.faults.stream(live.run_id, "ai").answer(200, body=b"<html>", headers=(("content-type", "text/html"),))
        assert api.all(api.streams.read(live.run_id, "ai", **live.options)) == [1]

    def test_a_run_feed_that_fails_for_a_while_only_delays_the_end(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        live.finish()
        feed = live.faults.feed(live.run_id)
        feed.answer(500, times=2)
        feed.cut(after_bytes=5)
        feed.answer(409)
        assert api.all(api.streams.read(live.run_id, "ai", **live.options)) == [1]

    def test_a_run_feed_that_is_refused_ends_the_read(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        live.faults.feed(live.run_id).answer(403)
        reader = api.streams.read(live.run_id, "ai", **live.options)
        with pytest.raises(StreamRefused) as caught:
            api.all(reader)
        assert caught.value.status == 403


# --- any combination


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
                live.run_id, "ai", timeout_in_seconds=0.5, signal=controller.signal, **live.options
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


# --- collect


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

    def test_an_error_of_reading_is_raised(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        seen: list[int] = []
        with pytest.raises(StreamTimeout):
            api.call(
                api.streams.collect(live.run_id, "ai", on_chunk=seen.append, timeout_in_seconds=0.5, **live.options)
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


# --- several streams


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


# --- batches


class TestBatches:
    @pytest.mark.parametrize(("count", "sizes"), [(0, []), (10, [10]), (23, [10, 10, 3])])
    def test_the_last_may_be_shorter(self, api: Flavour, place: Place, count: int, sizes: list[int]) -> None:
        place.write("ai", numbers(count))
        place.finish()
        place.settle("ai")
        found = api.all(api.streams.batches(api.streams.read(place.run_id, "ai", **place.options), size=10))
        assert [len(batch) for batch in found] == sizes
        assert [chunk["n"] for batch in found for chunk in batch] == list(range(count))

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
        reader = api.streams.read(live.run_id, "ai", timeout_in_seconds=0.5, **live.options)
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


# --- server-sent events


class TestEvents:
    def test_events_with_ids_and_the_vendors_headers(self, api: Flavour, place: Place) -> None:
        place.write("ai", ['"a"', '{"b":1.10}'])
        place.finish()
        place.settle("ai")
        body = api.streams.as_sse(place.run_id, "ai", **place.options)
        assert dict(body.headers) == dict(api.streams.SSE_HEADERS)
        events = [event.decode().split("\n") for event in api.all(body)]
        assert [event[1] for event in events] == ['data: {"chunk":"a"}', 'data: {"chunk":{"b":1.10}}']
        assert all(event[0].startswith("id: ") for event in events)

    @pytest.mark.parametrize("at", [1, 7])
    def test_a_client_that_comes_back_goes_on(self, api: Flavour, place: Place, at: int) -> None:
        place.write("ai", numbers(10))
        place.finish()
        place.settle("ai")
        ai = api.streams.define("ai")
        events = api.all(ai.as_sse(place.run_id, **place.options))
        last = events[at].decode().split("\n")[0].removeprefix("id: ")
        again = api.all(ai.as_sse(place.run_id, last_event_id=last, **place.options))
        assert again == events[at + 1 :]

    def test_an_id_that_is_not_ours_begins_at_the_beginning(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1"])
        place.finish()
        place.settle("ai")
        for last in ("", "nonsense", "-1"):
            body = api.streams.as_sse(place.run_id, "ai", last_event_id=last, ids=False, **place.options)
            assert api.all(body) == [b'data: {"chunk":1}\n\n']

    def test_a_silent_stream_sends_a_heartbeat(self, api: Flavour, live: Place) -> None:
        body = api.streams.as_sse(live.run_id, "ai", heartbeat_in_seconds=0.05, **live.options)
        assert api.next(body) == b": ping\n\n"
        live.write("ai", ["1"])
        found = api.next(body)
        while found == b": ping\n\n":
            found = api.next(body)
        assert found.endswith(b'data: {"chunk":1}\n\n')
        api.close(body)
        assert live.left("ai")
        assert api.all(body) == []

    def test_a_payload_of_ones_own_and_an_event_at_the_end(self, api: Flavour, place: Place) -> None:
        place.write("ai", ['{"text":"a"}'])
        place.finish()
        place.settle("ai")
        body = api.streams.define("ai", type=Token).as_sse(
            place.run_id, payload=lambda token: {"t": token.text}, ids=False, end_event="done", **place.options
        )
        assert api.all(body) == [b'data: {"t":"a"}\n\n', b"event: done\ndata: {}\n\n"]

    def test_an_error_of_reading_is_raised(self, api: Flavour, live: Place) -> None:
        live.write("ai", ['"a"'])
        body = api.streams.as_sse(live.run_id, "ai", type=int, **live.options)
        with pytest.raises(ChunkTypeError):
            api.next(body)
        api.close(body)
        assert live.left("ai")


# --- the run


class TestRun:
    def options(self, place: Place) -> dict[str, Any]:
        return {"client": place.world.client}

    def test_changes_of_a_run_until_it_is_over(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2, status="PENDING", tags=["a", "b"])
        updates = api.begin(api.runs.subscribe_to_run(place.run_id, **self.options(place)))
        run = api.next(updates)
        assert (run.id, run.status, run.tags, run.task_identifier) == (place.run_id, "QUEUED", ("a", "b"), "demo-task")
        assert not run.is_completed
        place.store.set_status(place.run_id, "EXECUTING")
        assert api.next(updates).status == "EXECUTING"
        place.finish("COMPLETED_WITH_ERRORS")
        run = api.next(updates)
        assert (run.status, run.is_completed, run.is_failed, run.is_success, run.is_cancelled) == (
            "FAILED",
            True,
            True,
            False,
            False,
        )
        assert run.finished_at is not None
        assert api.all(updates) == []

    def test_a_run_and_its_streams(self, api: Flavour, live: Place) -> None:
        """New streams are picked up as they appear; it ends when the run is over and everything was read."""
        live.write("ai", ['"a"'])
        ai = api.streams.define("ai", type=str)
        updates = api.runs.subscribe_to_run(live.run_id, **self.options(live)).with_streams(ai)
        first = api.next(updates)
        assert (first.type, first.run.status) == ("run", "EXECUTING")
        chunk = api.next(updates)
        assert (chunk.type, chunk.chunk, chunk.index, chunk.run.status) == ("ai", "a", 0, "EXECUTING")
        live.write("progress", ["1"])
        rest = [api.next(updates), api.next(updates)]
        assert [each.type for each in rest] == ["run", "progress"]
        live.write("late", ["2"])
        live.write("ai", ['"b"'])
        live.finish()
        found = api.all(updates)
        chunks = sorted((each.type, each.chunk) for each in found if each.type != "run")
        assert chunks == [("ai", "b"), ("late", 2)]
        assert [each.run.status for each in found if each.type == "run"][-1] == "COMPLETED"

    def test_a_run_that_is_over_already(self, api: Flavour, live: Place) -> None:
        live.write("a", ["1", "2"])
        live.write("b", ["3"])
        live.finish("CANCELED")
        subscription = api.runs.subscribe_to_run(live.run_id, **self.options(live))
        (run,) = api.all(subscription)
        assert run.is_cancelled
        found = api.all(subscription.with_streams())
        assert (found[0].type, found[0].run.status) == ("run", "CANCELED")
        assert sorted((each.type, each.chunk) for each in found[1:]) == [("a", 1), ("a", 2), ("b", 3)]

    def test_a_run_without_streams(self, api: Flavour, live: Place) -> None:
        live.finish()
        (update,) = api.all(api.runs.subscribe_to_run(live.run_id, **self.options(live)).with_streams())
        assert update.run.is_success

    def test_an_abort_ends_it(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        controller = AbortController()
        updates = api.runs.subscribe_to_run(live.run_id, signal=controller.signal, **self.options(live)).with_streams()
        assert [api.next(updates).type, api.next(updates).type] == ["run", "ai"]
        background = api.in_background(updates)
        controller.abort()
        with pytest.raises(StreamAborted):
            background.result()
        assert live.left("ai")

    def test_letting_go_leaves_upstream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        updates = api.runs.subscribe_to_run(live.run_id, **self.options(live)).with_streams()
        assert [api.next(updates).type, api.next(updates).type] == ["run", "ai"]
        del updates
        assert live.left("ai")

    def test_closing_leaves_upstream(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1"])
        updates = api.runs.subscribe_to_run(live.run_id, **self.options(live)).with_streams()
        assert [api.next(updates).type, api.next(updates).type] == ["run", "ai"]
        api.close(updates)
        assert live.left("ai")
        assert api.all(updates) == []

    def test_a_feed_that_fails_for_a_while(self, api: Flavour, live: Place) -> None:
        live.finish()
        feed = live.faults.feed(live.run_id)
        feed.answer(503)
        feed.cut(after_bytes=3)
        feed.answer(409)
        seen: list[Any] = []
        (run,) = api.all(api.runs.subscribe_to_run(live.run_id, on_retry=seen.append, **self.options(live)))
        assert run.is_completed
        assert [(retry.key, retry.attempt) for retry in seen] == [("", 1), ("", 2)]

    def test_a_run_that_nobody_knows(self, api: Flavour, world: World) -> None:
        with pytest.raises(RetriesExhausted) as caught:
            api.all(api.runs.subscribe_to_run("run_of_nobody", client=world.client))
        assert (caught.value.attempts, caught.value.status) == (4, 404)

    def test_a_wrong_key(self, api: Flavour, live: Place) -> None:
        client = Client("tr_dev_wrong", api_url=live.world.server.url)
        with pytest.raises(StreamRefused):
            api.all(api.runs.subscribe_to_run(live.run_id, client=client).with_streams())

    def test_a_stream_that_fails_does_not_hide_the_others(self, api: Flavour, live: Place) -> None:
        live.write("good", ["1"])
        live.write("bad", ["2"])
        live.finish()
        live.faults.stream(live.run_id, "bad").answer(422)
        updates = api.runs.subscribe_to_run(live.run_id, **self.options(live)).with_streams()
        assert [api.next(updates).type, api.next(updates).type] == ["run", "good"]
        with pytest.raises(SomeStreamsFailed) as caught:
            api.next(updates)
        assert list(caught.value.errors) == ["bad"]

    def test_a_chunk_that_does_not_fit(self, api: Flavour, live: Place) -> None:
        live.write("ai", ["1", '"a"'])
        live.finish()
        refused: list[Any] = []
        ai = api.streams.define("ai", type=int)
        found = api.all(
            api.runs.subscribe_to_run(live.run_id, **self.options(live)).with_streams(ai, on_invalid=refused.append)
        )
        assert [update.type for update in found] == ["run", "ai"]
        assert [error.index for error in refused] == [1]


# --- the archive


class TestArchive:
    def test_an_unknown_run(self, api: Flavour, world: World, wire: Wire) -> None:
        archived, live = world.place(wire, "archive"), world.place(wire, "auto")
        with pytest.raises(NotArchived, match=archived.run_id):
            api.all(api.streams.read(archived.run_id, "ai", **archived.options))
        live.write("ai", ["1"])
        live.finish()
        assert api.all(api.streams.read(live.run_id, "ai", **live.options)) == [1]

    def test_a_known_run_and_an_unknown_stream(self, api: Flavour, world: World, wire: Wire) -> None:
        for source, found in (("archive", []), ("auto", [1])):
            place = world.place(wire, source)
            world.archiver.know(place.run_id)
            place.write("ai", ["1"])
            place.finish()
            assert api.all(api.streams.read(place.run_id, "ai", **place.options)) == found

    def test_the_archive_ends_at_its_checkpoint(self, api: Flavour, world: World, wire: Wire) -> None:
        place = world.place(wire, "archive")
        place.write("ai", numbers(10))
        place.archive("ai", 4)
        assert len(api.all(api.streams.read(place.run_id, "ai", **place.options))) == 4
        place.archive("ai")
        assert len(api.all(api.streams.read(place.run_id, "ai", **place.options))) == 10

    def test_the_archive_asks_upstream_nothing(self, api: Flavour, world: World, wire: Wire) -> None:
        for source in ("archive", "auto"):
            place = world.place(wire, source)
            place.write("ai", numbers(10))
            place.archive("ai", sealed=True)
            client = Client(None, api_url="http://127.0.0.1:1", database_url=world.archiver.url)
            reader = api.streams.read(place.run_id, "ai", client=client, source=source)
            assert len(api.all(reader)) == 10
            client.close()

    def test_live_after_the_archive(self, api: Flavour, world: World, wire: Wire) -> None:
        place = world.place(wire, "auto")
        place.write("ai", numbers(10))
        place.archive("ai", 7)
        reader = api.streams.read(place.run_id, "ai", **place.options)
        for number in range(10):
            assert api.next(reader) == {"n": number}
        place.write("ai", numbers(1, 10))
        assert api.next(reader) == {"n": 10}
        place.finish()
        assert api.all(reader) == []
        assert reader.last_index == 10

    def test_what_upstream_has_forgotten_is_in_the_archive(self, api: Flavour, world: World, wire: Wire) -> None:
        place = world.place(wire, "auto")
        place.write("ai", numbers(150))
        place.archive("ai", 120)
        if wire is Wire.V1:
            place.store.trim_entries(place.run_id, "ai", 50)
        else:
            place.store.trim_records(place.run_id, "ai", 100)
        place.finish()
        reader = api.streams.read(place.run_id, "ai", **place.options)
        assert api.all(reader) == [{"n": each} for each in range(150)]
        assert reader.gaps == []

    def test_an_archive_that_grows_while_it_is_read(self, api: Flavour, world: World, wire: Wire) -> None:
        place = world.place(wire, "auto")
        place.write("ai", numbers(60))
        place.archive("ai", 20)
        reader = api.streams.read(place.run_id, "ai", **place.options)
        found = [api.next(reader) for _ in range(10)]
        place.archive("ai", 45)
        place.finish()
        assert found + api.all(reader) == [{"n": each} for each in range(60)]

    def test_a_writers_retry_over_the_seam_is_given_once(self, api: Flavour, world: World) -> None:
        for seam in range(1, 6):
            place = world.place(Wire.V2, "auto")
            place.write("ai", ["0", "1", "2"])
            place.store.repeat_record(place.run_id, "ai", 0)
            place.store.repeat_record(place.run_id, "ai", 2)
            place.write("ai", ["5"])
            place.archive("ai", seam)
            place.finish()
            assert api.all(api.streams.read(place.run_id, "ai", **place.options)) == [0, 1, 2, 5]

    def test_a_database_that_is_not_there(self, api: Flavour, world: World) -> None:
        client = Client(
            "tr_dev_replay",
            api_url=world.server.url,
            database_url="postgresql://nobody:secret@127.0.0.1:1/x",
            pace=PACE,
        )
        seen: list[Any] = []
        for source in ("archive", "auto"):
            with pytest.raises(RetriesExhausted) as caught:
                api.all(
                    api.streams.read("run_1", "ai", client=client, source=source, max_retries=1, on_retry=seen.append)
                )
            assert "secret" not in str(caught.value)
        assert [retry.attempt for retry in seen] == [1, 1]
        client.close()


def test_a_background_that_fails_is_heard() -> None:
    with pytest.raises(ZeroDivisionError):
        Background(lambda: 1 // 0).result()
