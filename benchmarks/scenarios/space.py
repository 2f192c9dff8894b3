"""P6: how many bytes a chunk takes, all in."""

from __future__ import annotations

import time

from benchmarks.scenarios import Row, Size
from benchmarks.stage import Stage
from benchmarks.texts import chunks
from benchmarks.usage import load, measured
from tailrace.store.engine import create_engine
from tailrace.store.keeping.compaction import Compaction

STREAMS = 200
PER_STREAM = 1_500
LIVE_STREAMS = 100
LIVE_S = 15.0
WAVES = 4
APART_MS = 25
"""40 tokens a second, at random distances."""
TOTAL = """
    SELECT sum(pg_total_relation_size(c.oid))::float8 FROM pg_class c
    WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^segments_'
"""
PARTS = """
    SELECT sum(pg_relation_size(c.oid))::float8 AS heap, sum(pg_indexes_size(c.oid))::float8 AS indexes,
           sum(coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::float8 AS toast
    FROM pg_class c
    WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^segments_'
"""


def run(stage: Stage, size: Size) -> Row:
    """Archive streams read in large batches, then streams that trickle in; weigh both."""
    row = Row("P6", "space of real token text")
    streams = size.of(STREAMS, 20)
    texts = list(chunks(PER_STREAM))
    json_bytes = sum(map(len, texts)) / len(texts)
    row.figure("JSON", json_bytes, "B/chunk")
    with measured(stage.pids()) as used:
        _read_at_once(stage, row, streams)
        _one_row_a_chunk(stage, row, size)
        _trickled(stage, row, size)
    row.used = used.as_json()
    row.ratio("one row a chunk vs segments", "one row a chunk", "v2 compacted")
    row.at_most("v2 compacted", 25)
    row.at_most("v1 read in one go", 25)
    row.at_least("one row a chunk vs segments", 8)
    row.load = load()
    return row


def _read_at_once(stage: Stage, row: Row, streams: int) -> None:
    for wire in ("v1", "v2"):
        stage.clear()
        with stage.upstream() as upstream:
            empty = stage.database.value(TOTAL)
            runs = [f"run_space_{number}" for number in range(streams)]
            upstream.do("fill_each", wire=wire, runs=runs, keys=1, count=PER_STREAM, apart_ms=APART_MS)
            upstream.do("finish", runs=runs)
            with stage.worker(upstream, slots=streams + 50, TAILRACE_SEAL_QUIET_SECONDS="1"):
                stage.database.rows("SELECT tailrace.request_ingest(r) FROM unnest(%s::text[]) r", runs)
                _settled(stage, streams)
                total = float(streams * PER_STREAM)
                _compact(stage)
                stage.database.rows("VACUUM FULL tailrace.segments")
                row.figure(f"{wire} read in one go", (stage.database.value(TOTAL) - empty) / total, "B/chunk")
                heap, indexes, toast = stage.database.rows(PARTS)[0]
                row.notes.append(
                    f"{wire}: heap {heap / total:.1f}, TOAST {toast / total:.1f}, indexes {indexes / total:.1f} B/chunk"
                    f" (empty partitions included)."
                )


def _settled(stage: Stage, streams: int) -> None:
    sealed = "SELECT count(*) = %s FROM tailrace.streams WHERE state = 'sealed'"
    stage.wait(lambda: stage.database.value(sealed, streams), 180, "all sealed", 0.2)


def _one_row_a_chunk(stage: Stage, row: Row, size: Size) -> None:
    """The same chunks in a table as one would make it: run, position, data, times, and a primary key."""
    streams = size.of(STREAMS, 20)
    database = stage.database
    database.rows(
        "CREATE TABLE one_row (stream_id bigint, position bigint, data json NOT NULL, emitted_at timestamptz NOT NULL,"
        " committed_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stream_id, position))"
    )
    texts = [text.decode() for text in chunks(PER_STREAM)]
    database.rows(
        "INSERT INTO one_row SELECT s, n, t::json, now() FROM generate_series(1, %s) s,"
        " unnest(%s::text[]) WITH ORDINALITY u (t, n)",
        streams,
        texts,
    )
    size_bytes = database.value("SELECT pg_total_relation_size('one_row')::float8")
    row.figure("one row a chunk", size_bytes / (streams * PER_STREAM), "B/chunk")
    database.rows("DROP TABLE one_row")


