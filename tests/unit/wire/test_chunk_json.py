"""What a chunk is, in tables. That PostgreSQL agrees is shown in tests/integration/test_chunk_json_postgres.py."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tailrace.wire import chunk_json
from tailrace.wire.chunk_json import BAD, MAX_DEPTH, ODD, PLAIN, bare, check, reason
from tailrace.wire.envelope import Envelope, envelope

MIB = 1024 * 1024


def nest(depth: int, inner: bytes = b"") -> bytes:
    return b"[" * depth + inner + b"]" * depth


@pytest.mark.parametrize(
    "text",
    [
        *(b"null", b"true", b"false", b"0", b"-0", b"1.10", b"1e5", b"1E+308", b"-1.5e-300", b'""', b"[]", b"{}"),
        b'{"b":1,"a":2,"a":3}',  # order and repeated keys are kept
        b'{"a": [1, {"b": null}], "c": "x"}',
        b'"\\" \\\\ \\/ \\b \\f \\n \\r \\t \\u00e9 \\u00E9"',
        b'"\x7f"',
        "é 😀 \u2028".join('""').encode(),
        b'"\\ud83d\\ude00"',  # a pair
        b'"\\\\u0000"',  # a backslash and five letters
        b'"\\\\ud800"',
        b'"\\\\\\\\ud800"',
        b" \t\n\r1 \t\n\r",
        b'{"id":"8f1e4456-91e4456e0000","at":"2024-10-12T09:00:00","e1e4":-1234}',  # look like numbers
        b'"' + b"[" * 2000 + b'"',
        b'["\\"' + b"[" * 2000 + b'"]',
        nest(MAX_DEPTH),
        nest(100, b",".join([nest(MAX_DEPTH - 100)] * 20)),
        b"9" * 14_999,
        b"[" + b"1," * 10_000 + b"1]",
    ],
    ids=lambda text: text[:32].decode(),
)
def test_plain(text: bytes) -> None:
    assert check(text) == PLAIN
    assert reason(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        b'"\\u0000"',
        b'{"\\u0000":1}',
        b'"\\\\\\u0000"',
        *(b'"\\ud800"', b'"\\uDC00"', b'"\\udc00\\ud800"', b'"\\ud800x"', b'"\\ud800\\n"', b'{"\\udfff":1}'),
        b'"\\ud83d\\ude00 \\ud83d"',
        b'"\\\\\\ud800"',
        *(b"1e1000", b"1E+131072", b"[1e-16384]", b'{"a":-0.0e400000}', b'{"a": 1e99999}', b"1e0000000000001"),
        b"9" * 15_000,
        b"[0." + b"1" * 16_384 + b"]",
        b'"' + b"a" * 16 * MIB + b'"',
        nest(MAX_DEPTH, b'"\\ud800"'),
    ],
    ids=lambda text: text[:32].decode(),
)
def test_odd(text: bytes) -> None:
    assert check(text) == ODD
    assert reason(text) == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        *((text, "not JSON") for text in (b"NaN", b"Infinity", b"-Infinity", b"undefined", b"nul", b"truefalse")),
        *((text, "not JSON") for text in (b"01", b"-01", b"1.", b".5", b"-", b"+1", b"1e", b"1e+", b"0x1", b"1_0")),
        *((text, "not JSON") for text in (b"1,2", b"1 2", b"[1,]", b'{"a":1,}', b"[1", b"]", b'{"a"}', b"{1:2}")),
        *((text, "not JSON") for text in (b'"', b'"\\"', b'"\\x"', b'"\\u12"', b'"\\uD8"', b"'a'", b"/**/1")),
        *((b'"%c"' % byte, "not JSON") for byte in (0, 1, 9, 10, 13, 31)),
        *((text, "not JSON") for text in (b"\x0b1", b"\x0c1", b"1\xc2\xa0", b"\xef\xbb\xbf1", b"1\x00", b"\\u0031")),
        (b'["\\ud800",]', "not JSON"),
        (b'"\\ud800\\x"', "not JSON"),
        *(
            (text, "not UTF-8")
            for text in (b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b"\xff")
        ),
        *((nest(depth), "nested deeper than 512") for depth in (MAX_DEPTH + 1, 900, 5_000, 100_000)),
        (b'{"a":' * 513 + b"1" + b"}" * 513, "nested deeper than 512"),
        (nest(MAX_DEPTH + 1, b'"\\ud800"'), "nested deeper than 512"),
        (nest(MAX_DEPTH + 1, b'"\\\\"'), "nested deeper than 512"),
        (b"[" * 100_000, "nested deeper than 512"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_bad(text: bytes, why: str) -> None:
    assert check(text) == BAD
    assert reason(text).startswith(why)


def test_a_reason_holds_nothing_of_the_text() -> None:
    assert "secret" not in reason(b'{"secret": secret}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", b"1"),
        (b" \t\n\r 1 \t\n\r ", b"1"),
        (' "é" ', '"é"'.encode()),
        ("\x0b1\xa0", b"\x0b1\xc2\xa0"),  # other blanks are not JSON's
        ("", b""),
        ('"\ud800"', b'"\xed\xa0\x80"'),
    ],
)
def test_bare(text: str | bytes, expected: bytes) -> None:
    assert bare(text) == expected


# --- envelope


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"data":{"a":1.10},"id":"x1"}', Envelope(b'{"a":1.10}', "x1")),
        ('{"id":"x1","data": [1, 2] }', Envelope(b"[1, 2]", "x1")),
        (' { "data" :\t"é" , "id" : "x1" } ', Envelope('"é"'.encode(), "x1")),
        ('{"data":null,"id":""}', Envelope(b"null", "")),
        ('{"id":"x1"}', Envelope(None, "x1")),
        ('{"data":1,"id":"a","data":2,"id":"b"}', Envelope(b"2", "b")),
        ('{"id":5,"data":1,"id":"b"}', Envelope(b"1", "b")),
        ('{"\\u0064ata":1,"\\u0069d":"\\u0061"}', Envelope(b"1", "a")),
        ('{"x":{"data":0,"id":0},"data":{"id":1,"data":{}},"id":"a","y":[]}', Envelope(b'{"id":1,"data":{}}', "a")),
        ('{"data":"\\u0000","id":"\\u0000"}', Envelope(b'"\\u0000"', "\0")),
        # what msgspec refuses
        ('{"data":"\\ud800","id":"a"}', Envelope(b'"\\ud800"', "a")),
        ('{"data": [ "\\\\\\ud800" , "}\\"" ] , "id":"a"}', Envelope(b'[ "\\\\\\ud800" , "}\\"" ]', "a")),
        ('{"\\ud800":[{"data":1}],"data":{"a":"\\ud800"},"id":"\\""}', Envelope(b'{"a":"\\ud800"}', '"')),
        ('{"data":1,"id":"\\udc00\\ud83d\\ude00é"}', Envelope(b"1", "\ufffd😀é")),
        ('{"data":"\\ud800","data":7,"id":"a","id":"b"}', Envelope(b"7", "b")),
        ('{"id":"\\ud800"}', Envelope(None, "\ufffd")),
        # not an envelope
        *((body, None) for body in ("", "1", "[]", '["data",1]', "{}", '"data"', '{"data":1}', '{"data":1,"id":null}')),
        *((body, None) for body in ('{"data":1,"id":5}', '{"data":1,"id":"a","id":5}', '{"id":["\\ud800"]}')),
        *((body, None) for body in ('{"data":NaN,"id":"a"}', '{"data":01,"id":"a"}', '{"data":,"id":"a"}')),
        *(
            (body, None)
            for body in ('{"data":1,"id":"a"', '{"data":1,"id":"a"}x', '{"data":1,"id":"a",}', "{'id':'a'}")
        ),
        *((body, None) for body in ('["\\ud800"]', '{"a":"\\ud800","id":1}', '{"data":"\\ud800","id":"a"}]')),
        ('{"data":"\ud800","id":"a"}', None),
        ('\ufeff{"data":1,"id":"a"}', None),
    ],
)
def test_envelope(body: str, expected: Envelope | None) -> None:
    assert envelope(body) == expected
    if "\ud800" not in body:
        assert envelope(body.encode()) == expected


@pytest.mark.parametrize("surrogate", ["", "\\ud800"])
@pytest.mark.parametrize(("depth", "taken"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (900, False), (50_000, False)])
def test_an_envelope_holds_a_chunk_as_deep_as_allowed(depth: int, taken: bool, surrogate: str) -> None:
    data = nest(depth, b'"%b"' % surrogate.encode())
    body = b'{"data":%b,"id":"a"}' % data
    assert envelope(body) == (Envelope(data, "a") if taken else None)
    assert reason(body) == ("" if depth < MAX_DEPTH else "nested deeper than 512")


def test_data_that_is_not_utf8_is_left_to_check() -> None:
    taken = envelope(b'{"data":"\xff","id":"a"}')
    assert taken is not None
    assert taken.data is not None
    assert check(taken.data) == BAD


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    members=st.lists(st.tuples(st.sampled_from(["data", "id", "x", "\ud800"]), json_values), max_size=5),
    spaces=st.booleans(),
    data=json_values,
    identity=st.text(max_size=5),
)
@example(members=[], spaces=False, data="\ud800", identity="a")
def test_an_envelope_is_what_javascript_sees(
    members: list[tuple[str, object]], spaces: bool, data: object, identity: str
) -> None:
    separators = (" , ", " : ") if spaces else (",", ":")
    members = [*members, ("data", data), ("id", identity)]
    text = [json.dumps(key) + separators[1] + json.dumps(value, separators=separators) for key, value in members]
    body = "{" + separators[0].join(text) + "}"
    assert envelope(body) == Envelope(json.dumps(data, separators=separators).encode(), identity)


# --- awkward machines


def at_the_bottom_of_the_stack(call: Callable[[], object]) -> object:
    """Call with so little stack left that msgspec can't go 300 deep (CPython before 3.12 has one limit for both)."""

    def down(frames: int) -> object:
        return down(frames - 1) if frames else call()

    frame: object = sys._getframe()
    used = 0
    while frame is not None:
        used += 1
        frame = getattr(frame, "f_back", None)
    return down(sys.getrecursionlimit() - used - 60)


