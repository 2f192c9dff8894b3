"""Postgres, Redis and upstream fail in mid-ingest: readers go on by themselves, and nothing that upstream holds is lost."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from tailrace.model import Wire
from tailrace.store.migrate import upgrade
from tests.chaos.fleet import QUICK, Archive, Fleet, scene, wait_for
from tests.chaos.tcpproxy import Point
from tests.throwaway import Servers
from tests.upstream import LiveStore

KEYS = ("a", "b", "c")


class Author:
    """Writes numbered chunks to the streams of two runs, one of each wire, until it is stopped."""

    def __init__(self, store: LiveStore, per_s: float = 60) -> None:
        self.store = store
        self.written = 0
        self._pause_s = 1 / per_s
        self._stopped = threading.Event()
        for wire in Wire:
            store.create_run(f"run_{wire}", wire)
        self._thread = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        while not self._stopped.wait(self._pause_s):
            for wire in Wire:
                for key in KEYS:
                    self.store.append_chunk(f"run_{wire}", key, f'{{"n":{self.written},"key":"{key}"}}')
            self.written += 1

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._stopped.set()
        self._thread.join(5)
        for wire in Wire:
            self.store.finish_run(f"run_{wire}")

    def check(self, archive: Archive) -> None:
        """Everything once, in order, byte for byte; all sealed."""
        wait_for(lambda: _quiet(lambda: archive.all_sealed(2)), 60, "everything is sealed")
        for wire in Wire:
            for key in KEYS:
                expected = [f'{{"n":{number},"key":"{key}"}}' for number in range(self.written)]
                assert archive.texts(f"run_{wire}", key) == expected, (wire, key)
        assert archive.violations() == []
        assert archive.value("SELECT count(*) FROM tailrace.holes") == 0


def _quiet(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except psycopg.OperationalError:
        return False


@contextmanager
def writing(
    place: Path, database_url: str, redis_url: str, count: int = 1, pool: str = "gevent", **settings: str
) -> Iterator[tuple[Fleet, Author, LiveStore]]:
    """An author at work, and workers that have begun to archive it."""
    store = LiveStore(v1_max_entries=None)
    author = Author(store)
    with scene(place, database_url, redis_url, store, **QUICK | settings) as (workers, upstream):
        workers.upstream = upstream  # type: ignore[attr-defined]
        for _ in range(count):
            workers.start(pool)
        for worker in workers.workers:
            worker.wait_ready()
        author.start()
        for wire in Wire:
            workers.archive.request(f"run_{wire}")
        wait_for(lambda: workers.archive.value("SELECT coalesce(min(chunk_count), 0) FROM tailrace.streams_now") > 0
                 and workers.archive.value("SELECT count(*) FROM tailrace.streams") == 6, 30)  # fmt: skip
        yield workers, author, store


def progress(archive: Archive) -> int:
    return int(archive.value("SELECT min(chunk_count) FROM tailrace.streams_now WHERE stream_key IN ('a', 'b', 'c')"))


def recovered(archive: Archive, author: Author, since: float, what: str, within_s: float) -> None:
    """Every stream has what was written after the fault was over."""
    target = author.written + 5

    def caught_up() -> bool:
        return _quiet(lambda: progress(archive) >= target)

    wait_for(caught_up, within_s, what)
    print(f"{what}: recovered {time.monotonic() - since:.2f} s after it was over")


# --- Postgres


def test_postgres_restarted_immediate(servers_to_break: Servers, tmp_path: Path) -> None:
    upgrade(servers_to_break.postgres.url())
    place, urls = tmp_path, servers_to_break.endpoints
    with writing(place, urls.database_url, urls.redis_url) as (workers, author, _):
        for _ in range(2):
            servers_to_break.postgres.restart_immediate()
            recovered(workers.archive, author, time.monotonic(), "Postgres restarted", 15)
            time.sleep(0.5)
        author.finish()
        author.check(workers.archive)


@pytest.mark.parametrize("how", ["refuse", "hang"])
def test_postgres_unreachable(how: str, tmp_path: Path, database_url: str, redis_url: str) -> None:
    """For much longer than a lease's term. What was being read waits, bounded; nobody guesses about what was sent."""
    with writing(tmp_path, database_url, redis_url) as (workers, author, _):
        proxy = workers.workers[0].database
        getattr(proxy, how)()
        time.sleep(12)
        held = progress(workers.archive)
        time.sleep(1)
        assert progress(workers.archive) == held
        proxy.behave()
        if how == "hang":
            proxy.cut()
        recovered(workers.archive, author, time.monotonic(), f"Postgres unreachable ({how})", 20)
        author.finish()
        author.check(workers.archive)


