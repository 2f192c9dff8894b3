"""What waiting says, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from tailrace.cli.progress import Bars, Lines
from tailrace.cli.waiting import Before, End, Line, Wanted, note, settled, wait_settled, words
from tailrace.errors import StoreUnavailable
from tailrace.model import NOT_KNOWN_YET
from tailrace.store.queries import Archive, Halted, RunStatus, StreamStatus

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RUN = RunStatus(
    id=1,
    environment="default",
    run_id="run_1",
    state="watched",
    status="EXECUTING",
    over=False,
    task_identifier=None,
    selection=None,
    requested_at=NOW,
    asked_for_s=33.4,
    finished_at=None,
    sealed_at=None,
    last_error=None,
    next_watch_s=0.0,
    streams=1,
    sealed_streams=0,
    failed_streams=0,
    chunks=0,
    bytes=0,
    gaps=0,
    quarantined=0,
)
STREAM = StreamStatus(
    stream_key="ai",
    state="active",
    verdict="open",
    wire="v2",
    generation=0,
    checkpoint=-1,
    chunks=0,
    bytes=0,
    holes=0,
    gaps=0,
    quarantined=0,
    lag=None,
    attempt=0,
    last_error=None,
    worker="host:1",
    next_attempt_s=0.0,
    first_chunk_at=None,
    last_chunk_at=None,
    sealed_at=None,
    id=7,
)
PARKED = replace(STREAM, state="parked", worker=None, next_attempt_s=41.2)
SEALED = replace(STREAM, state="sealed", verdict="complete", worker=None)
FAILED = replace(STREAM, state="failed", worker=None, last_error="gone")
WANTED = Wanted("run_1", "default", None, quiet_s=60.0, unknown_run_s=120.0)
HALTED = Halted("default", "http://x", NOW, "401")


@pytest.mark.parametrize(
    ("run", "stream", "said"),
    [
        (RUN, STREAM, "reading"),
        (RUN, replace(STREAM, worker=None), "waiting for a reader"),
        (RUN, replace(PARKED, next_attempt_s=0.0), "waiting for a reader"),
        (RUN, PARKED, "silent; looked at again in 41 s"),
        (RUN, replace(PARKED, attempt=2, last_error="503"), "trying again in 41 s: 503"),
        (replace(RUN, over=True), PARKED, "over; sealed after 60 s without anything new, last look in 41 s"),
        (RUN, SEALED, "sealed"),
        (RUN, replace(SEALED, verdict="complete_with_gaps"), "sealed, complete with gaps"),
        (RUN, FAILED, "failed: gone"),
    ],
)
def test_a_stream_is_told_in_words(run: RunStatus, stream: StreamStatus, said: str) -> None:
    assert words(run, stream, 60.0) == said


ASKED = replace(RUN, state="requested", status=None)


@pytest.mark.parametrize(
    ("run", "streams", "workers", "said"),
    [
        (None, [], 1, "waiting for a worker to take the request"),
        (None, [], 0, "no worker runs yet: start one with `tailrace worker`; the request waits for it"),
        (
            replace(ASKED, last_error=f"{NOT_KNOWN_YET}: 404"),
            [],
            1,
            "upstream does not know run_1 yet; giving up in 87 s",
        ),
        (replace(ASKED, last_error="503"), [], 1, "upstream can't be asked, trying again: 503"),
        (replace(RUN, last_error="503"), [STREAM], 1, "upstream can't be asked, trying again: 503"),
        (RUN, [], 1, "no streams yet (run is EXECUTING)"),
        (RUN, [STREAM], 1, ""),
        (replace(ASKED, state="failed", last_error=f"{NOT_KNOWN_YET}: 404"), [], 1, ""),
        (RUN, [SEALED], 1, "all streams are settled; the run is sealed after 60 s without a new one"),
    ],
)
def test_a_run_is_told_in_words(run: RunStatus | None, streams: list[StreamStatus], workers: int, said: str) -> None:
    assert note(run, streams, workers, WANTED) == said


@pytest.mark.parametrize(
    ("run", "streams", "keys", "end"),
    [
        (RUN, [SEALED], None, None),
        (replace(RUN, state="sealed"), [SEALED], None, End.SEALED),
        (replace(RUN, state="sealed"), [], None, End.SEALED),
        (replace(RUN, state="sealed"), [SEALED, FAILED], None, End.FAILED),
        (replace(RUN, state="sealed"), [SEALED, replace(FAILED, stream_key="b")], ["ai"], End.SEALED),
        (replace(RUN, state="failed", last_error="unknown"), [], None, End.FAILED),
        (replace(RUN, state="cancelled"), [], None, End.FAILED),
        # What was asked for is settled, whatever the rest of the run does.
        (RUN, [SEALED, replace(STREAM, stream_key="b")], ["ai"], End.SEALED),
        (RUN, [SEALED], ["ai", "b"], None),
        (RUN, [FAILED], ["ai"], End.FAILED),
    ],
)
def test_waiting_ends_when_all_that_was_asked_for_is_settled(
    run: RunStatus, streams: list[StreamStatus], keys: Sequence[str] | None, end: End | None
) -> None:
    outcome = settled(run, streams, [], keys)
    assert (outcome.end if outcome else None) == end


def test_a_failure_comes_with_every_reason() -> None:
    other = replace(FAILED, stream_key="b", last_error=None)
    outcome = settled(replace(RUN, state="sealed"), [FAILED, other], [], None)
    assert outcome is not None
    assert outcome.reason == "stream ai failed: gone; stream b failed: no reason"


def test_a_refused_key_ends_waiting_whatever_the_run_is() -> None:
    outcome = settled(None, [], [HALTED], None)
    assert outcome is not None
    assert (outcome.end, outcome.reason) == (End.REFUSED, "401")


class Script:
    """An archive that answers with one state of the run after the other; an error is raised."""

    def __init__(self, *answers: RunStatus | StoreUnavailable | None) -> None:
        self.answers = list(answers)
        self.now = 0.0
        self.notes: list[str] = []

    def runs_named(self, run_id: str, environment: str) -> list[RunStatus]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, StoreUnavailable):
            raise answer
        return [answer] if answer is not None else []

    def streams(self, run: int) -> list[StreamStatus]:
        return [SEALED]

    def halted(self, environment: str) -> list[Halted]:
        return []

    def live_workers(self) -> int:
        return 1

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, lines: Sequence[Line], note: str) -> None:
        self.notes.append(note)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, wanted: Wanted = WANTED) -> Any:
        return wait_settled(cast("Archive", self), wanted, self, sleep=self.sleep, clock=lambda: self.now)


def test_what_was_sealed_before_we_asked_is_no_answer() -> None:
    old = replace(RUN, state="sealed")
    script = Script(old, old, replace(old, requested_at=datetime.now(UTC)))
    outcome = script.wait(replace(WANTED, before=Before("sealed", NOW)))
    assert outcome.end is End.SEALED
    assert script.notes[:2] == ["waiting for a worker to take the request"] * 2


def test_a_database_that_comes_back_ends_nothing() -> None:
    script = Script(RUN, StoreUnavailable("away"), StoreUnavailable("away"), replace(RUN, state="sealed"))
    assert script.wait().end is End.SEALED
    assert "the database does not answer, trying again: away" in script.notes


def test_a_database_that_stays_away_ends_the_waiting() -> None:
    script = Script(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        script.wait()
    assert 60 <= script.now < 70


def test_lines_say_each_change_once_and_growth_now_and_then() -> None:
    said: list[str] = []
    times = iter([0.0, 0.5, 1.0, 2.5, 2.6, 2.7])
    view = Lines(clock=lambda: next(times), write=said.append)
    for chunks in (0, 5, 9, 20):
        view.show([Line("ai", chunks, 3, "reading", False)], "")
    view.show([Line("ai", 20, 0, "sealed", True)], "note")
    view.show([Line("ai", 20, 0, "sealed", True)], "note")
    assert said == ["ai: 0 of 3 chunks, reading", "ai: 20 of 23 chunks, reading", "ai: 20 chunks, sealed", "note"]


def test_bars_show_streams_and_the_note(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as view:
        view.show([Line("[red]ai\x1b", 5, 3, "reading [x]", False), Line("b", 2, None, "reading", False)], "a note")
        view.show([Line("[red]ai\x1b", 8, 0, "sealed", True)], "")
    said = capsys.readouterr().err
    assert "[red]ai\\x1b" in said
    assert "8/8" in said
    assert "sealed" in said
