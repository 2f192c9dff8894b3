"""P8: what a chunk, a lease and a new run cost when there is much already."""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.speed import archived
from benchmarks.stage import Database, Stage
from benchmarks.usage import load, measured
from tailrace.store.choosing import Choosing
from tailrace.store.engine import create_engine
from tailrace.store.leases import Leases, WorkerRow
from tailrace.store.runs import Runs

CHUNKS = (10_000, 100_000, 1_000_000)
STREAMS = (1_000, 1_000_000)
STATEMENTS = 100
ROUNDS = 15
"""In the archive with few streams and in the one with many in turn: what a statement takes varies more from one minute to
the next than by what is looked for."""
PROBE = 20_000
PROBES = 5
"""One takes 0.1 s, and CPU time is counted in hundredths."""
FILL = """
WITH r AS (
    INSERT INTO tailrace.runs (environment_id, run_id, state, status, terminal_at, finished_at, sealed_at)
    SELECT 1, 'run_old_' || n, 'sealed', 'COMPLETED', now(), now(), now() FROM generate_series(%s::int, %s::int) n
    RETURNING id
), s AS (
    INSERT INTO tailrace.streams
        (run, stream_key, wire, state, verdict, last_chunk_index, chunk_count, byte_count, sealed_at)
    SELECT id, 'default', 'v2', 'sealed', 'complete', 1, 2, 14, now() FROM r RETURNING id
)
INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
SELECT id, 0, 0, 1, 2, '["first","second"]', ARRAY[1700000000000, 1700000000001] FROM s
"""


def run(stage: Stage, size: Size) -> Row:
    """Let one stream grow, then the tables."""
    row = Row("P8", "growth: nothing gets dearer")
    with measured(stage.pids()) as used:
        _one_stream(stage, size, row)
        _tables(stage, size, row)
    row.used = used.as_json()
    row.load = load()
    return row


