"""How many connections a process has: to Postgres four, each for its purpose; to Redis twenty at most."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from celery import Celery
from sqlalchemy.engine import make_url

from tailrace.errors import StoreUnavailable
from tailrace.model import Wire
from tailrace.store import roles
from tests.chaos.fleet import QUICK, Archive, scene, wait_for
from tests.chaos.tcpproxy import Proxy
from tests.ingestion import ingesting
from tests.upstream import LiveStore

POSTGRES = 4
REDIS = 20
"""Three for sending with two sockets each, five for taking messages and Celery's remote control, and as many as kombu's
pool has for what is acknowledged at once."""
RUNS = 40


@pytest.fixture
def limited(database_url: str) -> Iterator[str]:
    """The database, as a role that may have so many connections to it and not one more."""
    runtime, reader = "tr_limited", "tr_limited_reader"
    assert roles.set_up(database_url, runtime, reader).refused is None
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {runtime} LOGIN PASSWORD 'x' CONNECTION LIMIT {POSTGRES}")
        yield make_url(database_url).set(username=runtime, password="x").render_as_string(hide_password=False)
        for role in (runtime, reader):
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


def test_a_worker_under_load(tmp_path: Path, limited: str, database_url: str, redis_url: str) -> None:
    """Asked by messages for many runs at once, all live, all ending at once."""
    store = LiveStore()
    names = [f"run_{n}" for n in range(RUNS)]
    for n, name in enumerate(names):
        store.create_run(name, Wire.V2 if n % 2 else Wire.V1)
        store.append_chunk(name, "a", "1")
    with contextlib.ExitStack() as until_the_end:
        workers, _ = until_the_end.enter_context(scene(tmp_path, database_url, redis_url, store, **QUICK))
        archive, worker = workers.archive, workers.start(slots=200, DATABASE_URL=limited)
        watch = until_the_end.enter_context(Watch(worker.redis))
        worker.wait_ready()
        app = Celery(broker=redis_url, set_as_current=False)
        with app.connection_for_write() as connection:
            for name in names:
                app.send_task("tailrace.ingest_run", [name], queue="tailrace", connection=connection)
            read = "SELECT count(*) FROM tailrace.streams_now WHERE chunk_count > 0"
            wait_for(lambda: archive.value(read) == RUNS, 60, "all are read")
        app.close()
        for name in names:
            store.append_chunk(name, "a", "2")
            store.finish_run(name)
        wait_for(lambda: archive.all_sealed(RUNS), 90, "all are sealed")
        had = archive.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'tr_limited'")
        print(f"{had} connections to Postgres, {watch.most} to Redis at most")
        assert 0 < had <= POSTGRES
        assert "too many connections" not in worker.said()
        assert 0 < watch.most <= REDIS
        assert archive.violations() == []


class Watch:
    """Looks all the time at how many connections a proxy has."""

    def __init__(self, proxy: Proxy) -> None:
        self.most = 0
        self._proxy = proxy
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, self._proxy.connections)


def test_leases_are_kept_though_everything_else_waits(database_url: str) -> None:
    """For longer than a lease's term, with more callers than there are connections: as after an outage, or while
    somebody makes an index."""
    with (
        contextlib.closing(Archive(database_url)) as archive,
        ingesting(database_url, LiveStore(), lease_seconds=2.0, lease_renew_seconds=0.3) as (ingestion, _),
        ThreadPoolExecutor(5 * POSTGRES) as threads,
        psycopg.connect(database_url) as other,
    ):
        other.execute("LOCK TABLE tailrace.environments IN SHARE MODE")
        enrol = ingestion.runtime.environments.default.enrol
        asking = [threads.submit(enrol) for _ in range(5 * POSTGRES)]
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'relation'"
        wait_for(lambda: archive.value(waiting) == 2, 10, "all that is not for commits and leases is in use")
        since = archive.value("SELECT expires_at FROM tailrace.workers")
        renewed = "SELECT expires_at > %s + interval '3 seconds' FROM tailrace.workers WHERE expires_at > now()"
        wait_for(lambda: archive.rows(renewed, since) == [(True,)], 30, "it is renewed all the while")
        assert not any(each.done() for each in asking)
        other.rollback()
        for each in asking:
            each.result(30)


def test_a_run_in_somebodys_open_transaction_keeps_nothing_else_waiting(database_url: str) -> None:
    """An application asks for a run in a transaction that it leaves open, and by messages too, before it commits."""
    with (
        ingesting(database_url, LiveStore()) as (ingestion, _),
        psycopg.connect(database_url) as application,
        ThreadPoolExecutor(2 * POSTGRES) as threads,
    ):
        runtime = ingestion.runtime
        known = runtime.request("run_known", None, {})
        (due,) = runtime.environments.default.runs.due(10, 0, known)
        application.execute("SELECT tailrace.request_ingest('run_new')")
        application.execute("SELECT tailrace.request_ingest('run_known', ARRAY['more'])")
        runs = runtime.environments.default.runs
        locked = [
            *(threads.submit(runtime.request, "run_new", None, {}) for _ in range(POSTGRES)),
            threads.submit(runtime.cancel, "run_known"),
            threads.submit(runs.postpone, due, "why", 1.0),
            threads.submit(runs.fail, due, "why"),
        ]
        for each in locked:
            with pytest.raises(StoreUnavailable, match="open transaction has locked the run"):
                each.result(30)
        assert runtime.request("run_other", None, {}) > 0
        application.commit()
        assert runtime.request("run_new", None, {}) > 0
        assert runtime.cancel("run_known") == 0
        assert ingestion.value("SHOW lock_timeout") == "0"
