"""``TAILRACE_MAX_CONNECTIONS`` holds for all workers together; who waits gets a turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from tailrace.model import Wire
from tailrace.service.readers import Readers
from tailrace.store.choosing import Choosing
from tailrace.store.engine import create_engine
from tailrace.store.leases import Leases, WorkerRow
from tests.chaos.fleet import QUICK, Archive, scene, wait_for
from tests.ingestion import ingesting, numbered, store_with
from tests.upstream import LiveStore

LIMIT = 6
STREAMS = 8
"""Of the run that has many: with one each of the others, more than there are places."""
SERVER_LAGS_S = 0.25
"""A reader that comes back is counted twice until the server has seen the end of the connection it has left."""


def test_the_limit_holds_over_two_workers_and_everybody_gets_a_turn(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    store = LiveStore()
    for run in range(3):
        store.create_run(f"run_{run}", Wire.V2)
    for key in range(STREAMS):
        store.append_chunk("run_0", f"k{key}", "0")
    store.append_chunk("run_1", "only", "0")
    store.append_chunk("run_2", "only", "0")
    settings = QUICK | {"TAILRACE_MAX_CONNECTIONS": str(LIMIT)}
    with scene(tmp_path, database_url, redis_url, store, **settings) as (workers, upstream):
        archive = workers.archive
        workers.start()
        workers.start()
        watch = Watch(upstream.traffic.streams_read, database_url)
        for run in range(3):
            archive.request(f"run_{run}")
        # A run with one stream does not wait behind a run with many.
        for run in (1, 2):
            wait_for(lambda run=run: archive.texts(f"run_{run}", "only") == ["0"], 30)  # type: ignore[misc]
        wait_for(
            lambda: archive.value("SELECT count(*) = %s FROM tailrace.streams WHERE chunk_count > 0", STREAMS + 2), 60
        )
        for run in range(3):
            store.finish_run(f"run_{run}")
        wait_for(lambda: archive.all_sealed(3), 60)
        watch.end()
        assert archive.violations() == []
        print(f"limit {LIMIT}: at most {watch.most_leased} leases, above it at upstream for {watch.above_s:.3f} s")
        assert watch.most_leased == LIMIT
        assert watch.above_s < SERVER_LAGS_S


class Watch:
    """Looks all the time at how many leases live, and for how long upstream has more connections than allowed."""

    def __init__(self, connections: Callable[[], int], database_url: str) -> None:
        self.most_leased = 0
        self.above_s = 0.0
        self._connections = connections
        self._archive = Archive(database_url)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(5)
        self._archive.close()

    def _watch(self) -> None:
        fine_at = time.monotonic()
        while not self._ended.wait(0.005):
            now = time.monotonic()
            if self._connections() <= LIMIT:
                fine_at = now
            self.above_s = max(self.above_s, now - fine_at)
            self.most_leased = max(self.most_leased, self._archive.leased())


def test_a_process_that_comes_back_from_the_dead_gives_up_what_is_too_much(database_url: str) -> None:
    """Its leases did not count while its row had expired, and others took the places for other streams."""
    archive = Archive(database_url)
    run = archive.request("run_0")
    archive.rows(
        "INSERT INTO tailrace.streams (run, stream_key) SELECT %s, 's' || n FROM generate_series(1, 12) n", run
    )
    ids = [stream for (stream,) in archive.rows("SELECT id FROM tailrace.streams ORDER BY id")]
    engine = create_engine(database_url)
    first, second = (Leases(engine, WorkerRow(uuid4(), "here", n, "local", 50), 30.0, LIMIT) for n in range(2))
    assert not first.renew()
    assert not second.renew()
    assert len(first.acquire(ids[:LIMIT])) == LIMIT
    assert second.acquire(ids[LIMIT:]) == []
    archive.rows("UPDATE tailrace.workers SET expires_at = now() WHERE id = %s", first.worker_id)
    assert len(second.acquire(ids[LIMIT:])) == LIMIT
    assert not second.renew()
    assert first.renew()
    assert first.excess() == LIMIT
    readers = Readers()
    signals = [readers.begin(stream) for stream in ids[:LIMIT]]
    for stream in ids[:LIMIT]:
        readers.leased(stream, "default")
    readers.shed(first.excess())
    assert all(signal is not None and signal.leaving for signal in signals)
    assert not first.renew()
    engine.dispose()
    archive.close()


def test_readers_leave_when_their_places_may_be_given_away(database_url: str) -> None:
    """A process that can't renew for a term: others count its places as free, and it closes its connections."""
    store = store_with(Wire.V2, numbered(1), over=False)
    with ingesting(database_url, store, max_connections=LIMIT, lease_seconds=2.0, lease_renew_seconds=0.5,
                   wait_seconds=60, park_after_seconds=300.0) as (ingestion, upstream):  # fmt: skip
        ingestion.request("run_1")
        ingestion.watch()
        reader = threading.Thread(target=ingestion.read, daemon=True)
        reader.start()
        assert upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() == 1)
        wait_for(lambda: ingestion.texts("run_1") == [b'{"n": 0}'], 10)
        ingestion.run("ALTER TABLE tailrace.workers RENAME TO away")
        assert upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() == 0, 10)
        ingestion.run("ALTER TABLE tailrace.away RENAME TO workers")
        reader.join(10)
        assert not reader.is_alive()
        assert ingestion.value("SELECT worker_id IS NULL AND state = 'active' FROM tailrace.streams")


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
        choosing = Choosing(engine, leases.worker_id, LIMIT)
        for _ in range(10):
            chosen = choosing.claim(["default"], 50, 30)
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
    choosing = Choosing(engine, leases.worker_id)

    def claimed(count: int) -> list[str]:
        chosen = choosing.claim(["default"], count, 30)
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
