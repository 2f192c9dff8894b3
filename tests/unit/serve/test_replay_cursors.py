"""What upstream makes of cursors and timeouts that were never meant for it."""

from __future__ import annotations

import math

import pytest

from tailrace.serve.cursors import NEWEST_RECORD, Unreadable, js_number, timeout_seconds, v1_cursor, v2_start
from tailrace.serve.entries import V1Id


@pytest.mark.parametrize(
    ("header", "cursor"),
    [
        ("0", V1Id(0, 0)),
        ("0-0", V1Id(0, 0)),
        ("9", V1Id(9, 0)),
        ("1795324456096", V1Id(1795324456096, 0)),
        ("1795324456096-12", V1Id(1795324456096, 12)),
        ("18446744073709551615-18446744073709551615", V1Id(2**64 - 1, 2**64 - 1)),
    ],
)
def test_redis_reads_one_or_two_numbers(header: str, cursor: V1Id) -> None:
    assert v1_cursor(header) == cursor


@pytest.mark.parametrize("header", ["not-an-id", "41,17,903", "-1", "1-", "1-2-3", "+", "-", ">", "1.5", str(2**64)])
def test_redis_refuses_everything_else(header: str) -> None:
    with pytest.raises(Unreadable):
        v1_cursor(header)


@pytest.mark.parametrize(
    ("header", "start"),
    [
        ("", 0),
        ("41", 42),
        ("0", 1),
        ("-1", 1),
        ("-", 1),
        ("41,17,903", 0),
        ("1763000000000-0", 1763000000001),
        ("abc", 0),
        ("Infinity", 0),
        ("0x10", 17),
        ("1e3", 1001),
        (" 7 ", 8),
    ],
)
def test_v2_starts_at_one_more_than_a_javascript_number(header: str, start: int) -> None:
    assert v2_start(header) == start


@pytest.mark.parametrize(
    ("header", "stream_start", "start"),
    [("", "latest", NEWEST_RECORD), ("41,17,903", "latest", NEWEST_RECORD), ("41", "latest", 42), ("", "newest", 0)],
)
def test_v2_starts_at_the_newest_record_when_no_other_is_named(header: str, stream_start: str, start: int) -> None:
    assert v2_start(header, stream_start) == start


@pytest.mark.parametrize("header", ["1.5", "1e30", "18446744073709551616"])
def test_v2_storage_refuses_what_is_no_64_bit_integer(header: str) -> None:
    with pytest.raises(Unreadable):
        v2_start(header)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("", None), ("0", 0), ("1", 1), ("601", 601), ("-1", -1), ("10abc", 10), ("1.9", 1), ("0x1F", 31)],
)
def test_a_timeout_is_read_as_parse_int_reads_it(header: str | None, seconds: float | None) -> None:
    assert timeout_seconds(header) == seconds


def test_a_timeout_that_no_number_begins_is_nan() -> None:
    assert math.isnan(timeout_seconds("abc") or 0)


def test_a_javascript_number_is_not_a_python_one() -> None:
    assert math.isnan(js_number("1_000"))
    assert math.isnan(js_number("nan"))
    assert js_number(".5") == 0.5
    assert js_number("5.") == 5
    assert js_number("-Infinity") == -math.inf
