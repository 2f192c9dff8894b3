"""Schedules: a beat that comes twice, late or never does no harm, and hosts with a beat of their own are served."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery

from tailrace.celery import beat_schedule, register
from tailrace.serve.listing import Index
from tailrace.service.maintenance import Finder, Maintenance
from tailrace.tasks import current, maintenance
from tailrace.tasks.app import EVERY_HEADER, QUEUE, SCHEDULE_HEADER, app
from tailrace.tasks.process import Process
from tests.integration.test_discovery import Place
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC)


@pytest.fixture
def place(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    store, index = LiveStore(), Index()
    for n in range(120):
        store.create_run(f"run_{n}", created_at=NOW - timedelta(minutes=10 * n + 1))
    with running(create_app(store, index=index)) as server:
        place = Place(database_url, server, store, index)
        runtime = place.runtime(
            discover="all", discover_seconds=0.1, discover_scan_seconds=1, backfill_open_runs=10_000
        )
        process = object.__new__(Process)  # its loops are not what is tried here
        process.runtime, process.settings = runtime, runtime.settings
        monkeypatch.setattr(current, "process", process)
        yield place
        for each in place.runtimes:
            each.close()
        place.archive.connection.close()


def test_every_entry_is_a_task_on_our_queue_and_expires_before_the_next() -> None:
    app.loader.import_default_modules()
    for entry in beat_schedule().values():
        assert entry["task"] in app.tasks
        assert entry["options"]["queue"] == QUEUE
        schedule = entry["schedule"]
        interval_s = schedule.total_seconds() if isinstance(schedule, timedelta) else 86_400
        assert 0 < entry["options"]["expires"] <= interval_s


def test_a_doubled_beat_does_no_harm(place: Place) -> None:
    for _ in range(3):
        maintenance.backfill.run("2d")
        maintenance.discover.run()
        maintenance.compact.run()
        maintenance.prune.run()
    assert place.archive.value("SELECT count(*) FROM tailrace.backfills") == 1
    finder = Finder(place.runtimes[0].environments.default)
    finder.find()
    once = place.archive.rows("SELECT run_id FROM tailrace.runs ORDER BY 1")
    assert len(once) == 120
    for _ in range(3):
        maintenance.backfill.run("2d")
        place.due()
        finder.find()
    assert place.archive.rows("SELECT run_id FROM tailrace.runs ORDER BY 1") == once
    assert place.archive.row("SELECT sum(requested) FROM tailrace.backfills") == (
        place.archive.value("SELECT max(requested) FROM tailrace.backfills"),
    )


def test_what_a_beat_sends_is_noted_and_what_a_person_sends_is_not(place: Place) -> None:
    for entry in beat_schedule().values():
        task = app.tasks[entry["task"]]
        task.run(**entry["kwargs"])
        assert place.archive.value("SELECT count(*) FROM tailrace.schedules") == 0
    for _ in range(2):
        for name, entry in beat_schedule().items():
            task = app.tasks[entry["task"]]
            task.push_request(headers=None, **entry["options"]["headers"])
            task.run(**entry["kwargs"])
            task.pop_request()
            assert place.archive.value(
                "SELECT last_at > now() - interval '1 min' FROM tailrace.schedules WHERE name = %s", name
            )
    assert place.archive.rows("SELECT name, every_s FROM tailrace.schedules ORDER BY 1") == [
        ("tailrace-backfill", 86_400),
        ("tailrace-compact", 600),
        ("tailrace-discover", 60),
        ("tailrace-prune", 86_400),
    ]


@pytest.mark.parametrize("headers", [("x\0", 60), ("x", "60"), ("x", -1), ("x", float("nan")), ("x", True), (7, 60)])
def test_headers_that_no_beat_of_ours_sends_are_not_noted(place: Place, headers: tuple[object, object]) -> None:
    maintenance.compact.push_request(**dict(zip((SCHEDULE_HEADER, EVERY_HEADER), headers, strict=True)))
    maintenance.compact.run()
    maintenance.compact.pop_request()
    assert place.archive.value("SELECT count(*) FROM tailrace.schedules") == 0


def test_an_hour_late_beat_covers_the_hour(place: Place) -> None:
    maintenance.discover.run()
    place.archive.run("UPDATE tailrace.discoveries SET covered_to = now() - interval '55 minutes'")
    place.store.create_run("run_meanwhile", created_at=NOW - timedelta(minutes=50))
    place.server.faults.runs_feed().answer(200, body=b'[{"headers":{"control":"up-to-date"}}]', times=9)
    place.due()
    maintenance.discover.run()
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE run_id = 'run_meanwhile'") == 1


def test_without_any_beat_the_workers_do_it(place: Place) -> None:
    """New runs are found, a backfill that nobody drives goes on, sealed streams are compacted, old days dropped."""
    archive = place.archive
    archive.value("SELECT tailrace.ensure_partitions(14, 20)")
    sealed = archive.whole_stream(['"a"'], run_id="run_sealed")
    for state in ("active", "sealed"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, sealed)
    place.runtimes[0].environments.default.listed_runs.begin_backfill(NOW - timedelta(days=2), NOW, {})
    place.runtimes[0].settings.__dict__["retention_days"] = 10
    maintenance = Maintenance(place.runtimes[0])
    maintenance.start()
    place.store.create_run("run_brand_new")
    until = time.monotonic() + 20
    wanted = (122, "done", True, True, True)
    state: tuple[object, ...] = ()
    while state != wanted and time.monotonic() < until:
        time.sleep(0.1)
        state = archive.row(
            """SELECT (SELECT count(*) FROM tailrace.runs), (SELECT max(state) FROM tailrace.backfills),
                      (SELECT compacted_at IS NOT NULL FROM tailrace.streams WHERE id = %s),
                      (SELECT indexed_at IS NOT NULL FROM tailrace.streams WHERE id = %s),
                      (SELECT min(day) >= current_date - 11 FROM tailrace.partition_days())""",
            sealed,
            sealed,
        )
    maintenance.stop()
    assert state == wanted


def test_a_host_with_routes_of_its_own() -> None:
    host = Celery("host", broker="memory://", set_as_current=False)
    host.conf.task_routes = {"host.*": {"queue": "host"}}
    assert register(register(host)) is host
    host.conf.beat_schedule = {"mine": {"task": "host.x", "schedule": 60.0}} | beat_schedule()
    router = host.amqp.router
    assert router.route({}, "tailrace.ingest_run")["queue"].name == QUEUE
    assert router.route({}, "host.x")["queue"].name == "host"
    assert set(host.conf.beat_schedule) == {"mine", *beat_schedule()}
    for routes in (None, ([("other.*", {"queue": "o"})],)):
        other = Celery("other", broker="memory://", set_as_current=False)
        other.conf.task_routes = routes
        register(other)
        assert other.amqp.router.route({}, "tailrace.ingest_run")["queue"].name == QUEUE


def test_importing_it_reads_no_setting_and_needs_no_broker() -> None:
    program = "import tailrace.celery as c; assert c.beat_schedule(); print(c.app.main)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={"PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.strip() == "tailrace", done.stderr
