"""P14: how long it takes until a worker that comes has its share of what is open."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Child, Stage
from benchmarks.usage import load, measured

STREAMS = 900
SLOTS = 1_000
WORKERS = 3
NEAR = 0.75
"""So much of its share is its share: the others keep what is a little above theirs, or streams would go to and fro."""
LOOK_S = 30.0
HELD = """
SELECT count(s.id) FROM tailrace.workers w LEFT JOIN tailrace.streams s ON s.worker_id = w.id
GROUP BY w.id ORDER BY 1
"""


def run(stage: Stage, size: Size) -> Row:
    """Measure once."""
    row = Row("P14", "900 live v2 streams of as many runs, one worker after another of 1 000 slots each")
    streams = size.of(STREAMS, 30)
    stage.clear()
    runs = [f"run_{number}" for number in range(streams)]
    workers: list[Child] = []
    with stage.upstream("electric") as upstream:
        upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=1)
        try:
            workers.append(stage.start_worker(upstream, SLOTS))
            request_all(stage, runs)
            stage.wait(lambda: _held(stage) == [streams], 120, "one worker reads all", 0.2)
            upstream.do("live", runs=runs, every_s=1.0, records=2, for_s=600.0)
            for number in range(2, WORKERS + 1):
                workers.append(stage.start_worker(upstream, SLOTS))
                began = time.monotonic()
                share = NEAR * streams / number
                stage.wait(lambda share=share: min(_held(stage)) >= share, 120, "each has its share", 0.2)  # type: ignore[misc]
                row.figure(f"worker {number} has its share after", time.monotonic() - began, "s")
                row.at_most(f"worker {number} has its share after", 60)
            pids = {f"worker {number}": worker.pid for number, worker in enumerate(workers, 1)}
            asked = upstream.do("requests")
            with measured(pids) as used:
                time.sleep(LOOK_S)
            asked = upstream.do("requests") - asked
            row.figure("least and largest share", [float(each) for each in _held(stage)], "streams")
            row.figure("CPU of each", [100 * each / LOOK_S for each in used.cpu_s.values()], "% of a core")
            row.figure("requests to upstream afterwards", asked / LOOK_S, "a second")
            began = time.monotonic()
            workers.pop(0).end()
            stage.wait(lambda: sum(_held(stage)) == streams, 60, "the others read what it had", 0.05)
            row.figure("all read again after one has left", time.monotonic() - began, "s")
        finally:
            for worker in workers:
                worker.end()
    row.used = used.as_json()
    row.load = load()
    return row


def _held(stage: Stage) -> list[int]:
    return [int(held) for (held,) in stage.database.rows(HELD)]
