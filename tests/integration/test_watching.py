"""Who looks at a run keeps others from it, but not for longer than it lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tailrace.errors import WorkerError
from tailrace.model import Wire
from tailrace.service.runtime import Runtime
from tests.ingestion import Ingestion, ingesting
from tests.upstream import LiveStore


@contextmanager
def a_look_that_hangs(database_url: str) -> Iterator[tuple[Ingestion, Runtime]]:
    """A run, and beside the usual worker another one, whose question about it upstream does not answer."""
    store = LiveStore()
    store.create_run("run_1", Wire.V1)
    with ingesting(database_url, store) as (ingestion, server):
        ingestion.request("run_1")
        server.faults.everything().silence()
        other = Runtime(ingestion.settings, database_url, slots=1)
        other.start()
        looking = threading.Thread(target=_look, args=(other,), daemon=True)
        looking.start()
        assert server.traffic.wait_until(lambda: server.faults.waiting() == 0, 10)
        yield ingestion, other
    looking.join(10)  # upstream has gone
    other.stop(1)


def _look(runtime: Runtime) -> None:
    try:
        runtime.watch(10)
    except (WorkerError, RuntimeError):  # what it works with was closed under it
        return


def test_a_worker_that_leaves_gives_back_the_runs_it_was_looking_at(database_url: str) -> None:
    """Its question may hang for as long as the read timeout; a new stream must not wait for that."""
    with a_look_that_hangs(database_url) as (ingestion, leaving):
        assert ingestion.runtime.environments.default.runs.claim_watch(10, 1.0) == []
        leaving.stop(0.1)
        assert [run.run_id for run in ingestion.runtime.environments.default.runs.claim_watch(10, 1.0)] == ["run_1"]


def test_the_runs_of_a_worker_that_died_wait_no_longer_than_its_streams(database_url: str) -> None:
    with a_look_that_hangs(database_url) as (ingestion, _):
        ((wait_s,),) = ingestion.rows("SELECT extract(epoch FROM next_watch_at - now())::float8 FROM tailrace.runs")
        assert 0 < wait_s <= ingestion.settings.lease_seconds
