"""Whole days go, in steps that can be cut off, and never one with an open stream."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tailrace.service.maintenance import Maintenance
from tailrace.store.keeping.retention import Day, DayFate, Retention
from tests.integration.schema_rows import Archive

TODAY = datetime.now(UTC).date()


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    archive.value("SELECT tailrace.ensure_partitions(14, 20)")
    with archive.connection:
        yield archive


@pytest.fixture
def retention(engine: sa.Engine) -> Retention:
    return Retention(engine)


def stream_of(archive: Archive, days_ago: int, n: int = 0, state: str = "sealed") -> int:
    """A stream that was found that long ago, with a chunk, a hole, something quarantined, facts and words."""
    run = archive.value("SELECT tailrace.request_ingest(%s)", f"run_{days_ago}_{n}")
    stream: int = archive.value(
        """INSERT INTO tailrace.streams (id, run, stream_key, state)
           VALUES (tailrace.stream_id_at(date_trunc('day', now(), 'UTC') - %s * interval '1 day' + interval '5 h') + %s,
                   %s, 'ai', %s) RETURNING id""",
        days_ago,
        n,
        run,
        state,
    )
    archive.segment(stream, ['"text"'])
    archive.hole(stream, 1, 1, "quarantined")
    archive.quarantine(stream, 1)
    archive.settle(stream, 1, ['"text"'])
    if state == "sealed":
        archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
        archive.value("SELECT tailrace.index_text(%s)", stream)
    return stream


def left(archive: Archive, stream: int) -> set[str]:
    tables = ("segments", "holes", "quarantine", "facts", "search")
    found = {t for t in tables if archive.value(f"SELECT count(*) FROM tailrace.{t} WHERE stream_id = %s", stream)}
    return found | (
        {"streams"} if archive.value("SELECT count(*) FROM tailrace.streams WHERE id = %s", stream) else set()
    )


def partitions(archive: Archive) -> list[date]:
    return [row[0] for row in archive.rows("SELECT day FROM tailrace.partition_days() ORDER BY 1")]


def test_old_days_go_with_everything_and_young_ones_stay(archive: Archive, retention: Retention) -> None:
    old, young = stream_of(archive, 12), stream_of(archive, 3)
    done = retention.prune(10)
    assert Day(TODAY - timedelta(days=12), 1, DayFate.DROPPED) in done
    assert {each.fate for each in done} == {DayFate.DROPPED}
    assert left(archive, old) == set()
    assert left(archive, young) == {"streams", "segments", "holes", "quarantine", "facts", "search"}
    assert min(partitions(archive)) == TODAY - timedelta(days=10)
    assert archive.rows("SELECT run_id, verdict FROM tailrace.run_overview WHERE pruned_at IS NOT NULL") == [
        ("run_12_0", "pruned")
    ]
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []
    assert retention.prune(10) == []


def test_a_day_that_stays_is_told_once_and_that_it_goes(archive: Archive, engine: sa.Engine) -> None:
    """It is looked at each hour."""
    stream_of(archive, 12, state="active")
    runtime = SimpleNamespace(settings=SimpleNamespace(retention_days=10), background_engine=engine)
    maintenance = Maintenance(runtime)  # type: ignore[arg-type]
    day = (TODAY - timedelta(days=12)).isoformat()
    with capture_logs() as lines:
        for _ in range(3):
            maintenance.prune()
        archive.run("UPDATE tailrace.streams SET state = 'cancelled'")
        maintenance.prune()
    assert [(each["log_level"], each["event"]) for each in lines if each["day"] == day] == [
        ("warning", "day_not_dropped"),
        ("info", "day_dropped"),
    ]


@pytest.mark.parametrize("state", ["pending", "active", "parked"])
def test_a_day_with_an_open_stream_stays_whole(archive: Archive, retention: Retention, state: str) -> None:
    sealed, still_open = stream_of(archive, 12, 0), stream_of(archive, 12, 1, state)
    day = next(each for each in retention.prune(10) if each.day == TODAY - timedelta(days=12))
    assert day == Day(TODAY - timedelta(days=12), 2, DayFate.OPEN)
    assert "segments" in left(archive, sealed)
    assert "segments" in left(archive, still_open)


def test_the_age_counts_from_archiving_not_from_the_run(archive: Archive, retention: Retention) -> None:
    stream = stream_of(archive, 0)
    archive.run("UPDATE tailrace.runs SET created_at = now() - interval '90 days'")
    retention.prune(10)
    assert "segments" in left(archive, stream)


def test_what_was_cut_off_is_finished_the_next_time(archive: Archive, retention: Retention) -> None:
    """At every point between two statements."""
    day = TODAY - timedelta(days=12)
    first = stream_of(archive, 12)
    archive.value("SELECT tailrace.clear_day(%s)", day)
    assert left(archive, first) == {"segments"}
    retention.prune(10)
    assert left(archive, first) == set()
    archive.value("SELECT tailrace.ensure_partitions(1, 12)")
    second = stream_of(archive, 12, 5)
    archive.value("SELECT tailrace.clear_day(%s)", day)
    archive.run(f"ALTER TABLE tailrace.segments DETACH PARTITION tailrace.segments_{day:%Y%m%d}")
    assert day in partitions(archive)
    assert Day(day, 0, DayFate.DROPPED) in retention.prune(10)
    assert day not in partitions(archive)
    assert left(archive, second) == set()


def test_a_detach_that_was_interrupted_is_finished(archive: Archive, retention: Retention, database_url: str) -> None:
    day = TODAY - timedelta(days=12)
    stream_of(archive, 12)
    archive.value("SELECT tailrace.clear_day(%s)", day)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM tailrace.segments")
        archive.run("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            archive.run(f"ALTER TABLE tailrace.segments DETACH PARTITION tailrace.segments_{day:%Y%m%d} CONCURRENTLY")
        archive.run("SET statement_timeout = 0")
    assert archive.value("SELECT detaching FROM tailrace.partition_days() WHERE day = %s", day) is True
    assert Day(day, 0, DayFate.DROPPED) in retention.prune(10)
    assert day not in partitions(archive)


def test_a_reader_that_stays_is_not_waited_for(
    archive: Archive, retention: Retention, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup or a forgotten psql: the day goes the next time, and whoever comes meanwhile waits for nobody."""
    monkeypatch.setattr("tailrace.store.keeping.retention.DETACH_WAIT_S", 0.5)
    day = TODAY - timedelta(days=12)
    stream_of(archive, 12)
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM tailrace.segments")
        for _ in range(2):  # the second time finds a detachment that is pending
            busy = {each.day: each.fate for each in retention.prune(10)}
            assert busy[day] is DayFate.BUSY
            archive.run("SET lock_timeout = '2s'")
            assert archive.value("SELECT count(*) FROM tailrace.chunks") == 0
            assert archive.value("SELECT tailrace.ensure_partitions()") == 0
    assert Day(day, 0, DayFate.DROPPED) in retention.prune(10)
    assert day not in partitions(archive)


