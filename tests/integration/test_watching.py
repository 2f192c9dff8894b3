"""One process watches an environment, in memory; what it writes is what has changed, and another can take its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tailrace.errors import StoreUnavailable, WorkerError
from tailrace.model import RunView, Wire
from tailrace.serve import FeedFormat
from tailrace.service.runtime import Runtime
from tailrace.service.watching import Watching
from tailrace.store.engine import create_engine
from tailrace.store.runs import Runs, Seen
from tests.ingestion import Ingestion, ingesting
from tests.integration.schema_rows import Archive
from tests.upstream import LiveStore

RUNS = 20
QUIET_S = 60.0


def store_of(runs: int = RUNS, **made: Any) -> LiveStore:
    store = LiveStore()
    for number in range(runs):
        store.create_run(f"run_{number}", Wire.V2, **made)
        store.open_stream(f"run_{number}", "ai")
    return store


@contextmanager
def watched(database_url: str, store: LiveStore, watch_s: float = 5.0, **app: Any) -> Iterator[Ingestion]:
    """Runs that somebody has asked for, all of them known. The clock stands still but for what a test says (`later`):
    however busy the machine is, no run becomes due by itself."""
    settings = {"late_check_seconds": 0.0, "watch_seconds": watch_s}
    with ingesting(database_url, store, app=app, **settings) as (ingestion, server):
        ingestion.server = server  # type: ignore[attr-defined]
        for run_id in store._runs:
            ingestion.request(run_id)
        while ingestion.value("SELECT count(*) FROM tailrace.runs WHERE state = 'requested'"):
            later(ingestion.runtime, 0.05)
            ingestion.runtime.watch(10)
        yield ingestion


def watching(runtime: Runtime) -> Watching:
    return runtime.environments.default.watching


def later(runtime: Runtime, seconds: float = 3_600.0) -> None:
    """Have everything that the process knows in memory have happened so much earlier."""
    its = watching(runtime)
    now_s = its._clock_s() + seconds
    its._clock_s = lambda: now_s
    its._feed._clock_s = its._rounds._clock_s = its._clock_s


def no_answer(*_: object, **__: object) -> None:
    raise StoreUnavailable("Postgres did not answer")


def versions(ingestion: Ingestion) -> list[tuple[Any, ...]]:
    return ingestion.rows("SELECT id, xmin::text, ctid::text FROM tailrace.runs ORDER BY id")


@pytest.mark.parametrize("feed", list(FeedFormat))
@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=3)], ids=["in the feed", "older than the feed"])
def test_a_look_that_brings_no_change_writes_no_row(database_url: str, feed: FeedFormat, age: timedelta) -> None:
    """Not even a lock, which would make the page dirty: `xmax` stays too."""
    store = store_of(created_at=datetime.now(UTC) - age)
    with watched(database_url, store, feed=feed) as ingestion:
        before = ingestion.rows("SELECT id, xmin::text, xmax::text, ctid::text FROM tailrace.runs ORDER BY id")
        asked = len(ingestion.server.traffic.requests())  # type: ignore[attr-defined]
        for _ in range(3):
            later(ingestion.runtime)
            ingestion.runtime.watch(100)
        assert len(ingestion.server.traffic.requests()) > asked  # type: ignore[attr-defined]
        assert ingestion.rows("SELECT id, xmin::text, xmax::text, ctid::text FROM tailrace.runs ORDER BY id") == before


@pytest.mark.parametrize("feed", list(FeedFormat))
@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=3)], ids=["in the feed", "older than the feed"])
def test_what_changes_is_written_and_nothing_else(database_url: str, feed: FeedFormat, age: timedelta) -> None:
    store = store_of(created_at=datetime.now(UTC) - age)
    with watched(database_url, store, feed=feed) as ingestion:
        before = versions(ingestion)
        store.open_stream("run_3", "late")
        store.finish_run("run_5")
        later(ingestion.runtime)
        assert ingestion.runtime.watch(100)[1] == 1
        changed = {run for run, *_ in set(versions(ingestion)) - set(before)}
        assert changed == {
            run for (run,) in ingestion.rows("SELECT id FROM tailrace.runs WHERE run_id IN ('run_3', 'run_5')")
        }
        assert ingestion.value("SELECT terminal_at IS NOT NULL FROM tailrace.runs WHERE run_id = 'run_5'")


@pytest.mark.parametrize("feed", list(FeedFormat))
def test_thousands_of_quiet_runs_cost_one_request(database_url: str, feed: FeedFormat) -> None:
    """The Electric backend tells of all of them; the native one of the newest thousand."""
    with watched(database_url, store_of(1_500 if feed is FeedFormat.ELECTRIC else 1_000), feed=feed) as ingestion:
        asked = len(ingestion.server.traffic.requests())  # type: ignore[attr-defined]
        later(ingestion.runtime, 6.0)
        assert ingestion.runtime.watch(100) == (0, 0)
        assert len(ingestion.server.traffic.requests()) == asked + 1  # type: ignore[attr-defined]


def test_a_run_that_the_feed_has_ceased_to_tell_of_is_looked_at_alone(database_url: str) -> None:
    """The native backend shows the newest thousand, and does not say when there are more."""
    store = store_of(5)
    with watched(database_url, store) as ingestion:
        for number in range(1_000):
            store.create_run(f"run_newer_{number}", Wire.V2)
        later(ingestion.runtime, 6.0)
        ingestion.runtime.watch(10)
        store.open_stream("run_3", "late")
        later(ingestion.runtime, 6.0)
        assert ingestion.runtime.watch(10) == (5, 1)


@pytest.mark.parametrize("feed", list(FeedFormat))
def test_what_no_feed_tells_of_is_looked_at_when_the_list_says_that_it_has_changed(
    database_url: str, feed: FeedFormat
) -> None:
    """Hundreds that are older than any feed: alone, each has its turn in twelve seconds."""
    store = store_of(300, created_at=datetime.now(UTC) - timedelta(days=3))
    with watched(database_url, store, watch_s=1.0, feed=feed) as ingestion:
        for _ in range(3):
            later(ingestion.runtime, 1.0)
            assert ingestion.runtime.watch(10) == (0, 0)
        store.open_stream("run_3", "late")
        store.finish_run("run_5")
        looked = found = 0
        for _ in range(3):
            later(ingestion.runtime, 1.0)
            alone, new = ingestion.runtime.watch(10)
            looked, found = looked + alone, found + new
        assert (looked, found) == (2, 1)
        assert ingestion.value("SELECT terminal_at IS NOT NULL FROM tailrace.runs WHERE run_id = 'run_5'")


def test_a_new_stream_is_no_older_than_the_last_look(database_url: str) -> None:
    """Though that look wrote nothing: what can have been lost of the stream depends on it."""
    store = store_of()
    with watched(database_url, store) as ingestion:
        ingestion.pass_time(7_200.0)  # all that was written was long ago
        later(ingestion.runtime, 61.0)
        ingestion.runtime.watch(100)
        store.open_stream("run_3", "late")
        later(ingestion.runtime, 6.0)
        assert ingestion.runtime.watch(100)[1] == 1
        age_s = ingestion.value(
            "SELECT extract(epoch FROM now() - not_before)::float8 FROM tailrace.streams WHERE stream_key = 'late'"
        )
        assert age_s < 60.0


def test_streams_stand_in_the_order_in_which_upstream_lists_them(database_url: str) -> None:
    keys = [f"key {n * 7 % 20}" for n in range(20)]
    store = store_of(1)
    store.set_stream_keys("run_0", [*keys, keys[3]])  # one is there twice, as upstream's race leaves it
    with watched(database_url, store) as ingestion:
        found = ingestion.rows("SELECT stream_key FROM tailrace.streams ORDER BY id")
        assert [key for (key,) in found] == keys


def test_the_last_runs_are_watched_when_they_are_too_few_to_ask_the_feed_for(database_url: str) -> None:
    """What the feed told of when it was last asked is not told of any more."""
    store = store_of(3)
    with watched(database_url, store) as ingestion:
        ingestion.runtime.cancel("run_0")
        later(ingestion.runtime)
        ingestion.runtime.watch(10)
        assert len(watching(ingestion.runtime)._list) == 2
        store.finish_run("run_1")
        store.open_stream("run_2", "late")
        later(ingestion.runtime)
        assert ingestion.runtime.watch(10) == (2, 1)
        assert ingestion.value("SELECT terminal_at IS NOT NULL FROM tailrace.runs WHERE run_id = 'run_1'")


# --- what the feed says once


def ended(ingestion: Ingestion, run_id: str) -> bool:
    return bool(ingestion.value("SELECT terminal_at IS NOT NULL FROM tailrace.runs WHERE run_id = %s", run_id))


def test_what_the_feed_said_while_postgres_was_away_is_noted_when_it_is_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of()
    with watched(database_url, store) as ingestion:
        store.finish_run("run_5")
        later(ingestion.runtime)
        with monkeypatch.context() as away:
            away.setattr(watching(ingestion.runtime)._store, "observe", no_answer)
            with pytest.raises(StoreUnavailable):
                ingestion.runtime.watch(100)
        later(ingestion.runtime, 6.0)
        ingestion.runtime.watch(100)
        assert ended(ingestion, "run_5")


def test_what_it_said_of_a_run_whose_row_was_locked_is_noted_later(database_url: str) -> None:
    store = store_of()
    with watched(database_url, store) as ingestion:
        store.finish_run("run_5")
        store.open_stream("run_5", "late")
        later(ingestion.runtime)
        with psycopg.connect(database_url) as somebody:
            somebody.execute("SELECT FROM tailrace.runs WHERE run_id = 'run_5' FOR UPDATE")
            assert ingestion.runtime.watch(100) == (0, 0)
        later(ingestion.runtime, 6.0)
        assert ingestion.runtime.watch(100) == (0, 1)
        assert ended(ingestion, "run_5")


def test_what_it_said_of_a_run_that_was_being_looked_at_is_noted_later(database_url: str) -> None:
    """That look may have been answered before."""
    store = store_of()
    with watched(database_url, store) as ingestion:
        run = ingestion.value("SELECT id FROM tailrace.runs WHERE run_id = 'run_5'")
        store.finish_run("run_5")
        later(ingestion.runtime)
        watching(ingestion.runtime)._busy.add(run)
        ingestion.runtime.watch(100)
        assert not ended(ingestion, "run_5")
        watching(ingestion.runtime)._busy.discard(run)
        later(ingestion.runtime, 6.0)
        ingestion.runtime.watch(100)
        assert ended(ingestion, "run_5")


def test_what_it_said_of_a_run_before_that_was_left_to_us_is_noted(database_url: str) -> None:
    """Another process noted what upstream had said before, and died."""
    store = store_of()
    store.create_run("run_more", Wire.V2)
    with watched(database_url, store) as ingestion:
        run = ingestion.value("SELECT id FROM tailrace.runs WHERE run_id = 'run_more'")
        watching(ingestion.runtime)._list.drop([run])
        store.open_stream("run_more", "late")
        later(ingestion.runtime, 6.0)
        watching(ingestion.runtime)._reconciled_at = watching(ingestion.runtime)._clock_s()
        assert ingestion.runtime.watch(100) == (0, 0)
        later(ingestion.runtime, 60.0)
        assert ingestion.runtime.watch(100) == (0, 1)


# --- who watches


@contextmanager
def another(ingestion: Ingestion) -> Iterator[Runtime]:
    """A second worker."""
    runtime = Runtime(ingestion.settings, ingestion.database_url, slots=1)
    runtime.start()
    try:
        yield runtime
    finally:
        runtime.stop(1.0)


def test_one_process_watches_and_another_takes_over_when_it_leaves(database_url: str) -> None:
    store = store_of()
    with watched(database_url, store) as ingestion, another(ingestion) as other:
        store.open_stream("run_3", "late")
        assert other.watch(100) == (0, 0)
        ingestion.runtime.stop(1.0)
        later(other)
        assert other.watch(100) == (0, 1)


def test_one_that_takes_over_while_postgres_does_not_answer_reads_the_rows_as_soon_as_it_does(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(2)  # too few to ask the feed for
    with watched(database_url, store) as ingestion, another(ingestion) as other:
        ingestion.runtime.stop(1.0)
        with monkeypatch.context() as away:
            away.setattr(watching(other)._store, "standing", no_answer)
            with pytest.raises(StoreUnavailable):
                other.watch(100)
        other.watch(100)
        assert len(watching(other)._list) == 2


def test_one_that_does_not_watch_looks_at_what_it_is_asked_for_and_the_watcher_keeps_it(database_url: str) -> None:
    store = store_of()
    with watched(database_url, store) as ingestion, another(ingestion) as other:
        store.create_run("run_more", Wire.V2)
        store.open_stream("run_more", "ai")
        run = other.request("run_more", None, {})
        other.look_soon(run, "run_more")
        assert ingestion.value("SELECT count(*) FROM tailrace.streams WHERE run = %s", run) == 1
        ingestion.runtime.watch(10)
        assert watching(ingestion.runtime)._list.kept(run) is not None
        assert watching(other)._list.kept(run) is None


def test_a_look_that_hangs_keeps_only_its_run_from_others(database_url: str) -> None:
    """And from a process that takes over, nothing: no row says that somebody is looking."""
    store = LiveStore()
    store.create_run("run_1", Wire.V1)
    with ingesting(database_url, store) as (ingestion, server):
        ingestion.request("run_1")
        hanging = server.faults.everything()
        hanging.silence()
        other = Runtime(ingestion.settings, database_url, slots=1)
        other.start()
        looking = threading.Thread(target=_look, args=(other,), daemon=True)
        looking.start()
        assert server.traffic.wait_until(lambda: server.faults.waiting() == 0, 10)
        assert other.watch(10) == (0, 0), "it is being looked at"
        assert ingestion.runtime.watch(10) == (0, 0), "the other watches"
        other.stop(0.1)
        watching(ingestion.runtime)._held_at -= 60.0
        assert ingestion.runtime.watch(10) == (1, 0)
        assert ingestion.value("SELECT state FROM tailrace.runs") == "watched"
    looking.join(10)  # upstream has gone


def _look(runtime: Runtime) -> None:
    try:
        runtime.watch(10)
    except (WorkerError, RuntimeError):  # what it works with was closed under it
        return


# --- two that believe that they watch

ME, OTHER = uuid4(), uuid4()


@pytest.fixture
def runs(database_url: str) -> Iterator[Runs]:
    engine = create_engine(database_url)
    yield Runs(engine, "default")
    engine.dispose()


def seen(status: str, *keys: str, age_s: float = 0.0, finished_at: datetime | None = None) -> Seen:
    terminal = status == "COMPLETED"
    return Seen(RunView("run_1", status, terminal, keys, finished_at=finished_at), time.time() - age_s)


def test_an_answer_that_was_asked_for_before_one_that_was_noted_says_nothing(archive: Archive, runs: Runs) -> None:
    """Who was suspended between upstream's answer and the row would open a run again that is over, and seal it without
    a key that has come since."""
    run = runs.request("run_1", None, {}, 0)
    runs.observe({run: seen("COMPLETED", "ai", finished_at=datetime.now(UTC))}, QUIET_S, ME)
    noted = archive.row("SELECT status, terminal_at, keys_read_at FROM tailrace.runs")
    (standing,), found = runs.observe({run: seen("EXECUTING", "ai", "old", age_s=30.0)}, QUIET_S, ME)
    assert (found, standing.settled) == (0, False)
    assert archive.row("SELECT status, terminal_at, keys_read_at FROM tailrace.runs") == noted


def test_what_is_noted_by_one_that_does_not_watch_is_for_the_watcher_to_take_up_at_once(
    archive: Archive, runs: Runs
) -> None:
    """Left to somebody who does not know of it, a run would be looked at when the watcher next reads all rows."""
    run = runs.request("run_1", None, {}, 0)
    for watcher, lives, due in ((None, False, []), (ME, True, []), (OTHER, True, [run]), (OTHER, False, [])):
        archive.run("UPDATE tailrace.environments SET watched_by = %s", watcher)
        archive.run("DELETE FROM tailrace.workers")
        if watcher is not None:
            ends = datetime.now(UTC) + timedelta(seconds=60 if lives else -60)
            archive.run(
                "INSERT INTO tailrace.workers (id, host, pid, pool, slots, expires_at, lease_s)"
                " VALUES (%s, 'here', 1, 'local', 1, %s, 10)",
                watcher,
                ends,
            )
        archive.run("UPDATE tailrace.runs SET state = 'requested'")
        runs.observe({run: seen("EXECUTING")}, QUIET_S, ME)
        assert [each.id for each in runs.due(10, 10)] == due


def test_keys_that_were_asked_for_before_the_quiet_time_ended_are_not_the_last(archive: Archive, runs: Runs) -> None:
    run = runs.request("run_1", None, {}, 0)
    over = datetime.now(UTC)
    runs.observe({run: seen("COMPLETED", finished_at=over)}, QUIET_S, ME)
    archive.run(
        "UPDATE tailrace.runs SET terminal_at = now() - interval '70 s', keys_read_at = now() - interval '70 s'"
    )
    (standing,), _ = runs.observe({run: seen("COMPLETED", finished_at=over, age_s=15.0)}, QUIET_S, ME)
    assert not standing.settled
    assert runs.seal([run], QUIET_S) == []
    (standing,), _ = runs.observe({run: seen("COMPLETED", finished_at=over, age_s=5.0)}, QUIET_S, ME)
    assert standing.settled
    assert runs.seal([run], QUIET_S) == [run]


@pytest.mark.parametrize(("ended_ago", "settled"), [(timedelta(minutes=50), False), (timedelta(hours=2), True)])
def test_a_run_that_ended_long_before_it_was_first_looked_at_needs_no_quiet_time(
    archive: Archive, runs: Runs, ended_ago: timedelta, settled: bool
) -> None:
    run = runs.request("run_1", None, {}, 0)
    (standing,), _ = runs.observe({run: seen("COMPLETED", finished_at=datetime.now(UTC) - ended_ago)}, QUIET_S, ME)
    assert standing.settled is settled
    assert runs.seal([run], QUIET_S) == ([run] if settled else [])


def test_nor_is_one_without_a_confirmed_end_settled_before_ten_minutes(archive: Archive, runs: Runs) -> None:
    run = runs.request("run_1", None, {}, 0)
    (standing,), _ = runs.observe({run: seen("COMPLETED")}, QUIET_S, ME)
    assert standing.settles_in_s == pytest.approx(600.0, abs=5.0)
    archive.run(
        "UPDATE tailrace.runs SET terminal_at = now() - interval '9 min', keys_read_at = now() - interval '9 min'"
    )
    (standing,), _ = runs.observe({run: seen("COMPLETED")}, QUIET_S, ME)
    assert not standing.settled
