"""P1 and P2: one stream of 500 000 small chunks, as fast as it comes, and what others do with the same stream.

Everything is measured in turn, round after round, so that what else the machine does hits all alike.
"""

from __future__ import annotations

import time

from benchmarks.rivals import limit, naive, node, pipelines
from benchmarks.scenarios import Row, Size
from benchmarks.stage import Child, Stage, UpstreamProcess
from benchmarks.usage import Used, load, measured

CHUNKS = 500_000
NAIVE_CHUNKS = 20_000
DLT_CHUNKS = 50_000
WRITTEN_CHUNKS = 100_000
"""Rivals that write are measured on fewer chunks: they are slow, and their cost per chunk does not change."""
TITLES = {"v1": "one v1 stream, as fast as it comes", "v2": "one v2 stream, as fast as it comes"}


def run(stage: Stage, size: Size, wire: str) -> Row:
    """Measure P1 (``wire`` v1) or P2 (v2)."""
    row = Row("P1" if wire == "v1" else "P2", TITLES[wire])
    count = size.of(CHUNKS, 20_000)
    stage.clear()
    rounds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    total = Used()

    def note(name: str, rate: float, cpu_us: float, peak_mb: float | None = None, chunks: int = 0) -> None:
        rounds.setdefault(name, []).append(rate)
        cpu.setdefault(name, []).append(cpu_us)
        if peak_mb is not None:
            total.add({name: cpu_us * chunks / 1e6}, {name: peak_mb})

    with stage.upstream() as upstream:
        runs = [f"run_{wire}_{number}" for number in range(size.repeats + 1)]
        upstream.do("fill", wire=wire, count=count, runs=runs)
        upstream.do("fill", wire=wire, count=min(count, DLT_CHUNKS), runs=["run_short"])
        upstream.do("fill", wire=wire, count=min(count, WRITTEN_CHUNKS), runs=["run_part"])
        with stage.worker(upstream) as worker:
            archived(stage, upstream, worker, runs[0], count)  # the first time everything is cold
            for number in range(size.repeats):
                rate, used = archived(stage, upstream, worker, runs[number + 1], count)
                note("tailrace", rate, 1e6 * used.cpu_s["worker"] / count)
                cpu.setdefault("postgres", []).append(1e6 * used.cpu_s["postgres"] / count)
                total.add(used.cpu_s, used.peak_mb)
                note("official client, counting", *node.count(upstream.url, runs[0], count), chunks=count)
                note("COPY of segments", *limit.copy(stage.database.url, count), chunks=count)
                note("decoding in memory", *limit.decode(wire, count))
                if size.rivals:
                    url, part, short = stage.database.url, min(count, WRITTEN_CHUNKS), min(count, NAIVE_CHUNKS)
                    note("official client, writing", *node.write(upstream.url, "run_part", part, url), chunks=part)
                    note("naive worker", *naive.measure(upstream.url, "run_short", short, url), chunks=short)
        stored = stage.database.rows("SELECT stream_key, chunk_count, byte_count FROM tailrace.streams_now")
        if len({(chunks, size_bytes) for _, chunks, size_bytes in stored}) != 1:
            raise AssertionError(f"not all streams hold the same: {stored}")
        if size.rivals:
            for number in range(size.repeats):
                found = pipelines.measure(
                    stage, upstream.url, "run_short", min(count, DLT_CHUNKS), stage.database.url, number
                )
                if found is None:
                    row.notes.append("dlt could not be installed, so it was not measured.")
                    break
                note("dlt", *found, chunks=min(count, DLT_CHUNKS))
        row.used = total.as_json()
    for name, values in rounds.items():
        row.figure(name, values, "chunks/s")
    for name, values in cpu.items():
        row.figure(f"CPU of {name}", values, "us/chunk")
    row.ratio("vs official client, counting", "tailrace", "official client, counting")
    row.ratio("vs COPY of segments", "tailrace", "COPY of segments")
    row.at_least("tailrace", 130_000 if wire == "v1" else 220_000)
    row.at_least("vs official client, counting", 1.2 if wire == "v1" else 2.5)
    if size.rivals:
        row.ratio("vs official client, writing", "tailrace", "official client, writing")
        row.ratio("vs naive worker", "tailrace", "naive worker")
        if "dlt" in rounds:
            row.ratio("vs dlt", "tailrace", "dlt")
        if wire == "v1":
            row.at_least("vs naive worker", 15)
    row.load = load()
    return row


def archived(stage: Stage, upstream: UpstreamProcess, worker: Child, run_id: str, count: int) -> tuple[float, Used]:
    """Chunks a second from ``.delay()`` until all are committed, and what the processes used.

    v1's last chunk is held for 2 s, because it may still be half a line: it is not waited for.
    """
    with measured(stage.pids(upstream, worker)) as used:
        began = time.perf_counter()
        stage.ask(run_id)
        stage.reached(stage.stream(run_id), count - 2)
        took_s = time.perf_counter() - began
    return (count - 1) / took_s, used