def _trickled(stage: Stage, row: Row, size: Size) -> None:
    """Streams at 10 chunks a second, wave after wave: small segments while live, large ones after compaction.

    What compaction frees is used again by the streams that come after, so the size is that of the last wave's.
    """
    streams = size.of(LIVE_STREAMS, 10)
    stage.clear()
    with stage.upstream() as upstream, stage.worker(upstream, slots=streams + 50, TAILRACE_SEAL_QUIET_SECONDS="1"):
        empty = stage.database.value(TOTAL)
        taken_s, hot_bytes, hot_chunks, total = 0.0, 0.0, 0.0, 0
        for wave in range(WAVES):
            runs = [f"run_trickle_{wave}_{number}" for number in range(streams)]
            upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=1)
            stage.database.rows("SELECT tailrace.request_ingest(r) FROM unnest(%s::text[]) r", runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, (wave + 1) * streams), 60, "all open", 0.2)  # noqa: B023
            upstream.do("live", runs=runs, every_s=0.2, records=2, for_s=LIVE_S)
            stage.wait(lambda: upstream.do("written")["done"], 120, "the writer", 0.5)
            total += streams + upstream.do("written")["chunks"]
            stored = "SELECT sum(chunk_count) = %s FROM tailrace.segments"
            stage.wait(lambda: stage.database.value(stored, total), 30, "all committed", 0.1)  # noqa: B023
            if wave == 0:
                segments = stage.database.value("SELECT count(*) FROM tailrace.segments")
                hot_bytes, hot_chunks = stage.database.value(TOTAL) - empty, total
                row.figure("hot, while live", hot_bytes / hot_chunks, "B/chunk")
                row.figure("hot chunks per segment", total / segments, "chunks")
            upstream.do("finish", runs=runs)
            _settled(stage, (wave + 1) * streams)
            began = time.perf_counter()
            _compact(stage)
            taken_s += time.perf_counter() - began
            if wave == 0:
                row.figure(
                    "first wave compacted, before VACUUM", (stage.database.value(TOTAL) - empty) / total, "B/chunk"
                )
            stage.database.rows("VACUUM tailrace.segments")
            row.figure(
                f"size after wave {wave + 1}, with VACUUM", (stage.database.value(TOTAL) - empty) / total, "B/chunk"
            )
        row.figure("compaction", 1e6 * taken_s / total, "us/chunk")
        row.figure("v2 growth from wave to wave", _growth(row, total / WAVES), "B/chunk")
        stage.database.rows("VACUUM FULL tailrace.segments")
        row.figure("v2 compacted", (stage.database.value(TOTAL) - empty) / total, "B/chunk")
        row.notes.append(
            f"{WAVES} waves of {streams} streams, {total:.0f} chunks. 'v2 compacted' is after VACUUM FULL: without dead rows."
        )


def _growth(row: Row, per_wave: float) -> float:
    """Bytes that a further wave adds to the files, per chunk of it: what the archive takes in the long run."""
    sizes = [
        (wave + 1) * per_wave * row.figures[f"size after wave {wave + 1}, with VACUUM"].median for wave in range(WAVES)
    ]
    return (sizes[-1] - sizes[0]) / (WAVES - 1) / per_wave


def _compact(stage: Stage) -> None:
    """What the background work does with sealed streams, at once: large segments (the search index is not counted)."""
    engine = create_engine(stage.database.url)
    compaction = Compaction(engine)
    for stream_id in compaction.due(1_000_000):
        compaction.compact(stream_id)
    engine.dispose()
