"""Upstream is asked about runs by several threads, which share one client."""

from __future__ import annotations

import threading

from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.source.client import Endpoint, Upstream
from tests.upstream import LiveStore, create_app, running

THREADS = 4
QUESTIONS = 25


def test_threads_that_ask_at_once_keep_a_connection_each() -> None:
    store = LiveStore()
    store.create_run("run_1", Wire.V1)
    with running(create_app(store)) as server:
        upstream = Upstream(Endpoint(server.url, lambda: DEFAULT_KEY))
        together = threading.Barrier(THREADS)

        def ask() -> None:
            for _ in range(QUESTIONS):
                together.wait(10)
                upstream.run("run_1")

        threads = [threading.Thread(target=ask) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        upstream.close()
        asked = server.traffic.requests("/realtime/v1/runs/run_1")
    assert len(asked) == THREADS * QUESTIONS
    assert len({question.peer for question in asked}) <= THREADS
