"""P16: how soon a new stream of a run is read that has long been open, and how soon a run's end is seen."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage, UpstreamProcess
from benchmarks.usage import load, measured

RUNS = 10_000
TRIED = 8
APART_S = 3.0
"""One after the other, so that each is met at another moment of whoever watches."""
SETTLE_S = 60.0
"""On the backend that tells of the newest thousand, until the list has been read twice."""
LATE_S = 120.0


def run(stage: Stage, size: Size) -> Row:
    """Measure with each of upstream's backends: the default one tells of all runs, the other of the newest thousand."""
    row = Row("P16", "10 000 open runs: a new stream of one of them, and one's end, of every age")
    runs = size.of(RUNS, 1_500)
    for feed in ("electric", "native"):
        _late(stage, row, runs, feed)
    row.at_most("a new stream is read after, electric", 5)
    row.at_most("an end is seen after, electric", 5)
    row.load = load()
    return row


def _late(stage: Stage, row: Row, count: int, feed: str) -> None:
    stage.clear()
    runs = [f"run_{number}" for number in range(count)]
    settings = {"TAILRACE_PARK_AFTER_SECONDS": "3600", "TAILRACE_WAIT_SECONDS": "600"}
    with stage.upstream(feed) as upstream:
        upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=1)
        with stage.worker(upstream, slots=count + 100, **settings) as worker:
            request_all(stage, runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, count), 300, "all streams open", 0.2)
            time.sleep(SETTLE_S)
            asked = upstream.do("requests")
            with measured(stage.pids(upstream, worker)) as used:
                time.sleep(SETTLE_S)
            asked = upstream.do("requests") - asked
            tried = runs[:: max(1, count // TRIED)][:TRIED]
            new = [_new_stream(stage, upstream, run_id) for run_id in tried]
            ended = [_end(stage, upstream, run_id) for run_id in tried]
    row.figure(f"a new stream is read after, {feed}", new, "s")
    row.figure(f"an end is seen after, {feed}", ended, "s")
    row.figure(f"requests to upstream meanwhile, {feed}", asked / SETTLE_S, "a second")
    row.figure(f"worker CPU meanwhile, {feed}", 100 * used.cpu_s["worker"] / SETTLE_S, "% of a core")


def _new_stream(stage: Stage, upstream: UpstreamProcess, run_id: str) -> float:
    time.sleep(APART_S)
    upstream.do("open_streams", runs=[run_id], key="late")
    began = time.monotonic()
    there = """
        SELECT count(*) FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
        WHERE r.run_id = %s AND s.stream_key = 'late' AND s.last_chunk_index >= 0
    """
    stage.wait(lambda: stage.database.value(there, run_id), LATE_S, f"the new stream of {run_id}", 0.05)
    return time.monotonic() - began


def _end(stage: Stage, upstream: UpstreamProcess, run_id: str) -> float:
    time.sleep(APART_S)
    upstream.do("finish", runs=[run_id])
    began = time.monotonic()
    seen = "SELECT terminal_at IS NOT NULL FROM tailrace.runs WHERE run_id = %s"
    stage.wait(lambda: stage.database.value(seen, run_id), LATE_S, f"the end of {run_id}", 0.05)
    return time.monotonic() - began
