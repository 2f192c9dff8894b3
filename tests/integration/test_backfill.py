"""A backfill asks for every run once, within its share of the rate limit, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailrace.retry import PATIENCE
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.listing import Index
from tailrace.service.backfill import Backfills, filter_of, preview
from tailrace.service.maintenance import backfills_of
from tailrace.service.rate import wait_s
from tailrace.source.listing import Rate
from tests.integration.schema_rows import Archive
from tests.integration.test_discovery import LIST, Place
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore
from tests.upstream.rate_limit import RateLimit

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC)


def filled(count: int) -> LiveStore:
    """Runs that ended, one every two minutes backwards from now."""
    store = LiveStore()
    for n in range(count):
        store.create_run(f"run_{n:05}", tags=[f"tag-{n % 3}"], created_at=NOW - timedelta(minutes=2 * n + 1))
        store.finish_run(f"run_{n:05}")
    return store


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    store, index = filled(1_000), Index()
    with running(create_app(store, index=index)) as server:
        place = Place(database_url, server, store, index)
        yield place
        for runtime in place.runtimes:
            runtime.close()
        place.archive.connection.close()


def begun(place: Place, days: float = 30, filters: dict[str, object] | None = None, **settings: object) -> Backfills:
    runtime = place.runtime(backfill_open_runs=100_000, **settings)
    runtime.environments.default.listed_runs.begin_backfill(
        NOW - timedelta(days=days), datetime.now(UTC), filters or {}
    )
    return backfills_of(runtime.environments.default)


def finish(place: Place, backfills: Backfills) -> None:
    while place.archive.value("SELECT count(*) FROM tailrace.backfills WHERE state = 'running'"):
        if backfills.step() is None:
            place.archive.run("UPDATE tailrace.backfills SET next_page_at = now(), leased_until = NULL")


def run_end(place: Place) -> tuple[object, ...]:
    return place.archive.row("SELECT state, pages, seen, requested FROM tailrace.backfills ORDER BY id DESC LIMIT 1")


def test_every_run_is_asked_for_once_and_a_second_time_writes_nothing(place: Place) -> None:
    finish(place, begun(place))
    assert run_end(place) == ("done", 10, 1_000, 1_000)
    assert place.archive.row("SELECT count(*), min(priority), min(status) FROM tailrace.runs") == (
        1_000, 1, "COMPLETED"
    )  # fmt: skip
    rows = place.archive.rows("SELECT ctid, xmin, * FROM tailrace.runs ORDER BY id")
    finish(place, begun(place))
    assert run_end(place) == ("done", 10, 1_000, 0)
    assert place.archive.rows("SELECT ctid, xmin, * FROM tailrace.runs ORDER BY id") == rows


def test_filters_and_windows(place: Place) -> None:
    finish(place, begun(place, days=0.5, filters={"tags": ["tag-1"]}))
    assert run_end(place)[2:] == (120, 120)
    finish(place, begun(place, filters={"statuses": ["FAILED"]}))
    assert run_end(place) == ("done", 10, 0, 0)  # ten empty pages, each with a next


def test_runs_that_were_asked_for_are_left_alone(place: Place) -> None:
    place.runtime().request("run_00005", ["ai"], {})
    place.archive.run("UPDATE tailrace.runs SET state = 'sealed'")
    place.archive.rows("SELECT * FROM tailrace.forget_run('default', 'run_00006')")
    finish(place, begun(place))
    assert run_end(place)[3] == 998
    assert place.archive.row("SELECT state, selection, priority FROM tailrace.runs WHERE run_id = 'run_00005'") == (
        *("sealed", ["ai"]),
        0,
    )


def test_a_dry_run_changes_nothing(place: Place) -> None:
    runtime = place.runtime()
    runtime.request("run_00005", None, {})
    seen, new = preview(
        runtime.environments.default.listed_runs,
        runtime.environments.default.upstream,
        filter_of(NOW - timedelta(days=9), None, {}),
    )
    assert (seen, len(new)) == (1_000, 999)
    assert place.archive.value("SELECT count(*) FROM tailrace.runs") == 1


def test_it_waits_while_too_many_of_its_runs_are_open(place: Place) -> None:
    backfills = begun(place, days=30)
    place.runtimes[-1].settings.__dict__["backfill_open_runs"] = 150
    backfills = backfills_of(place.runtimes[-1].environments.default)
    for _ in range(6):
        backfills.step()
        place.archive.run("UPDATE tailrace.backfills SET next_page_at = now()")
    assert place.archive.value("SELECT count(*) FROM tailrace.runs") == 200
    place.archive.run("UPDATE tailrace.runs SET state = 'sealed' WHERE run_id < 'run_00100'")
    backfills.step()
    assert place.archive.value("SELECT count(*) FROM tailrace.runs") == 300


def test_live_streams_go_first(place: Place) -> None:
    finish(place, begun(place, days=0.01))
    runtime = place.runtimes[-1]
    place.archive.run("INSERT INTO tailrace.streams (run, stream_key, wire) SELECT id, 'ai', 'v1' FROM tailrace.runs")
    live = place.archive.stream("run_live", "ai")
    assert runtime.choosing.claim(["default"], 1, 30) == [live]


@pytest.mark.parametrize("status", [500, 502, 503])
def test_failures_of_upstream_are_waited_out(place: Place, status: int) -> None:
    backfills = begun(place)
    backfills.step()
    place.server.faults.run_list().answer(status, times=2)
    backfills.step()
    assert place.archive.row("SELECT attempt, pages, last_error IS NOT NULL FROM tailrace.backfills") == (1, 1, True)
    finish(place, backfills)
    assert run_end(place) == ("done", 10, 1_000, 1_000)


def test_a_cursor_that_upstream_no_longer_takes_begins_anew(place: Place) -> None:
    backfills = begun(place)
    for _ in range(3):
        backfills.step()
    place.archive.run("UPDATE tailrace.backfills SET cursor = 'stale!'")
    finish(place, backfills)
    assert run_end(place)[3] == 1_000
    assert place.archive.value("SELECT state FROM tailrace.backfills") == "done"


def test_filters_that_upstream_refuses_again_and_again_fail_with_its_words(place: Place) -> None:
    backfills = begun(place, filters={"statuses": ["NO_SUCH"]})
    for refusals in range(1, PATIENCE.attempts + 3):
        place.archive.run("UPDATE tailrace.backfills SET next_page_at = now()")
        backfills.step()
        state, counted, error = place.archive.row("SELECT state, refusals, last_error FROM tailrace.backfills")
        assert (state, counted) == ("running", refusals)
        assert "Query Error" in error
    place.archive.run(
        f"UPDATE tailrace.backfills SET next_page_at = now(), troubled_at = now() - interval '{PATIENCE.over_s} s'"
    )
    backfills.step()
    state, error = place.archive.row("SELECT state, last_error FROM tailrace.backfills")
    assert state == "failed"
    assert "Query Error" in error


@pytest.mark.parametrize("before", [0, 3], ids=["first page", "in the middle"])
def test_one_refusal_costs_a_backfill_nothing(before: int, place: Place) -> None:
    backfills = begun(place)
    for _ in range(before):
        backfills.step()
    place.server.faults.run_list().answer(400)
    finish(place, backfills)
    assert run_end(place) == ("done", 10, 1_000, 1_000)
    assert place.archive.row("SELECT refusals, troubled_at FROM tailrace.backfills") == (0, None)


def test_an_owner_that_was_overtaken_notes_nothing(place: Place) -> None:
    runtime = place.runtime()
    runtime.environments.default.listed_runs.begin_backfill(NOW - timedelta(days=1), NOW, {})
    old = runtime.environments.default.listed_runs.claim_backfill(0.0)
    new = runtime.environments.default.listed_runs.claim_backfill(60.0)
    assert old is not None
    assert new is not None
    assert runtime.environments.default.listed_runs.claim_backfill(60.0) is None
    assert runtime.environments.default.listed_runs.note_page(old, [], None, 0.0) is None
    assert runtime.environments.default.listed_runs.note_page(new, [], "next", 0.0) == 0
    assert place.archive.row("SELECT state, cursor, pages FROM tailrace.backfills") == ("running", "next", 1)


def test_asking_twice_for_the_same_backfill_is_asking_once(place: Place) -> None:
    store = place.runtime().environments.default.listed_runs
    first = store.begin_backfill(NOW - timedelta(days=2), NOW, {})
    assert store.begin_backfill(NOW - timedelta(days=2), NOW, {}) == first
    assert store.begin_backfill(NOW - timedelta(days=3), NOW, {}) != first
    assert store.begin_backfill(NOW - timedelta(days=2), NOW, {"tags": ["x"]}) not in (first,)


def test_it_keeps_to_its_share_of_the_rate_limit(database_url: str) -> None:
    """A bucket of 40, of which a quarter is the backfill's: the other three quarters are never touched."""
    store = filled(2_500)
    limit = RateLimit(burst=40, refill=5, interval_s=1.0)
    with running(create_app(store, rate_limit=limit)) as server:
        place = Place(database_url, server, store, Index())
        backfills = begun(place, backfill_rate_share=0.25)
        lowest = 40
        ended = time.monotonic() + 20
        while run_end(place)[0] == "running" and time.monotonic() < ended:
            if backfills.step() is None:
                time.sleep(0.05)
            lowest = min(lowest, server.bucket._tokens)
        assert run_end(place)[:3] == ("done", 25, 2_500)
        assert lowest >= 29
        assert all(seen.path == LIST for seen in server.traffic.requests(LIST))
        place.runtimes[-1].close()
        place.archive.connection.close()


