"""A read starts at any index, and goes on where another stopped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.model import HoleReason, Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.streams import Client
from tests.leaks import lasting
from tests.streamcases import LONG_S, PACE, TIMING, Flavour, Place, World, numbers
from tests.upstream import create_app, running
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


def from_latest(live: Place, hold_s: float) -> dict[str, Any]:
    """Return the options of a read that begins with the newest chunk. ``hold_s``: v1 says by such a pause only that there
    is no more, and its lines come with pauses too, on a busy machine with long ones."""
    options: dict[str, Any] = {**live.options, "start": "latest"}
    if live.wire is Wire.V1:
        options["client"] = Client(DEFAULT_KEY, api_url=live.world.server.url, timing=replace(PACE, hold_s=hold_s))
    return options


class TestLatest:
    @pytest.mark.parametrize("count", [0, 1, 10])
    def test_a_read_begins_with_the_newest_chunk(self, api: Flavour, place: Place, count: int) -> None:
        write_long_ago(place, count)
        place.finish()
        place.settle("ai")
        reader = api.streams.read(place.run_id, "ai", start="latest", **place.options)
        expected = list(range(count))[-1:]
        if place.source == "auto" and count == 10:
            expected = [4, 5, 6, 7, 8, 9]  # the newest that is archived, and all that follows
        assert api.all(reader) == [{"n": each} for each in expected]
        assert (reader.last_index, reader.gaps) == (count - 1, [])

    def test_what_follows_is_given_as_it_is_written(self, api: Flavour, live: Place) -> None:
        write_long_ago(live, 20)
        reader = api.streams.define("ai", type=dict[str, int]).read(live.run_id, **from_latest(live, 0.2))
        assert (api.next(reader), reader.last_index) == ({"n": 19}, 19)
        for n in range(20, 23):
            live.write("ai", numbers(1, n))
            assert api.next(reader) == {"n": n}
        live.write("ai", numbers(900, 23))
        live.finish()
        assert api.all(reader) == [{"n": n} for n in range(23, 923)]

    def test_of_an_empty_stream_v2_gives_all_that_is_written_once_it_is_read(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.store.open_stream(place.run_id, "ai")
        background = api.in_background(api.streams.read(place.run_id, "ai", start="latest", **place.options))
        traffic = world.server.traffic  # the first connection has said that there is nothing
        assert traffic.wait_until(lambda: len(place.requests("ai")) >= 2, LONG_S)
        place.write("ai", ["0"])
        place.write("ai", ["1", "2"])
        place.finish()
        assert background.result() == [0, 1, 2]

    @pytest.mark.parametrize("knows", [True, False])
    def test_v2_begins_there_whether_the_server_knows_it_or_not(self, api: Flavour, world: World, knows: bool) -> None:
        """One that does not sends everything from the beginning: all but the last record is left out."""
        place = world.place(Wire.V2)
        place.write("ai", numbers(3_000))
        app = create_app(world.store, timing=TIMING)
        if not knows:
            app.add_middleware(Unknowing)
        with running(app) as server, lasting(server.url.removeprefix("http://")):
            client = Client(DEFAULT_KEY, api_url=server.url, timing=PACE)
            reader = api.streams.read(place.run_id, "ai", start="latest", client=client)
            assert api.next(reader) == {"n": 2_999}
            place.write("ai", numbers(2, 3_000))
            place.finish()
            assert api.all(reader) == [{"n": 3_000}, {"n": 3_001}]
            asked = server.traffic.requests(f"/realtime/v1/streams/{place.run_id}/ai")
        assert [each.headers.get("x-trigger-stream-start") for each in asked[:2]] == ["latest" if knows else None, None]
        assert [each.last_event_id for each in asked[:2]] == [None, "1998"]  # what comes before tells a writer's retry
        client.close()

    def test_a_writers_retry_is_not_the_newest(self, api: Flavour, world: World, source: str) -> None:
        place = world.place(Wire.V2, source)
        place.write("ai", ["0", "1", "2"])
        for seq_num in (1, 2):
            place.store.repeat_record(place.run_id, "ai", seq_num)
        place.archive("ai")
        place.write("ai", ["5"])
        place.finish()
        place.archive("ai", 6 if source == "archive" else 5)
        reader = api.streams.read(place.run_id, "ai", start="latest", **place.options)
        assert (api.all(reader), reader.last_index) == ([5], 5)

    def test_a_connection_that_breaks_on_the_way_is_taken_up_again(self, api: Flavour, live: Place) -> None:
        write_long_ago(live, 400)
        live.faults.stream(live.run_id, "ai").cut(after_bytes=6_000)
        live.finish()
        reader = api.streams.read(live.run_id, "ai", **from_latest(live, 2.0))
        assert (api.all(reader), reader.last_index) == ([{"n": 399}], 399)

    def test_a_place_goes_before_it_and_what_is_none_does_not(self, api: Flavour, place: Place) -> None:
        write_long_ago(place, 6)
        place.finish()
        if place.source != "upstream":
            place.archive("ai", sealed=True)
        first = api.streams.read(place.run_id, "ai", **place.options)
        assert [api.next(first) for _ in range(3)] == [{"n": n} for n in range(3)]
        api.close(first)
        for last_event_id, expected in ((first.last_event_id, [3, 4, 5]), ("none of ours", [5])):
            body = api.streams.as_sse(
                place.run_id, "ai", start="latest", last_event_id=last_event_id, ids=False, **place.options
            )
            assert api.all(body) == [b'data: {"chunk":{"n": %d}}\n\n' % n for n in expected]

    def test_of_a_recreated_stream_it_is_the_newest_of_the_new_one(self, api: Flavour, world: World) -> None:
        place = world.place(Wire.V2)
        place.write("ai", numbers(6))
        place.store.recreate_stream(place.run_id, "ai")
        place.write("ai", ["6", "7"])
        place.finish()
        assert api.all(api.streams.read(place.run_id, "ai", start="latest", **place.options)) == [7]


def write_long_ago(place: Place, count: int) -> None:
    """Write numbers; on v1, where the time of a line matters, before any read could have begun."""
    place.store.open_stream(place.run_id, "ai")
    if place.wire is Wire.V2:
        place.write("ai", numbers(count))
    else:
        for n, text in enumerate(numbers(count)):
            place.store.append_entry(place.run_id, "ai", text + "\n", f"{1_000 + n}-0")


class Unknowing:
    """A server from before ``X-Trigger-Stream-Start``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [each for each in scope["headers"] if each[0] != b"x-trigger-stream-start"]
        await self._app(scope, receive, send)
