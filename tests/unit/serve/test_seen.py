"""What the readers of the feed of many runs have been told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tailrace.model import Wire
from tailrace.serve.runs import Run
from tailrace.serve.seen import Seen

MOMENT = datetime(2026, 11, 1, tzinfo=UTC)


def run(n: int, updated_s: float = 0) -> Run:
    return Run(f"run_{n}", Wire.V2, "EXECUTING", "task", MOMENT, MOMENT + timedelta(seconds=updated_s))


def told(seen: Seen, handle: str, *runs: Run) -> list[tuple[str, str]]:
    return [(each.run_id, operation) for each, operation in seen.news(handle, runs, MOMENT)]


def test_news_is_what_is_new_or_was_updated_and_is_told_once() -> None:
    seen = Seen()
    seen.put("a", [run(1), run(2)])
    changed = [run(1), run(2, 1), run(3, -5)]
    assert told(seen, "a", *changed) == [("run_2", "update"), ("run_3", "insert")]
    assert told(seen, "a", *changed) == []
    assert told(seen, "a", replace(run(3, -4), status="FAILED")) == [("run_3", "update")]


def test_readers_know_nothing_of_one_another() -> None:
    seen = Seen()
    seen.put("a", [run(1, 1)])
    seen.put("b", [])
    assert told(seen, "b", run(1, 1)) == [("run_1", "insert")]
    assert told(seen, "a", run(1, 1)) == []


def test_for_an_unknown_reader_the_offset_decides() -> None:
    seen = Seen()
    assert told(seen, "a", run(1), run(2, 1)) == [("run_2", "update")]
    assert told(seen, "a", run(2, 1)) == [("run_2", "update")]  # nothing is remembered of it


def test_who_asked_longest_ago_is_forgotten_first() -> None:
    seen = Seen(most=4)
    seen.put("a", [run(1), run(2)])
    seen.put("b", [run(3)])
    assert told(seen, "a") == []  # asks again
    seen.put("c", [run(4), run(5)])
    assert told(seen, "b", run(9)) == []  # forgotten: nothing after the offset
    assert told(seen, "a", run(9)) == [("run_9", "insert")]


def test_one_reader_alone_can_be_too_much() -> None:
    seen = Seen(most=3)
    seen.put("a", [run(n) for n in range(5)])
    assert told(seen, "a", run(9)) == []