def test_a_429_is_waited_out_by_its_own_header_and_is_no_failure(database_url: str) -> None:
    store = filled(300)
    limit = RateLimit(burst=1, refill=1, interval_s=1.0)
    with running(create_app(store, rate_limit=limit)) as server:
        place = Place(database_url, server, store, Index())
        backfills = begun(place, backfill_rate_share=1.0)
        server.bucket.take()
        backfills.step()
        wait, attempt, error = place.archive.row(
            "SELECT extract(epoch FROM next_page_at - now())::float8, attempt, last_error FROM tailrace.backfills"
        )
        assert (attempt, error) == (0, None)
        assert wait <= 2.0
        place.runtimes[-1].close()
        place.archive.connection.close()


@pytest.mark.parametrize(
    ("rate", "share", "expected"),
    [
        (Rate(750, 749, 8.0), 0.25, 0.0),
        (Rate(750, 563, 8.0), 0.25, 0.0),
        (Rate(750, 562, 8.0), 0.25, 8.0),
        (Rate(750, 0, 3.0), 1.0, 3.0),
        (Rate(750, 1, 3.0), 1.0, 0.0),
        (None, 0.5, 1.0),
    ],
)
def test_waits(rate: Rate | None, share: float, expected: float) -> None:
    assert wait_s(rate, share) == expected


