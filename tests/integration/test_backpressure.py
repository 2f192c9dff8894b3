"""Postgres is slowed to a crawl while upstream sends as fast as it can: the worker's memory is bounded, nothing is lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tailrace.model import Wire
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.upstream import LiveStore

STREAMS = 8
CHUNKS = 15_000
BOUND_BYTES = 120 * 1_048_576
"""More than the worker had before: a buffer of 16 MiB, one flush with its copies, what the sockets' decoders hold."""


@pytest.mark.timeout(240)
@pytest.mark.parametrize("wire", list(Wire))
def test_memory_is_bounded_and_nothing_is_lost(wire: Wire, tmp_path: Path, database_url: str, redis_url: str) -> None:
    store = LiveStore(v1_max_entries=None)
    store.create_run("run_0", wire)
    # Small chunks: their objects are several times as large as their texts.
    texts = [f"{number}" for number in range(CHUNKS)]
    for key in range(STREAMS):
        store.append_chunk("run_0", f"k{key}", "0")
    settings = QUICK | {"TAILRACE_BUFFER_MAX_BYTES": str(16 << 20), "TAILRACE_STREAM_BUFFER_MAX_BYTES": str(4 << 20)}
    with scene(tmp_path, database_url, redis_url, store, **settings) as (workers, _):
        archive = workers.archive
        worker = workers.started()
        archive.request("run_0")
        wait_for(
            lambda: archive.value("SELECT count(*) FROM tailrace.streams_now WHERE chunk_count = 1") == STREAMS, 30
        )
        before = worker.rss_bytes()
        worker.database.bytes_per_s = 150_000
        for key in range(STREAMS):
            store.append_chunks("run_0", f"k{key}", texts[1:])
        most = before
        until = time.monotonic() + 8
        while time.monotonic() < until:
            most = max(most, worker.rss_bytes())
            time.sleep(0.05)
        stored = archive.value("SELECT sum(chunk_count) FROM tailrace.streams_now")
        print(f"{wire}: {before >> 20} MiB before, at most {most >> 20} MiB with {stored} of {STREAMS * CHUNKS} stored")
        assert stored < STREAMS * CHUNKS
        assert most - before < BOUND_BYTES
        worker.database.behave()
        wait_for(lambda: archive.value("SELECT sum(chunk_count) FROM tailrace.streams_now") == STREAMS * CHUNKS, 90)
        most = max(most, worker.rss_bytes())
        assert most - before < BOUND_BYTES
        for key in (0, STREAMS - 1):
            assert archive.texts("run_0", f"k{key}") == texts
        store.finish_run("run_0")
        wait_for(lambda: archive.all_sealed(1), 30)
        assert archive.violations() == []
