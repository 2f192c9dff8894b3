"""What one followed stream asks for, gives out and gives up on, second by second."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tailrace.errors import MalformedRecord, NotFound, RequestRefused, SourceUnavailable, StoreUnavailable, Unauthorized
from tailrace.ingest.ending import UNANCHORED_SWEEPS
from tailrace.model import Arrival, Checkpoint, HoleReason, Kind, RunView, StreamRef, V1Record, V2Record, Wire
from tailrace.streams.errors import NotArchived, RetriesExhausted, StreamError, StreamRefused, StreamTimeout
from tailrace.streams.follow import Follow, Limits
from tailrace.streams.intake import LOOKBACK
from tailrace.streams.reading import GivenChunk, GivenRun, Reading
from tailrace.streams.steps import (
    ArchiveEnd,
    Chunk,
    Close,
    Ended,
    Failed,
    Fetch,
    Gap,
    Look,
    Looked,
    Open,
    Opened,
    Page,
    Request,
    Source,
    Start,
)
from tailrace.streams.timing import Timing
from tailrace.streams.watch import Watch

PACE = Timing()
OVER = datetime(2026, 11, 22, tzinfo=UTC)


class Bench:
    """A follower on a bench: the clock is moved by hand."""

    def __init__(
        self,
        *,
        start: Start | None = None,
        timeout_s: float | None = 60.0,
        max_retries: int | None = 3,
        source: Source = "upstream",
    ) -> None:
        self.now = 100.0
        self.follow = Follow(
            StreamRef("run_1", "ai"),
            start or Start(),
            Limits(timeout_s, max_retries),
            PACE,
            source=source,
            random=lambda: 1.0,
            now=self.now,
        )

    def wants(self) -> list[Request]:
        found: list[Request] = []
        while (request := self.follow.wants(self.now)) is not None:
            found.append(request)
        return found

    def given(self) -> list[int | str]:
        """Indices of the chunks that came out; of those that are none, why."""
        found = [chunk.invalid or chunk.chunk_index for chunk in self.follow.items]
        self.follow.items.clear()
        return found

    def opens(self, wire: Wire) -> None:
        assert [type(each) for each in self.wants()][-1:] == [Open]
        self.follow.handle(Opened(wire, None), self.now)

    def lines(self, *numbers: int, followed: bool = True) -> None:
        records = [V1Record(1_000 + number, 0, str(number)) for number in numbers]
        self.follow.handle(Arrival(records, alive_after=followed), self.now)

    def records(self, *numbers: int, tail: int | None = None, life: int = 0) -> None:
        records = [v2(number, life=life) for number in numbers]
        self.follow.handle(Arrival(records, tail=tail, alive_after=True), self.now)

    def ping(self, tail: int | None = None) -> None:
        self.follow.handle(Arrival([], tail=tail, alive_after=True), self.now)

    def ends(self) -> None:
        self.follow.handle(Ended(), self.now)

    def fails(self, error: Exception | None = None) -> None:
        self.follow.handle(Failed(error or SourceUnavailable("cut")), self.now)  # type: ignore[arg-type]

    def later(self, seconds: float) -> None:
        """Let time pass for a process that runs: it looks whenever it wanted to."""
        until = self.now + seconds
        while (at := self.follow.wake_at()) is not None and self.now < at < until:
            self.now = at
            self.follow.tick(at)
        self.stopped(until - self.now)

    def stopped(self, seconds: float) -> None:
        """Let time pass for a process that does not run, and looks after it."""
        self.now += seconds
        self.follow.tick(self.now)

    def looked(self, *, over: bool, terminal: bool | None = None) -> None:
        at = self.follow.look_at()
        assert at is not None
        assert at <= self.now
        self.follow.seen(over=over, terminal=over if terminal is None else terminal, asked_at=self.now, now=self.now)


def v2(number: int, kind: Kind = Kind.DATA, life: int = 0) -> V2Record:
    text = str(number).encode() if kind is Kind.DATA else b""
    body_id = f"{life}-{number}"
    return V2Record(number, 5, kind, text, body_id, json.dumps({"data": number, "id": body_id}))


# --- v1's last line


def test_the_last_line_is_held_until_something_follows() -> None:
    bench = Bench()
    bench.opens(Wire.V1)
    bench.lines(0, 1, 2, followed=False)
    assert bench.given() == [0, 1]
    bench.lines(3, followed=False)
    assert bench.given() == [2]
    bench.ping()
    assert bench.given() == [3]


def test_the_last_line_is_given_after_the_hold_time() -> None:
    bench = Bench()
    bench.opens(Wire.V1)
    bench.lines(0, followed=False)
    bench.later(PACE.hold_s - 0.01)
    assert bench.given() == []
    assert bench.follow.wake_at() == pytest.approx(bench.now + 0.01)
    bench.later(0.02)
    assert bench.given() == [0]


@pytest.mark.trap(4)
def test_a_line_that_a_stopped_process_held_is_not_believed_before_it_has_looked_at_the_connection() -> None:
    """The end of the body can lie in the socket meanwhile; also when the event loop was busy for as long."""
    bench = Bench()
    bench.opens(Wire.V1)
    bench.lines(0, followed=False)
    bench.stopped(PACE.hold_s + 60)
    assert bench.given() == []
    bench.ends()
    assert bench.given() == []
    bench.later(PACE.reconnect_s)
    bench.opens(Wire.V1)
    bench.lines(0, followed=False)
    bench.stopped(PACE.hold_s + 60)
    bench.later(PACE.hold_s)
    assert bench.given() == [0]


@pytest.mark.parametrize("how", ["ends", "fails"])
def test_a_line_that_comes_with_the_end_is_withdrawn_and_read_again(how: str) -> None:
    bench = Bench()
    bench.opens(Wire.V1)
    bench.lines(0, 1, 2, 3, followed=False)
    getattr(bench, how)()
    assert bench.given() == [0, 1, 2]
    bench.later(5)
    assert bench.wants() == [Open("1000-0", PACE.wait_s)]  # two ids before the last that is certain
    bench.follow.handle(Opened(Wire.V1, None), bench.now)
    bench.lines(1, 2, 3, 4)
    assert bench.given() == [3, 4]


def test_a_line_that_ends_two_last_reads_alike_is_all_there_will_be() -> None:
    bench = Bench()
    bench.opens(Wire.V1)
    bench.lines(0)
    bench.ends()
    bench.looked(over=True)
    for _ in range(2):
        assert bench.wants() == [Open(None, PACE.drain_wait_s)]
        bench.follow.handle(Opened(Wire.V1, None), bench.now)
        bench.lines(0, 1, followed=False)
        assert not bench.follow.finished
        bench.ends()
    assert bench.given() == [0, 1]
    assert bench.follow.finished
    assert bench.follow.error is None


# --- the end


def test_a_clean_end_ends_nothing_while_the_run_goes_on() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0, 1)
    bench.ends()
    assert not bench.follow.finished
    bench.looked(over=False)
    assert bench.wants() == [Open("0", PACE.wait_s)]  # at the last record that is held, to see that it is still there


def test_a_read_ends_with_a_connection_that_was_opened_after_the_end_was_known() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0, 1, tail=2)
    bench.looked(over=True)
    assert not bench.follow.finished
    bench.later(0)  # caught up: nothing to wait for
    assert bench.wants() == [Close(), Open("0", PACE.drain_wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(1, 2)  # written before the run ended, and after our last look
    bench.ping(tail=3)
    assert bench.given() == [0, 1, 2]
    assert bench.follow.finished


def test_a_connection_that_still_brings_something_is_not_left_for_the_last_read() -> None:
    bench = Bench()
    bench.opens(Wire.V1)
    bench.later(PACE.look_after_s)
    bench.lines(0)
    bench.follow.seen(over=True, terminal=True, asked_at=bench.now, now=bench.now)
    for number in range(1, 4):
        bench.later(PACE.settle_s - 0.01)
        bench.lines(number)
        bench.later(0)
        assert bench.wants() == []
    bench.later(PACE.settle_s)
    assert [type(each) for each in bench.wants()] == [Close, Open]


def test_what_was_trimmed_below_the_tail_is_a_gap_at_the_end() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0)
    bench.ends()
    bench.looked(over=True)
    for _ in range(3):  # what is written while a connection closes would look the same once
        bench.opens(Wire.V2)
        bench.ping(tail=5)
        assert not bench.follow.finished
        bench.ends()
    assert bench.follow.finished
    assert bench.follow.gaps == [Gap(0, 1, 4, HoleReason.TRIMMED)]


@pytest.mark.trap(22)
def test_what_a_response_did_not_get_to_comes_with_the_next() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0)
    bench.ends()
    bench.looked(over=True)
    for first in (1, 3):
        bench.opens(Wire.V2)
        bench.records(first - 1, first, first + 1, tail=5)
        if not bench.follow.finished:
            bench.ends()
    assert bench.follow.finished
    assert bench.given() == [0, 1, 2, 3, 4]
    assert bench.follow.gaps == []


@pytest.mark.parametrize("wire", list(Wire))
def test_a_last_read_that_does_not_show_where_we_are_is_made_again_a_few_times(wire: Wire) -> None:
    """Something on the way may have ended it. After that, upstream's copy must be gone."""
    bench = Bench()
    bench.opens(wire)
    bench.lines(0) if wire is Wire.V1 else bench.records(0)
    bench.ends()
    bench.looked(over=True)
    for _ in range(UNANCHORED_SWEEPS):
        bench.later(PACE.reconnect_s)
        bench.opens(wire)
        bench.ends()
        assert not bench.follow.finished
    bench.later(PACE.reconnect_s)
    bench.opens(wire)
    bench.ends()
    assert bench.follow.finished
    assert bench.follow.error is None
    assert bench.follow.gaps == []