PROGRAM = """
import os, sys, time
from tailrace.service.maintenance import backfills_of
from tailrace.service.runtime import Runtime
from tailrace.config.settings import Settings
runtime = Runtime(Settings(secret_key=sys.argv[3], api_url=sys.argv[2], backfill_open_runs=100000), sys.argv[1])
backfills = backfills_of(runtime.environments.default)
print("up", flush=True)
while True:
    if backfills.step() is None:
        time.sleep(0.01)
"""


def test_killed_ten_times_it_ends_exactly_once(database_url: str) -> None:
    store = filled(3_000)
    with running(create_app(store)) as server:
        place = Place(database_url, server, store, Index())
        begun(place)
        place.archive.run("SET synchronous_commit = on")
        kills = 0
        while kills < 10 or run_end(place)[0] == "running":
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, database_url, server.url, DEFAULT_KEY],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                env={"PATH": os.environ["PATH"]},
            )
            assert process.stdout is not None
            process.stdout.readline()
            pages = run_end(place)[1]
            if kills < 10:  # in the middle of whatever it does after two pages more
                until = time.monotonic() + 5
                while run_end(place)[1] < pages + 2 and time.monotonic() < until:  # type: ignore[operator]
                    time.sleep(0.001)
                process.send_signal(signal.SIGKILL)
                kills += 1
            else:
                until = time.monotonic() + 30
                while run_end(place)[0] == "running" and time.monotonic() < until:
                    time.sleep(0.02)
                process.kill()
            process.wait(10)
            process.stdout.close()
            # The lease of a dead process ends after a minute; here at once.
            place.archive.run("UPDATE tailrace.backfills SET leased_until = now() WHERE state = 'running'")
        assert run_end(place) == ("done", 30, 3_000, 3_000)
        assert place.archive.value("SELECT count(DISTINCT run_id) FROM tailrace.runs") == 3_000
        place.runtimes[-1].close()
        place.archive.connection.close()


