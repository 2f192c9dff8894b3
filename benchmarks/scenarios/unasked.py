"""P15: what a worker keeps of what nobody asked for, or not for long."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage, UpstreamProcess
from benchmarks.usage import load, measured, memory_mb

ROUNDS, CHURN, ROUND_S = 8, 800, 10.0
OTHERS = 100_000
LARGE, METADATA_BYTES = 2_000, 200_000
WATCHED = 10
IDLE_S = 2.0
"""What a worker's start allocates is there then: what it needs idle."""
SETTLE_S = 30.0
"""Until the feed has been read and followed for some looks."""
LOOKS_S = 60.0
"""The window in which CPU is counted: a dozen looks."""


def run(stage: Stage, size: Size) -> Row:
    """Measure each once, in a worker of its own."""
    row = Row("P15", "memory of a worker above what it needs idle")
    _churn(stage, size, row)
    for feed in ("electric", "native"):
        _others(stage, size, row, feed)
        _metadata(stage, size, row, feed)
    for figure in list(row.figures):
        if figure.endswith("above idle"):
            row.at_most(figure, 20)
    row.load = load()
    return row


def _churn(stage: Stage, size: Size, row: Row) -> None:
    """Short runs that come and go."""
    stage.clear()
    count = size.of(CHURN, 20)
    with stage.upstream("electric") as upstream, stage.worker(upstream, slots=1_000) as worker:
        time.sleep(IDLE_S)
        idle_mb, above = memory_mb(worker.pid), []
        for number in range(max(2, round(ROUNDS * size.scale))):
            runs = [f"run_{number}_{at}" for at in range(count)]
            began = time.monotonic()
            upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=20)
            request_all(stage, runs)
            time.sleep(max(0.0, began + ROUND_S / 2 - time.monotonic()))
            upstream.do("finish", runs=runs)
            time.sleep(max(0.0, began + ROUND_S - time.monotonic()))
            above.append(memory_mb(worker.pid) - idle_mb)
    row.figure(f"{count} short runs every {ROUND_S:g} s, after each round: above idle", above, "MB")


def _others(stage: Stage, size: Size, row: Row, feed: str) -> None:
    """Finished runs of others, in the feed that a few of ours are watched by."""
    stage.clear()
    count = size.of(OTHERS, 1_000)
    with stage.upstream(feed) as upstream:
        others = [f"run_other_{number}" for number in range(count)]
        for at in range(0, count, 1_000):
            upstream.do("fill_each", wire="v2", runs=others[at : at + 1_000], keys=0, count=0)
            upstream.do("finish", runs=others[at : at + 1_000])
        _watch(stage, row, upstream, f"{count} finished runs of others, {feed}")


def _metadata(stage: Stage, size: Size, row: Row, feed: str) -> None:
    """Open runs of others with much metadata."""
    stage.clear()
    count = size.of(LARGE, 50)
    with stage.upstream(feed) as upstream:
        others = [f"run_large_{number}" for number in range(count)]
        upstream.do("fill_each", wire="v2", runs=others, keys=1, count=0)
        upstream.do("metadata", runs=others, size=METADATA_BYTES)
        _watch(stage, row, upstream, f"{count} runs with {METADATA_BYTES // 1000} kB of metadata, {feed}")


def _watch(stage: Stage, row: Row, upstream: UpstreamProcess, what: str) -> None:
    """Watch a few open runs beside the others."""
    ours = [f"run_ours_{number}" for number in range(WATCHED)]
    upstream.do("fill_each", wire="v2", runs=ours, keys=1, count=1)
    with stage.worker(upstream, slots=1_000) as worker:
        time.sleep(IDLE_S)
        idle_mb = memory_mb(worker.pid)
        request_all(stage, ours)
        opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
        stage.wait(lambda: stage.database.value(opened, len(ours)), 60, "our streams are read", 0.1)
        time.sleep(SETTLE_S)
        with measured({"worker": worker.pid}) as used:
            time.sleep(LOOKS_S)
        row.figure(f"{what}: above idle", memory_mb(worker.pid) - idle_mb, "MB")
        row.figure(f"{what}: at most above idle", memory_mb(worker.pid, "VmHWM") - idle_mb, "MB")
        row.figure(f"{what}: worker CPU", 100 * used.cpu_s["worker"] / LOOKS_S, "% of a core")
