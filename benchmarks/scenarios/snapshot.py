"""P12: 150 live streams, five commits a second each, beside a transaction that has been open for ten minutes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

import psycopg

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage
from benchmarks.usage import cpu_s, load
from tailrace.model import Batch, Checkpoint, LeasedStream, Wire
from tailrace.store.commit import Committer, Flush
from tailrace.store.engine import create_engine
from tailrace.store.leases import Leases, WorkerRow

STREAMS = 150
EVERY_S = 0.2
RECORDS = 2
HELD_S = 600.0
WINDOW_S = 30.0
WARM_S = 35.0  # every row has followed once, and so from then on some do each second
COMMITS = 600
"""Two minutes of five a second."""
FOLLOWED = 150
"""Each so-many-th commit of a stream is followed by its row: half a minute (`store.sink.FOLLOW_S`)."""


def run(stage: Stage, size: Size) -> Row:
    """Measure once: without a snapshot, and at the end of one that was held all the time."""
    row = Row("P12", "150 live streams of 5 commits/s, a snapshot held for ten minutes")
    held_s = max(2 * WINDOW_S, HELD_S * size.scale)
    stage.clear()
    with stage.upstream() as upstream:
        runs = [f"run_held_{number}" for number in range(STREAMS)]
        upstream.do("fill_each", wire="v2", runs=runs, keys=1, count=1)
        with stage.worker(upstream, slots=STREAMS + 50, TAILRACE_BATCH_MAX_AGE_MS="150"):
            request_all(stage, runs)
            opened = "SELECT count(*) = %s FROM tailrace.streams WHERE last_chunk_index >= 0"
            stage.wait(lambda: stage.database.value(opened, STREAMS), 120, "all streams open", 0.2)
            upstream.do("live", runs=runs, every_s=EVERY_S, records=RECORDS, for_s=WARM_S + 2 * WINDOW_S + held_s + 20)
            time.sleep(WARM_S)
            before = Window(stage)
            with snapshot(stage.database.url):
                time.sleep(held_s - WINDOW_S)
                after = Window(stage)
    row.figure("Postgres CPU before", 100 * before.cpu_s / WINDOW_S, "% of a core")
    row.figure("Postgres CPU at its end", 100 * after.cpu_s / WINDOW_S, "% of a core")
    row.figure("Postgres CPU at its end / before", after.cpu_s / before.cpu_s, "x")
    row.figure("dead rows", after.dead / WINDOW_S, "rows/s")
    row.figure("WAL", after.wal / max(1, after.chunks), "B/chunk")
    row.figure("commits of a stream", after.segments / STREAMS / WINDOW_S, "/s")
    row.at_most("Postgres CPU at its end / before", 1.3)
    row.at_most("dead rows", 10.0)
    row.notes.append(f"The snapshot was held for {held_s:g} s; both windows are {WINDOW_S:g} s.")
    row.load = load()
    return row


class Window:
    """What happens in half a minute."""

    def __init__(self, stage: Stage) -> None:
        def now() -> list[float]:
            stage.database.rows("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
            return [
                cpu_s(stage.postgres_pid),
                float(stage.database.value("SELECT sum(n_tup_upd + n_tup_del) FROM pg_stat_user_tables")),
                float(stage.database.value("SELECT pg_current_wal_lsn() - '0/0'")),
                *map(float, stage.database.rows("SELECT count(*), sum(chunk_count) FROM tailrace.segments")[0]),
            ]

        began = now()
        time.sleep(WINDOW_S)
        self.cpu_s, self.dead, self.wal, self.segments, self.chunks = (
            after - before for before, after in zip(began, now(), strict=True)
        )


@contextmanager
def snapshot(database_url: str) -> Iterator[None]:
    """Somebody's transaction that stays open."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT 1")
        yield


def cost_beside_a_snapshot(stage: Stage) -> float:
    """Postgres' CPU of a commit at the end of two minutes' commits over that at their beginning, a snapshot held."""
    stage.clear()
    engine = create_engine(stage.database.url)
    leases = Leases(engine, WorkerRow(uuid4(), "bench", 1, "local", STREAMS), 600.0)
    leases.renew()
    runs = [f"run_held_{number}" for number in range(STREAMS)]
    request_all(stage, runs)
    ids = [
        number
        for (number,) in stage.database.rows(
            "INSERT INTO tailrace.streams (run, stream_key) SELECT id, 'ai' FROM tailrace.runs RETURNING id"
        )
    ]
    streams = leases.acquire(ids)
    committer = Committer(engine, leases.worker_id)
    with snapshot(stage.database.url):
        costs = []
        for part in range(0, COMMITS, FOLLOWED):
            cpu = cpu_s(stage.postgres_pid)
            for number in range(part, part + FOLLOWED):
                streams = _commit(committer, streams, number)
            costs.append(cpu_s(stage.postgres_pid) - cpu)
    engine.dispose()
    return costs[-1] / costs[0]


def _commit(committer: Committer, streams: list[LeasedStream], number: int) -> list[LeasedStream]:
    """Add two chunks to each stream."""
    flushes = []
    for at, stream in enumerate(streams):
        indices = [RECORDS * number, RECORDS * number + 1]
        checkpoint = Checkpoint(0, indices[-1], {"seq_num": indices[-1]})
        batch = Batch(checkpoint, indices, [b'"a token"'] * RECORDS, [1_790_000_000_000] * RECORDS)
        due = (number + at) % FOLLOWED == 0
        behind = RECORDS * (FOLLOWED - 1)
        flushes.append(
            Flush(
                stream.id, stream.token, stream.rev, Wire.V2, checkpoint, [batch],
                due=due, behind_chunks=behind * due, behind_bytes=behind * 9 * due,
            )
        )  # fmt: skip
    assert len(committer.commit(flushes)) == len(streams)
    return [replace(stream, rev=stream.rev + flush.follows) for stream, flush in zip(streams, flushes, strict=True)]
