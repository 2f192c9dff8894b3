"""Pools with few slots: streams take turns, and under prefork a warm shutdown waits until the slice is over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tailrace.model import Wire
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.upstream import LiveStore

SLICE_S = 15.0
KEYS = ("one", "two")


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_live_streams_take_turns(pool: str, tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Neither of them ends, and there is one slot."""
    store = LiveStore()
    store.create_run("run_0", Wire.V2)
    for key in KEYS:
        store.append_chunk("run_0", key, '"a"')
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _):
        archive = workers.archive
        worker = workers.started(pool, slots=1)
        archive.request("run_0")
        for key in KEYS:
            wait_for(lambda key=key: archive.texts("run_0", key) == ['"a"'], SLICE_S + 10, key)  # type: ignore[misc]
        began = time.monotonic()
        worker.terminate()
        assert worker.wait(SLICE_S + 10) == 0
        print(f"{pool}: ended after {time.monotonic() - began:.2f} s")
        assert archive.leased() == 0
