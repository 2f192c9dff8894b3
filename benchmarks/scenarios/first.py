"""P5: from ``.delay()`` to the first chunk in SQL."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size, percentile
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage
from benchmarks.usage import load, measured

RUNS = 200
SETTLE_S = 5.0
"""After thousands were opened: the first ones asked for would else be measured beside the end of that."""
OPEN = 5_000
"""Runs that are open meanwhile, of one v2 stream that hardly says anything."""


def run(stage: Stage, size: Size) -> Row:
    """Ask for one run after the other; each has chunks already."""
    row = Row("P5", "from .delay() to the first chunk visible in SQL")
    count = size.of(RUNS, 10)
    stage.clear()
    with stage.upstream() as upstream:
        for wire in ("v1", "v2"):
            names = [f"run_first_{wire}_{number}" for number in range(count)]
            upstream.do("fill_each", wire=wire, runs=names, keys=1, count=5)
        with stage.worker(upstream, slots=2 * count + 100) as worker:
            with measured(stage.pids(upstream, worker)) as used:
                for wire in ("v1", "v2"):
                    found = [_first(stage, f"run_first_{wire}_{number}") for number in range(count)]
                    row.figure(f"{wire} p50", percentile(found, 0.5), "ms")
                    row.figure(f"{wire} p99", percentile(found, 0.99), "ms")
            row.used = used.as_json()
    _beside_many(stage, row, size)
    for wire in ("v1", "v2"):
        row.at_most(f"{wire} p50", 300)
        row.at_most(f"{wire} p99", 1_000)
    row.at_most("v2 p50 beside many open runs", 60)
    row.at_most("v2 p99 beside many open runs", 120)
    row.notes.append(f"{count} runs of each wire, one at a time, in a worker that has run for a while.")
    row.load = load()
    return row


def _beside_many(stage: Stage, row: Row, size: Size) -> None:
    """The same for v2 in a worker that reads thousands of runs."""
    count, others = size.of(RUNS, 10), size.of(OPEN, 50)
    stage.clear()
    with stage.upstream("electric") as upstream:
        open_runs = [f"run_open_{number}" for number in range(others)]
        names = [f"run_first_{number}" for number in range(count)]
        upstream.do("fill_each", wire="v2", runs=open_runs, keys=1, count=1)
        upstream.do("fill_each", wire="v2", runs=names, keys=1, count=5)
        settings = {"TAILRACE_PARK_AFTER_SECONDS": "3600", "TAILRACE_WAIT_SECONDS": "600"}
        with stage.worker(upstream, slots=others + 2 * count + 100, **settings):
            request_all(stage, open_runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, others), 300, "all streams open", 0.1)
            time.sleep(SETTLE_S)
            found = [_first(stage, run_id) for run_id in names]
    row.figure("v2 p50 beside many open runs", percentile(found, 0.5), "ms")
    row.figure("v2 p99 beside many open runs", percentile(found, 0.99), "ms")


def _first(stage: Stage, run_id: str) -> float:
    query = """
        SELECT s.last_chunk_index >= 0 FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
        WHERE r.run_id = %s AND s.last_chunk_index >= 0
    """
    began = time.perf_counter()
    stage.ask(run_id)
    stage.wait(lambda: stage.database.rows(query, run_id), 30, f"a chunk of {run_id}", 0.002)
    return 1e3 * (time.perf_counter() - began)
