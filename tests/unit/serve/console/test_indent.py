"""JSON is laid out for reading without a change to any of its tokens."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.serve.console.indent import indented

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_it_is_the_same_value_with_the_same_tokens(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json.loads(indented(text)) == value
    # Without ASCII alone, a string may hold what Python takes for a blank; with it, none of its tokens does.
    if ascii_only:
        assert json.dumps(json.loads(indented(text))) == text
        assert [*_tokens(indented(text))] == [*_tokens(text)]


def _tokens(text: str) -> list[str]:
    decoder = json.JSONDecoder(parse_float=str, parse_int=str)
    return [repr(decoder.decode(text))]


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ('{"a":1.10,"a":[]}', '{\n  "a": 1.10,\n  "a": []\n}'),
        ('[1e400,"\\u0000",{}]', '[\n  1e400,\n  "\\u0000",\n  {}\n]'),
        ('"a, {b}: [c]"', '"a, {b}: [c]"'),
        ('{"cut":"in the mid', '{\n  "cut": "in the mid'),
        ("]}", "\n]\n}"),
        ("", ""),
    ],
)
def test_numbers_escapes_and_doubled_keys_stay_as_they_are(text: str, laid_out: str) -> None:
    assert indented(text) == laid_out