# --- silence


def test_silence_while_the_run_goes_on_is_a_timeout() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    bench.records(0)
    bench.later(4.9)
    bench.looked(over=False)
    bench.later(0.1)
    assert not bench.follow.finished  # first it asks whether the run is over
    bench.looked(over=False)
    assert isinstance(bench.follow.error, StreamTimeout)
    assert isinstance(bench.follow.error, TimeoutError)
    assert bench.follow.error.timeout_in_seconds == 5
    assert bench.given() == [0]


def test_an_answer_to_an_older_question_does_not_decide_a_timeout() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    bench.later(5)
    bench.follow.seen(over=False, terminal=False, asked_at=bench.now - 0.5, now=bench.now)
    assert not bench.follow.finished
    bench.follow.seen(over=False, terminal=False, asked_at=bench.now, now=bench.now)
    assert isinstance(bench.follow.error, StreamTimeout)


def test_silence_after_the_end_of_the_run_is_none() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V1)
    bench.lines(0)
    bench.later(5)
    bench.looked(over=True)
    bench.later(PACE.settle_s)
    assert [type(each) for each in bench.wants()] == [Close, Open]
    bench.follow.handle(Opened(Wire.V1, None), bench.now)
    bench.lines(0)
    bench.later(100)
    bench.ends()
    assert bench.follow.finished
    assert bench.follow.error is None


