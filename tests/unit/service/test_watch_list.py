"""Which runs are looked at, and when: those that the feed tells of not alone, the others by a budget, once at the end."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tailrace.service.watch_list import ALONE_PER_S, WatchList
from tailrace.store.runs import Standing, WatchedRun

WATCH_S = 5.0
ALL = {f"run_{number}" for number in range(10)}


def standing(number: int, *, settles_in_s: float | None = None, settled: bool = False) -> Standing:
    return Standing(number, f"run_{number}", True, settles_in_s, settled)


def waiting(number: int, *, known: bool = False, attempt: int = 0) -> WatchedRun:
    return WatchedRun(number, f"run_{number}", known, False, 1.0, attempt, 0, 0.0, float(number))


def keeping(count: int, at: float = 0.0) -> WatchList:
    watched = WatchList(WATCH_S)
    for number in range(count):
        watched.take(standing(number), at, at)
    return watched


def due(watched: WatchList, now: float, told_of: Collection[str] = (), limit: int = 1_000_000) -> list[int]:
    return [kept.id for kept in watched.due(now, told_of, limit, ())]


def test_few_are_looked_at_at_each_interval() -> None:
    watched = keeping(10)
    assert due(watched, WATCH_S - 0.1) == []
    assert due(watched, WATCH_S) == list(range(10))


def test_many_share_a_budget() -> None:
    count = 10_000
    watched = keeping(count)
    assert due(watched, 60.0) == []
    assert len(due(watched, count / ALONE_PER_S)) == count


def test_what_the_feed_tells_of_is_not_looked_at_alone_and_does_not_count() -> None:
    watched = keeping(10_000)
    told_of = {f"run_{number}" for number in range(9_990)}
    assert due(watched, WATCH_S, told_of) == list(range(9_990, 10_000))


def test_those_that_have_waited_longest_go_first() -> None:
    watched = WatchList(WATCH_S)
    for number in range(5):
        watched.take(standing(number), 0.0, looked_at=-float(number))
    assert due(watched, WATCH_S, limit=2) == [4, 3]


def test_a_run_that_is_over_is_looked_at_when_its_keys_have_settled_however_many_there_are() -> None:
    watched = keeping(10_000)
    watched.take(standing(7, settles_in_s=60.0), 10.0, 10.0)
    assert due(watched, 69.9) == []
    assert due(watched, 70.0) == [7]


def test_then_it_is_looked_at_no_more_but_waits_to_be_sealed() -> None:
    watched = WatchList(WATCH_S)
    watched.take(standing(1, settles_in_s=-1.0, settled=True), 0.0, 0.0)
    assert due(watched, 1e9) == []
    assert watched.from_the_feed(1e9, {"run_1"}) == set()
    assert list(watched.settled) == [1]


def test_the_feeds_word_counts_also_when_it_is_no_news() -> None:
    """For what waits, and for the last look."""
    watched = keeping(3)
    watched.take(standing(1, settles_in_s=60.0), 0.0, 0.0)
    watched.wait([waiting(5)])
    told_of = {f"run_{number}" for number in range(9)}
    assert watched.from_the_feed(59.0, told_of) == {"run_5"}
    assert watched.from_the_feed(60.0, told_of) == {"run_5", "run_1"}


def test_a_run_that_is_asked_for_again_waits_and_is_kept_again_when_it_was_looked_at() -> None:
    watched = keeping(1)
    watched.wait([waiting(0, known=True)])
    assert (due(watched, 1e9), list(watched.waiting)) == ([], [0])
    watched.take(standing(0), 100.0, 100.0)
    assert (due(watched, 105.0), list(watched.waiting)) == ([0], [])


def test_one_that_upstream_did_not_know_is_recognised_in_the_feed() -> None:
    watched = WatchList(WATCH_S)
    watched.wait([waiting(4)])
    watched.sought(4)
    assert list(watched.waiting) == []
    assert watched.row_of("run_4") == 4
    watched.drop([4])
    assert watched.row_of("run_4") is None


def test_what_the_feed_says_once_is_to_be_noted_until_it_is() -> None:
    watched = keeping(3)
    watched.heard(["run_1", "run_7"], at=20.0)
    watched.take(standing(1), 30.0, looked_at=10.0)
    assert watched.from_the_feed(30.0, ALL) == {"run_1"}, "what the look brought was asked for before"
    watched.take(replace(standing(1), noted=False), 30.0, looked_at=15.0, heard_at=20.0)
    assert watched.from_the_feed(30.0, ALL) == {"run_1"}, "its row was locked"
    assert watched.from_the_feed(30.0, ALL - {"run_1"}) == set()
    watched.take(standing(1), 30.0, looked_at=15.0, heard_at=20.0)
    assert watched.from_the_feed(30.0, ALL) == set()
    watched.heard(["run_1"], at=40.0)
    watched.take(standing(1), 50.0, looked_at=40.0)
    assert watched.from_the_feed(50.0, ALL) == set(), "a look that was asked for later knows of it"


def test_what_is_not_noted_yet_was_not_read() -> None:
    """Else a new stream would be said to be younger than the answer that told of it."""
    watched = keeping(2)
    watched.heard(["run_1"], at=20.0)
    watched.told_of(ALL, at=20.0)
    assert [kept.looked_at for run in (0, 1) if (kept := watched.kept(run))] == [20.0, 0.0]


def test_of_what_was_left_to_us_just_now_all_counts_that_the_feed_has_said() -> None:
    watched = keeping(1)
    watched.reconcile([standing(0), standing(1)], 10.0, watched.snapshot())
    assert watched.from_the_feed(10.0, ALL) == {"run_1"}


def test_what_the_feed_did_not_tell_of_waits_behind_what_comes_now() -> None:
    watched = WatchList(WATCH_S)
    watched.wait([waiting(1), waiting(2), waiting(3, known=True)])
    watched.not_told_of({"run_2"})
    watched.wait([waiting(4)])
    assert [run.id for run in watched.turns(3, ())] == [2, 3, 4]
    assert watched.count_new() == 3


def test_what_the_rows_say_is_kept_and_nothing_else() -> None:
    watched = keeping(3, at=50.0)
    watched.wait([waiting(9)])
    watched.reconcile([standing(1), standing(2, settles_in_s=5.0), standing(3)], 100.0, watched.snapshot())
    assert (watched.row_of("run_0"), watched.row_of("run_3")) == (None, 3)
    assert list(watched.waiting) == [9]
    assert due(watched, 100.0) == [1, 2], "they were looked at before"


def test_what_was_noted_while_the_rows_were_asked_is_newer_than_their_answer() -> None:
    """Several threads look: a run that one of them has just come to know must not be dropped for a minute."""
    watched = keeping(2)
    before = watched.snapshot()
    watched.take(standing(1, settles_in_s=-1.0, settled=True), 10.0, 10.0)
    watched.take(standing(7), 10.0, 10.0)
    watched.drop([0])
    watched.reconcile([standing(1)], 10.0, before)
    assert watched.kept(7) is not None
    assert list(watched.settled) == [1]
    assert watched.kept(0) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "wait", "sought", "drop", "close", "told", "heard", "locked"]), st.integers(0, 5)
        )
    )
)
def test_a_run_is_in_one_place_and_is_found_by_its_id(moves: list[tuple[str, int]]) -> None:
    watched = WatchList(WATCH_S)
    for now, (move, number) in enumerate(moves):
        if move == "take":
            watched.take(standing(number, settles_in_s=0.0, settled=number % 2 == 0), float(now), float(now))
        elif move == "wait":
            watched.wait([waiting(number)])
        elif move == "sought" and number in watched.waiting:
            watched.sought(number)
        elif move == "drop":
            watched.drop([number])
        elif move == "close":
            watched.take(replace(standing(number), open=False), float(now), float(now))
        elif move == "locked":
            watched.take(replace(standing(number), noted=False), float(now), float(now))
        elif move == "heard":
            watched.heard([f"run_{number}"], float(now))
        else:
            watched.told_of([f"run_{number}"], float(now))
        kept = {each for each in range(6) if watched.kept(each) is not None}
        assert not kept & set(watched.waiting)
        assert set(watched.settled) <= kept
        assert {f"run_{each}" for each in watched.waiting} <= watched.from_the_feed(float(now), ALL)
        assert len(watched) == len(kept) + len(watched.waiting)
        assert all(watched.row_of(f"run_{each}") == each for each in kept | set(watched.waiting))
