"""An array that is decoded element by element is what the whole of it would be, or malformed where that would be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord
from tailrace.source.answers import elements_of, json_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def decoded(body: str) -> list[Any] | None:
    try:
        return list(elements_of(body, "it"))
    except MalformedRecord:
        return None


def whole(body: str) -> list[Any] | None:
    try:
        found = json_of(body, "it")
    except MalformedRecord:
        return None
    return found if isinstance(found, list) else None


@given(st.lists(JSON, max_size=4), st.sampled_from([None, 1, "\t"]), st.sampled_from(["", " ", "\r\n \t"]))
def test_arrays_come_through(elements: list[Any], indent: Any, blank: str) -> None:
    body = blank + json.dumps(elements, indent=indent) + blank
    assert decoded(body) == elements


@given(st.text(st.sampled_from('[]{},:"\\ntrue123 \n'), max_size=12) | JSON.map(json.dumps), st.integers(0, 40))
def test_what_is_no_array_is_malformed(body: str, cut: int) -> None:
    for each in (body, body[:cut], f"[{body}]", f"[{body},", f"[{body}] "):
        assert decoded(each) == whole(each)


def test_what_comes_before_the_fault_is_given() -> None:
    elements = elements_of('[{"a": 1}, 2, oops', "the feed")
    assert [next(elements), next(elements)] == [{"a": 1}, 2]
    with pytest.raises(MalformedRecord, match="the feed is no JSON array"):
        next(elements)


def test_numbers_of_any_length_and_depth_beyond_the_stack() -> None:
    assert decoded("[" + "7" * 5_000 + "]") == [float("inf")]
    assert decoded("[" * 100_000) is None
