"""P13: upstream is away under 10 000 streams, and comes back."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage
from benchmarks.usage import load, measured

STREAMS = 10_000
FEWER = 50
"""The same with so many times fewer."""
AWAY_S = 60.0
OPEN_S = 300.0


def run(stage: Stage, size: Size) -> Row:
    """Measure once with many streams and once with few."""
    row = Row("P13", "upstream away for 60 s under 10 000 v2 streams of as many runs, and under 200")
    streams = size.of(STREAMS, 200)
    for count in (streams, max(20, streams // FEWER)):
        _away(stage, row, count)
    row.at_most(f"all {streams} read again after", 15)
    row.at_most(f"all {max(20, streams // FEWER)} read again after", 5)
    row.at_most(f"requests while away, {streams} streams", 2)
    row.load = load()
    return row


def _away(stage: Stage, row: Row, count: int) -> None:
    stage.clear()
    runs = [f"run_{number}" for number in range(count)]
    settings = {"TAILRACE_PARK_AFTER_SECONDS": "3600", "TAILRACE_WAIT_SECONDS": "600"}
    with stage.upstream("electric") as upstream:
        upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=1)
        with stage.worker(upstream, slots=count + 100, **settings) as worker:
            request_all(stage, runs)
            stage.wait(lambda: upstream.do("read") == count, OPEN_S, "all streams are read", 0.2)
            stored = "SELECT sum(chunk_count) = %s FROM tailrace.segments"
            stage.wait(lambda: stage.database.value(stored, count), 60, "the first chunks", 0.2)
            with measured(stage.pids(upstream, worker)) as used:
                upstream.do("away")
                time.sleep(AWAY_S / 2)
                asked = upstream.do("requests")
                time.sleep(AWAY_S / 2)
                asked = upstream.do("requests") - asked
            for run_id in runs:
                upstream.do("append", run=run_id)
            upstream.do("back")
            began = time.monotonic()
            stage.wait(lambda: upstream.do("read") >= count / 2, 120, "half of the streams are read again", 0.05)
            half_s = time.monotonic() - began
            stage.wait(lambda: upstream.do("read") == count, 120, "all streams are read again", 0.05)
            all_s = time.monotonic() - began
            stage.wait(lambda: stage.database.value(stored, 2 * count), 120, "what was written meanwhile", 0.1)
            stored_s = time.monotonic() - began
    row.figure(f"requests while away, {count} streams", asked / (AWAY_S / 2), "a second")
    row.figure(f"worker CPU while away, {count} streams", 100 * used.cpu_s["worker"] / AWAY_S, "% of a core")
    row.figure(f"half of {count} read again after", half_s, "s")
    row.figure(f"all {count} read again after", all_s, "s")
    row.figure(f"what was written meanwhile stored after, {count} streams", stored_s, "s")
