"""Ids that upstream does not know stand in nobody's way: whatever is new or known goes before them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tailrace.service.runtime import Runtime
from tests.integration.test_discovery import FEED, Place, place

__all__ = ["place"]

PER_LOOK = 10
OLD = timedelta(days=2)
"""The feed of many runs does not name such a run."""


def ask(place: Place, run_ids: Sequence[str]) -> None:
    place.archive.run("SELECT tailrace.request_ingest(run_id) FROM unnest(%s::text[]) run_id", list(run_ids))


def state(place: Place, run_id: str) -> str:
    found: str = place.archive.value("SELECT state FROM tailrace.runs WHERE run_id = %s", run_id)
    return found


@pytest.fixture
def runtime(place: Place) -> Iterator[Runtime]:
    runtime = place.runtime()
    ask(place, [f"run_wrong_{n}" for n in range(900)])
    return runtime


@pytest.mark.parametrize("age", [timedelta(0), OLD], ids=["new", "old"])
@pytest.mark.parametrize("looked", [0, 1, 7])
def test_a_run_that_is_asked_for_after_many_unknown_ones_is_found_at_the_next_look(
    looked: int, age: timedelta, place: Place, runtime: Runtime
) -> None:
    for _ in range(looked):
        runtime.watch(PER_LOOK)
    place.store.create_run("run_real", created_at=datetime.now(UTC) - age)
    ask(place, ["run_real"])
    runtime.watch(PER_LOOK)
    assert state(place, "run_real") == "watched"


def test_a_run_that_is_known_is_looked_at_before_them(place: Place, runtime: Runtime) -> None:
    place.store.create_run("run_real", created_at=datetime.now(UTC) - OLD)
    ask(place, ["run_real"])
    runtime.watch(PER_LOOK)
    place.store.open_stream("run_real", "late key")
    place.due()
    assert runtime.watch(PER_LOOK)[1] == 1


def test_one_that_appears_while_it_is_looked_for_is_seen_in_the_feed(place: Place, runtime: Runtime) -> None:
    """Long before its turn among the others comes."""
    runtime.watch(PER_LOOK)
    place.store.create_run("run_wrong_500")
    place.archive.run(
        "UPDATE tailrace.runs SET next_watch_at = now() + interval '1 hour' WHERE run_id = 'run_wrong_500'"
    )
    runtime.environments.default.watching._asked_at -= 5.0
    runtime.watch(PER_LOOK)
    assert state(place, "run_wrong_500") == "watched"


def test_they_are_looked_at_less_and_less_often_and_each_has_its_turn(place: Place, runtime: Runtime) -> None:
    for _ in range(3):
        runtime.watch(PER_LOOK)
    place.calls()
    asked = place.archive.rows("SELECT run_id FROM tailrace.runs WHERE watch_attempt >= 1")
    assert len(asked) >= 2 * PER_LOOK
    runtime.watch(PER_LOOK)
    assert not {f"{FEED}/{run_id}" for (run_id,) in asked} & set(place.calls())
    place.archive.run("UPDATE tailrace.runs SET watch_attempt = 20, next_watch_at = now()")
    runtime.watch(PER_LOOK)
    waits = place.archive.rows(
        "SELECT extract(epoch FROM next_watch_at - now())::float8 FROM tailrace.runs WHERE watch_attempt = 21"
    )
    assert len(waits) == PER_LOOK
    assert max(wait_s for (wait_s,) in waits) > 5.0, "the interval of all that are there"


def test_beside_many_others_they_keep_a_fifth_of_the_places(place: Place, runtime: Runtime) -> None:
    runtime.watch(PER_LOOK)
    for n in range(50):
        place.store.create_run(f"run_old_{n}", created_at=datetime.now(UTC) - OLD)
    ask(place, [f"run_old_{n}" for n in range(50)])
    place.calls()
    assert runtime.watch(PER_LOOK)[0] == PER_LOOK
    alone = [path for path in place.calls() if path != FEED]
    assert sum("wrong" in path for path in alone) == PER_LOOK // 5
