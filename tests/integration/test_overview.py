"""What `tailrace status` asks: the fleet's state, and how fast and how far behind each stream is."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tailrace.store import overview
from tailrace.store.overview import Overview
from tests.integration.schema_rows import Archive


@pytest.fixture
def seen(engine: sa.Engine) -> Overview:
    return Overview(engine)


def worker(archive: Archive, *, heard_s: float, slots: int = 10) -> str:
    """A worker whose row was renewed so long ago, for ten seconds."""
    made = str(uuid4())
    archive.run(
        "INSERT INTO tailrace.workers (id, host, pid, pool, slots, expires_at, lease_s)"
        " VALUES (%s, 'web-1', 812, 'gevent', %s, now() + make_interval(secs => 10 - %s), 10)",
        *(made, slots, heard_s),
    )
    return made


def behind(archive: Archive, stream: int, lag: int, *, emitted_s: float, state: str = "active") -> None:
    """The stream has two chunks, the newer one of them written so long ago, and upstream has more."""
    ms = int((time.time() - emitted_s) * 1000)
    archive.segment(stream, ["1", "2"], emitted_ms=[ms - 5_000, ms])
    archive.run(
        "UPDATE tailrace.streams SET state = 'active', lag = %s, last_chunk_index = 1 WHERE id = %s", lag, stream
    )
    archive.run("UPDATE tailrace.streams SET state = %s, last_chunk_at = now() WHERE id = %s", state, stream)


def test_an_empty_archive_has_no_workers_and_nothing_open(seen: Overview) -> None:
    fleet = seen.fleet()
    assert (fleet.workers, fleet.beat_s, fleet.slots, fleet.reading, fleet.lag, fleet.behind) == (
        0,
        None,
        0,
        0,
        None,
        None,
    )
    assert (fleet.pending, fleet.active, fleet.parked, fleet.stuck) == (0, 0, 0, 0)
    assert seen.newest_progress(10, None) == seen.newest_progress(10, "nowhere") == []


def test_the_fleet_counts_what_lives_what_is_open_and_what_is_wrong(seen: Overview, archive: Archive) -> None:
    alive, dead = worker(archive, heard_s=2), worker(archive, heard_s=40)
    worker(archive, heard_s=1)
    worker(archive, heard_s=4_000)
    reading, orphan, parked, failed = (
        archive.stream("run_1", key) for key in ("reading", "orphan", "parked", "failed")
    )
    archive.stream("run_2", "pending")
    behind(archive, reading, 10, emitted_s=30)
    behind(archive, orphan, 145, emitted_s=60)
    behind(archive, parked, 0, emitted_s=1, state="parked")
    archive.run("UPDATE tailrace.streams SET state = 'failed' WHERE id = %s", failed)
    archive.run("UPDATE tailrace.runs SET state = 'failed' WHERE run_id = 'run_2'")
    archive.run("UPDATE tailrace.environments SET halted_at = now()")
    archive.run("UPDATE tailrace.streams SET worker_id = %s WHERE id = %s", alive, reading)
    archive.run("UPDATE tailrace.streams SET worker_id = %s WHERE id = %s", dead, orphan)

    fleet = seen.fleet()

    assert (fleet.workers, fleet.lost_workers, fleet.slots, fleet.reading) == (2, 1, 20, 1)
    assert fleet.beat_s is not None
    assert 2 <= fleet.beat_s < 10
    assert (fleet.pending, fleet.active, fleet.parked) == (1, 2, 1)
    assert (fleet.halted, fleet.failed_runs, fleet.failed_streams) == (1, 1, 1)
    assert fleet.lag == 145
    assert fleet.behind is not None
    assert (fleet.behind.environment, fleet.behind.run_id, fleet.behind.stream_key) == ("default", "run_1", "orphan")
    assert fleet.lag_s is not None
    assert fleet.lag_s >= 60


def test_without_a_living_worker_it_is_known_when_there_was_one(seen: Overview, archive: Archive) -> None:
    worker(archive, heard_s=40)
    worker(archive, heard_s=4_000)
    beat_s = seen.fleet().beat_s
    assert beat_s is not None
    assert 40 <= beat_s < 4_000


def test_lag_counts_what_the_row_does_not_know_yet(seen: Overview, archive: Archive) -> None:
    """Most commits leave the row of the stream as it was; its last segment has the cursor then."""
    stream, other = archive.stream("run_1", "ai"), archive.stream("run_1", "other")
    behind(archive, stream, 3, emitted_s=50)
    behind(archive, other, 2, emitted_s=50)
    archive.segment(stream, ["3", "4", "5"], first=2)
    archive.run("UPDATE tailrace.segments SET cursor = '{}' WHERE first_index = 2")
    assert seen.fleet().lag == 2
    (run,) = seen.newest_progress(1, None)
    assert run.lag == 2
    assert {each.stream_key: (each.lag, each.chunks) for each in seen.streams_progress(run.id)} == {
        "ai": (0, 3),
        "other": (2, 0),
    }


def test_how_a_run_and_its_streams_go(seen: Overview, archive: Archive) -> None:
    alive = worker(archive, heard_s=1)
    ai, log, none = (archive.stream("run_1", key) for key in ("ai", "log", "none"))
    behind(archive, ai, 145, emitted_s=60)
    behind(archive, log, 0, emitted_s=5)
    archive.run("UPDATE tailrace.streams SET worker_id = %s, last_error = 'slow' WHERE id = %s", alive, ai)

    (run,) = seen.newest_progress(10, None)
    streams = {each.stream_key: each for each in seen.streams_progress(run.id)}

    assert (run.verdict, run.workers, run.lag, run.last_error, run.stuck_s) == (
        "open",
        ["web-1:812"],
        145,
        "slow",
        None,
    )
    assert (streams["ai"].worker, streams["ai"].lag) == ("web-1:812", 145)
    assert (streams["log"].lag, streams["log"].lag_s) == (0, 0)
    nothing = streams["none"]
    assert (nothing.lag, nothing.lag_s, nothing.chunks_per_s, nothing.last_chunk_s) == (None, None, 0, None)
    assert none == nothing.id
    for lag_s in (run.lag_s, streams["ai"].lag_s):
        assert lag_s is not None
        assert lag_s >= 60
    assert seen.progress(seen.runs_named("run_1", None)[0]).verdict == "open"


def test_an_upstream_whose_clock_is_ahead_makes_nothing_negative(seen: Overview, archive: Archive) -> None:
    behind(archive, archive.stream(), 1, emitted_s=-3_600)
    assert seen.fleet().lag_s == 0


@pytest.mark.parametrize(
    ("ages", "least", "most"),
    [
        ([], None, None),
        ([600], 0, 0),  # long ago
        ([600, 30, 20, 10], 3 * 5 / 60, 3 * 5 / 60),  # of the last minute, all of it
        ([20, 10], 10 / 40, 10 / 20),  # the stream is that young
        ([1] * 150, 100 * 5 / 60, 100 * 5 / 1),  # more than is looked at
    ],
)
def test_the_rate_is_that_of_the_last_minute(
    seen: Overview, archive: Archive, ages: list[int], least: float | None, most: float | None
) -> None:
    stream = archive.stream()
    for number, age in enumerate(ages):
        archive.segment(stream, ["1"] * 5, first=5 * number)
        archive.run(
            "UPDATE tailrace.segments SET committed_at = now() - make_interval(secs => %s) WHERE first_index = %s",
            *(age, 5 * number),
        )
    archive.run("UPDATE tailrace.streams SET state = 'active'")
    rows = archive.rows("SELECT chunks_per_s FROM tailrace.recently_stored(%s, 0, 60)", stream)
    if least is None:
        assert rows == []
        return
    assert most is not None
    ((per_s,),) = rows
    assert least <= per_s <= most
    (run,) = seen.newest_progress(1, None)
    assert (run.chunks_per_s == 0) == (most == 0)


def test_a_stream_that_is_over_has_no_rate_and_no_lag(seen: Overview, archive: Archive) -> None:
    stream = archive.stream()
    behind(archive, stream, 5, emitted_s=5)
    archive.run("UPDATE tailrace.streams SET state = 'sealed', verdict = 'complete', sealed_at = now()")
    archive.run("UPDATE tailrace.runs SET state = 'sealed', sealed_at = now()")
    assert seen.fleet().lag is None
    (run,) = seen.newest_progress(1, "default")
    assert (run.verdict, run.lag, run.lag_s, run.chunks_per_s) == ("complete", None, None, None)
    (each,) = seen.streams_progress(run.id)
    assert (each.lag_s, each.chunks_per_s) == (None, None)
    assert each.last_chunk_s is not None


def test_the_newest_runs_are_those_of_the_environment(seen: Overview, archive: Archive) -> None:
    archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('other', 'http://x')")
    for number in range(3):
        archive.stream(f"run_{number}")
        archive.stream(f"run_{number}", environment="other")
    assert [run.run_id for run in seen.newest_progress(2, "other")] == ["run_2", "run_1"]
    assert {run.environment for run in seen.newest_progress(2, "other")} == {"other"}
    assert len(seen.newest_progress(10, None)) == 6


def test_what_is_stuck_is_counted_and_shown_once_the_archive_says_it(
    seen: Overview, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "STUCK_SINCE", "s.created_at")
    stream = archive.stream()
    archive.run("UPDATE tailrace.streams SET created_at = now() - interval '95 seconds' WHERE id = %s", stream)
    assert seen.fleet().stuck == 1
    (run,) = seen.newest_progress(1, None)
    assert run.stuck_s is not None
    assert run.stuck_s >= 95
