"""P3: 1 000 live v2 streams, each with 10 records a second in 5 batches; how long until they are visible in SQL."""

from __future__ import annotations

import time
from itertools import pairwise

from benchmarks.scenarios import Row, Size, percentile
from benchmarks.stage import Stage
from benchmarks.usage import load, measured

STREAMS = 1_000
EVERY_S = 0.2
RECORDS = 2
FOR_S = 60.0
WATCHED = 40
POLL_S = 0.01
BATCH_AGE_MS = 250
WARM_S = 3.0


def run(stage: Stage, size: Size) -> Row:
    """Measure once: 60 s are 600 000 chunks."""
    row = Row("P3", "1 000 live v2 streams of 10 records/s in 5 batches/s")
    streams, for_s = size.of(STREAMS, 20), max(8.0, FOR_S * min(1.0, size.scale * 2))
    stage.clear()
    with stage.upstream() as upstream:
        runs = [f"run_live_{number}" for number in range(streams)]
        upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=1)
        with stage.worker(upstream, slots=streams + 50) as worker:
            request_all(stage, runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, streams), 120, "all streams open", 0.2)
            ids = [number for (number,) in stage.database.rows("SELECT id FROM tailrace.streams ORDER BY id")]
            watched = ids[:: max(1, streams // WATCHED)]
            before = stage.database.value("SELECT pg_current_wal_lsn()")
            upstream.do("live", runs=runs, every_s=EVERY_S, records=RECORDS, for_s=for_s + WARM_S)
            time.sleep(WARM_S)
            with measured(stage.pids(upstream, worker)) as used:
                began = time.monotonic()
                seen = _watch(stage, watched, for_s - 1.0)
                took_s = time.monotonic() - began
            stage.wait(lambda: upstream.do("written")["done"], 120, "the writer", 0.5)
            written = upstream.do("written")
            expected = streams + written["chunks"]
            stage.wait(
                lambda: stage.database.value("SELECT sum(chunk_count) >= %s FROM tailrace.segments", expected),
                120, "all that was written", 0.1,
            )  # fmt: skip
            wal = stage.database.value("SELECT pg_current_wal_lsn() - %s::pg_lsn", before)
            latencies = _latencies(stage, seen)
            segments = stage.database.value("SELECT count(*) FROM tailrace.segments")
    chunks = streams * RECORDS / EVERY_S * took_s
    row.figure("chunks archived", streams * RECORDS / EVERY_S, "chunks/s")
    row.figure("visible in SQL, p50", percentile(latencies, 0.5), "ms")
    row.figure("visible in SQL, p99", percentile(latencies, 0.99), "ms")
    row.figure("visible in SQL, worst", max(latencies), "ms")
    row.figure("worker CPU", used.cpu_s["worker"] / took_s, "cores")
    row.figure("Postgres CPU", used.cpu_s["postgres"] / took_s, "cores")
    row.figure("upstream CPU", used.cpu_s["upstream"] / took_s, "cores")
    row.figure("CPU of worker", 1e6 * used.cpu_s["worker"] / chunks, "us/chunk")
    row.figure("CPU of worker per packet", 1e6 * used.cpu_s["worker"] / (chunks / RECORDS), "us/packet")
    row.figure("chunks per segment", expected / segments, "chunks")
    row.figure("WAL", float(wal) / written["chunks"], "B/chunk")
    row.figure("upstream late", 1e3 * written["late_s"], "ms")
    row.at_most("visible in SQL, p50", BATCH_AGE_MS)
    row.at_most("visible in SQL, p99", BATCH_AGE_MS + 250)
    row.at_most("worker CPU", 1.0)
    row.notes.append(
        f"{streams} streams for {for_s:g} s, {written['chunks']} chunks, all stored. Latency: upstream's time of the "
        f"record to the first poll (every {POLL_S * 1000:g} ms) that sees it, on {len(watched)} streams."
    )
    row.used = used.as_json()
    row.load = load()
    return row


def request_all(stage: Stage, runs: list[str]) -> None:
    """Ask for many runs in one transaction."""
    stage.database.rows("SELECT tailrace.request_ingest(r) FROM unnest(%s::text[]) r", runs)


def _watch(stage: Stage, ids: list[int], for_s: float) -> dict[int, list[tuple[int, float]]]:
    """See what is stored of streams, again and again: (index, ms since 1970) whenever it is more."""
    last = """
        SELECT id, (SELECT g.last_index FROM tailrace.segments g WHERE g.stream_id = id AND g.generation = 0
                    ORDER BY g.first_index DESC LIMIT 1)
        FROM unnest(%s::bigint[]) AS id"""
    seen: dict[int, list[tuple[int, float]]] = {each: [] for each in ids}
    until = time.monotonic() + for_s
    while time.monotonic() < until:
        rows = stage.database.rows(last, ids)
        now_ms = time.time() * 1000
        for stream_id, index in rows:
            if not seen[stream_id] or seen[stream_id][-1][0] != index:
                seen[stream_id].append((index, now_ms))
        time.sleep(POLL_S)
    return seen


def _latencies(stage: Stage, seen: dict[int, list[tuple[int, float]]]) -> list[float]:
    found: list[float] = []
    for stream_id, moves in seen.items():
        emitted: dict[int, int] = {}
        for first, times in stage.database.rows(
            "SELECT first_index, emitted_ms FROM tailrace.segments WHERE stream_id = %s AND index_offsets IS NULL",
            stream_id,
        ):
            emitted.update({first + at: ms for at, ms in enumerate(times)})
        for (before, _), (index, now_ms) in pairwise(moves):
            found.extend(now_ms - emitted[at] for at in range(before + 1, index + 1) if at in emitted)
    return found
