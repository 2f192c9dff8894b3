"""P4: 5 000 open streams that hardly say anything."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage
from benchmarks.usage import load, measured, memory_mb

STREAMS = 5_000
PER_RUN = 100
FOR_S = 30.0


def run(stage: Stage, size: Size) -> Row:
    """Measure once. Upstream pings each stream every 5 to 15 s."""
    row = Row("P4", "5 000 open, mostly idle v2 streams in one process")
    streams = size.of(STREAMS, 200)
    stage.clear()
    with stage.upstream() as upstream:
        runs = [f"run_idle_{number}" for number in range(streams // PER_RUN)]
        streams = upstream.do("fill_each", wire="v2", runs=runs, keys=PER_RUN, count=1)
        settings = {"TAILRACE_PARK_AFTER_SECONDS": "3600", "TAILRACE_WAIT_SECONDS": "600"}
        worker = stage.start_worker(upstream, slots=streams + 100, **settings)
        try:
            time.sleep(2.0)
            base_mb = memory_mb(worker.pid)
            began = time.monotonic()
            request_all(stage, runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, streams), 180, "all streams open", 0.1)
            opened_s = time.monotonic() - began
            time.sleep(5.0)
            with measured(stage.pids(upstream, worker)) as used:
                time.sleep(FOR_S)
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
    row.figure("drained in", drained_s, "s")
    row.figure("Postgres connections", float(connections), "connections")
    row.at_most("opened in", 15)
    row.at_most("memory of a stream", 50)
    row.at_most("worker CPU, idle", 15)
    row.at_most("drained in", 10)
    row.notes.append(
        f"{streams} streams of {len(runs)} runs over plain HTTP (no TLS), Timeout-Seconds 600, a ping every 5-15 s; "
        f"{leased} leased while open, {left} after the drain. Base {base_mb:.0f} MB."
    )
    row.used = used.as_json()
    row.load = load()
    return row