def _one_stream(stage: Stage, size: Size, row: Row) -> None:
    """CPU of worker and Postgres for the first 10 k, 100 k and 1 M chunks of streams of that length."""
    lengths = [size.of(length, 2_500 * 4**at) for at, length in enumerate(CHUNKS)]
    stage.clear()
    costs: dict[int, list[float]] = {length: [] for length in lengths}
    with stage.upstream() as upstream:
        # As many chunks in all for each length, so that each is measured with the same precision.
        copies = {length: max(1, min(20, lengths[-1] // length // 2)) for length in lengths}
        names = {
            length: [f"run_{at}_{length}_{number}" for number in range(copies[length] * size.repeats + 1)]
            for at, length in enumerate(lengths)
        }
        for length in lengths:
            upstream.do("fill", wire="v2", count=length, runs=names[length])
        with stage.worker(upstream) as worker:
            archived(stage, upstream, worker, names[lengths[0]].pop(), lengths[0])
            for _ in range(size.repeats):
                for length in lengths:
                    cpu_s = 0.0
                    for _ in range(copies[length]):
                        used = archived(stage, upstream, worker, names[length].pop(), length)[1].cpu_s
                        cpu_s += used["worker"] + used["postgres"]
                    costs[length].append(1e6 * cpu_s / length / copies[length])
    for length in lengths:
        row.figure(f"CPU in a stream of {length}", costs[length], "us/chunk")
    row.ratio(
        "a chunk: longest vs middle stream", f"CPU in a stream of {lengths[2]}", f"CPU in a stream of {lengths[1]}"
    )
    row.at_most("a chunk: longest vs middle stream", 1.10)
    row.notes.append("The shortest streams also pay for request, watch and lease, which a chunk of a long one shares.")


def _tables(stage: Stage, size: Size, row: Row) -> None:
    """The statements of a new run and a lease, and an ingest, beside few sealed streams and beside many, in turn."""
    few, many = (size.of(count, 100 * 16**at) for at, count in enumerate(STREAMS))
    rounds = max(2, round(ROUNDS * size.scale))
    stage.clear()
    with stage.another() as other, stage.upstream() as upstream:
        stages = {few: other, many: stage}
        ingests: dict[int, list[float]] = {count: [] for count in stages}
        with other.worker(upstream) as beside_few, stage.worker(upstream) as beside_many:
            workers = {few: beside_few, many: beside_many}
            for count, each in stages.items():
                _fill(each.database, 1, count)
            probes = [f"run_probe_{number}" for number in range(len(stages) * (1 + rounds * PROBES))]
            upstream.do("fill", wire="v2", count=PROBE, runs=probes)
            for count, each in stages.items():
                archived(each, upstream, workers[count], probes.pop(), PROBE)
            for _ in range(rounds):
                for count, each in stages.items():
                    cpu_s = 0.0
                    for _ in range(PROBES):
                        used = archived(each, upstream, workers[count], probes.pop(), PROBE)[1].cpu_s
                        cpu_s += used["worker"] + used["postgres"]
                    ingests[count].append(1e6 * cpu_s / PROBE / PROBES)
        found = [{count: _statements(each.database) for count, each in stages.items()} for _ in range(rounds)]
    for count in stages:
        row.figure(f"ingest of a new run, {count} streams", ingests[count], "us/chunk")
    kinds = list(found[0][few])
    for kind in kinds:
        for count in stages:
            row.figure(f"{kind}, {count} streams", [each[count][kind] for each in found], "ms")
    for kind in ["ingest of a new run", *kinds]:
        name = f"{kind}: {many} vs {few}"
        row.ratio(name, f"{kind}, {many} streams", f"{kind}, {few} streams")
        row.at_most(name, 1.10)


def _fill(database: Database, first: int, last: int) -> None:
    """Make runs with these numbers, each with a sealed stream."""
    for begin in range(first, last + 1, 50_000):
        database.rows(FILL, begin, min(last, begin + 49_999))
    database.rows("VACUUM (ANALYZE)")
    database.rows("CHECKPOINT")


def _statements(database: Database) -> dict[str, float]:
    """Median milliseconds of the lease statements, in an environment of their own that no worker reads."""
    engine = create_engine(database.url)
    database.rows(
        "INSERT INTO tailrace.environments (name, api_url) VALUES ('probe', 'http://localhost') ON CONFLICT DO NOTHING"
    )
    runs = Runs(engine, "probe")
    leases = [Leases(engine, WorkerRow(uuid.uuid4(), "bench", 1, "bench", 1), 10.0) for _ in range(2)]
    mine, dead = leases
    choosing = Choosing(engine, mine.worker_id)
    taken: dict[str, list[float]] = {}

    def timed(kind: str, call: Callable[[], object]) -> None:
        began = time.perf_counter()
        call()
        taken.setdefault(kind, []).append(1e3 * (time.perf_counter() - began))

    mark = uuid.uuid4().hex[:8]
    for number in range(STATEMENTS):
        mine.renew()
        run_id = f"run_{mark}_{number}"
        timed("request and find a run", lambda run_id=run_id: runs.request(run_id, None, {}, 0))  # type: ignore[misc]
        stream_id = database.value(
            "INSERT INTO tailrace.streams (run, stream_key) SELECT id, 'default' FROM tailrace.runs WHERE run_id = %s"
            " RETURNING id",
            run_id,
        )
        timed("claim", lambda: choosing.claim(["probe"], 10, 0.001))
        dead.renew()
        dead.acquire([stream_id])
        dead.retire()
        time.sleep(0.002)  # the hint of the claim, 1 ms, is over by the database's clock
        timed("rescue", lambda: choosing.claim(["probe"], 10, 30.0))
        timed("acquire", lambda stream_id=stream_id: mine.acquire([stream_id]))  # type: ignore[misc]
        database.rows(
            "UPDATE tailrace.streams SET state = 'sealed', sealed_at = now(), worker_id = NULL WHERE id = %s", stream_id
        )
    mine.retire()
    engine.dispose()
    return {kind: statistics.median(values) for kind, values in taken.items()}
