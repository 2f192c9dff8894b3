"""A stream of which nothing comes although there is more is asked for again, told as stuck, and read on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tailrace.ingest.reader import Timing
from tailrace.ingest.stuck import CONNECTIONS, GRACE_CAP_S, GRACE_S, Sign, Stuck
from tailrace.model import Arrival, RunEnd, StreamState, Wire
from tests.counted import counted
from tests.simulation.script import DONE, PING, Answer, Clock, leased, play, tail, v1, v2

AHEAD_S, UNFINISHED_S = GRACE_S[Sign.AHEAD], GRACE_S[Sign.UNFINISHED]


def watched(clock: Clock, reason: str | None = None) -> tuple[Stuck, list[str | None]]:
    told: list[str | None] = []
    return Stuck(told.append, clock, reason), told


def passes(clock: Clock, seconds: float) -> Callable[[], None]:
    def pass_it() -> None:
        clock.now += seconds

    return pass_it


@pytest.mark.parametrize("sign", list(Sign))
def test_a_sign_that_lasts_has_upstream_asked_again_before_anything_is_told(sign: Sign) -> None:
    clock = Clock()
    stuck, told = watched(clock)
    left_at: list[float] = []
    while len(left_at) < 5:
        stuck.connected()
        while not stuck.shows(sign):
            clock.now += GRACE_S[sign] / 10
        left_at.append(round(clock.now / GRACE_S[sign]))
        assert told == ([sign.value] if len(left_at) >= CONNECTIONS else [])
    assert left_at == [1, 2, 4, 8, 16]  # a fresh connection now and then, ever more seldom


def test_it_is_never_asked_so_seldom_that_nobody_would_notice() -> None:
    clock = Clock()
    stuck, _ = watched(clock)
    for _ in range(40):
        began = clock.now
        stuck.connected()
        while not stuck.shows(Sign.AHEAD):
            clock.now += GRACE_CAP_S / 7
        assert clock.now - began <= 2 * GRACE_CAP_S


@pytest.mark.parametrize("end", ["moved", "lacks"])
def test_it_is_over_when_something_comes_or_nothing_is_missing(end: str) -> None:
    clock = Clock()
    stuck, told = watched(clock)
    for _ in range(CONNECTIONS):
        stuck.connected()
        stuck.shows(Sign.AHEAD)
        clock.now += AHEAD_S
        assert stuck.shows(Sign.AHEAD)
    stuck.connected()
    stuck.shows(Sign.AHEAD)
    if end == "moved":
        stuck.moved()
    else:
        stuck.lacks(Sign.AHEAD)
    assert told == [Sign.AHEAD.value, None]
    assert stuck.reason is None
    clock.now += AHEAD_S
    stuck.connected()
    assert not stuck.shows(Sign.AHEAD)  # it begins from the beginning


def test_pings_between_the_pieces_of_an_event_make_neither_sign_younger() -> None:
    clock = Clock()
    stuck, _ = watched(clock)
    while not stuck.shows(Sign.AHEAD):
        stuck.shows(Sign.UNFINISHED)
        stuck.lacks(Sign.UNFINISHED)
        clock.now += 1.0
    assert clock.now == AHEAD_S


def test_trouble_that_came_between_does_not_keep_a_stream_stuck() -> None:
    """Its words stand in the row instead of the sign's."""
    stuck, told = watched(Clock(), "upstream answered 502")
    stuck.connected()
    stuck.lacks(Sign.UNFINISHED)
    assert told == []
    stuck.lacks(Sign.AHEAD)
    assert told == [None]


# --- the reader


def piece(clock: Clock, seconds: float) -> Callable[[], Arrival]:
    """So much later another piece of an event comes."""

    def come() -> Arrival:
        clock.now += seconds
        return Arrival([], unfinished=True)

    return come


def ahead(clock: Clock, times: int = 12) -> Iterator[object]:
    """Pings that say that there is more, and nothing else, a quarter of the grace apart."""
    for _ in range(times):
        yield tail(145)
        yield passes(clock, AHEAD_S / 4)