def test_a_dry_run_drops_nothing(archive: Archive, retention: Retention) -> None:
    stream = stream_of(archive, 12)
    assert Day(TODAY - timedelta(days=12), 1, DayFate.WOULD_DROP) in retention.preview(10)
    assert "segments" in left(archive, stream)


def test_many_streams_go_in_portions(archive: Archive, retention: Retention, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [stream_of(archive, 12, n) for n in range(7)]
    monkeypatch.setattr("tailrace.store.keeping.retention.STREAMS_AT_A_TIME", 3)
    assert Day(TODAY - timedelta(days=12), 7, DayFate.DROPPED) in retention.prune(10)
    assert all(left(archive, stream) == set() for stream in streams)


def test_only_what_an_export_holds_and_has_verified(archive: Archive, retention: Retention) -> None:
    stream = stream_of(archive, 12)
    day = TODAY - timedelta(days=12)
    assert Day(day, 1, DayFate.NOT_EXPORTED) in retention.prune(10, exported_to="/x")
    archive.run(
        """INSERT INTO tailrace.exported (target, stream_id, run, path, chunk_count, digest, verified_at)
           SELECT '/x', s.id, s.run, 'p', 1, s.digest, now() FROM tailrace.streams s WHERE id = %s""",
        stream,
    )
    assert Day(day, 1, DayFate.DROPPED) in retention.prune(10, exported_to="/x")


def test_writers_go_on_while_days_are_dropped(archive: Archive, retention: Retention, database_url: str) -> None:
    for n in range(5):
        stream_of(archive, 11 + n)
    today = stream_of(archive, 0, 0, "active")
    ended = threading.Event()
    written = [0]
    failures: list[psycopg.Error] = []

    def write() -> None:
        other = Archive(database_url)
        other.run("SET lock_timeout = '2s'")  # the locks are what can keep it waiting, not a busy machine
        try:
            while not ended.is_set():
                other.segment(today, ["1"], first=10 + written[0])
                written[0] += 1
        except psycopg.Error as error:
            failures.append(error)
        other.connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    done = retention.prune(10)
    ended.set()
    writer.join(10)
    assert sum(each.fate is DayFate.DROPPED for each in done) >= 5
    assert written[0] > 0
    assert failures == []


def test_two_at_once_do_no_harm(archive: Archive, engine: sa.Engine) -> None:
    for n in range(5):
        stream_of(archive, 11 + n)
    failures: list[BaseException] = []

    def prune() -> None:
        try:
            Retention(engine).prune(10)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=prune) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    Retention(engine).prune(10)
    assert failures == []
    assert min(partitions(archive)) == TODAY - timedelta(days=10)


@pytest.mark.parametrize("days", [0, -3])
def test_todays_partition_and_later_ones_cannot_be_dropped(archive: Archive, days: int) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        archive.value("SELECT tailrace.drop_day(%s)", TODAY - timedelta(days=days))
