"""The archive is read, and left for upstream without a seam."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.model import Wire
from tailrace.streams import AbortController, Client, NotArchived, RetriesExhausted, StreamAborted, StreamTimeout
from tests.streamcases import PACE, Flavour, World, numbers


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

    def test_silence_after_the_seam_times_out_and_can_be_aborted(self, api: Flavour, world: World, wire: Wire) -> None:
        place = world.place(wire, "auto")
        place.write("ai", numbers(4))
        place.archive("ai", 3)
        reader = api.streams.read(place.run_id, "ai", timeout_in_seconds=2, **place.options)
        assert [api.next(reader)["n"] for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(StreamTimeout):
            api.next(reader)
        assert place.left("ai")
        controller = AbortController()
        background = api.in_background(
            api.streams.read(place.run_id, "ai", start_index=4, signal=controller.signal, **place.options)
        )
        assert place.begun("ai")
        controller.abort()
        with pytest.raises(StreamAborted):
            background.result()
        assert place.left("ai")

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
            timing=PACE,
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