def test_a_run_that_is_terminal_but_not_confirmed_does_not_time_out() -> None:
    """A cancelled run has its status long before its end; to whoever waits for chunks it is over."""
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    bench.later(5)
    bench.looked(over=False, terminal=True)
    assert bench.follow.error is None
    bench.later(PACE.settle_s)
    assert [type(each) for each in bench.wants()] == [Close, Open]


def test_a_timeout_does_not_wait_for_ever_for_the_run() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    bench.later(5)
    bench.later(PACE.answer_s)
    assert isinstance(bench.follow.error, StreamTimeout)


def test_pings_are_no_chunks() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    for _ in range(5):
        bench.later(1)
        bench.ping()
    bench.looked(over=False)
    assert isinstance(bench.follow.error, StreamTimeout)


def test_a_held_line_comes_before_the_timeout() -> None:
    bench = Bench(timeout_s=0.5)
    bench.opens(Wire.V1)
    bench.lines(0, followed=False)
    bench.later(1.0)
    assert bench.follow.error is None
    bench.later(1.0)
    assert bench.given() == [0]
    bench.looked(over=False)
    assert isinstance(bench.follow.error, StreamTimeout)


def test_time_that_the_caller_takes_is_no_silence() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    bench.records(0)
    bench.now += 60
    bench.follow.rested(60)
    bench.later(4.9)
    assert bench.follow._last_look is None
    bench.later(0.1)
    assert bench.follow._last_look == bench.now


def test_without_a_limit_it_waits_for_ever() -> None:
    bench = Bench(timeout_s=None)
    bench.opens(Wire.V2)
    bench.later(1e6)
    bench.looked(over=False)
    bench.later(1e6)
    assert not bench.follow.finished


def test_chunks_keep_it_going() -> None:
    bench = Bench(timeout_s=5)
    bench.opens(Wire.V2)
    for number in range(10):
        bench.later(4.9)
        bench.records(number)
    assert bench.follow._last_look is None
    assert len(bench.given()) == 10