def test_old_runs_end_as_possibly_truncated_or_gone(database_url: str) -> None:
    """v1 has expired, v2 was trimmed, and one is known to the list only: each settles, and none is tried for ever."""
    from tailrace.config.settings import Settings
    from tailrace.model import Wire
    from tailrace.service.local import LocalIngestion

    store = LiveStore()
    old = NOW - timedelta(days=3)
    for run_id, wire in (("run_v1", Wire.V1), ("run_v2", Wire.V2), ("run_gone", Wire.V2)):
        store.create_run(run_id, wire, created_at=old)
        store.append_chunks(run_id, "ai", ['"a"', '"b"'])
        store.finish_run(run_id, finished_at=old)
    store.expire_stream("run_v1", "ai")
    store.trim_records("run_v2", "ai", 1)
    with running(create_app(store)) as server:
        place = Place(database_url, server, store, Index())
        finish(place, begun(place))
        store.delete_run("run_gone")
        place.archive.run("UPDATE tailrace.runs SET requested_at = now() - interval '1 hour'")
        settings = Settings(
            secret_key=DEFAULT_KEY,
            api_url=server.url,
            seal_quiet_seconds=0.2,
            watch_seconds=0.2,
            control_seconds=0.1,
            unknown_run_seconds=1,
        )
        expected = {"run_v1": "possibly_truncated", "run_v2": "complete_with_gaps", "run_gone": "gone"}
        ingestion = LocalIngestion(settings, database_url)
        runtime = ingestion._runtime
        runtime.start()
        from tailrace.service.control import ControlLoop

        ingestion._control = ControlLoop(runtime, ingestion._free_slots, ingestion._dispatch, every_s=0.1)
        ingestion._control.start()
        until = time.monotonic() + 60
        found: dict[str, str] = {}
        while found != expected and time.monotonic() < until:
            time.sleep(0.2)
            found = dict(place.archive.rows("SELECT run_id, verdict FROM tailrace.run_overview"))  # type: ignore[arg-type]
        ingestion.stop()
        assert found == expected
        place.runtimes[-1].close()
        place.archive.connection.close()


def test_progress_can_be_read(place: Place) -> None:
    backfills = begun(place)
    backfills.step()
    told = place.runtimes[-1].environments.default.listed_runs.backfill(
        place.archive.value("SELECT id FROM tailrace.backfills")
    )
    assert (told.state, told.pages, told.seen, told.requested, told.open_runs) == ("running", 1, 100, 100, 100)
    assert isinstance(place.archive, Archive)
