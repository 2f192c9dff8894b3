"""What may pass is tried again, and what will not is raised."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.model import Wire
from tailrace.streams import Client, RetriesExhausted, StreamRefused
from tests.streamcases import PACE, Flavour, Place, World, numbers


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
        client = Client("tr_dev_replay", api_url="http://127.0.0.1:1", timing=PACE)
        with pytest.raises(RetriesExhausted) as caught:
            api.all(api.streams.read("run_1", "ai", client=client))
        assert caught.value.status is None

    def test_a_wrong_key(self, api: Flavour, live: Place) -> None:
        client = Client("tr_dev_wrong_key", api_url=live.world.server.url, timing=PACE)
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