def test_a_stream_that_is_quiet_among_busy_ones_times_out_alone() -> None:
    bench = RunBench(subscribed=False, timeout_s=5)
    for key in ("quiet", "busy"):
        bench.reading.add(key, bench.make(key, bench.now))
    asked = bench.asked()
    for number, _ in asked.values():
        bench.reading.handle(number, Opened(Wire.V2, None), bench.now)
    left: list[str] = []
    for number in range(6):
        bench.now += 1
        bench.reading.handle(asked["busy"][0], Arrival([v2(number)], alive_after=True), bench.now)
        bench.reading.tick(bench.now)
        for key, (at, request) in bench.asked().items():
            if request == Close():
                left.append(key)
            else:
                assert (key, type(request)) == ("", Look)
                bench.reading.handle(at, Looked(view()), bench.now)
    assert left == ["quiet"]  # its connection is dropped at once
    assert {key: type(error) for key, error in bench.reading.errors.items()} == {"quiet": StreamTimeout}
    assert not bench.reading.finished
    assert bench.given() == [f"busy:{number}" for number in range(6)]


# --- looking whether the run is over


def test_a_pause_makes_it_look_and_a_longer_one_less_often() -> None:
    bench = Bench(timeout_s=None)
    bench.opens(Wire.V1)
    bench.lines(0)
    waits = []
    for _ in range(6):
        at = bench.follow.look_at()
        assert at is not None
        waits.append(round(at - bench.now, 3))
        bench.later(at - bench.now)
        bench.looked(over=False)
    assert waits == [1, 2, 4, 5, 5, 5]
    bench.lines(1)
    assert bench.follow.look_at() == bench.now + PACE.look_after_s


def test_reaching_the_tail_makes_it_look_at_once() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0, 1)
    assert bench.follow.look_at() == bench.now + PACE.look_after_s
    bench.ping(tail=2)
    assert bench.follow.look_at() == bench.now


def test_after_a_clean_end_it_looks_before_it_connects_again() -> None:
    bench = Bench()
    bench.opens(Wire.V1)
    bench.later(60)
    bench.ends()
    assert bench.wants() == []
    bench.looked(over=True)
    assert bench.wants() == [Open(None, PACE.drain_wait_s)]


def test_connections_that_bring_nothing_are_not_made_in_a_circle() -> None:
    bench = Bench(timeout_s=None)
    bench.opens(Wire.V1)
    bench.ends()
    bench.looked(over=False)
    assert bench.wants() == []
    bench.later(PACE.reconnect_s)
    assert bench.wants() == [Open(None, PACE.wait_s)]


def test_a_line_that_is_withdrawn_is_nothing_brought() -> None:
    bench = Bench(timeout_s=None)
    bench.opens(Wire.V1)
    bench.lines(0, followed=False)
    bench.ends()
    bench.looked(over=False)
    assert bench.wants() == []


# --- failures


def test_attempts_are_counted_and_announced() -> None:
    bench = Bench(max_retries=2)
    for attempt in range(2):
        assert bench.wants() == [Open(None, PACE.wait_s)]
        bench.fails()
        retry = bench.follow.retries.popleft()
        assert (retry.key, retry.attempt, retry.delay_s) == ("ai", attempt + 1, 0.5 * 2**attempt)
        assert bench.wants() == []
        bench.later(retry.delay_s)
    assert bench.wants() == [Open(None, PACE.wait_s)]
    cause = SourceUnavailable("refused", status=503)
    bench.fails(cause)
    error = bench.follow.error
    assert isinstance(error, RetriesExhausted)
    assert (error.attempts, error.status, error.__cause__) == (3, 503, cause)


def test_progress_begins_the_count_anew_and_a_withdrawn_line_does_not() -> None:
    bench = Bench(max_retries=1)
    for number in range(3):
        bench.later(10)
        bench.opens(Wire.V1)
        bench.lines(*range(number + 1))
        bench.fails()
    assert not bench.follow.finished
    bench.later(10)
    bench.opens(Wire.V1)
    bench.lines(0, 1, 2)
    bench.lines(3, followed=False)
    bench.fails()
    assert isinstance(bench.follow.error, RetriesExhausted)
    assert bench.follow.error.attempts == 2
    assert bench.given() == [0, 1, 2]


def test_no_retries_means_one_attempt() -> None:
    bench = Bench(max_retries=0)
    bench.wants()
    bench.fails(NotFound("no such run"))
    assert isinstance(bench.follow.error, RetriesExhausted)
    assert (bench.follow.error.attempts, bench.follow.error.status) == (1, 404)
    assert str(bench.follow.error) == "Tried once: no such run"


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (Unauthorized("no", status=403), StreamRefused),
        (RequestRefused("no", status=422), StreamRefused),
        (MalformedRecord("odd"), StreamError),
    ],
)
def test_what_another_attempt_would_not_help_is_raised_at_once(raised: Exception, shown: type[StreamError]) -> None:
    bench = Bench()
    bench.wants()
    bench.fails(raised)
    assert type(bench.follow.error) is shown
    assert getattr(bench.follow.error, "status", None) == getattr(raised, "status", None)
    assert bench.wants() == []


