"""JSON text of a chunk → a value of the stream's type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

from tailrace.streams.chunks import RAW_SHOWN_CHARS, Unfit, decoder, shown


@dataclass
class Point:
    x: int
    y: float = 0.0


class Step(msgspec.Struct):
    name: str


class Progress(TypedDict):
    percent: int
    note: NotRequired[str]


class Token(pydantic.BaseModel):
    text: str
    logprob: float = 0.0


@dataclass
class Pair:
    token: Token
    point: Point


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


@pydantic.dataclasses.dataclass
class Checked:
    count: int


class Unknown:
    pass


class TaggedA(msgspec.Struct, tag="a"):
    value: int


class TaggedB(msgspec.Struct, tag="b"):
    value: str


@pytest.mark.parametrize(
    ("of", "text", "value"),
    [
        (Any, b'{"a":[1,null,true,1.5,"x"]}', {"a": [1, None, True, 1.5, "x"]}),
        (Any, b"null", None),
        (Any, b'""', ""),
        (Any, b"0", 0),
        (Any, b"false", False),
        (Any, b"123456789012345678901234567890", 123456789012345678901234567890),
        (Any, b"1e400", float("inf")),
        (Any, b'"\\ud83d"', "\ud83d"),
        (Any, b'"\\u0000"', "\x00"),
        (object, b"[1]", [1]),
        (str, b'"token"', "token"),
        (str, '"\u2028"'.encode(), "\u2028"),
        (str, b'"\\ud83d"', "\ud83d"),
        (int, b"7", 7),
        (float, b"7", 7.0),
        (bool, b"true", True),
        (int | None, b"null", None),
        (list[int], b"[1,2]", [1, 2]),
        (dict[str, Any], b'{"a":"\\ud83d"}', {"a": "\ud83d"}),
        (Literal["a", "b"], b'"b"', "b"),
        (Point, b'{"x":1}', Point(1)),
        (Step, b'{"name":"go","more":1}', Step("go")),
        (Progress, b'{"percent":5}', {"percent": 5}),
        (TaggedA | TaggedB, b'{"type":"b","value":"x"}', TaggedB("x")),
        (Token, b'{"text":"a"}', Token(text="a")),
        (Token, b'{"text":"a","more":"\\ud83d"}', Token(text="a")),
        (Token | None, b"null", None),
        (Token | str, b'"plain"', "plain"),
        (list[Token], b'[{"text":"a"}]', [Token(text="a")]),
        (dict[str, Token], b'{"k":{"text":"a"}}', {"k": Token(text="a")}),
        (Pair, b'{"token":{"text":"a"},"point":{"x":1}}', Pair(Token(text="a"), Point(1))),
        (Pet, b'{"kind":"dog"}', Dog(kind="dog")),
        (Checked, b'{"count":1}', Checked(1)),
    ],
)
def test_a_chunk_that_fits_is_a_value_of_the_type(of: Any, text: bytes, value: Any) -> None:
    found = decoder(of)(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("of", "text", "why"),
    [
        (str, b"1", "Expected `str`, got `int`"),
        (int, b'"1"', "Expected `int`, got `str`"),
        (int, b"1.5", "Expected `int`, got `float`"),
        (Point, b'{"x":"1"}', r"Expected `int`, got `str` - at `\$.x`"),
        (Point, b"{}", "missing required field `x`"),
        (Progress, b'{"percent":"\\ud83d"}', "surrogates not allowed"),
        (Literal["a"], b'"b"', "Invalid enum value 'b'"),
        (Token, b'{"text":1}', r"valid string - at `\$.text`"),
        (Token, b'{"text":1,"more":"\\ud83d"}', r"valid string - at `\$.text`"),
        (Pet, b'{"kind":"cow"}', "does not match any of the expected tags"),
        (Any, b"[", "not JSON"),
        (Any, b"\xff", "not JSON"),
    ],
)
def test_one_that_does_not_says_why(of: Any, text: bytes, why: str) -> None:
    with pytest.raises(Unfit, match=why):
        decoder(of)(text)


@pytest.mark.parametrize("of", [Unknown, list[Unknown], dict[str, Unknown | None], 5])
def test_a_type_that_nothing_decodes_is_refused_when_it_is_named(of: Any) -> None:
    with pytest.raises(TypeError, match="can't be decoded as"):
        decoder(of)


def test_a_long_chunk_is_shown_in_part() -> None:
    assert shown(b"short") == "short"
    assert shown(b"x" * 1000) == "x" * RAW_SHOWN_CHARS + "... (1000 characters)"
    assert shown(b"\xff") == "\ufffd"
