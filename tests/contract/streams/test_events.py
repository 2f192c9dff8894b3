"""A stream is rendered as server-sent events, from which a client can resume."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.streams import ChunkTypeError
from tests.streamcases import Flavour, Place, numbers


class Token(msgspec.Struct):
    text: str


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

    def test_a_part_of_a_stream(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", "2", "3"])
        place.finish()
        place.settle("ai")
        body = api.streams.as_sse(place.run_id, "ai", start_index=1, ids=False, **place.options)
        assert api.all(body) == [b'data: {"chunk":2}\n\n', b'data: {"chunk":3}\n\n']

    def test_an_error_of_reading_is_raised(self, api: Flavour, live: Place) -> None:
        live.write("ai", ['"a"'])
        body = api.streams.as_sse(live.run_id, "ai", type=int, **live.options)
        with pytest.raises(ChunkTypeError):
            api.next(body)
        api.close(body)
        assert live.left("ai")
