"""An array that is decoded as it comes is what the whole of it would be, or malformed where that would be."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.source.answers import json_of
from tailrace.source.elements import Elements

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def in_pieces(body: str, cuts: Iterable[int], elements: Elements | None = None) -> Iterator[Any]:
    """Decode a body that comes in pieces."""
    elements = elements or Elements("the feed")
    at = 0
    for cut in sorted({*cuts, len(body)}):
        yield from elements.feed(body[at:cut])
        at = max(at, cut)
    yield from elements.finish()


def decoded(body: str, cuts: Iterable[int] = ()) -> list[Any] | None:
    try:
        return list(in_pieces(body, cuts))
    except MalformedRecord:
        return None


def whole(body: str) -> list[Any] | None:
    try:
        found = json_of(body, "it")
    except MalformedRecord:
        return None
    return found if isinstance(found, list) else None


CUTS = st.sets(st.integers(0, 60), max_size=8) | st.just(range(1_000))


@given(st.lists(JSON, max_size=4), st.sampled_from([None, 1, "\t"]), st.sampled_from(["", " ", "\r\n \t"]), CUTS)
def test_arrays_come_through(elements: list[Any], indent: Any, blank: str, cuts: Iterable[int]) -> None:
    body = blank + json.dumps(elements, indent=indent) + blank
    assert decoded(body, cuts) == elements


@given(st.text(st.sampled_from('[]{},:"\\ntrue123 \n'), max_size=12) | JSON.map(json.dumps), st.integers(0, 40), CUTS)
def test_what_is_no_array_is_malformed(body: str, cut: int, cuts: Iterable[int]) -> None:
    for each in (body, body[:cut], f"[{body}]", f"[{body},", f"[{body}] "):
        assert decoded(each, cuts) == whole(each)


@pytest.mark.parametrize("cuts", [(), range(20)])
def test_what_comes_before_the_fault_is_given(cuts: Iterable[int]) -> None:
    elements = in_pieces('[{"a": 1}, 2, oops', cuts)
    assert [next(elements), next(elements)] == [{"a": 1}, 2]
    with pytest.raises(MalformedRecord, match="the feed is no JSON array"):
        next(elements)


def test_numbers_of_any_length_and_depth_beyond_the_stack() -> None:
    assert decoded("[" + "7" * 5_000 + "]") == [float("inf")]
    assert decoded("[" * 100_000) is None


def test_an_element_is_given_as_soon_as_it_has_come_and_nothing_of_it_is_kept() -> None:
    elements = Elements("the feed")
    given_ = list(elements.feed("["))
    for number in range(1_000):
        given_ += elements.feed(f'"{number:0999d}",')
        assert elements._size <= 1_010
    assert len(given_) >= 999


def test_an_element_may_be_as_large_as_is_allowed() -> None:
    elements = Elements("the feed", 1_000)
    found = []
    for piece in ['["', *["x" * 90] * 10, '",', "2]"]:
        found += elements.feed(piece)
    assert [*found, *elements.finish()] == ["x" * 900, 2]


@pytest.mark.parametrize(("text", "most", "of_all"), [("x" * 100, 1_000, 10**6), ('","' + "x" * 100, 10**6, 5_000)])
def test_what_has_no_end_is_not_read_to_its_end(text: str, most: int, of_all: int) -> None:
    elements = Elements("the feed", most, of_all)
    pieces = itertools.chain(['["'], itertools.repeat(text))
    with pytest.raises(SourceUnavailable, match="larger"):
        deque(itertools.chain.from_iterable(map(elements.feed, pieces)), 0)
    assert elements._fed <= min(most, of_all) + 200