DEEP = nest(300, b'{"a":[1,-2.5e3,true,null,"\\n\\u00e9\\""],"b":{}}')


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (DEEP, PLAIN),
        (b" %b " % DEEP, PLAIN),
        (DEEP.replace(b"\\n", b"\\ud800"), ODD),
        (DEEP.replace(b"true", b"\ttrue\r\n"), PLAIN),
        (DEEP.replace(b"\\n", b"\\u0000"), ODD),
        (DEEP.replace(b"e3", b"e3000"), ODD),
        *(
            (DEEP.replace(old, new), BAD)
            for old, new in [
                *(
                    (b"true", b"True"),
                    (b"1,", b"01,"),
                    (b"1,", b"1,,"),
                    (b"1,", b"1"),
                    (b'"a":', b'"a"'),
                    (b"{}", b"{"),
                ),
                *((b"{}", b"{]"), (b'"b"', b"b"), (b"\\n", b"\\x"), (b"\\n", b"\n"), (b'"b":', b":"), (b"[1", b"[,1")),
                *((b"e3", b"e"), (b'\\""', b'\\"'), (b",null", b":null"), (b"{}", b'{"a":1,}'), (b"]" * 9, b"]" * 8)),
            ]
        ),
        (DEEP + b"]", BAD),
        (DEEP + b",1", BAD),
        (DEEP + b"1", BAD),
        (nest(5_000), BAD),
    ],
)
def test_little_stack_changes_nothing(text: bytes, shape: int) -> None:
    assert check(text) == shape
    assert at_the_bottom_of_the_stack(lambda: check(text)) == shape
    assert chunk_json.is_json(chunk_json.without_surrogates(text)) == (shape != BAD or text == nest(5_000))