def test_a_run_that_may_not_be_looked_at_ends_the_read() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.follow.unseen(SourceUnavailable("down"), bench.now)
    assert not bench.follow.finished
    bench.follow.unseen(Unauthorized("no"), bench.now)
    assert isinstance(bench.follow.error, StreamRefused)
    assert bench.wants() == [Close()]


# --- where a read begins


@pytest.mark.parametrize(
    ("index", "asked", "number"),
    [(0, None, 0), (1, None, 0), (LOOKBACK, None, 0), (LOOKBACK + 1, "0", 1), (5_000, "3999", 4_000)],
)
def test_v2_begins_before_the_index_to_know_repeats(index: int, asked: str | None, number: int) -> None:
    bench = Bench(start=Start(index=index))
    assert bench.wants() == [Open(asked, PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(*range(number, index + 2))
    assert bench.given() == [index, index + 1]
    assert not bench.follow.gaps


def test_an_index_that_v2_has_not_reached_yet_is_waited_for() -> None:
    """Upstream moves a start beyond the tail to the tail; the stream looks as if it had been created anew."""
    bench = Bench(start=Start(index=5_000), timeout_s=None)
    bench.opens(Wire.V2)
    bench.ping(tail=10)
    assert bench.wants() == [Close(), Open(None, PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(*range(5_003))
    assert bench.given() == [5_000, 5_001, 5_002]
    assert not bench.follow.gaps


def test_a_place_that_was_there_and_is_not_any_more_is_a_new_stream() -> None:
    bench = Bench(start=Start.after("41"))
    assert bench.wants() == [Open(None, PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(0, 1)
    bench.ping(tail=2)
    assert bench.wants() == [Close(), Open("0", PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(1, tail=2)  # one word for it is not enough
    assert bench.wants() == [Close(), Open(None, PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(0, 1, tail=2)
    assert [(chunk.generation, chunk.chunk_index, chunk.token) for chunk in bench.follow.items] == [
        (1, 0, "1.0"),
        (1, 1, "1.1"),
    ]


def test_a_recreated_stream_is_read_from_its_beginning() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0, 1, 2, tail=3)
    bench.fails()
    bench.later(5)
    bench.opens(Wire.V2)
    bench.ping(tail=1)
    for _ in range(2):  # one connection shows that it is another stream, the next reads it
        assert bench.wants() == [Close(), Open(None, PACE.wait_s)]
        bench.follow.handle(Opened(Wire.V2, None), bench.now)
        bench.records(0, life=1)
    assert [(chunk.generation, chunk.chunk_index) for chunk in bench.follow.items] == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert [gap.reason for gap in bench.follow.gaps] == [HoleReason.RECREATED]


def test_a_change_of_wire_is_a_new_stream() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    bench.records(0, 1)
    bench.fails()
    bench.later(5)
    bench.opens(Wire.V1)
    assert bench.wants() == [Close(), Open(None, PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V1, None), bench.now)
    bench.lines(7)
    assert [(chunk.generation, chunk.chunk_index) for chunk in bench.follow.items] == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("41", Start(0, 42, True)),
        ("2.41", Start(2, 42, True)),
        ("41:1763630000000-3.2", Start(0, 42, True, (1_763_630_000_000, 3, 2))),
        ("1.0:5-0.1", Start(1, 1, True, (5, 0, 1))),
        *((text, Start()) for text in ("", "x", "-1", "41 ", "41\n", "٤١", "1.2.3", "1" * 40, "5:1-2", "5:1-2.")),
    ],
)
def test_a_token_says_where_to_go_on_and_anything_else_is_the_beginning(text: str, start: Start) -> None:
    assert Start.after(text) == start
    if start != Start():
        assert Chunk(start.generation, start.index - 1, b"", "", start.line).token == text


def test_what_is_no_chunk_is_given_with_its_reason() -> None:
    bench = Bench()
    bench.opens(Wire.V2)
    odd = V2Record(1, 5, Kind.ODD, b"", "", "not json")
    skipped = [v2(2, Kind.COMMAND), v2(3, Kind.CONTROL)]
    repeat = v2(0)._replace(seq_num=4)
    bench.follow.handle(Arrival([v2(0), odd, *skipped, repeat, v2(5)], alive_after=True), bench.now)
    assert [(chunk.chunk_index, chunk.invalid, chunk.text) for chunk in bench.follow.items] == [
        (0, "", b"0"),
        (1, "not_an_envelope", b"not json"),
        (5, "", b"5"),
    ]
    bench.follow.handle(Arrival([], oversized=("8,3,1", "[1,1,1")), bench.now)
    assert bench.follow.items[-1][1:4] == (6, b"[1,1,1", "too_large")


# --- the archive


def page(*indices: int, end: ArchiveEnd | None = None, generation: int = 0) -> Page:
    chunks = [Chunk(generation, index, b"%d" % index) for index in indices]
    following = indices[-1] + 1 if indices else 0
    return Page(chunks, [], generation, following, end)


def end_at(index: int, *, sealed: bool = False) -> ArchiveEnd:
    return ArchiveEnd(Wire.V2, Checkpoint(0, index, {"seq_num": index, "print": [5, 1]}), sealed, [])


def test_the_archive_is_read_to_its_checkpoint() -> None:
    bench = Bench(source="archive", start=Start(index=1))
    assert bench.wants() == [Fetch(0, 1, 200, recent=False)]
    assert bench.follow.look_at() is None
    bench.follow.handle(page(1, 2), bench.now)
    assert bench.wants() == [Fetch(0, 3, 400, recent=False)]
    bench.follow.handle(page(end=end_at(2)), bench.now)
    assert bench.given() == [1, 2]
    assert bench.follow.finished
    assert bench.follow.error is None


def test_after_the_archive_it_goes_on_live() -> None:
    bench = Bench(source="auto")
    assert bench.wants() == [Fetch(0, 0, 200, recent=True)]
    bench.follow.handle(page(0, 1, 2), bench.now)
    bench.wants()
    bench.follow.handle(page(end=end_at(2)), bench.now)
    assert bench.wants() == [Open("1", PACE.wait_s)]


def test_a_sealed_stream_needs_no_upstream() -> None:
    bench = Bench(source="auto")
    bench.wants()
    bench.follow.handle(page(0, end=end_at(0, sealed=True)), bench.now)
    assert bench.follow.finished
    assert bench.wants() == []


def test_a_run_that_the_archive_does_not_know_is_read_from_upstream_or_not_at_all() -> None:
    unknown = Page([], [], 0, 0, None, known=False)
    live = Bench(source="auto")
    live.wants()
    live.follow.handle(unknown, live.now)
    assert live.wants() == [Open(None, PACE.wait_s)]
    archive = Bench(source="archive")
    archive.wants()
    archive.follow.handle(unknown, archive.now)
    assert isinstance(archive.follow.error, NotArchived)


def test_a_database_that_does_not_answer_is_tried_again() -> None:
    bench = Bench(source="archive", max_retries=1)
    bench.wants()
    bench.fails(StoreUnavailable("down"))
    bench.later(1)
    assert [type(each) for each in bench.wants()] == [Fetch]
    bench.fails(StoreUnavailable("down"))
    assert isinstance(bench.follow.error, RetriesExhausted)


def test_pages_are_as_large_as_their_chunks_allow() -> None:
    bench = Bench(source="archive")
    bench.wants()
    big = Chunk(0, 0, b"x" * 3_000_000)
    bench.follow.handle(Page([big], [], 0, 1, None), bench.now)
    assert bench.wants() == [Fetch(0, 1, 100, recent=False)]


def test_an_archive_that_does_not_answer_is_a_timeout() -> None:
    bench = Bench(source="archive", timeout_s=5)
    bench.wants()
    bench.later(5)
    assert isinstance(bench.follow.error, StreamTimeout)


# --- several streams and the run


def view(status: str = "EXECUTING", keys: tuple[str, ...] = (), *, over: bool = False) -> RunView:
    return RunView("run_1", status, over, keys, finished_at=OVER if over else None)


class RunBench:
    """A subscription on a bench."""

    def __init__(
        self,
        *,
        subscribed: bool = True,
        discover: bool = True,
        max_retries: int | None = 3,
        timeout_s: float | None = None,
    ) -> None:
        self.now = 100.0
        self.timeout_s = timeout_s
        watch = Watch(PACE, subscribed=subscribed, max_retries=max_retries, random=lambda: 1.0, now=self.now)
        self.reading = Reading(watch, self.make if subscribed and discover else None)

    def make(self, key: str, now: float) -> Follow:
        return Follow(
            StreamRef("run_1", key),
            Start(),
            Limits(self.timeout_s, 3),
            PACE,
            source="upstream",
            random=lambda: 1.0,
            now=now,
        )

    def asked(self) -> dict[str, tuple[int, Request]]:
        return {key: (number, request) for number, key, request in self.reading.requests(self.now)}

    def given(self) -> list[str]:
        found = []
        while (given := self.reading.take()) is not None:
            match given:
                case GivenRun(view):
                    found.append(view.status)
                case GivenChunk(key, chunk):
                    found.append(f"{key}:{chunk.chunk_index}")
        return found


def test_a_subscription_follows_the_feed_and_picks_up_keys() -> None:
    bench = RunBench()
    number, request = bench.asked()[""]
    assert request == Look(live=True)
    bench.reading.handle(number, Looked(view(keys=("a",))), bench.now)
    assert bench.given() == ["EXECUTING"]
    asked = bench.asked()
    assert asked.keys() == {"", "a"}
    bench.reading.handle(asked[""][0], Looked(view(keys=("a", "b"))), bench.now)
    assert bench.given() == ["EXECUTING"]
    assert "b" in bench.asked()


def test_a_subscription_looks_once_more_when_its_streams_are_drained() -> None:
    bench = RunBench()
    bench.reading.handle(bench.asked()[""][0], Looked(view("COMPLETED", ("a",), over=True)), bench.now)
    asked = bench.asked()
    assert asked["a"][1] == Open(None, PACE.drain_wait_s)
    bench.reading.handle(asked["a"][0], Opened(Wire.V2, None), bench.now)
    bench.reading.handle(asked["a"][0], Arrival([v2(0)], tail=1, alive_after=True), bench.now)
    assert bench.given() == ["COMPLETED", "a:0"]
    assert not bench.reading.finished
    asked = bench.asked()
    assert asked[""][1] == Look(live=False)
    bench.reading.handle(asked[""][0], Looked(view("COMPLETED", ("a", "late"), over=True)), bench.now)
    assert not bench.reading.finished
    asked = bench.asked()
    bench.reading.handle(asked["late"][0], Opened(Wire.V2, None), bench.now)
    bench.reading.handle(asked["late"][0], Arrival([v2(0)], tail=1, alive_after=True), bench.now)
    number, _ = bench.asked()[""]
    bench.reading.handle(number, Looked(view("COMPLETED", ("a", "late"), over=True)), bench.now)
    assert bench.given() == ["COMPLETED", "late:0"]
    assert bench.reading.finished
    assert bench.reading.errors == {}


def test_a_feed_that_answers_at_once_and_brings_nothing_is_not_asked_in_a_circle() -> None:
    bench = RunBench()
    for _ in range(2):
        bench.reading.handle(bench.asked()[""][0], Looked(view()), bench.now)
    assert bench.asked() == {}
    bench.now += PACE.reconnect_s
    assert bench.asked()[""][1] == Look(live=True)


def test_a_subscription_gives_up_on_a_feed_that_fails() -> None:
    bench = RunBench(max_retries=1)
    bench.reading.handle(bench.asked()[""][0], Failed(NotFound("no run")), bench.now)
    assert bench.reading.retries.popleft().attempt == 1
    bench.now += 10
    bench.reading.handle(bench.asked()[""][0], Failed(NotFound("no run")), bench.now)
    assert bench.reading.finished
    error = bench.reading.errors[""]
    assert isinstance(error, RetriesExhausted)
    assert (error.attempts, error.status) == (2, 404)


def test_a_terminal_status_without_an_end_is_believed_in_the_end() -> None:
    bench = RunBench(discover=False)
    bench.reading.handle(bench.asked()[""][0], Looked(RunView("run_1", "CANCELED", True, ())), bench.now)
    assert not bench.reading.finished
    number, _ = bench.asked()[""]
    bench.now += PACE.over_after_s
    bench.reading.tick(bench.now)
    assert bench.reading.finished
    bench.reading.handle(number, Looked(view("CANCELED", over=True)), bench.now)


def test_events_of_what_was_closed_are_ignored() -> None:
    bench = RunBench()
    number, _ = bench.asked()[""]
    assert bench.reading.close() == [(number, "")]
    bench.reading.handle(number, Looked(view()), bench.now)
    assert bench.given() == []


# --- from the newest on


LATEST = Start(latest=True)


def opens_v1(bench: Bench, date_ms: int | None) -> None:
    bench.later(PACE.retry_cap_s)
    assert [type(each) for each in bench.wants()][-1:] == [Open]
    bench.follow.handle(Opened(Wire.V1, date_ms), bench.now)


def test_on_v1_the_newest_is_what_nothing_follows() -> None:
    bench = Bench(start=LATEST)
    assert bench.wants() == [Open(None, PACE.wait_s, "latest")]
    bench.follow.handle(Opened(Wire.V1, None), bench.now)
    bench.lines(0, 1, 2)
    bench.later(PACE.hold_s / 2)
    bench.lines(3, followed=False)
    bench.later(PACE.hold_s - 0.01)
    assert bench.given() == []
    bench.later(0.02)
    assert bench.given() == [3]
    bench.lines(4, 5)
    assert bench.given() == [4, 5]


def test_on_v1_what_upstream_wrote_since_is_given_although_there_is_no_pause() -> None:
    bench = Bench(start=LATEST)
    opens_v1(bench, date_ms=2_000)
    bench.lines(0, 1, 2_999)
    assert bench.given() == []
    bench.lines(3_000)  # written at 4 000 ms, two seconds after the response began
    assert bench.given() == [2, 3]
    bench.lines(3_001)
    assert bench.given() == [4]


def test_on_v1_a_connection_that_breaks_is_no_pause_and_the_first_says_when_the_read_began() -> None:
    bench = Bench(start=LATEST)
    opens_v1(bench, date_ms=2_000)
    bench.lines(0, 1)
    bench.fails()
    bench.later(PACE.hold_s * 1.5)
    assert bench.given() == []
    opens_v1(bench, date_ms=8_000)
    bench.lines(0, 1, 2, 2_999, 3_000, 3_001)
    assert bench.given() == [3, 4, 5]


def test_on_v1_the_end_of_the_run_says_that_it_is_the_newest() -> None:
    bench = Bench(start=LATEST)
    opens_v1(bench, date_ms=None)
    bench.looked(over=True)
    bench.later(PACE.settle_s)
    opens_v1(bench, date_ms=None)
    bench.lines(0, 1, 2)
    bench.ends()
    assert bench.follow.finished
    assert bench.given() == [2]


def test_on_v2_the_newest_is_the_one_before_the_tail_and_what_is_before_tells_a_retry() -> None:
    bench = Bench(start=LATEST)
    assert bench.wants() == [Open(None, PACE.wait_s, "latest")]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(3_000)
    bench.ping(tail=3_001)
    assert bench.wants() == [Close(), Open(str(3_000 - LOOKBACK - 1), PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(*range(3_000 - LOOKBACK, 3_002), tail=3_002)
    assert bench.given() == [3_000, 3_001]


def test_on_v2_a_broken_way_to_the_newest_goes_on_where_it_broke() -> None:
    bench = Bench(start=LATEST, max_retries=1)
    for first, asked in ((0, None), (2, "1"), (4, "3")):
        bench.later(PACE.retry_cap_s)
        assert bench.wants() == [Open(asked, PACE.wait_s, "latest")]
        bench.follow.handle(Opened(Wire.V2, None), bench.now)
        bench.records(first, first + 1)
        if first < 4:
            bench.fails()
    assert bench.given() == []


def test_a_server_that_never_says_its_tail_ends_at_the_newest() -> None:
    bench = Bench(start=LATEST)
    bench.opens(Wire.V2)
    bench.records(0, 1, 2)
    bench.ping()
    bench.ends()
    bench.later(PACE.reconnect_s)
    assert bench.wants() == [Open(None, PACE.wait_s)]
    bench.follow.handle(Opened(Wire.V2, None), bench.now)
    bench.records(0, 1, 2, 3)
    assert bench.given() == [2, 3]


def test_the_archive_is_asked_for_its_newest_once() -> None:
    bench = Bench(start=LATEST, source="auto")
    assert bench.wants() == [Fetch(0, 0, 200, recent=True, latest=True)]
    bench.follow.handle(Page([Chunk(1, 7, b"7")], [], 1, 8, None), bench.now)
    assert bench.wants() == [Fetch(1, 8, 400, recent=True)]
    end = ArchiveEnd(Wire.V1, Checkpoint(1, 7, {"ids": [[1_007, 0]], "count": 1}), False, [])
    bench.follow.handle(Page([], [], 1, 8, end), bench.now)
    bench.opens(Wire.V1)
    bench.lines(7, 8, 9)
    assert bench.given() == [7, 8, 9]