def test_answers_lost_after_the_commit(tmp_path: Path, database_url: str, redis_url: str) -> None:
    with writing(tmp_path, database_url, redis_url) as (workers, author, _):
        proxy = workers.workers[0].database
        struck = 0
        for _ in range(15):
            for point in Point:
                if proxy.at(point, lambda: None, cut=True).wait(5):
                    struck += 1
        proxy.disarm()
        assert struck >= 40
        recovered(workers.archive, author, time.monotonic(), "answers lost", 10)
        author.finish()
        author.check(workers.archive)


FULL = """
CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'could not extend file "base/5/16577": No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON tailrace.segments FOR EACH ROW EXECUTE FUNCTION public.full();
"""


def test_a_full_disk(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Small rows still find a place, chunks do not: the leases live on, and the Writer alone can tell."""
    with writing(tmp_path, database_url, redis_url, count=2) as (workers, author, _):
        archive = workers.archive
        archive.rows(FULL)
        held = progress(archive)
        wait_for(lambda: any("No space left" in worker.said() for worker in workers.workers), 15, "somebody says it")
        at_work = author.written
        wait_for(lambda: author.written > at_work + 200, 30)
        assert progress(archive) == held
        archive.rows("DROP FUNCTION public.full() CASCADE")
        recovered(archive, author, time.monotonic(), "disk full", 15)
        author.finish()
        author.check(archive)
        assert all(worker.said().count("flush_failed") <= 1 for worker in workers.workers)


def test_out_of_connections(servers_to_break: Servers, tmp_path: Path) -> None:
    """Others have them all, and take each that a worker gives back."""
    upgrade(servers_to_break.postgres.url())
    urls = servers_to_break.endpoints
    with writing(tmp_path, urls.database_url, urls.redis_url, count=2) as (workers, author, _):
        archive = workers.archive
        held = progress(archive)
        with contextlib.ExitStack() as others:
            for _ in range(3):
                for worker in workers.workers:
                    worker.database.cut()
                with contextlib.suppress(psycopg.OperationalError):
                    while True:
                        others.enter_context(psycopg.connect(urls.database_url))
            at_work = author.written
            wait_for(lambda: author.written > at_work + 200, 30)
            assert any("too many clients" in worker.said() for worker in workers.workers)
        recovered(archive, author, time.monotonic(), f"out of connections ({held} chunks were stored)", 15)
        author.finish()
        author.check(archive)


# --- Redis


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_redis_flushed_killed_and_unreachable(pool: str, servers_to_break: Servers, tmp_path: Path) -> None:
    """Streams are followed, found and taken over all the while; and afterwards messages work as before."""
    upgrade(servers_to_break.postgres.url())
    urls = servers_to_break.endpoints
    with writing(tmp_path, urls.database_url, urls.redis_url, count=2, pool=pool) as (workers, author, store):
        archive = workers.archive
        with redis.Redis.from_url(urls.redis_url) as broker:
            broker.flushall()
        recovered(archive, author, time.monotonic(), "FLUSHALL", 10)
        new_run_is_read(archive, store, "run_after_flush", 10)
        servers_to_break.valkey.kill()
        time.sleep(1)
        new_run_is_read(archive, store, "run_without_redis", 25)
        recovered(archive, author, time.monotonic(), "no Redis", 10)
        servers_to_break.valkey.start()
        for worker in workers.workers:
            worker.redis.hang()
        time.sleep(1)
        new_run_is_read(archive, store, "run_redis_hangs", 40)
        for worker in workers.workers:
            worker.redis.behave()
        began = time.monotonic()
        send_request(urls.redis_url, store, "run_by_message")
        wait_for(lambda: archive.texts("run_by_message", "x") == ["1"], 60, "a message is taken up again")
        print(f"{pool}: a message is taken up {time.monotonic() - began:.2f} s after Redis came back")
        workers.workers[0].kill()
        recovered(archive, author, time.monotonic(), "a worker killed afterwards", 15)
        author.finish()
        for run in ("run_after_flush", "run_without_redis", "run_redis_hangs", "run_by_message"):
            store.finish_run(run)
        wait_for(lambda: archive.all_sealed(6), 60)
        author_check_beside(author, archive)
        told: Counter[tuple[str, str]] = Counter()
        for worker in workers.workers:
            lines = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
            told.update((worker.name, line["kind"]) for line in lines if line["event"] == "hinting_failed")
        assert max(told.values(), default=0) <= 2, told  # it was away twice; a busy worker may have had no hint to send


def author_check_beside(author: Author, archive: Archive) -> None:
    for wire in Wire:
        for key in KEYS:
            expected = [f'{{"n":{number},"key":"{key}"}}' for number in range(author.written)]
            assert archive.texts(f"run_{wire}", key) == expected
    assert archive.violations() == []


def new_run_is_read(archive: Archive, store: LiveStore, run_id: str, within_s: float) -> None:
    store.create_run(run_id, Wire.V2)
    store.append_chunk(run_id, "x", "1")
    began = time.monotonic()
    archive.request(run_id)
    wait_for(lambda: archive.texts(run_id, "x") == ["1"], within_s, f"{run_id} is read")
    print(f"{run_id}: read after {time.monotonic() - began:.2f} s")


def send_request(redis_url: str, store: LiveStore, run_id: str) -> None:
    from celery import Celery

    store.create_run(run_id, Wire.V2)
    store.append_chunk(run_id, "x", "1")
    app = Celery(broker=redis_url, set_as_current=False)
    app.send_task("tailrace.ingest_run", [run_id], queue="tailrace")
    app.close()


# --- upstream


def test_upstream_in_every_bad_mood(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Storms of 5xx and 429, resets, cuts, hangs, silence, half-open sockets; on streams and on the feed."""
    settings = {"TAILRACE_READ_TIMEOUT_SECONDS": "2", "TAILRACE_CONNECT_TIMEOUT_SECONDS": "1"}
    with writing(tmp_path, database_url, redis_url, **settings) as (workers, author, _):
        upstream = workers.upstream  # type: ignore[attr-defined]
        everything = upstream.faults.everything()
        for status in (429, 500, 502, 503, 504):
            everything.answer(status, times=10)
            upstream.traffic.connections and cut_all(upstream)
            time.sleep(0.4)
        for number in range(4):
            everything.cut(after_bytes=number * 97, times=4)
            everything.reset(after_bytes=number * 131, times=4)
            cut_all(upstream)
            time.sleep(0.5)
        everything.hang(after_bytes=50, times=6)  # half-open: not even a ping comes any more
        everything.silence(times=3)
        cut_all(upstream)
        time.sleep(1)
        upstream.faults.clear()
        recovered(workers.archive, author, time.monotonic(), "upstream behaves again", 20)
        author.finish()
        author.check(workers.archive)


def cut_all(upstream: object) -> None:
    """Break every connection off, so that readers come back at once and meet what waits for them."""
    connections = upstream.upstream.connections  # type: ignore[attr-defined]
    for transport in connections.transports():
        transport.get_loop().call_soon_threadsafe(transport.abort) if hasattr(transport, "get_loop") else None
        loop = getattr(transport, "_loop", None)
        if loop is not None:
            loop.call_soon_threadsafe(transport.abort)
