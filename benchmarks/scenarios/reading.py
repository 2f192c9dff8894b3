"""P7: reading back through the views."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.scenarios.speed import archived
from benchmarks.stage import Stage
from benchmarks.usage import load, measured

LONG = 500_000
PART = 100_000
RUNS = 1_000
PER_RUN = 300


def run(stage: Stage, size: Size) -> Row:
    """Archive a long stream and a thousand answers; read them."""
    row = Row("P7", "reading back")
    long, part, count = size.of(LONG, 20_000), size.of(PART, 5_000), size.of(RUNS, 20)
    stage.clear()
    with stage.upstream() as upstream:
        upstream.do("fill", wire="v2", count=long, runs=["run_long"])
        upstream.do("fill", wire="v2", count=part, runs=["run_part"])
        runs = [f"run_answer_{number}" for number in range(count)]
        upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=PER_RUN)
        with stage.worker(upstream, slots=count + 50) as worker:
            archived(stage, upstream, worker, "run_long", long)
            archived(stage, upstream, worker, "run_part", part)
            request_all(stage, runs)
            done = "SELECT count(*) = %s FROM tailrace.streams_now WHERE chunk_count >= %s"
            stage.wait(lambda: stage.database.value(done, count + 2, PER_RUN), 180, "all answers", 0.2)
    database = stage.database
    database.rows("ANALYZE")
    repeats = max(3, size.repeats)
    with measured({"postgres": stage.postgres_pid}) as used:
        all_chunks = (
            "SELECT chunk_index, data_text, emitted_at FROM tailrace.chunks WHERE run_id = 'run_part'"
            " ORDER BY generation, chunk_index"
        )
        row.figure("one stream through the view", [part / _seconds(stage, all_chunks, part) for _ in range(repeats)],
                   "chunks/s")  # fmt: skip
        texts = "SELECT run_id, text FROM tailrace.stream_text WHERE run_id LIKE 'run_answer_%'"
        row.figure(f"text of {count} runs", [_seconds(stage, texts, count) for _ in range(repeats)], "s")
        one = f"SELECT data_text FROM tailrace.chunks_range('run_long', 'default', {long // 2}, {long // 2})"
        row.figure("one chunk of a long stream", [1e3 * _seconds(stage, one, 1) for _ in range(10)], "ms")
    row.used = used.as_json()
    row.at_least("one stream through the view", 100_000)
    row.at_most(f"text of {count} runs", 3)
    row.at_most("one chunk of a long stream", 20)
    row.notes.append(f"{PER_RUN} chunks in each of the {count} runs; the long stream has {long}.")
    row.load = load()
    return row


def _seconds(stage: Stage, query: str, expected: int) -> float:
    began = time.perf_counter()
    found = len(stage.database.rows(query))
    took_s = time.perf_counter() - began
    if found != expected:
        raise AssertionError(f"{found} rows instead of {expected}: {query}")
    return took_s
