from __future__ import annotations

import sys

import pytest

from tailrace.retry import PATIENCE, backoff


@pytest.mark.parametrize(
    ("attempt", "bound"),
    [(0, 0.5), (1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (7, 30.0), (1_000, 30.0), (10**9, 30.0), (sys.maxsize, 30.0)],
)
def test_the_bound_doubles_up_to_the_cap(attempt: int, bound: float) -> None:
    assert backoff(attempt, 0.5, 30.0, lambda: 1.0) == bound


@pytest.mark.parametrize("drawn", [0.0, 0.25, 1.0])
def test_full_jitter_takes_any_part_of_the_bound(drawn: float) -> None:
    assert backoff(3, 0.5, 30.0, lambda: drawn) == 4.0 * drawn


@pytest.mark.parametrize(
    ("base_s", "cap_s", "expected"),
    [(0.0, 30.0, 0.0), (60.0, 30.0, 30.0), (1e300, 1e308, 1e308), (0.5, 0.0, 0.0)],
)
def test_extreme_bases_and_caps(base_s: float, cap_s: float, expected: float) -> None:
    assert backoff(10_000, base_s, cap_s, lambda: 1.0) == expected


def test_a_refusal_is_believed_when_there_were_many_over_a_long_time() -> None:
    assert PATIENCE.is_over(PATIENCE.attempts, PATIENCE.over_s)
    assert not PATIENCE.is_over(PATIENCE.attempts - 1, 10 * PATIENCE.over_s)
    assert not PATIENCE.is_over(10 * PATIENCE.attempts, PATIENCE.over_s - 1)