def test_a_stream_whose_tail_is_ahead_and_that_gives_nothing_is_told_as_stuck_and_read_on() -> None:
    clock, before = Clock(), counted("tailrace_stuck_streams")
    during: list[float] = []
    played = play(
        Answer(Wire.V2, [*ahead(clock)]),
        Answer(Wire.V2, [*ahead(clock)]),
        Answer(Wire.V2, [lambda: during.append(counted("tailrace_stuck_streams")), tail(3), v2(0, 1, 2), DONE]),
        Answer(Wire.V2, [passes(clock, 301.0), DONE]),
        stream=leased(Wire.V2),
        clock=clock,
    )
    assert played.shelf.reasons == [Sign.AHEAD.value, None]
    assert played.shelf.texts == [b"0", b"1", b"2"]
    assert during == [before + 1]
    assert counted("tailrace_stuck_streams") == before
    assert len(played.script.asked) == 4


def test_what_is_caught_up_or_moves_is_never_stuck() -> None:
    clock = Clock()
    quiet = [item for _ in range(40) for item in (tail(3), passes(clock, 7.0))]
    slow = [item for n in range(3, 40) for item in (v2(n, tail=1_000), passes(clock, AHEAD_S * 0.9))]
    played = play(Answer(Wire.V2, [v2(0, 1, 2), *quiet, *slow, DONE]), stream=leased(Wire.V2), clock=clock)
    assert played.shelf.reasons == []
    assert len(played.script.asked) == 1 or played.outcome.state is not StreamState.FAILED


@pytest.mark.parametrize("wire", list(Wire))
def test_bytes_that_never_become_an_event_make_a_stream_stuck(wire: Wire) -> None:
    clock = Clock()
    pieces = [piece(clock, UNFINISHED_S / 4) for _ in range(12)]
    good = v1((0, 0, "1")) if wire is Wire.V1 else v2(0)
    played = play(
        Answer(wire, list(pieces)),
        Answer(wire, list(pieces)),
        Answer(wire, [good, PING, passes(clock, 301.0), DONE]),
        stream=leased(wire),
        clock=clock,
    )
    assert played.shelf.reasons == [Sign.UNFINISHED.value, None]
    assert len(played.shelf.texts) == 1


def test_a_large_event_on_a_slow_link_is_whole_in_the_end() -> None:
    """Each fresh connection is given longer than the one before: what makes its way slowly is not cut for ever."""
    clock = Clock()
    pieces = [piece(clock, 1.0) for _ in range(int(1.9 * UNFINISHED_S))]
    cut = Answer(Wire.V1, list(pieces))
    whole = Answer(Wire.V1, [*pieces, v1((0, 0, "1")), PING, passes(clock, 301.0), DONE])
    played = play(cut, cut, whole, clock=clock)
    assert len(played.shelf.texts) == 1
    assert played.shelf.reasons == [Sign.UNFINISHED.value, None]


def test_whoever_takes_such_a_stream_over_waits_for_all_of_its_event() -> None:
    clock, timing = Clock(), Timing()
    pieces = [piece(clock, 1.0) for _ in range(int(timing.slice_s) - 1)]
    whole = Answer(Wire.V1, [*pieces, v1((0, 0, "1")), PING, passes(clock, 5.0)])
    stream = leased(Wire.V1, stuck=Sign.UNFINISHED.value)
    played = play(whole, stream=stream, clock=clock, timing=timing)
    assert len(played.shelf.texts) == 1
    assert played.shelf.reasons[-1] is None


def test_who_takes_a_stuck_stream_over_goes_on_from_there() -> None:
    clock, before = Clock(), counted("tailrace_stuck_streams")
    stream = leased(Wire.V2, stuck=Sign.AHEAD.value)
    played = play(
        Answer(Wire.V2, [tail(145), v2(0), passes(clock, 301.0), DONE]),
        Answer(Wire.V2, [DONE]),
        stream=stream,
        clock=clock,
    )
    assert played.shelf.reasons[-1] is None
    assert counted("tailrace_stuck_streams") == before


def test_a_sweep_decides_by_itself() -> None:
    """The run is over: what does not come is looked for by sweeps, and is a gap in the end."""
    clock, over = Clock(), RunEnd(over=True, over_for_s=100.0)
    played = play(Answer(Wire.V2, [*ahead(clock), DONE]), stream=leased(Wire.V2, run_end=over), clock=clock)
    assert played.shelf.reasons == []
    assert len(played.script.asked) == 1
