"""`tailrace.wire.chunk_json` and PostgreSQL itself agree on what a chunk is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.wire import chunk_json
from tailrace.wire.chunk_json import BAD, ODD, PLAIN, bare, check
from tests.schedules import schedules

Connection = psycopg.Connection[tuple[object, ...]]

# The text travels as bytes, so that invalid UTF-8 and U+0000 reach the server too.
ACCEPT = "SELECT convert_from(%b, 'UTF8')::json::text"

# Everything that the views do with a chunk, and more.
USE = """
    SELECT j::jsonb::text,
           j ->> 0,
           j ->> 'a',
           j #>> '{a,0}',
           CASE json_typeof(j)
               WHEN 'object' THEN (SELECT count(key || coalesce(value, '')) FROM json_each_text(j))
               WHEN 'array' THEN (SELECT count(value) FROM json_array_elements_text(j))
           END
      FROM (SELECT convert_from(%b, 'UTF8')::json) AS given (j)
"""

UNPACK = "SELECT array(SELECT e::text FROM json_array_elements(convert_from(%b, 'UTF8')::json) AS e)"


@pytest.fixture
def postgres(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def accepts(postgres: Connection, query: str, text: bytes) -> bool:
    try:
        postgres.execute(query, [text])
    except psycopg.DataError:
        return False
    return True


# --- texts to compare with

NASTY = st.sampled_from(
    [
        *('"\\', "\\\\", '\\"', "\\u", "\\u0000", "\\\\u0000", "\\ud800", "\\udc00", "\\uD83D\\uDE00", "\\u00e9"),
        *("\\n", "\\/", "\\x", "\\U0041", "\\u12", "\n", "\t", "\r", "\x0b", "\x0c", "\x00", "\x01", "\x1f", "\x7f"),
        *(" ", "a", "é", "\u2028", "\ufeff", "\U0001f600", "d800", "0000", "'", "/**/", "//"),
    ]
)
SYNTAX = st.sampled_from(
    [
        *"[]{},:\"'",
        *("{}", "[]", '""', '"a"', '"a":', ',"a":1', "null", "true", "false", "nul", "NaN", "Infinity", "-Infinity"),
        *("undefined", "0", "1", "12", "-", "+", ".", "e", "E", "0x1", "1e5", "-0", "01", "1_0"),
    ]
)
DIGITS = st.sampled_from(["", "0", "1", "00", "07", "12345678901234567890", "9" * 300])
EXPONENT = st.sampled_from(
    ["", "5", "05", "308", "999", "1000", "00001", "16382", "16383", "16384", "131071", "131072", "400000", "9" * 20]
)


@st.composite
def numbers(draw: st.DrawFn) -> str:
    number = draw(st.sampled_from(["", "-", "+", "--"])) + draw(DIGITS)
    if draw(st.booleans()):
        number += "." + draw(DIGITS)
    if draw(st.booleans()):
        number += draw(st.sampled_from(["e", "E", "e+", "E-", "ee"])) + draw(EXPONENT)
    return number


def strings() -> st.SearchStrategy[str]:
    return st.lists(NASTY | st.text(max_size=3), max_size=5).map(lambda parts: '"' + "".join(parts) + '"')


@cache
def texts() -> st.SearchStrategy[str]:
    """JSON that is written by hand: right most of the time."""
    blank = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])
    sound = st.text(max_size=8).map(lambda text: json.dumps(text, ensure_ascii=False))
    escaped = st.text(max_size=8).map(json.dumps)
    scalar = sound | escaped | strings() | numbers() | st.sampled_from(["null", "true", "false", "0", "1.50", '"a"'])

    def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        member = st.builds("{}{}{}:{}".format, sound | strings() | st.just('"a"'), blank, blank, inner)
        return st.builds("[{}{}]".format, blank, st.lists(inner, max_size=4).map(",".join)) | st.builds(
            "{{{}{}}}".format, st.lists(member, max_size=4).map(",".join), blank
        )

    return st.builds("{}{}{}".format, blank, st.recursive(scalar, nested, max_leaves=8), blank)


def garbage() -> st.SearchStrategy[str]:
    return st.lists(SYNTAX | NASTY | numbers() | st.characters(codec="utf-8"), max_size=12).map("".join)


DAMAGE = st.binary(max_size=1) | NASTY.map(str.encode) | SYNTAX.map(str.encode)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Almost JSON: bytes of a sound text put in, taken out or replaced."""
    text = bytearray(draw(texts()).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        text[start : start + draw(st.integers(0, 2))] = draw(DAMAGE)
    return bytes(text)


# --- properties

many = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=schedules(4000)
)


