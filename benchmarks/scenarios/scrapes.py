"""What it costs a worker that its metrics are asked for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.scenarios.live import request_all
from benchmarks.stage import Child, Stage
from benchmarks.usage import cpu_s
from tests.scraped import free_port, page

CHUNKS = 100_000
TOGETHER = 2
"""Streams of one window: together they are half a second's work or more."""
ROUNDS = 3
EVERY_S = 1.0
"""Fifteen times as often as a Prometheus that asks every 15 s."""


def cost_of_scrapes(stage: Stage) -> float:
    """A worker's CPU for v2 chunks while its metrics are scraped every second, over that of one that shows none.

    Two workers with an archive each take turns, so that the machine is in the same mood for both. Of three rounds the
    cheapest of each counts.
    """
    stage.clear()
    port = free_port()
    rounds = [[f"run_scraped_{number}_{each}" for each in range(TOGETHER)] for number in range(ROUNDS)]
    cold = ["run_cold"]
    with (
        stage.another() as other,
        stage.upstream() as upstream,
        stage.worker(upstream) as silent,
        other.worker(upstream, TAILRACE_METRICS_PORT=str(port)) as shown,
    ):
        upstream.do("fill", wire="v2", count=CHUNKS, runs=[*cold, *itertools.chain(*rounds)])
        silent_s, shown_s = [], []
        for runs in [cold, *rounds]:
            silent_s.append(_cpu_s(stage, silent, runs))
            with _scraped(port):
                shown_s.append(_cpu_s(other, shown, runs))
        for worker in (silent, shown):
            worker.process.kill()  # to drain takes seconds, and the archives are dropped anyway
    return min(shown_s[1:]) / min(silent_s[1:])


def _cpu_s(stage: Stage, worker: Child, runs: list[str]) -> float:
    """CPU seconds of a worker from the request of these runs until all their chunks are committed."""
    began = cpu_s(worker.pid)
    request_all(stage, runs)
    for run_id in runs:
        stage.reached(stage.stream(run_id), CHUNKS - 1)
    return cpu_s(worker.pid) - began


@contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Ask for the metrics every second while the block runs, at its start for the first time."""
    over = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not over.is_set():
                page(port)
                over.wait(EVERY_S)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]