def test_little_stack_changes_no_envelope() -> None:
    body = b'{"data": %b,"id":"a"}' % DEEP
    assert at_the_bottom_of_the_stack(lambda: envelope(body)) == Envelope(DEEP, "a")
    assert at_the_bottom_of_the_stack(lambda: envelope(body + b"}")) is None
    assert at_the_bottom_of_the_stack(lambda: envelope(body.replace(b"\\n", b"\\ud800"))) == Envelope(
        DEEP.replace(b"\\n", b"\\ud800"), "a"
    )


@pytest.mark.parametrize(
    "unit",
    [
        b'"",',
        b"[],",
        b'"[{",',
        b'"\\\\",',
        b'"\\"",',
        b'"\\ud800",',
        b'"1e1",',
        b"1e9,",
        b"[[[1,[]],2],[3]],",
        b'{"a":1},',
    ],
)
def test_time_grows_with_the_size(unit: bytes) -> None:
    """One MiB takes about a second even on the careful paths; anything quadratic would take hours."""
    data = nest(400, unit * (MIB // len(unit)) + b"0")
    start = time.process_time()
    assert check(data) in (PLAIN, ODD)
    assert check(data + b"]") == BAD
    assert envelope(b'{"data":%b,"id":"\\ud800"}' % data) == Envelope(data, "\ufffd")
    assert time.process_time() - start < 30
