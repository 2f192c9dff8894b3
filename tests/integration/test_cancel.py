"""A run is stopped within 3 s, and taken up again where it was."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tailrace.model import Wire
from tests.chaos.fleet import Archive, scene, wait_for
from tests.upstream import LiveStore

CANCEL_S = 3.0


def stopped(archive: Archive) -> bool:
    return bool(archive.value("SELECT count(*) = 0 FROM tailrace.streams WHERE state <> 'cancelled'"))


@pytest.mark.parametrize("by", ["task", "function"])
def test_cancel_and_retry(by: str, tmp_path: Path, database_url: str, redis_url: str) -> None:
    """With the default settings of leases and control."""
    store = LiveStore()
    store.create_run("run_0", Wire.V1)
    keys = [f"k{number}" for number in range(5)]
    for key in keys:
        store.append_chunks("run_0", key, ['"0"', '"1"'])
    settings = {"TAILRACE_SEAL_QUIET_SECONDS": "0.5", "TAILRACE_WATCH_SECONDS": "0.5"}
    with scene(tmp_path, database_url, redis_url, store, **settings) as (workers, upstream):
        archive = workers.archive
        workers.started(slots=20)
        workers.started(slots=20)
        archive.request("run_0")
        wait_for(lambda: archive.leased() == 5, 30)
        for key in keys:  # v1's last line is held for a while
            wait_for(lambda key=key: archive.texts("run_0", key) == ['"0"', '"1"'], 30)
        began = time.monotonic()
        if by == "task":
            from celery import Celery

            app = Celery(broker=redis_url, set_as_current=False)
            app.send_task("tailrace.cancel_run", ["run_0"], queue="tailrace")
            app.close()
            wait_for(lambda: stopped(archive), 5)
        else:
            assert archive.value("SELECT tailrace.cancel_run('run_0')") == 5
        assert upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() == 0, 10)
        took_s = time.monotonic() - began
        print(f"{by}: no connection is left after {took_s:.2f} s")
        assert took_s <= CANCEL_S
        assert archive.value("SELECT state FROM tailrace.runs") == "cancelled"
        store.append_chunk("run_0", "k0", '"2"')
        time.sleep(2.5)  # longer than a turn of control: nobody may take it up again
        assert upstream.traffic.streams_read() == 0
        assert archive.texts("run_0", "k0") == ['"0"', '"1"']
        assert archive.value("SELECT tailrace.retry_run('run_0')") == 5
        wait_for(lambda: archive.texts("run_0", "k0") == ['"0"', '"1"', '"2"'], 15)
        store.finish_run("run_0")
        wait_for(lambda: archive.all_sealed(1), 30)
        assert archive.violations() == []
        assert archive.value("SELECT tailrace.cancel_run('run_0')") == 0
        assert archive.value("SELECT tailrace.cancel_run('run_nobody')") is None
