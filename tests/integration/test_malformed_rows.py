"""One row that can't be read keeps no other run of its environment from being watched, found or backfilled."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from tailrace.service.maintenance import backfills_of
from tests.counted import counted
from tests.integration.test_discovery import FEED, Place, begin, discovery, place

__all__ = ["place"]

NOW = datetime.now(UTC)
LONG = "".join(chr(0x4E00 + n % 20_000) for n in range(30_000))  # nothing that compresses

BAD: list[Any] = [
    *(None, 5, "row", [], {}, {"status": "EXECUTING"}),
    *({"ID": "run_bad", "status": status} for status in (None, 5, [], LONG)),
    *({"ID": run_id, "status": "EXECUTING"} for run_id in (None, 5, "", "nul\0", "half \ud800", LONG)),
    *({"ID": "run_bad", "status": "EXECUTING", "taskIdentifier": bad} for bad in (5, {}, LONG)),
    *({"ID": "run_bad", "status": "EXECUTING", "createdAt": bad} for bad in (5, "yesterday", "0001-01-01T00:00+23:00")),
    *({"ID": "run_bad", "status": "EXECUTING", "TAGS": bad} for bad in (5, {"a": 1}, "red")),
]
ODD: list[dict[str, Any]] = [
    {"ID": "run_odd_status", "status": "NEVER_HEARD_OF"},
    {"ID": "run_odd_times", "status": "EXECUTING", "createdAt": "9999-12-31 23:59:59", "startedAt": "0001-01-01"},
    {"ID": "run_odd_zone", "status": "EXECUTING", "createdAt": "2026-01-01T00:00:00+01:00:30.5"},
    {"ID": "run_odd_number", "status": "EXECUTING", "other": "NUMBER"},
    {"ID": "run_odd_number", "status": "EXECUTING"},
]
"""Rows that look strange, and are runs all the same; one of them twice."""


def spelt(row: Any, **names: str) -> Any:
    return {names.get(name, name): value for name, value in row.items()} if isinstance(row, dict) else row


def fed(rows: list[Any]) -> bytes:
    messages = [
        {"key": f"k{n}", "value": spelt(row, ID="friendlyId", TAGS="runTags"), "headers": {}}
        for n, row in enumerate(rows)
    ]
    strays = [None, 5, [], {"headers": None}, {"key": 5, "value": {}}]
    return body([*strays, *messages, {"headers": {"control": "up-to-date"}}])


def listed(rows: list[Any], **page: Any) -> bytes:
    return body({"data": [spelt(row, ID="id", TAGS="tags") for row in rows], "pagination": {}} | page)


def body(value: Any) -> bytes:
    return json.dumps(value).replace('"NUMBER"', "7" * 5_000).encode()


GOOD = [{"ID": f"run_{n}", "status": "EXECUTING", "realtimeStreams": "{ai}"} for n in range(5)]
ODD_IDS = {row["ID"] for row in ODD}


def found(place: Place) -> set[str]:
    return {run_id for (run_id,) in place.archive.rows("SELECT run_id FROM tailrace.runs")}


def test_the_feed_of_many_runs_is_watched_on(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    for run_id in ODD_IDS:
        runtime.request(run_id, None, {})
    place.server.faults.runs_feed().answer(200, body=fed([*BAD, *GOOD, *BAD, *ODD]), times=2)
    before = counted("tailrace_malformed_rows_total")
    with structlog.testing.capture_logs() as logs:
        runtime.watch(10)
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE state = 'watched'") == 9
    assert place.archive.value("SELECT count(*) FROM tailrace.streams") == 5
    assert counted("tailrace_malformed_rows_total") - before >= 2 * len(BAD)
    kinds = [each["kind"] for each in logs if each["event"] == "rows_refused"]
    assert len(kinds) == len(set(kinds)) > 5
    assert not [path for path in place.calls() if path != FEED], "nothing had to be asked for alone"


def test_a_run_of_ours_whose_row_is_wrong_says_so_and_goes_on_when_it_is_right(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    spoilt = [{**GOOD[0], "createdAt": "yesterday"}, *GOOD[1:]]
    place.server.faults.runs_feed().answer(200, body=fed(spoilt), times=2)
    place.server.faults.feed("run_0").answer(200, body=fed(spoilt[:1]))
    runtime.watch(10)
    ((state, said),) = place.archive.rows("SELECT state, last_error FROM tailrace.runs WHERE run_id = 'run_0'")
    assert state == "requested"
    assert "createdAt is no time" in said
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE state = 'watched'") == 4
    place.due()
    runtime.watch(10)
    assert place.archive.rows("SELECT state, last_error FROM tailrace.runs WHERE run_id = 'run_0'") == [
        ("watched", None)
    ]


def test_new_runs_are_found_in_feed_and_list(place: Place) -> None:
    finder = discovery(place)
    place.server.faults.runs_feed().answer(200, body=fed([*BAD, *GOOD[:2], *BAD, *ODD]), times=2)
    place.server.faults.run_list().answer(200, body=listed([*BAD, *GOOD[2:], *ODD, *BAD]))
    place.due()
    finder.step()
    assert found(place) == {f"run_{n}" for n in range(5)} | ODD_IDS
    assert place.archive.value("SELECT last_error FROM tailrace.discoveries") is None


def test_a_backfill_goes_on(place: Place) -> None:
    environment = place.runtime().environments.default
    environment.listed_runs.begin_backfill(NOW - timedelta(days=2), NOW, {})
    place.server.faults.run_list().answer(200, body=listed([*BAD, *GOOD[:3]], pagination={"next": "more"}))
    place.server.faults.run_list().answer(200, body=listed([*GOOD[3:], *BAD, *ODD]))
    for _ in range(2):
        place.archive.run("UPDATE tailrace.backfills SET next_page_at = now()")
        assert backfills_of(environment).step() is not None
    assert place.archive.rows("SELECT state, pages, last_error FROM tailrace.backfills") == [("done", 2, None)]
    assert found(place) == {f"run_{n}" for n in range(5)} | ODD_IDS


@pytest.mark.parametrize(
    "page", [b"[]", b"5", b"null", b'{"data": {}}', b'{"data": []', b'{"data": [], "pagination": 5}']
)
def test_a_page_that_is_none_is_asked_for_again(page: bytes, place: Place) -> None:
    environment = place.runtime().environments.default
    environment.listed_runs.begin_backfill(NOW - timedelta(days=2), NOW, {})
    place.server.faults.run_list().answer(200, body=page)
    assert backfills_of(environment).step() is not None
    assert place.archive.rows("SELECT state, attempt, last_error IS NULL FROM tailrace.backfills") == [
        ("running", 1, False)
    ]
    place.server.faults.run_list().answer(200, body=listed(GOOD))
    place.archive.run("UPDATE tailrace.backfills SET next_page_at = now()")
    assert backfills_of(environment).step() is not None
    assert place.archive.value("SELECT state FROM tailrace.backfills") == "done"
