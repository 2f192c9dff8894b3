"""The one loop, against an upstream that does what the test says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tailrace.errors import (
    LeaseLost,
    MalformedRecord,
    NotFound,
    RequestRefused,
    SourceUnavailable,
    StreamStalled,
    Unauthorized,
)
from tailrace.ingest.ending import UNANCHORED
from tailrace.ingest.reader import DRAIN_WAIT_S, Timing
from tailrace.model import (
    Arrival,
    Batch,
    Checkpoint,
    Doubt,
    Hole,
    HoleReason,
    RunEnd,
    StreamState,
    V1Record,
    Verdict,
    Wire,
)
from tests.simulation.script import (
    DONE,
    PING,
    Answer,
    Clock,
    PatientSignal,
    Shelf,
    leased,
    play,
    tail,
    v1,
    v2,
)

OVER = RunEnd(over=True, over_for_s=100.0)
SWEPT = RunEnd(over=True, over_for_s=200.0, swept_for_s=60.0)
HALF = '{"half":'


def held_v1() -> Checkpoint:
    played = play(Answer(Wire.V1, [v1((0, 0, "1"), (1, 0, "2"), (2, 0, "3"))]), stream=leased(run_end=OVER))
    return played.shelf.batches[-1].checkpoint


def held_v2(count: int = 3) -> Checkpoint:
    played = play(Answer(Wire.V2, [v2(*range(count)), tail(count), DONE]), stream=leased(run_end=OVER))
    return played.shelf.batches[-1].checkpoint


# --- ends


@pytest.mark.trap(12)
@pytest.mark.parametrize("wire", [Wire.V1, Wire.V2])
def test_a_clean_end_of_a_live_run_is_followed_by_the_next_connection(wire: Wire) -> None:
    first, again = (v1((0, 0, "1")), v1((0, 0, "1"))) if wire is Wire.V1 else (v2(0), v2(0))
    clock = Clock()
    played = play(
        Answer(wire, [first, DONE]),
        Answer(wire, [again, DONE]),
        Answer(wire, [lambda: setattr(clock, "now", 301.0), DONE]),
        clock=clock,
    )
    assert played.shelf.texts == [first.records[0].text.encode() if wire is Wire.V1 else first.records[0].text]
    assert played.outcome.state is StreamState.PARKED
    assert [wait_s for _, wait_s in played.script.asked] == [60, 60, 60]


@pytest.mark.trap(16)
def test_the_first_terminal_status_is_not_the_end() -> None:
    """What was being read when the run ended is read on in a sweep, and then once more after a quiet time."""
    shelf = Shelf()

    def ends() -> None:
        shelf.state = OVER

    played = play(Answer(Wire.V2, [v2(0, 1), ends, DONE]), Answer(Wire.V2, [v2(1, 2, 3), tail(4), DONE]), shelf=shelf)
    assert played.shelf.texts == [b"0", b"1", b"2", b"3"]
    assert played.script.asked == [(None, 60), ("0", DRAIN_WAIT_S)]
    assert (played.outcome.state, played.outcome.swept) == (StreamState.PARKED, True)
    last = play(Answer(Wire.V2, [v2(3), tail(4), DONE]), stream=leased(Wire.V2, shelf.batches[-1].checkpoint, SWEPT))
    assert (last.outcome.state, last.outcome.verdict) == (StreamState.SEALED, Verdict.COMPLETE)


@pytest.mark.parametrize(
    "fault",
    [
        SourceUnavailable("cut"),
        SourceUnavailable("no [DONE]"),
        StreamStalled("silence"),
        NotFound("no such stream"),
        MalformedRecord("what is this"),
    ],
)
@pytest.mark.trap(13)
@pytest.mark.trap(14)
@pytest.mark.trap(15)
@pytest.mark.trap(42)
def test_a_fault_is_no_end_even_in_the_last_sweep(fault: Exception) -> None:
    checkpoint = held_v2()
    played = play(
        Answer(Wire.V2, [v2(2)], end=fault),
        Answer(Wire.V2, [v2(2, 3), tail(4), DONE]),
        stream=leased(Wire.V2, checkpoint, SWEPT),
    )
    assert played.shelf.texts == [b"3"]
    assert played.outcome.state is StreamState.PARKED


@pytest.mark.trap(22)
@pytest.mark.trap(24)
def test_what_is_missing_at_the_end_of_v2_is_a_gap() -> None:
    """Three sweeps have to show it: what is written while one closes would look the same."""
    answer = Answer(Wire.V2, [tail(7), DONE])
    checkpoint = held_v2()
    for _ in range(2):
        first = play(answer, stream=leased(Wire.V2, checkpoint, SWEPT), shelf=Shelf(SWEPT))
        assert [batch.holes for batch in first.shelf.batches] == [[]]
        checkpoint = first.shelf.batches[-1].checkpoint
    played = play(answer, stream=leased(Wire.V2, checkpoint, SWEPT), shelf=Shelf(SWEPT))
    assert [batch.holes for batch in played.shelf.batches] == [[Hole(0, 3, 6, HoleReason.TRIMMED)]]
    assert played.outcome.state is StreamState.PARKED  # it brought something: another sweep


@pytest.mark.trap(22)
def test_nothing_is_told_as_trimmed_when_the_record_before_it_came_back() -> None:
    """Upstream trims from the beginning: what follows a record that is there is there too, only not in this response."""
    played = play(Answer(Wire.V2, [v2(2), tail(7), DONE]), stream=leased(Wire.V2, held_v2(), SWEPT), shelf=Shelf(SWEPT))
    assert played.shelf.batches == []
    assert played.outcome.state is StreamState.PARKED


@pytest.mark.trap(22)
def test_a_tail_that_was_not_reached_is_a_gap_only_when_nothing_else_comes() -> None:
    """A response that was cut short while it caught up has a tail too: what is between comes with the next."""
    clock = Clock()
    played = play(
        Answer(Wire.V2, [v2(2, 3), tail(7), DONE]),
        Answer(Wire.V2, [v2(3, 4, 5, 6), tail(7), DONE]),
        Answer(Wire.V2, [v2(6), tail(9), DONE]),
        Answer(Wire.V2, [tail(9), DONE]),
        Answer(Wire.V2, [tail(9), DONE]),
        Answer(Wire.V2, [tail(9), DONE]),
        Answer(Wire.V2, [tail(9), DONE, lambda: setattr(clock, "now", 999.0)]),
        stream=leased(Wire.V2, held_v2()),
        clock=clock,
    )
    assert played.shelf.texts == [b"3", b"4", b"5", b"6"]
    assert [hole for batch in played.shelf.batches for hole in batch.holes] == [Hole(0, 7, 8, HoleReason.TRIMMED)]


def test_a_gap_stays_in_the_verdict() -> None:
    stream = leased(Wire.V2, held_v2(), SWEPT, lost_count=1)
    assert play(Answer(Wire.V2, [v2(2), tail(3), DONE]), stream=stream).outcome.verdict is Verdict.COMPLETE_WITH_GAPS


# --- what is proven


@pytest.mark.trap(25)
@pytest.mark.parametrize("wire", [Wire.V1, Wire.V2])
def test_a_sweep_that_does_not_show_what_we_hold_proves_nothing(wire: Wire) -> None:
    """Something on the way ended it, or upstream has forgotten the stream: after some sweeps it is sealed, in doubt."""
    checkpoint = held_v1() if wire is Wire.V1 else held_v2()
    run_end, attempt, errors = OVER, 0, []
    for _ in range(20):
        outcome = play(Answer(wire, [PING, DONE]), stream=leased(wire, checkpoint, run_end, attempt=attempt)).outcome
        errors.append(outcome.error)
        attempt = outcome.attempt
        if outcome.state is StreamState.SEALED:
            break
        if outcome.swept:
            run_end = SWEPT
    assert outcome.verdict is Verdict.POSSIBLY_TRUNCATED
    assert errors == [*[UNANCHORED] * 3, None, *[UNANCHORED] * 3, None]


@pytest.mark.trap(25)
def test_an_empty_v1_stream_of_an_old_run_may_have_expired() -> None:
    old = leased(Wire.V1, run_end=SWEPT)
    assert play(Answer(Wire.V1, [PING]), stream=old).outcome.verdict is Verdict.COMPLETE
    old = replace(old, not_before_ms=(old.not_before_ms or 0) - 86_400_000)
    assert play(Answer(Wire.V1, [PING]), stream=old).outcome.verdict is Verdict.POSSIBLY_TRUNCATED


def test_a_head_only_event_is_not_complete() -> None:
    large = Arrival([V1Record(5, 0, '"xxx', oversized=True)], alive_after=True)
    checkpoint = play(Answer(Wire.V1, [large]), stream=leased(run_end=OVER)).shelf.batches[-1].checkpoint
    sealed = play(Answer(Wire.V1, [large]), stream=leased(Wire.V1, checkpoint, SWEPT))
    assert sealed.outcome.verdict is Verdict.COMPLETE_WITH_GAPS


# --- v1's last event


@pytest.mark.trap(4)
def test_a_line_that_came_with_the_end_is_read_again_whole() -> None:
    clock = Clock()
    played = play(
        Answer(Wire.V1, [v1((0, 0, "1")), v1((1, 0, HALF), alive=False)]),
        Answer(Wire.V1, [v1((0, 0, "1"), (1, 1, HALF + "1}"))]),
        Answer(Wire.V1, [lambda: setattr(clock, "now", 999.0)]),
        clock=clock,
    )
    assert played.shelf.texts == [b"1", b'{"half":1}']
    assert not any(batch.holes or batch.quarantined for batch in played.shelf.batches)  # the half was never stored


def test_a_stream_that_has_only_half_a_line_to_say_is_silent() -> None:
    """It is parked like any other, and a fault that follows the half line counts on."""
    clock = Clock()
    half = [v1((0, 0, "1")), v1((1, 0, HALF), alive=False)]
    played = play(
        Answer(Wire.V1, list(half)),
        Answer(Wire.V1, [*half, lambda: setattr(clock, "now", 301.0)]),
        clock=clock,
    )
    assert (played.outcome.state, played.shelf.texts) == (StreamState.PARKED, [b"1"])
    faults = [Answer(Wire.V1, list(half), end=SourceUnavailable("cut"))] * 5
    assert play(*faults, timing=Timing(keep_slot_s=3.0)).outcome.attempt == 4


def test_a_line_that_something_follows_is_stored_at_once() -> None:
    played = play(Answer(Wire.V1, [v1((0, 0, "1"), alive=False), PING]), stream=leased(run_end=OVER), shelf=Shelf(OVER))
    assert (played.shelf.texts, played.outcome.swept) == ([b"1"], True)


def test_a_line_that_was_stored_already_is_not_read_twice() -> None:
    """The Writer did not wait: withdrawing is too late, and the line counts as held."""
    shelf = Shelf(OVER)
    shelf.late = True
    play(Answer(Wire.V1, [v1((0, 0, "1"), alive=False)]), stream=leased(run_end=OVER), shelf=shelf)
    again = play(Answer(Wire.V1, [v1((0, 0, "1"))]), stream=leased(Wire.V1, shelf.batches[-1].checkpoint, SWEPT))
    assert (again.shelf.texts, again.outcome.state) == ([], StreamState.SEALED)


def test_a_half_line_is_believed_when_the_next_sweep_ends_with_it_too() -> None:
    half = [v1((0, 0, "1")), v1((1, 0, HALF), alive=False)]
    first = play(Answer(Wire.V1, half), stream=leased(run_end=OVER))
    assert first.shelf.texts == [b"1"]
    second = play(Answer(Wire.V1, half), stream=leased(Wire.V1, first.shelf.batches[-1].checkpoint, SWEPT))
    assert [item.reason for batch in second.shelf.batches for item in batch.quarantined][-1:] == ["unterminated"]
    third = play(Answer(Wire.V1, half), stream=leased(Wire.V1, second.shelf.batches[-1].checkpoint, SWEPT))
    assert third.outcome.state is StreamState.SEALED


# --- a stream that changes


@pytest.mark.trap(10)
@pytest.mark.parametrize(("was", "now"), [(Wire.V1, Wire.V2), (Wire.V2, Wire.V1)])
def test_another_wire_is_an_alarm_and_a_new_generation(was: Wire, now: Wire) -> None:
    checkpoint = held_v1() if was is Wire.V1 else held_v2()
    brings = [v2(0, 1), tail(2), DONE] if now is Wire.V2 else [v1((0, 0, "0"), (1, 0, "1"))]
    played = play(Answer(now, [v2(9)]), Answer(now, brings), stream=leased(was, checkpoint, OVER))
    assert played.alarms == [f"the stream spoke {was} and now speaks {now}: it is read again from its beginning"]
    assert played.script.asked[1][0] is None
    assert played.shelf.batches[0].holes == [Hole(0, 3, None, HoleReason.RECREATED)]
    assert played.shelf.batches[0].checkpoint.generation == 1
    assert played.shelf.texts == [b"0", b"1"]
    assert set(played.shelf.wires) == {now}


def test_a_wire_that_changes_and_changes_is_a_fault() -> None:
    """Something on the way drops the header now and then: no generation is begun for each of its whims."""
    clock = Clock()
    played = play(
        *(Answer(wire, [v1((0, 0, "1"))]) for wire in [Wire.V1, Wire.V2, Wire.V1] * 2),
        stream=leased(Wire.V2, held_v2()),
        timing=Timing(slice_s=3.0),
        clock=clock,
    )
    assert sum(batch.checkpoint.generation == 1 for batch in played.shelf.batches) >= 1
    assert {batch.checkpoint.generation for batch in played.shelf.batches} == {1}
    assert len(played.alarms) == 1


@pytest.mark.trap(23)
def test_a_stream_made_anew_is_read_from_its_start() -> None:
    played = play(
        Answer(Wire.V2, [tail(1), DONE]),
        Answer(Wire.V2, [v2(0, text="7"), tail(1), DONE]),
        Answer(Wire.V2, [v2(0, text="7"), tail(1), DONE]),
        stream=leased(Wire.V2, held_v2(), OVER),
    )
    assert [asked for asked, _ in played.script.asked] == ["1", None, None]
    assert played.shelf.batches[0].holes == [Hole(0, 3, None, HoleReason.RECREATED)]
    assert (played.shelf.texts, played.shelf.batches[-1].checkpoint.generation) == ([b"7"], 1)


def test_a_stream_that_is_made_anew_again_and_again_has_to_wait() -> None:
    anew = Answer(Wire.V2, [v2(0, text="7"), tail(1), DONE])
    generations = []
    checkpoint = held_v2()
    for _ in range(3):
        checkpoint = replace(checkpoint, generation=checkpoint.generation + 3)
        played = play(Answer(Wire.V2, [tail(1), DONE]), anew, stream=leased(Wire.V2, checkpoint))
        assert played.outcome.state is StreamState.PARKED
        assert "anew" in (played.outcome.error or "")
        generations.append((played.shelf.batches[-1].checkpoint.generation, played.outcome.delay_s))
    assert generations == [(4, 240.0), (7, 1_920.0), (10, 3_600.0)]


def test_what_contradicts_itself_is_asked_again_and_less_and_less_often() -> None:
    """A ping that is behind us each time, from somebody who has nothing else to say."""
    other = Answer(Wire.V2, [v2(0), v2(2, text="9")])
    played = play(
        Answer(Wire.V2, [tail(1), DONE]), *[other] * 5, stream=leased(Wire.V2, held_v2()), timing=Timing(slice_s=17.0)
    )
    assert [asked for asked, _ in played.script.asked] == ["1", None, None, None, None, None]
    assert played.signal.waits == [0.0, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert played.shelf.batches == []


# --- faults


def test_backoff_is_spent_waiting_while_it_is_short_and_parked_when_it_is_long() -> None:
    down = Answer(Wire.V1, refused=SourceUnavailable("503", status=503))
    played = play(*[down] * 9)
    assert played.signal.waits == [0.5, 1.0, 2.0, 4.0]
    assert (played.outcome.state, played.outcome.delay_s, played.outcome.attempt) == (
        StreamState.PARKED,
        8.0,
        5,
    )
    assert played.outcome.error == "503"


@pytest.mark.trap(44)
def test_a_wait_that_upstream_asks_for_is_kept() -> None:
    played = play(Answer(Wire.V1, refused=SourceUnavailable("429", status=429, retry_after_s=7.0)))
    assert played.outcome.delay_s == 7.0


def test_progress_starts_the_count_of_attempts_anew() -> None:
    fault = SourceUnavailable("cut")
    answers = [Answer(Wire.V2, [v2(*range(max(0, n - 1), n + 1))], end=fault) for n in range(6)]
    played = play(*answers, timing=Timing(slice_s=2.9))
    assert played.signal.waits == [0.5] * 6


@pytest.mark.trap(45)
@pytest.mark.parametrize(
    ("error", "over", "attempt", "state"),
    [
        (SourceUnavailable("500", status=500), True, 19, StreamState.FAILED),
        (SourceUnavailable("500", status=500), True, 18, StreamState.PARKED),
        (SourceUnavailable("500", status=500), False, 99, StreamState.PARKED),
        (SourceUnavailable("503", status=503), True, 99, StreamState.PARKED),
        (SourceUnavailable("cut"), True, 99, StreamState.PARKED),
        (NotFound("404"), True, 19, StreamState.FAILED),
        (NotFound("404"), False, 99, StreamState.PARKED),
        (MalformedRecord("what"), False, 19, StreamState.FAILED),
        (MalformedRecord("what"), False, 18, StreamState.PARKED),
        (RequestRefused("400"), False, 19, StreamState.FAILED),
        (RequestRefused("400"), True, 18, StreamState.PARKED),
    ],
)
def test_when_a_stream_is_given_up(error: Exception, over: bool, attempt: int, state: StreamState) -> None:
    """After twenty attempts in a row that took ten minutes, and neither alone."""
    stream = replace(leased(run_end=OVER if over else None, attempt=attempt), troubled_s=600.0)
    hasty = play(Answer(Wire.V1, refused=error), stream=replace(stream, troubled_s=599.0)).outcome
    assert (hasty.state, hasty.attempt) == (StreamState.PARKED, attempt + 1)
    outcome = play(Answer(Wire.V1, refused=error), stream=stream).outcome
    assert outcome.state is state
    assert (outcome.verdict is Verdict.FAILED) == (state is StreamState.FAILED)
    assert str(error) in (outcome.error or "")


def test_a_stream_given_up_after_some_of_it_was_read_is_possibly_truncated() -> None:
    stream = replace(leased(Wire.V2, held_v2(), OVER, attempt=19), troubled_s=601.0)
    outcome = play(Answer(Wire.V2, refused=SourceUnavailable("500", status=500)), stream=stream).outcome
    assert (outcome.state, outcome.verdict) == (StreamState.FAILED, Verdict.POSSIBLY_TRUNCATED)
    assert outcome.doubt is Doubt.UNSERVED


def test_a_request_that_is_refused_once_is_made_again() -> None:
    clock = Clock()
    played = play(
        Answer(Wire.V2, refused=RequestRefused("400: who are you")),
        Answer(Wire.V2, [v2(0), lambda: setattr(clock, "now", 601.0), DONE]),
        clock=clock,
    )
    assert (played.shelf.texts, played.outcome.state, played.outcome.attempt) == ([b"0"], StreamState.ACTIVE, 0)


def test_whoever_goes_on_knows_what_was_wrong_before() -> None:
    played = play(Answer(Wire.V1, refused=SourceUnavailable("cut")), timing=Timing(slice_s=0.4))
    assert (played.outcome.state, played.outcome.attempt, played.outcome.error) == (StreamState.ACTIVE, 1, "cut")


def test_a_refused_key_is_for_the_caller() -> None:
    with pytest.raises(Unauthorized):
        play(Answer(Wire.V1, refused=Unauthorized("401")))


@pytest.mark.parametrize(
    ("attempt", "troubled_s", "state"),
    [(0, 0.0, StreamState.PARKED), (19, 599.0, StreamState.PARKED), (19, 600.0, StreamState.FAILED)],
)
def test_a_stream_that_is_refused_alone_is_read_again_until_that_is_believed(
    attempt: int, troubled_s: float, state: StreamState
) -> None:
    stream = replace(leased(attempt=attempt), troubled_s=troubled_s)
    played = play(Answer(Wire.V1, refused=SourceUnavailable("cut")), stream=stream, timing=Timing(slice_s=0.0))
    outcome = played.reader.refused_alone(Unauthorized("403", status=403))
    assert (outcome.state, outcome.attempt) == (state, attempt + 1)
    assert "403" in (outcome.error or "")


def test_a_lost_lease_is_for_the_caller() -> None:
    class Lost(Shelf):
        def put(self, batch: Batch, wire: Wire) -> None:
            raise LeaseLost

    with pytest.raises(LeaseLost):
        play(Answer(Wire.V2, [v2(0)]), shelf=Lost())


# --- time


def test_a_slice_ends_between_two_deliveries() -> None:
    clock = Clock()
    played = play(Answer(Wire.V2, [v2(0), lambda: setattr(clock, "now", 601.0), v2(1)]), clock=clock)
    assert (played.outcome.state, played.shelf.texts) == (StreamState.ACTIVE, [b"0"])


def test_a_call_to_leave_ends_the_connection_and_is_no_fault() -> None:
    clock = Clock()
    signal = PatientSignal(clock)
    played = play(
        Answer(Wire.V1, [v1((0, 0, "1")), v1((1, 0, "2"), alive=False), signal.leave], end=SourceUnavailable("cut")),
        clock=clock,
        signal=signal,
    )
    assert (played.outcome.state, played.outcome.attempt) == (StreamState.ACTIVE, 0)
    assert played.shelf.texts == [b"1"]  # the last line is the next reader's
    assert played.script.interrupted == 1


def test_a_call_to_look_again_ends_the_connection_and_begins_a_sweep() -> None:
    clock = Clock()
    signal, shelf = PatientSignal(clock), Shelf()

    def over() -> None:
        shelf.state = OVER
        signal.look_again()

    played = play(
        Answer(Wire.V2, [v2(0), over]), Answer(Wire.V2, [v2(0), tail(1), DONE]), clock=clock, signal=signal, shelf=shelf
    )
    assert played.script.asked == [(None, 60), (None, DRAIN_WAIT_S)]
    assert played.outcome.swept


def test_a_parked_stream_is_looked_at_and_left_without_a_wait() -> None:
    stream = leased(Wire.V1, held_v1(), silent_s=400.0)
    played = play(Answer(Wire.V1, [v1((0, 0, "1"), (1, 0, "2"), (2, 0, "3"))]), stream=stream)
    assert [wait_s for _, wait_s in played.script.asked] == [DRAIN_WAIT_S]
    assert (played.outcome.state, played.outcome.delay_s) == (StreamState.PARKED, 10.0)


def test_a_parked_stream_that_brings_something_is_followed_again() -> None:
    stream, clock = leased(Wire.V2, held_v2(), silent_s=400.0), Clock()
    played = play(
        Answer(Wire.V2, [v2(2, 3), tail(4), DONE]),
        Answer(Wire.V2, [lambda: setattr(clock, "now", 301.0), tail(4), DONE]),
        stream=stream,
        clock=clock,
    )
    assert [wait_s for _, wait_s in played.script.asked] == [DRAIN_WAIT_S, 60]
    assert (played.shelf.texts, played.outcome.delay_s) == ([b"3"], 30.0)


def test_an_upstream_that_closes_at_once_does_not_make_us_spin() -> None:
    played = play(*[Answer(Wire.V2, [tail(0), DONE])] * 9, timing=Timing(slice_s=7.5))
    assert played.signal.waits == [1.0] * 8


def test_the_lag_is_what_the_tail_says() -> None:
    answer = Answer(Wire.V2, [tail(3), v2(0, 1), tail(3), v2(2), tail(3), DONE])
    assert play(answer, stream=leased(run_end=OVER)).shelf.lags == [3, 1, 0]


def test_what_is_wrong_is_said_at_every_attempt_and_taken_back_when_it_is_over() -> None:
    html = SourceUnavailable("upstream answered with 'text/html' instead of an event stream", status=200)
    played = play(
        Answer(Wire.V2, refused=html),
        Answer(Wire.V2, refused=html),
        Answer(Wire.V2, [v2(0), tail(1), DONE]),
        stream=leased(run_end=OVER),
    )
    assert played.shelf.troubles == [(str(html), 1), (str(html), 2), (None, 2)]
