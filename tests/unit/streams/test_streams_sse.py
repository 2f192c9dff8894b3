"""Chunks → server-sent events."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pydantic
import pytest

from tailrace.streams.session import Value
from tailrace.streams.sse import SSE_HEADERS, Events
from tailrace.streams.steps import Chunk
from tailrace.wire.events import Framer


def value(text: str, of: object = None) -> Value:
    return Value("ai", of, Chunk(0, 41, text.encode()))


@dataclass
class Part:
    text: str


class Model(pydantic.BaseModel):
    text: str


def test_by_default_the_payload_is_exactly_the_chunk() -> None:
    events = Events(None, ids=True, end_event=None)
    assert events.chunk(value('{"b":1,"a":1.10}')) == b'id: 41\ndata: {"chunk":{"b":1,"a":1.10}}\n\n'
    assert Events(None, ids=False, end_event=None).chunk(value('"x"')) == b'data: {"chunk":"x"}\n\n'
    assert events.end() == b""


def test_the_headers_are_those_of_the_vendors_example() -> None:
    assert dict(SSE_HEADERS) == {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache",
        "Connection": "keep-alive",
    }


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_line_ends_between_the_parts_of_a_chunk_do_not_break_the_event(ending: str) -> None:
    event = Events(None, ids=True, end_event=None).chunk(value(f'{{"a":{ending}[1,{ending}"\u2028"]}}'))
    (framed,) = Framer(10_000).feed(event.decode())
    assert json.loads(framed.data) == {"chunk": {"a": [1, "\u2028"]}}
    assert framed.id == "41"


@pytest.mark.parametrize(
    ("made", "data"),
    [
        ({"text": "x"}, b'{"text":"x"}'),
        (Part("x"), b'{"text":"x"}'),
        (Model(text="x"), b'{"text":"x"}'),
        ([Model(text="x"), None], b'[{"text":"x"},null]'),
        ("x", b'"x"'),
    ],
)
def test_a_payload_of_ones_own_is_sent_as_json(made: object, data: bytes) -> None:
    events = Events(lambda chunk: chunk, ids=False, end_event="done")
    assert events.chunk(value("1", made)) == b"data: " + data + b"\n\n"
    assert events.end() == b"event: done\ndata: {}\n\n"


def test_a_payload_that_is_no_json_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="object"):
        Events(lambda chunk: object(), ids=False, end_event=None).chunk(value("1"))
