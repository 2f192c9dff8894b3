"""``TAILRACE_MAX_CONNECTIONS`` holds for all workers together; who waits gets a turn."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from uuid import uuid4

from tests.chaos.fleet import QUICK, Archive, scene, wait_for
from worker.model import Wire
from worker.replay import LiveStore
from worker.store.engine import create_engine
from worker.store.leases import Leases, WorkerRow

LIMIT = 6


def test_the_limit_holds_over_two_workers_and_everybody_gets_a_turn(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    store = LiveStore()
    for run in range(3):
        store.create_run(f"run_{run}", Wire.V2)
    for key in range(20):
        store.append_chunk("run_0", f"k{key}", "0")
    store.append_chunk("run_1", "only", "0")
    store.append_chunk("run_2", "only", "0")
    settings = QUICK | {"TAILRACE_MAX_CONNECTIONS": str(LIMIT)}
    with scene(tmp_path, database_url, redis_url, store, **settings) as (workers, upstream):
        archive = workers.archive
        workers.start()
        workers.start()
        most = watch_most(upstream.traffic.streams_read, seconds := [True])
        for run in range(3):
            archive.request(f"run_{run}")
        # A run with one stream does not wait behind a run with twenty.
        for run in (1, 2):
            wait_for(lambda run=run: archive.texts(f"run_{run}", "only") == ["0"], 30)  # type: ignore[misc]
        wait_for(lambda: archive.value("SELECT count(*) = 22 FROM tailrace.streams WHERE chunk_count > 0"), 60)
        for run in range(3):
            store.finish_run(f"run_{run}")
        wait_for(lambda: archive.all_sealed(3), 60)
        seconds[0] = False
        assert archive.violations() == []
        print(f"limit {LIMIT}: at most {most[0]} connections at once")
        assert 2 <= most[0] <= LIMIT


def watch_most(count: object, go_on: list[bool]) -> list[int]:
    most = [0]

    def watch() -> None:
        while go_on[0]:
            most[0] = max(most[0], count())  # type: ignore[operator]
            time.sleep(0.002)

    threading.Thread(target=watch, daemon=True).start()
    return most


def test_no_place_is_given_twice(database_url: str) -> None:
    """Many processes choose and acquire at once."""
    archive = Archive(database_url)
    runs = [archive.request(f"run_{number}") for number in range(10)]
    for run in runs:
        archive.rows(
            "INSERT INTO tailrace.streams (run, stream_key) SELECT %s, 's' || n FROM generate_series(1, 20) n", run
        )
    engine = create_engine(database_url, pool_size=16)
    all_leases = [Leases(engine, WorkerRow(uuid4(), "here", number, "local", 50), 30.0, LIMIT) for number in range(8)]
    for leases in all_leases:
        leases.renew()
    got: list[int] = []

    def take(leases: Leases) -> None:
        for _ in range(10):
            chosen = leases.claim(["default"], 50, 30)
            got.extend(stream.id for stream in leases.acquire(chosen))

    threads = [threading.Thread(target=take, args=(leases,)) for leases in all_leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == LIMIT
    assert archive.leased() == LIMIT
    # Without a claim, by messages that come late, the limit holds as well.
    rest = [stream for (stream,) in archive.rows("SELECT id FROM tailrace.streams WHERE worker_id IS NULL")]
    assert all_leases[0].acquire(rest) == []
    engine.dispose()
    archive.close()


def test_runs_take_turns_and_live_goes_before_backfill(database_url: str) -> None:
    archive = Archive(database_url)
    for run_id, streams, priority in (("run_large", 5, 0), ("run_small", 1, 0), ("run_old", 1, 1)):
        run = archive.value("SELECT tailrace.request_ingest(%s, NULL, 'default', %s)", run_id, priority)
        archive.rows("INSERT INTO tailrace.streams (run, stream_key) SELECT %s, 's' || n FROM generate_series(1, %s) n",
                     run, streams)  # fmt: skip
    engine = create_engine(database_url)
    leases = Leases(engine, WorkerRow(uuid4(), "here", 1, "local", 50), 30.0)
    leases.renew()

    def claimed(count: int) -> list[str]:
        chosen = leases.claim(["default"], count, 30)
        leases.acquire(chosen)
        return sorted(
            run_id
            for (run_id,) in archive.rows(
                "SELECT run_id FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run WHERE s.id = ANY(%s)",
                chosen,
            )
        )

    assert claimed(2) == ["run_large", "run_small"]
    assert claimed(4) == ["run_large"] * 4
    assert claimed(4) == ["run_old"]
    engine.dispose()
    archive.close()
