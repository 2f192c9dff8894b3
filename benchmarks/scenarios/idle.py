"""P4: 10 000 runs of one open stream that hardly says anything."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage
from benchmarks.usage import load, measured, memory_mb

STREAMS = 10_000
PER_RUN = 1
SETTLE_S = 15.0
"""Until every stream has had its first ping, and what opening left behind is done: only what is idle is measured."""
FOR_S = 60.0
"""Twice as long as a Postgres backend may keep its counts of row writes to itself."""


def run(stage: Stage, size: Size) -> Row:
    """Measure once. Upstream pings each stream every 5 to 15 s; its feed of many runs is the default one, Electric's."""
    return quiet(
        stage, Row("P4", "10 000 runs of one open, mostly idle v2 stream in one process"), size.of(STREAMS, 200)
    )


def quiet(stage: Stage, row: Row, streams: int, per_run: int = PER_RUN, feed: str = "electric") -> Row:
    stage.clear()
    with stage.upstream(feed) as upstream:
        runs = [f"run_idle_{number}" for number in range(streams // per_run)]
        streams = upstream.do("fill_each", wire="v2", runs=runs, keys=per_run, count=1)
        settings = {"TAILRACE_PARK_AFTER_SECONDS": "3600", "TAILRACE_WAIT_SECONDS": "600"}
        worker = stage.start_worker(upstream, slots=streams + 100, **settings)
        try:
            time.sleep(2.0)  # what its start allocates is there then: the base is what it has before the streams
            base_mb = memory_mb(worker.pid)
            began = time.monotonic()
            request_all(stage, runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, streams), 300, "all streams open", 0.1)
            opened_s = time.monotonic() - began
            time.sleep(SETTLE_S)
            written, asked = stage.row_writes(), upstream.do("requests")
            with measured(stage.pids(upstream, worker)) as used:
                time.sleep(FOR_S)
            written, asked = stage.row_writes() - written, upstream.do("requests") - asked
            open_mb = memory_mb(worker.pid)
            connections = stage.database.value(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tailrace'"
            )
            leased = stage.database.value("SELECT count(*) FROM tailrace.streams WHERE worker_id IS NOT NULL")
            drained_s = worker.end(60.0)
            left = stage.database.value("SELECT count(*) FROM tailrace.streams WHERE worker_id IS NOT NULL")
        finally:
            worker.end()
    row.figure("opened in", opened_s, "s")
    row.figure("memory of a stream", 1024 * (open_mb - base_mb) / streams, "kB")
    row.figure("worker CPU, idle", 100 * used.cpu_s["worker"] / FOR_S, "% of a core")
    row.figure("Postgres CPU, idle", 100 * used.cpu_s["postgres"] / FOR_S, "% of a core")
    row.figure("row writes", written / FOR_S, "a second")
    row.figure("requests to upstream", asked / FOR_S, "a second")
    row.figure("drained in", drained_s, "s")
    row.figure("Postgres connections", float(connections), "connections")
    row.at_most("opened in", 30)
    row.at_most("memory of a stream", 50)
    row.at_most("worker CPU, idle", 15)
    row.at_most("Postgres CPU, idle", 5)
    row.at_most("row writes", 50)
    row.at_most("requests to upstream", 50)
    row.at_most("drained in", 10)
    row.notes.append(
        f"{streams} streams of {len(runs)} runs over plain HTTP (no TLS), {feed} feed, Timeout-Seconds 600, a ping every "
        f"5-15 s; {leased} leased while open, {left} after the drain. Base {base_mb:.0f} MB."
    )
    row.used = used.as_json()
    row.load = load()
    return row
