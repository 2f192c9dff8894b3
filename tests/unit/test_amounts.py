"""Numbers and rates as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tailrace.amounts import count, lag, rate, span
from tailrace.cli.looks import OVER_S, Looks


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        *((0, "0"), (9_999, "9999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_951, "100k"), (999_499, "999k")),
        *((999_500, "1.0M"), (123_456_789, "123M"), (2 * 10**9, "2.0G"), (10**15, "1000T")),
    ],
)
def test_counts(number: int, shown: str) -> None:
    assert count(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "0s"), (119.4, "119s"), (120, "2m"), (7_169, "119m"), (7_200, "2h"), (172_800, "2d")],
)
def test_ages(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    ("per_s", "shown"),
    [(None, ""), (0, "0"), (0.01, "0.1/s"), (9.94, "9.9/s"), (12.3, "12/s"), (999.4, "999/s"), (12_345, "12.3k/s")],
)
def test_rates(per_s: float | None, shown: str) -> None:
    assert rate(per_s) == shown


@pytest.mark.parametrize(
    ("records", "seconds", "shown"), [(None, None, ""), (0, 0.0, "0"), (145, 45.0, "145/45s"), (145, None, "145")]
)
def test_lags(records: int | None, seconds: float | None, shown: str) -> None:
    assert lag(records, seconds) == shown


def test_a_rate_is_what_came_since_a_look_some_seconds_ago() -> None:
    looks, begin = Looks(), datetime(2026, 11, 28, tzinfo=UTC)

    def look(second: float, **counts: int) -> dict[int, float]:
        return looks.rates(begin + timedelta(seconds=second), {int(key[1:]): number for key, number in counts.items()})

    assert look(0, s1=100) == {}
    assert look(1, s1=150, s2=7) == {1: 50.0}
    assert look(2, s1=150, s2=7) == {1: 25.0, 2: 0.0}
    assert look(2, s1=150) == {1: 25.0}
    assert look(1 + OVER_S, s1=1_150) == {1: 100.0}  # of the last ten seconds: the first look is forgotten
    assert look(100, s1=0) == {1: 0.0}
    assert look(5, s1=10) == {}  # the clock went back
