"""Chunks are values of the stream's type, and one that is none is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest

from tailrace.model import Wire
from tailrace.serve.records import Draft, data_draft
from tailrace.streams import ChunkTypeError, Client, StreamError
from tests.streamcases import PACE, Flavour, Place, World
from tests.upstream.drafts import undefined_draft


@dataclass
class Progress:
    percent: int


class Token(msgspec.Struct):
    text: str


class Model(pydantic.BaseModel):
    text: str


class Row(TypedDict):
    n: int


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
            (list[int], "[1,2]", [1, 2]),
            (Literal["a", "b"], '"b"', "b"),
            (dict[str, Progress], '{"x":{"percent":5}}', {"x": Progress(5)}),
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

    def test_an_error_of_whoever_takes_it_ends_the_read(self, api: Flavour, place: Place) -> None:
        place.write("ai", ["1", '"a"', "2"])
        place.finish()
        place.settle("ai")

        def refuse(error: ChunkTypeError) -> None:
            raise RuntimeError("mine") from error

        reader = api.streams.read(place.run_id, "ai", type=int, on_invalid=refuse, **place.options)
        assert api.next(reader) == 1
        with pytest.raises(RuntimeError, match="mine"):
            api.next(reader)
        assert api.all(reader) == []
        assert place.left("ai")

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
        client = Client("tr_dev_replay", api_url=world.server.url, timing=PACE, event_max_bytes=20_000)
        refused: list[ChunkTypeError] = []
        reader = api.streams.read(place.run_id, "ai", client=client, on_invalid=refused.append)
        assert api.all(reader) == [1, 2]
        assert [(error.index, len(error.raw) < 20_000, "too_large" in str(error)) for error in refused] == [
            (1, True, True)
        ]
