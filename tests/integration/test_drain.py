"""SIGTERM: every reader stops, commits and gives its lease back, the process ends within 10 s, others go on at once."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from celery import Celery

from tailrace.model import Wire
from tests.chaos.fleet import fleet, scene, wait_for
from tests.integration.test_takeover import figures, leased_by, taken_over, written
from tests.upstream import LiveStore, create_app, running

DRAIN_S = 10.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_a_thousand_readers_on_silent_sockets(pool: str, tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Default settings. Upstream sends a ping every 5 to 15 s, so nobody is woken by a byte."""
    store = written(100, 10)
    with running(create_app(store)) as upstream, fleet(tmp_path, database_url, redis_url, upstream.url) as workers:
        archive = workers.archive
        first = workers.started(pool, 1_000, direct=True)
        for run in range(100):
            archive.request(f"run_{run}")
        wait_for(lambda: archive.leased() == 1_000, 90, "all are read")
        assert upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() == 1_000, 20)
        second = workers.started(pool, 1_000, direct=True)
        for run in range(100):
            store.append_chunk(f"run_{run}", "k5", '"second"')  # some have just read something
        streams = leased_by(archive, first)
        first.terminate()
        told = time.monotonic()
        free_s = 0.0
        while leased_by(archive, first):
            free_s = time.monotonic() - told
            assert free_s < 30
            time.sleep(0.02)
        code = first.wait(30)
        ended_s = time.monotonic() - told
        seen = taken_over(archive, second, streams, told, 60)
        print(f"{pool}: all leases free after {free_s:.2f} s, ended after {ended_s:.2f} s; the other: {figures(seen)}")
        assert ended_s <= DRAIN_S
        assert code == 0
        assert len(seen) == len(streams) > 500  # the other may have had some of its share before
        assert max(seen.values()) <= DRAIN_S + 5
        wait_for(lambda: len(leased_by(archive, second)) == 1_000, 20, "the other reads all")
        for run in range(100):
            wait_for(lambda run=run: archive.texts(f"run_{run}", "k5") == ['"first"', '"second"'], 20)  # type: ignore[misc]
        assert archive.violations() == []


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_a_shutdown_by_remote_control_is_a_drain(pool: str, tmp_path: Path, database_url: str, redis_url: str) -> None:
    """`celery control shutdown`: no signal, and tasks that would go on for minutes."""
    store = LiveStore()
    store.create_run("run_0", Wire.V2)
    store.append_chunk("run_0", "k0", '"0"')
    with scene(tmp_path, database_url, redis_url, store) as (workers, _):
        archive = workers.archive
        worker = workers.started(pool)
        archive.request("run_0")
        wait_for(lambda: archive.leased() == 1, 20, "it is read")
        with Celery(broker=redis_url, set_as_current=False) as app:
            wait_for(lambda: app.control.ping(timeout=1), 20, "it listens")
            app.control.shutdown()
        told = time.monotonic()
        assert worker.wait(30) == 0
        print(f"{pool}: ended {time.monotonic() - told:.2f} s after it was told")
        assert time.monotonic() - told <= DRAIN_S
        assert archive.leased() == 0


@pytest.mark.parametrize("how", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT,)])
def test_whoever_insists_is_obeyed_at_once(
    how: tuple[signal.Signals, ...], tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """A second SIGTERM, or SIGQUIT: the process ends, and nothing is lost."""
    store = LiveStore()
    store.create_run("run_0", Wire.V2)
    with scene(tmp_path, database_url, redis_url, store, TAILRACE_LEASE_SECONDS="3",
               TAILRACE_LEASE_RENEW_SECONDS="1", TAILRACE_CONTROL_SECONDS="0.5") as (workers, _):  # fmt: skip
        archive = workers.archive
        store.append_chunk("run_0", "k0", '"0"')
        first = workers.started()
        archive.request("run_0")
        wait_for(lambda: archive.texts("run_0", "k0") == ['"0"'], 20)
        first.database.hang()  # what it reads now it cannot commit, so a drain would take its time
        store.append_chunks("run_0", "k0", [f'"{number}"' for number in range(1, 50)])
        time.sleep(0.5)
        for number in how:
            assert first.alive
            first.signal(number)
            time.sleep(0.3)
        first.wait(7)  # a drain would wait for its commit until `DRAIN_S` is over
        workers.started()
        wait_for(lambda: archive.texts("run_0", "k0") == [f'"{number}"' for number in range(50)], 20)
        assert archive.violations() == []


def test_sigterm_while_postgres_is_away(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Nothing can be committed; the process ends all the same, and others read again what it had."""
    store = LiveStore()
    store.create_run("run_0", Wire.V1)
    store.append_chunk("run_0", "k0", '"0"')
    with scene(tmp_path, database_url, redis_url, store, TAILRACE_LEASE_SECONDS="3",
               TAILRACE_LEASE_RENEW_SECONDS="1", TAILRACE_CONTROL_SECONDS="0.5") as (workers, _):  # fmt: skip
        archive = workers.archive
        first = workers.started()
        archive.request("run_0")
        wait_for(lambda: archive.texts("run_0", "k0") == ['"0"'], 20)
        first.database.refuse()
        store.append_chunks("run_0", "k0", ['"1"', '"2"'])
        time.sleep(0.5)
        first.terminate()
        first.wait(DRAIN_S + 20)  # Postgres stays away
        workers.started()
        wait_for(lambda: archive.texts("run_0", "k0") == ['"0"', '"1"', '"2"'], 20)
        assert archive.violations() == []
