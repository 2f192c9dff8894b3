"""A run is followed, alone or with all its streams."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.model import Wire
from tailrace.streams import AbortController, Client, RetriesExhausted, SomeStreamsFailed, StreamAborted, StreamRefused
from tests.streamcases import Flavour, Place, World


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
