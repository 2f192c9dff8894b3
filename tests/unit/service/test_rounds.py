"""Going through the list of runs: what is a change, how often it is asked, what an answer that fails costs."""

from __future__ import annotations

import json

import httpx

from tailrace.service.rounds import LOOKS_PER_S, PAGES_PER_S, REFUSED_S, RETRY_S, Rounds

WHOLE = {"x-ratelimit-limit": "750", "x-ratelimit-remaining": "740", "x-ratelimit-reset": "0"}


class Listed:
    """A list of runs, by id when each was changed; two to a page. ``refuse``: the status of the next answer."""

    def __init__(self, **runs: str) -> None:
        self.runs = runs
        self.refuse: int | None = None
        self.headers = WHOLE
        self.queries: list[dict[str, str]] = []

    def get(self, path: str, query: dict[str, str]) -> tuple[httpx.Response, str]:
        assert path == "/api/v1/runs"
        self.queries.append(query)
        status, self.refuse = self.refuse or 200, None
        at = int(query.get("page[after]", 0))
        data = [
            {"id": run_id, "status": "EXECUTING", "updatedAt": changed, "taskIdentifier": "t", "createdAt": None}
            for run_id, changed in list(self.runs.items())[at : at + 2]
        ]
        pagination = {"next": str(at + 2)} if at + 2 < len(self.runs) else {}
        return httpx.Response(status, headers=self.headers), json.dumps({"data": data, "pagination": pagination})


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def going(listed: Listed, clock: Clock, not_watched: str = "") -> Rounds:
    return Rounds(listed, "default", lambda run_id: run_id != not_watched, 0.25, 1.0, clock)  # type: ignore[arg-type]


def after(rounds: Rounds, clock: Clock, seconds: float = 3.0) -> list[str]:
    found: list[str] = []
    until = clock.now + seconds
    while clock.now < until:
        clock.now += 0.25
        rounds.step()
        found += rounds.changed()
    return found


def test_what_changes_what_comes_and_what_goes_and_each_once() -> None:
    listed, clock = Listed(a="1", b="1", c="1"), Clock()
    rounds = going(listed, clock)
    assert after(rounds, clock) == []
    listed.runs = {"a": "1", "b": "2", "d": "1"}
    assert sorted(after(rounds, clock)) == ["b", "c", "d"]
    assert after(rounds, clock) == []


def test_what_nobody_watches_is_not_kept() -> None:
    listed, clock = Listed(a="1", b="1"), Clock()
    rounds = going(listed, clock, not_watched="b")
    after(rounds, clock)
    listed.runs = {"a": "1", "b": "2"}
    assert after(rounds, clock) == []
    assert rounds._before == {"a": "1"}


def test_only_runs_that_are_running_are_asked_for_however_old_they_are() -> None:
    listed, clock = Listed(), Clock()
    after(going(listed, clock), clock, 0.25)
    (query,) = listed.queries
    assert query["filter[status]"] == "DEQUEUED,EXECUTING,WAITING"
    assert query["filter[createdAt][from]"] == "1000"  # 0 would be none, and the last seven days


def test_pages_are_asked_for_at_a_pace_and_a_round_has_its_time() -> None:
    listed, clock = Listed(**{f"run_{number}": "1" for number in range(100)}), Clock()
    rounds = going(listed, clock)
    after(rounds, clock, 10.0)
    assert abs(len(listed.queries) - 10 * PAGES_PER_S) <= 1
    listed.runs, listed.queries = {"a": "1"}, []
    after(rounds, clock, 10.0)
    assert 9 <= len(listed.queries) <= 11


def test_however_slow_the_answers_are_a_step_ends() -> None:
    """It would else hold its thread for ever: the list is never read to its end."""
    listed, clock = Listed(**{f"run_{number}": "1" for number in range(1_000)}), Clock()

    def slow(path: str, query: dict[str, str]) -> tuple[httpx.Response, str]:
        clock.now += 2.0
        return Listed.get(listed, path, query)

    listed.get = slow  # type: ignore[method-assign]
    rounds = going(listed, clock)
    for steps in range(1, 4):
        rounds.step()
        assert len(listed.queries) <= 5 * steps


def test_what_the_feed_tells_of_by_now_is_not_asked_for() -> None:
    listed, clock, told_of = Listed(a="1", b="1"), Clock(), set[str]()
    rounds = Rounds(listed, "default", lambda run_id: run_id not in told_of, 0.25, 1.0, clock)  # type: ignore[arg-type]
    after(rounds, clock)
    told_of.add("a")
    listed.runs = {"a": "2", "b": "2"}
    assert after(rounds, clock) == ["b"]


def test_a_round_that_was_left_long_ago_is_begun_anew() -> None:
    listed, clock = Listed(a="1", b="1", c="1"), Clock()
    rounds = going(listed, clock)
    rounds.step()
    clock.now += 3_600.0
    listed.queries = []
    rounds.step()
    assert "page[after]" not in listed.queries[0]


def test_when_others_use_the_rate_limit_it_waits() -> None:
    listed, clock = Listed(a="1", b="1", c="1"), Clock()
    listed.headers = WHOLE | {"x-ratelimit-remaining": "500", "x-ratelimit-reset": "9999999999999"}  # 120 s at most
    after(going(listed, clock), clock, 110.0)
    assert len(listed.queries) == 1


def test_an_answer_that_fails_has_the_round_begin_anew_and_what_is_known_stays_known() -> None:
    listed, clock = Listed(a="1", b="1", c="1"), Clock()
    rounds = going(listed, clock)
    after(rounds, clock)
    listed.runs = {"a": "1", "b": "1", "c": "2"}
    listed.refuse = 503
    assert after(rounds, clock, RETRY_S - 2.0) == []
    assert after(rounds, clock, 5.0) == ["c"]
    listed.refuse, listed.queries = 400, []
    assert after(rounds, clock, REFUSED_S - 10.0) == []
    assert len(listed.queries) == 1


def test_so_many_looks_a_second_whatever_changes() -> None:
    listed, clock = Listed(**{f"run_{number}": "1" for number in range(10)}), Clock()
    rounds = going(listed, clock)
    rounds._changed = dict.fromkeys(f"run_{number}" for number in range(1_000))
    assert len(after(rounds, clock, 4.0)) <= 4 * LOOKS_PER_S
