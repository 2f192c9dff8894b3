"""The one bound of a process: what waits, who goes first, and who may go beyond."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.room import FREE_BYTES, PROGRESS_BYTES, PROGRESS_S, Room, Share

MIB = 1 << 20
MAX = 8 * MIB
EVENT = 16 * MIB
WAIT_S = 10.0


Waiting = tuple[Room, Share, threading.Thread, list[bool], Share]


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def room(clock: Callable[[], float] = lambda: 0.0) -> Room:
    """A room whose lock this thread has."""
    of = Room(MAX, clock=clock)
    of.changed.acquire()
    return of


def grown(of: Room, size: int) -> Share:
    """A reader with so much of an unfinished event."""
    share = of.share()
    of.grow(share, size)
    return share


def test_small_events_are_not_counted() -> None:
    of = room()
    share = of.share()
    assert share.resize(FREE_BYTES)
    assert of.held_bytes == 0
    assert share.resize(FREE_BYTES + 1)
    assert of.held_bytes == FREE_BYTES + 1
    assert share.resize(10)
    assert of.held_bytes == 0


def test_unfinished_events_leave_half_to_the_writer() -> None:
    of = room()
    first = grown(of, MAX // 2)
    second, third = grown(of, MIB), grown(of, MIB)
    assert not of.grows(first)
    assert not of.grows(second)  # let over
    assert of.grows(third)
    assert of.store(of.share(), MAX // 2 - 1)
    assert of.store(of.share(), 1)
    assert not of.store(of.share(), 1)


def test_the_writer_may_take_all_that_unfinished_events_leave() -> None:
    of = room()
    grown(of, MIB)
    assert of.store(of.share(), MAX - MIB)
    assert not of.store(of.share(), 1)


def test_what_is_larger_than_the_bound_is_stored_in_its_turn_while_others_are_live() -> None:
    of = room()
    live = [of.share() for _ in range(50)]
    assert of.store(live[0], MIB)
    large = of.share()
    assert not of.store(large, EVENT)
    for each in live[1:]:
        assert not of.store(each, 1_000)  # behind it, though there is room for these
    of.give_back(MIB)
    assert of.is_stored(large)
    assert not of.is_stored(live[1])
    of.give_back(EVENT)
    assert all(map(of.is_stored, live[1:]))


def test_the_writer_hurries_when_it_has_half_or_somebody_waits_for_it_and_not_for_unfinished_events() -> None:
    of = room()
    grown(of, MAX // 2)
    over, waiting = grown(of, MIB), grown(of, MIB)
    assert of.grows(waiting)
    assert not of.grows(over)
    assert of.store(of.share(), MAX // 4 - 1)
    assert not of.pressed
    assert of.store(of.share(), 1)
    assert of.pressed
    of.give_back(2)
    assert not of.pressed
    assert not of.store(of.share(), MAX)
    assert of.pressed


def test_one_that_is_whole_goes_to_the_writer_with_the_room_that_it_has() -> None:
    of = room()
    assert of.store(of.share(), MAX)
    share = of.share()
    of.grow(share, 3 * MIB)  # let over
    assert not of.store(of.share(), 1)
    assert of.store(share, 3 * MIB)
    assert (of.unfinished_bytes, of.whole_bytes) == (0, MAX + 3 * MIB)


def test_one_at_a_time_goes_beyond_and_the_next_when_all_is_within_again() -> None:
    of = room()
    grown(of, MAX // 2)
    shares = [grown(of, MIB) for _ in range(3)]
    assert [of.grows(each) for each in shares] == [False, True, True]
    of.grow(shares[0], EVENT)
    assert not of.grows(shares[0])
    assert of.store(shares[0], EVENT + MIB)
    assert [of.grows(each) for each in shares] == [False, True, True]  # a database that stalls: nobody else
    of.give_back(EVENT + MIB)
    assert [of.grows(each) for each in shares] == [False, False, True]


def test_many_that_hold_a_part_and_wait_all_come_to_an_end() -> None:
    of = room()
    shares = [grown(of, 200_000) for _ in range(40)]
    done = 0
    while shares:
        free = [each for each in shares if not of.grows(each)]
        assert free, "all wait for each other"
        for each in free:
            if each.held_bytes >= EVENT:
                size = each.held_bytes
                assert of.store(each, size)
                of.give_back(size)
                shares.remove(each)
                done += 1
            else:
                of.grow(each, MIB)
    assert (done, of.held_bytes) == (40, 0)


@pytest.mark.parametrize(("brings", "is_cut"), [(0, True), (PROGRESS_BYTES - 1, True), (PROGRESS_BYTES, False)])
def test_who_is_let_over_and_brings_nothing_is_cut_while_others_wait(brings: int, is_cut: bool) -> None:
    clock = Clock()
    of = room(clock)
    grown(of, MAX // 2)
    over, waiting = grown(of, MIB), grown(of, MIB)
    woken: list[str] = []
    over.begin(lambda: woken.append("over"))
    clock.now = PROGRESS_S - 1
    of.grow(over, brings)
    of.cut_idle()
    assert woken == []
    clock.now = PROGRESS_S
    of.cut_idle()
    assert (woken, over.was_cut) == ((["over"], True) if is_cut else ([], False))
    assert of.grows(waiting)
    if is_cut:
        over.end()  # as its reader does
        assert not of.grows(waiting)


def test_what_nothing_follows_yet_is_counted_without_waiting() -> None:
    """Its reader must go on reading: only what follows frees it."""
    of = room()
    grown(of, MAX // 2)
    share = of.share()
    of.grow(share, EVENT)  # let over
    assert of.store(share, EVENT)
    grown(of, MIB)
    assert share.resize(4 * FREE_BYTES, EVENT)
    assert share.held_bytes == EVENT + 4 * FREE_BYTES


def test_a_connection_that_is_over_holds_nothing_and_does_not_wait() -> None:
    of = room()
    shares = [grown(of, MAX // 2), grown(of, MIB), grown(of, MIB)]
    for share in reversed(shares):
        share.end()
    assert of.held_bytes == 0
    assert not any(map(of.grows, shares))


def test_who_gives_up_lets_the_next_go_on() -> None:
    of = room()
    assert of.store(of.share(), MIB)
    large, small = of.share(), of.share()
    assert not of.store(large, EVENT)
    assert not of.store(small, 1_000)
    of.forget(large)
    assert of.is_stored(small)
    assert of.whole_bytes == MIB + 1_000


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    """A reader that waits for room, in a thread of its own; what its wait gave is in the list."""
    of = room()
    others = grown(of, MAX // 2)
    over, share, gave = grown(of, MIB), of.share(), list[bool]()
    queued = threading.Event()
    share.begin(lambda: None)
    grow = of.grow

    def growing(who: Share, more_bytes: int) -> None:
        grow(who, more_bytes)
        queued.set()

    of.grow = growing  # type: ignore[method-assign]
    thread = threading.Thread(target=lambda: gave.append(share.resize(MIB)))
    thread.start()
    of.changed.release()
    assert queued.wait(WAIT_S)
    with of.changed:  # it has let go of the lock: it waits
        assert of.grows(share)
    yield of, share, thread, gave, others
    over.end()
    thread.join(WAIT_S)


def test_a_reader_that_waits_can_be_told_to_leave(waiting: Waiting) -> None:
    of, share, thread, gave, _ = waiting
    share.interrupt()
    thread.join(WAIT_S)
    assert gave == [False]
    assert not of.grows(share)
    assert share.held_bytes == 0


def test_a_reader_waits_until_there_is_room(waiting: Waiting) -> None:
    _, share, thread, gave, others = waiting
    assert gave == []
    others.end()
    thread.join(WAIT_S)
    assert gave == [True]
    assert share.held_bytes == MIB


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["read", "read", "finish", "commit", "end"])), max_size=80
)


@given(STEPS, st.integers(1, 3 * MIB))
def test_never_more_than_the_bound_and_one_event_and_somebody_can_always_go_on(
    steps: list[tuple[int, str]], piece: int
) -> None:
    of = room()
    shares = [of.share() for _ in range(6)]
    committing = 0
    for at, step in steps:
        share = shares[at]
        if step == "commit":
            committing, size = 0, committing
            of.give_back(size)
        elif step == "end":
            of.stay(share)
            of.set(share, 0)
        elif of.grows(share):
            continue
        elif step == "read" and share.held_bytes + piece <= EVENT:
            of.grow(share, piece)
        elif step == "finish" and share.held_bytes:
            size = share.held_bytes
            assert of.store(share, size)
            committing += size
        assert of.held_bytes == committing + sum(each.held_bytes for each in shares)
        assert of.held_bytes <= MAX + EVENT
        assert committing or not all(map(of.grows, shares)), "all wait for each other"
