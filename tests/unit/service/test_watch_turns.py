"""Whose turn it is to be looked at alone."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tailrace.service import watch_list
from tailrace.store.runs import WatchedRun


def run(number: int, *, asked_for_s: float = 60.0, known: bool = True, attempt: int = 0) -> WatchedRun:
    return WatchedRun(number, f"run_{number}", known, False, asked_for_s, attempt, 0, 0.0, float(number))


def chosen(runs: Sequence[WatchedRun], limit: int) -> list[int]:
    return [each.id for each in watch_list.turns(runs, limit)]


def test_what_was_looked_for_in_vain_comes_after_what_is_new_or_known() -> None:
    sought = [run(number, known=False, attempt=1) for number in range(20)]
    others = [run(number, known=number % 2 == 0) for number in range(20, 24)]
    assert chosen([*sought, *others], 5)[:4] == [20, 21, 22, 23]


def test_who_asked_last_does_not_wait_behind_all_who_came_before() -> None:
    runs = [run(number, asked_for_s=1_000.0 - number) for number in range(100)]
    assert chosen(runs, 4) == [0, 99, 1, 98]


def test_what_was_looked_for_in_vain_keeps_a_fifth_of_the_places() -> None:
    runs = [*(run(number) for number in range(50)), *(run(number, known=False, attempt=3) for number in range(50, 99))]
    assert [number for number in chosen(runs, 10) if number >= 50] == [50, 51]


@given(
    st.lists(
        st.builds(run, st.integers(0, 9), asked_for_s=st.floats(0, 9), known=st.booleans(), attempt=st.integers(0, 2))
    ),
    st.integers(1, 12),
)
def test_no_place_is_left_empty_and_nobody_has_two(runs: list[WatchedRun], limit: int) -> None:
    runs = [
        run(number, asked_for_s=each.asked_for_s, known=each.known, attempt=each.attempt)
        for number, each in enumerate(runs)
    ]
    found = chosen(runs, limit)
    assert len(found) == len(set(found)) == min(limit, len(runs))
