"""P9: two worker processes on one database."""

from __future__ import annotations

import time
from collections import Counter

from benchmarks.scenarios import Row, Size
from benchmarks.stage import Stage
from benchmarks.usage import load, measured

CHUNKS = 300_000
STREAMS = 4
POLL_S = 0.02
GROWING = "extend"
"""Postgres' name for waiting while another backend makes the file of a table longer: no row and no stream is locked."""


def run(stage: Stage, size: Size) -> Row:
    """Four fast v2 streams, two in each process (as the leases happen to fall); who waits for whom?"""
    row = Row("P9", "two worker processes")
    count = size.of(CHUNKS, 20_000)
    stage.clear()
    rates, samples, shares = [], 0, []
    waits: Counter[str] = Counter()
    with stage.upstream() as upstream:
        names = [[f"run_two_{turn}_{number}" for number in range(STREAMS)] for turn in range(size.repeats + 1)]
        upstream.do("fill", wire="v2", count=count, runs=[name for turn in names for name in turn])
        with stage.worker(upstream, slots=2) as first, stage.worker(upstream, slots=2) as second:
            for turn, runs in enumerate(names):
                with measured(stage.pids(upstream, first, second)) as used:
                    began = time.perf_counter()
                    for run_id in runs:
                        stage.ask(run_id)
                    while not _done(stage, runs, count):
                        found = stage.database.rows(
                            "SELECT wait_event FROM pg_stat_activity"
                            " WHERE application_name = 'tailrace' AND wait_event_type = 'Lock'"
                        )
                        waits.update(event for (event,) in found)
                        samples += 1
                        time.sleep(POLL_S)
                    took_s = time.perf_counter() - began
                if turn:  # the first time everything is cold
                    rates.append(STREAMS * (count - 1) / took_s)
                    low, high = sorted((used.cpu_s["worker1"], used.cpu_s["worker2"]))
                    shares.append(low / high if high else 0.0)
                upstream.do("finish", runs=runs)
                stage.database.rows(
                    "UPDATE tailrace.streams SET state = 'cancelled', worker_id = NULL, token = token + 1"
                    " WHERE state IN ('active', 'parked', 'pending')"
                )
            row.used = used.as_json()
    row.figure("both together", rates, "chunks/s")
    row.figure("lock waits seen", float(waits.total() - waits[GROWING]), "waits")
    row.figure("waits for a table's file to grow", float(waits[GROWING]), "waits")
    row.figure("samples", float(samples), "samples")
    row.figure("CPU of the less busy process", shares, "of the other's")
    row.at_most("lock waits seen", 0)
    row.notes.append("On 2 cores both workers, Postgres and upstream share what one worker and Postgres had in P2.")
    row.load = load()
    return row


def _done(stage: Stage, runs: list[str], count: int) -> bool:
    return bool(
        stage.database.value(
            "SELECT count(*) = %s FROM tailrace.streams_now s JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = ANY(%s) AND s.last_chunk_index >= %s",
            len(runs),
            runs,
            count - 2,
        )
    )
