"""A worker that was away writes nothing when its streams were taken, and keeps nobody from them meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tailrace.model import Wire
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.chaos.tcpproxy import Point
from tests.ingestion import ingesting, store_with
from tests.upstream import LiveStore

TEXTS = [f'"{number}"' for number in range(200)]


def two_streams(wire: Wire) -> LiveStore:
    store = LiveStore()
    store.create_run("run_0", wire)
    for key in ("a", "b"):
        store.append_chunks("run_0", key, TEXTS[:100])
    return store


@pytest.mark.parametrize("wire", list(Wire))
def test_a_suspended_worker_writes_nothing_when_it_wakes(
    wire: Wire, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    store = two_streams(wire)
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _upstream):
        archive = workers.archive
        first = workers.started()
        archive.request("run_0")
        wait_for(lambda: archive.texts("run_0", "a") == TEXTS[:100], 20)
        first.suspend()
        store.append_chunks("run_0", "a", TEXTS[100:150])  # lies in its socket when it wakes
        second = workers.started()
        wait_for(lambda: archive.texts("run_0", "a") == TEXTS[:150], 20, "the second goes on")
        rev = archive.value("SELECT token FROM tailrace.streams WHERE stream_key = 'a'")
        first.resume()
        store.append_chunks("run_0", "a", TEXTS[150:])
        wait_for(lambda: archive.texts("run_0", "a") == TEXTS, 20)
        wait_for(lambda: "lease_lost" in first.said(), 10, "it learns that it has lost its leases")
        store.finish_run("run_0")
        wait_for(lambda: archive.all_sealed(1), 30)
        assert archive.texts("run_0", "a") == TEXTS
        assert archive.texts("run_0", "b") == TEXTS[:100]
        assert archive.violations() == []
        assert rev >= 2
        assert second.alive
        assert first.alive


@pytest.mark.parametrize("point", list(Point))
def test_a_worker_stopped_inside_a_commit_delays_nobody(
    point: Point, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """At each point of the statement's life: no lock is left that the new owner, or another stream, would wait for."""
    store = two_streams(Wire.V2)
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _):
        archive = workers.archive
        first = workers.started()
        archive.request("run_0")
        wait_for(lambda: archive.texts("run_0", "b") == TEXTS[:100], 20)
        stopped = first.database.at(point, lambda: os.kill(first.pid, signal.SIGSTOP), cut=False)
        store.append_chunks("run_0", "a", TEXTS[100:150])
        assert stopped.wait(10)
        halted = time.monotonic()
        workers.started()
        wait_for(lambda: archive.texts("run_0", "a") == TEXTS[:150], 20, "the second goes on")
        print(f"{point}: gone on after {time.monotonic() - halted:.2f} s, term 3 s, the start of a worker included")
        locks = archive.value(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE l.locktype IN ('tuple', 'transactionid') AND NOT l.granted"
        )
        assert locks == 0
        # Other streams of the new owner commit at their pace while the first is stopped.
        store.append_chunks("run_0", "b", TEXTS[100:])
        wait_for(lambda: archive.texts("run_0", "b") == TEXTS, 20)
        first.database.cut()
        first.resume()
        store.append_chunks("run_0", "a", TEXTS[150:])
        store.finish_run("run_0")
        wait_for(lambda: archive.all_sealed(1), 30)
        assert archive.texts("run_0", "a") == TEXTS
        assert archive.violations() == []


def test_a_lease_that_no_reader_knows_of_is_released_within_seconds(database_url: str) -> None:
    """The answer to acquiring it was lost: the row says that this process reads, and the process lives on."""
    with ingesting(database_url, store_with(Wire.V2, TEXTS[:3])) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.watch()
        leases = ingestion.runtime.leases
        leases.acquire([ingestion.value("SELECT id FROM tailrace.streams")])
        held = "SELECT worker_id IS NOT NULL FROM tailrace.streams"
        assert ingestion.value(held)
        wait_for(lambda: not ingestion.value(held), ingestion.settings.lease_seconds + 10)
        assert not leases.renew()  # its holder was there all the time
        assert ingestion.texts("run_1") == []
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [text.encode() for text in TEXTS[:3]]
