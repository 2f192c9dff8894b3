"""P11: many finished runs, asked for at once; and a backfill of as many old ones, archived and sealed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from benchmarks.scenarios import Row, Size
from benchmarks.scenarios.live import request_all
from benchmarks.stage import Stage, UpstreamProcess
from benchmarks.usage import Used, load, measured

RUNS = 10_000
FEWER = 10
"""The cost of a run is measured with a tenth of the runs, too: it must be the same."""
CHUNKS = 20
OLD_S = 30 * 3_600.0
"""So long ago old runs ended: a day and a half before, so that nobody can be writing to them any more."""


def run(stage: Stage, size: Size) -> Row:
    """Measure once."""
    row = Row(
        "P11", "10 000 finished runs of one v2 stream of 20 chunks, asked for at once; a backfill of 10 000 old ones"
    )
    runs = size.of(RUNS, 200)
    for name, count in (("", runs), (", a tenth of them", max(20, runs // FEWER))):
        took_s, used = asked_at_once(stage, count)
        row.figure(f"archived{name}", count / took_s, "runs/s")
        _costs(row, f"of a run{name}", used, count)
    took_s, used, requests = _backfilled(stage, runs)
    row.figure("backfilled, archived and sealed", runs / took_s, "runs/s")
    _costs(row, "of a run, backfilled", used, runs)
    row.figure("requests a run, backfilled", requests / runs, "")
    row.at_least("archived", 400)
    row.at_least("backfilled, archived and sealed", 200)
    row.at_most("worker CPU of a run", 5)
    row.at_most("Postgres CPU of a run", 3)
    row.used = used.as_json()
    row.load = load()
    return row


def _costs(row: Row, what: str, used: Used, runs: int) -> None:
    row.figure(f"worker CPU {what}", 1000 * used.cpu_s["worker"] / runs, "ms")
    row.figure(f"Postgres CPU {what}", 1000 * used.cpu_s["postgres"] / runs, "ms")


def asked_at_once(stage: Stage, runs: int, **settings: str) -> tuple[float, Used]:
    """Return how long it takes until all their chunks are archived, and what that costs. ``settings``: the worker's."""
    stage.clear()
    with stage.upstream("electric") as upstream:
        names = _made(upstream, runs)
        upstream.do("finish", runs=names)
        with stage.worker(upstream, slots=1_000, **settings) as worker, measured(stage.pids(upstream, worker)) as used:
            began = time.monotonic()
            request_all(stage, names)
            _all_archived(stage, runs)
            return time.monotonic() - began, used


def _backfilled(stage: Stage, runs: int) -> tuple[float, Used, int]:
    """Return how long it takes until all are archived and sealed, what that costs, and how many requests it takes."""
    stage.clear()
    with stage.upstream("electric") as upstream:
        names = _made(upstream, runs)
        upstream.do("finish", runs=names, ago_s=OLD_S)
        with stage.worker(upstream, slots=1_000) as worker, measured(stage.pids(upstream, worker)) as used:
            began, asked = time.monotonic(), upstream.do("requests")
            _backfill(stage)
            sealed = "SELECT count(*) = %s FROM tailrace.runs WHERE state = 'sealed'"
            stage.wait(lambda: stage.database.value(sealed, runs), 600, "all sealed", 0.2)
            took_s = time.monotonic() - began
            _all_archived(stage, runs)
            return took_s, used, upstream.do("requests") - asked


def _made(upstream: UpstreamProcess, runs: int) -> list[str]:
    names = [f"run_{number}" for number in range(runs)]
    upstream.do("fill_each", wire="v2", runs=names, keys=1, count=CHUNKS)
    return names


def _backfill(stage: Stage) -> None:
    """As `tailrace backfill --since 2d` does."""
    now = datetime.now(UTC)
    stage.database.rows(
        "INSERT INTO tailrace.backfills (environment_id, filters, since, until)"
        " SELECT id, '{}', %s, %s FROM tailrace.environments WHERE name = 'default'",
        now - timedelta(days=2),
        now,
    )


def _all_archived(stage: Stage, runs: int) -> None:
    chunks = "SELECT sum(chunk_count) = %s FROM tailrace.segments"
    stage.wait(lambda: stage.database.value(chunks, runs * CHUNKS), 600, "all archived", 0.1)
