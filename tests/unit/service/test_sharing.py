"""Each process has about its share, whoever asks first; nothing waits for one that does not take its own; no storms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.service.sharing import SPARE, SPARE_STREAMS, Sharing
from tailrace.store.choosing import Balance

OVERDUE_TURNS = 3


class Fleet:
    """Processes that take turns over one number of open streams."""

    def __init__(self, *slots: int) -> None:
        self.slots: list[int] = []
        self.reading: list[int] = []
        self.sharing: list[Sharing] = []
        self.hangs: set[int] = set()
        self.waiting: list[int] = []  # for how many turns each stream has
        self.moved = 0
        for each in slots:
            self.join(each)

    def join(self, slots: int) -> None:
        self.slots.append(slots)
        self.reading.append(0)
        self.sharing.append(Sharing(slots))

    def die(self, worker: int) -> None:
        self.waiting += [0] * self.reading[worker]
        self.reading[worker] = self.slots[worker] = 0
        self.hangs.add(worker)

    def open(self, streams: int) -> None:
        self.waiting += [0] * streams

    def balance(self) -> Balance:
        overdue = sum(turns >= OVERDUE_TURNS for turns in self.waiting)
        return Balance(sum(self.reading), len(self.waiting), overdue, sum(self.slots))

    def turn(self) -> None:
        for worker, sharing in enumerate(self.sharing):
            if worker in self.hangs:
                continue
            gone = sharing.gives_up(self.slots[worker] - self.reading[worker], self.balance())
            self.reading[worker] -= gone
            self.moved += gone
            taken = sharing.may_take(self.slots[worker] - self.reading[worker], self.balance())
            taken = min(taken, len(self.waiting))
            self.waiting = sorted(self.waiting, reverse=True)[taken:] + [0] * gone
            self.reading[worker] += taken
        self.waiting = [turns + 1 for turns in self.waiting]

    def turns(self, count: int) -> Fleet:
        for _ in range(count):
            self.turn()
        return self

    def within(self, worker: int) -> bool:
        share = sum(self.reading) * self.slots[worker] / sum(self.slots)
        return abs(self.reading[worker] - share) <= max(SPARE_STREAMS, share * SPARE) * len(self.slots)


def test_a_process_alone_takes_what_it_has_slots_for() -> None:
    fleet = Fleet(1_000)
    fleet.open(1_500)
    assert fleet.turns(1).reading == [1_000]


@pytest.mark.parametrize("slots", [(1_000, 1_000, 1_000), (1_000, 500, 100)])
def test_all_have_their_share_after_the_first_turn(slots: tuple[int, ...]) -> None:
    fleet = Fleet(*slots)
    fleet.open(300)
    fleet.turns(OVERDUE_TURNS + 1)
    assert sum(fleet.reading) == 300
    assert all(fleet.within(worker) for worker in range(len(slots))), fleet.reading


def test_one_that_comes_has_its_share_within_a_minute_and_each_stream_moves_once_at_most() -> None:
    fleet = Fleet(1_000)
    fleet.open(900)
    fleet.turns(5)
    fleet.join(1_000)
    fleet.turns(30)  # of 2 s
    assert fleet.within(1), fleet.reading
    assert not fleet.waiting
    assert fleet.moved <= 450
    moved = fleet.moved
    fleet.turns(100)
    assert fleet.moved - moved <= 20, "and then there is peace"


def test_what_one_that_hangs_does_not_take_is_read_by_the_others_and_nothing_is_given_up_for_it() -> None:
    fleet = Fleet(1_000, 1_000)
    fleet.hangs.add(1)
    fleet.open(900)
    fleet.turns(OVERDUE_TURNS + 1)
    assert fleet.reading[0] == 900
    fleet.turns(150)
    assert fleet.reading[0] >= 900 - 60
    assert fleet.moved <= 4 * 60, "a try now and then"


def test_of_one_that_died_the_others_take_all() -> None:
    fleet = Fleet(500, 500, 500)
    fleet.open(600)
    fleet.turns(5)
    fleet.die(2)
    fleet.turns(OVERDUE_TURNS + 2)
    assert sum(fleet.reading) == 600
    assert all(fleet.within(worker) for worker in (0, 1)), fleet.reading


def test_a_stream_that_comes_is_read_at_once_by_whoever_sees_it() -> None:
    """A little above its share a process may be: it must not wait for the other's turn."""
    fleet = Fleet(1_000, 1_000)
    fleet.open(500)
    fleet.turns(5)
    for worker, sharing in enumerate(fleet.sharing):
        free = fleet.slots[worker] - fleet.reading[worker]
        assert sharing.may_take(free, Balance(500, 1, 0, 2_000)) >= 1


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.sampled_from(["open", "join", "die", "hang"]), st.integers(0, 400), st.integers(1, 10)), max_size=8
    ),
)
def test_whatever_comes_and_goes_nothing_waits_while_a_slot_is_free(
    slots: list[int], events: list[tuple[str, int, int]]
) -> None:
    fleet = Fleet(*slots)
    for event, number, turns in events:
        worker = number % len(fleet.slots)
        if event == "open":
            fleet.open(number)
        elif event == "join":
            fleet.join(1 + number)
        elif event == "die":
            fleet.die(worker)
        else:
            fleet.hangs.add(worker)
        fleet.turns(turns)
        assert all(0 <= reading <= had for reading, had in zip(fleet.reading, fleet.slots, strict=True))
    fleet.turns(200)
    free = sum(
        had - reading
        for worker, (had, reading) in enumerate(zip(fleet.slots, fleet.reading, strict=True))
        if worker not in fleet.hangs
    )
    assert not any(turns > 2 * OVERDUE_TURNS for turns in fleet.waiting) or free == 0