def compare(postgres: Connection, text: bytes) -> None:
    shape = check(text)
    assert (shape != BAD) == accepts(postgres, ACCEPT, text), chunk_json.reason(text)
    assert (shape == BAD) == (chunk_json.reason(text) != "")
    assert check(bare(text)) == shape
    if shape == PLAIN:
        postgres.execute(USE, [text])  # raises nothing
    # The scanner that steps in when msgspec has no stack left follows the same grammar.
    if shape != BAD or chunk_json.is_utf8(text):
        assert chunk_json.is_json(chunk_json.without_surrogates(text)) == (shape != BAD)


@many
@given(text=texts())
def test_texts_written_by_hand(postgres: Connection, text: str) -> None:
    compare(postgres, text.encode())


@many
@given(text=garbage())
def test_garbage(postgres: Connection, text: str) -> None:
    compare(postgres, text.encode())


@settings(many, max_examples=schedules(2400))
@given(text=damaged())
def test_damaged_texts(postgres: Connection, text: bytes) -> None:
    compare(postgres, text)


@settings(many, max_examples=schedules(400))
@given(batch=st.lists(texts().map(bare) | damaged(), max_size=6))
def test_checked_chunks_come_back_from_an_array_byte_for_byte(postgres: Connection, batch: list[bytes]) -> None:
    chunks = [bare(text) for text in batch if check(text) != BAD]
    row = postgres.execute(UNPACK, [b"[%b]" % b",".join(chunks)]).fetchone()
    assert row == ([text.decode() for text in chunks],)


# --- examples


@pytest.mark.parametrize(
    "text",
    [
        *(b"1e%d" % exponent for exponent in (999, 1000, 131071, 131072, 400000)),
        *(b"1e-%d" % exponent for exponent in (999, 1000, 16383, 16384)),
        *(b"9" * count for count in (14_999, 15_000, 131_072, 131_073)),
        *(b"0." + b"1" * count for count in (14_999, 15_000, 16_383, 16_384)),
        *(b"%be%d" % (b"9" * 14_999, exponent) for exponent in (999, -999)),
        *(b"0.%be%d" % (b"9" * 14_999, exponent) for exponent in (999, -999)),
    ],
    ids=lambda text: f"{text[:8].decode()}..{text[-8:].decode()}:{len(text)}",
)
def test_a_number_that_jsonb_refuses_is_odd(postgres: Connection, text: bytes) -> None:
    assert accepts(postgres, ACCEPT, text)
    assert check(text) == ODD or accepts(postgres, USE, text)


@pytest.mark.parametrize("name", ["array", "object", "both"])
def test_the_deepest_text_that_is_allowed_works_everywhere(postgres: Connection, name: str) -> None:
    opened, closed = {"array": (b"[", b"]"), "object": (b'{"a":', b"}"), "both": (b'[{"a":', b"}]")}[name]
    count = 512 // (2 if name == "both" else 1)
    text = opened * count + b"1" + closed * count
    assert check(text) == PLAIN
    postgres.execute(USE, [text])
    row = postgres.execute(UNPACK, [b"[%b,%b]" % (text, text)]).fetchone()
    assert row == ([text.decode()] * 2,)
    assert check(b"[%b]" % text) == BAD


@pytest.mark.parametrize(
    ("text", "query"),
    [
        pytest.param(b"[%b1]" % (b"1," * (2**23 - 2)), "jsonb_array_length", id="as many elements as fit"),
        pytest.param(b"[%b1]" % (b"9e999," * (2**20 // 6 - 1)), "length", id="numbers that grow when printed"),
        pytest.param(b"[%b1]" % (b"9e99," * 2**20), "length", id="more numbers that grow less"),
        pytest.param(b'"%b"' % (b"a" * (2**24 - 2)), "length", id="one long string"),
    ],
)
def test_the_largest_plain_texts_fit_in_jsonb(postgres: Connection, text: bytes, query: str) -> None:
    assert check(text) == PLAIN
    cast = "" if query == "jsonb_array_length" else "::text"
    postgres.execute(f"SELECT {query}((convert_from(%b, 'UTF8')::jsonb){cast})".encode(), [text])


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"[%b1]" % (b"1," * 2**23), id="more elements"),
        pytest.param(b"[%b1]" % (b"9e999," * (2**20 // 6 + 1)), id="more numbers that grow when printed"),
    ],
)
def test_larger_ones_are_odd(text: bytes) -> None:
    assert check(text) == ODD
