"""The short version of `make chaos`, for CI: twelve hard bounces and twelve clean ones, and one random schedule.

`make bounces` runs it; `make test` does not, because it alone would take a third of its time.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.model import Wire
from tailrace.store.migrate import upgrade
from tests.chaos import audit
from tests.chaos.fleet import QUICK, Archive, Fleet, Worker, scene, wait_for
from tests.chaos.oracle import Kind, Oracle
from tests.chaos.schedule import Schedule
from tests.chaos.tally import Tally, spread
from tests.throwaway import Servers
from tests.upstream import LiveStore

HARD, CLEAN = 12, 12
STORED_S = 20.0
"""How long after a bounce what was written before it may be missing. The term of a lease, here 3 s, is in it."""


def busiest(fleet: Fleet) -> Worker:
    """Wait until somebody reads; give who reads most."""

    def reading() -> list[tuple[str]]:
        return fleet.archive.rows(
            "SELECT w.pid FROM tailrace.streams s JOIN tailrace.workers w ON w.id = s.worker_id"
            " WHERE w.expires_at > now() AND w.pid = ANY(%s) GROUP BY w.pid ORDER BY count(*) DESC",
            [worker.pid for worker in fleet.workers if worker.alive],
        )

    ((pid, *_), *_) = wait_for(reading, 30, "somebody reads")
    return next(worker for worker in fleet.workers if worker.pid == pid)


@pytest.mark.timeout(240)
def test_twelve_hard_bounces_and_twelve_clean_ones(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Whoever reads most is killed, or told to leave; 0 missing, 0 doubled, and each time somebody goes on."""
    store = LiveStore(v1_max_entries=None)
    oracle = Oracle(store, random.Random(12), runs=2, keys=3, calm=True)
    after: dict[signal.Signals, list[float]] = {signal.SIGKILL: [], signal.SIGTERM: []}
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (fleet, _):
        archive = fleet.archive
        for _ in range(2):
            fleet.start(slots=20, direct=True)
        oracle.start()
        for run_id in oracle.runs:
            archive.request(run_id)
        for bounce in range(HARD + CLEAN):
            # The other one is there before the bounce; who replaces this one starts meanwhile.
            for worker in fleet.workers:
                if worker.alive:
                    worker.wait_ready()
            how = signal.SIGTERM if bounce % 2 else signal.SIGKILL
            bounced = busiest(fleet)
            written = oracle.chunks
            bounced.signal(how)
            since = time.monotonic()
            fleet.start(slots=20, direct=True)
            wait_for(
                lambda written=written: archive.value("SELECT sum(chunk_count) FROM tailrace.streams_now") >= written,  # type: ignore[misc]
                STORED_S,
                f"after bounce {bounce + 1} ({how.name}), what was written before it is stored",
            )
            after[how].append(time.monotonic() - since)
            assert bounced.wait(15) == (0 if how is signal.SIGTERM else -signal.SIGKILL)
        oracle.finish()
        wait_for(lambda: archive.all_sealed(len(oracle.runs)), 60, "everything is sealed")
        for how, times in after.items():
            print(f"{len(times)} x {how.name}: what was written before is stored after {spread(times)} s")
        print(
            f"{oracle.chunks} chunks written, {archive.value('SELECT sum(chunk_count) FROM tailrace.streams_now')} stored"
        )
        assert list(oracle.differences(archive)) == []
        assert archive.violations() == []
        assert archive.value("SELECT count(*) FROM tailrace.holes") == 0
        assert {how: len(times) for how, times in after.items()} == {signal.SIGKILL: HARD, signal.SIGTERM: CLEAN}
        assert oracle.chunks > 1_000


@pytest.mark.timeout(240)
def test_a_random_schedule(servers_to_break: Servers, tmp_path: Path) -> None:
    """The seed is printed; ``make chaos SEED=...`` plays it again."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"SEED={seed}")
    upgrade(servers_to_break.postgres.url())
    tally = Tally()
    found = Schedule(seed, servers_to_break, servers_to_break.postgres.url(), tmp_path / "schedule", tally).run(15)
    print(json.dumps(tally.figures()))
    assert found == [], f"SEED={seed}"
    assert tally.faults.total() > 0


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    made = Archive(database_url)
    yield made
    made.close()


@pytest.mark.parametrize("wire", list(Wire))
def test_the_oracle_finds_what_is_wrong(archive: Archive, wire: Wire) -> None:
    """A comparison that finds nothing must be able to find something."""
    store = LiveStore(v1_max_entries=None)
    oracle = Oracle(store, random.Random(1), runs=2, keys=1)
    (truth,) = [truth for truth in oracle.truths if truth.wire is wire]
    oracle.truths = [truth]
    oracle.write(truth, 6)
    texts = [text for text in truth.life.holds if isinstance(text, str)]
    run = archive.request(truth.run_id)
    stream = archive.value(
        "INSERT INTO tailrace.streams (run, stream_key) VALUES (%s, %s) RETURNING id", run, truth.key
    )

    def kinds(stored: list[str]) -> set[Kind]:
        archive.rows("DELETE FROM tailrace.segments")
        archive.rows(
            "INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data,"
            " emitted_ms, odd) VALUES (%s, 0, 0, %s, %s, %s::json, %s, true)",
            *(stream, len(stored) - 1, len(stored), f"[{','.join(stored)}]", [1] * len(stored)),
        )
        return {difference.kind for difference in oracle.differences(archive)}

    assert kinds(texts) == set()
    assert Kind.LOST in kinds(texts[:-1])
    assert kinds([texts[0], texts[0], *texts[1:]]) & {Kind.DUPLICATED, Kind.WRONG}
    assert kinds([texts[1], texts[0], *texts[2:]]) & {Kind.OUT_OF_ORDER, Kind.WRONG}
    assert Kind.WRONG in kinds(["1", *texts[1:]])


def test_the_audit_finds_who_writes_without_the_lease(archive: Archive, database_url: str) -> None:
    audit.install(database_url)
    run = archive.request("run_1")
    holder = uuid.uuid4()
    with contextlib.closing(Archive(f"{database_url}?application_name=w0")) as owner:
        owner.rows(
            "INSERT INTO tailrace.workers (id, host, pid, pool, slots, expires_at, lease_s)"
            " VALUES (%s, 'h', 1, 'p', 1, now(), 3)",
            holder,
        )
        stream = owner.value(
            "INSERT INTO tailrace.streams (run, stream_key, worker_id) VALUES (%s, 'k', %s) RETURNING id", run, holder
        )
        commit = (
            "WITH f AS (UPDATE tailrace.streams SET last_chunk_index = last_chunk_index + 1, rev = rev + %s"
            " WHERE id = %s RETURNING last_chunk_index AS at) INSERT INTO tailrace.segments (stream_id, generation,"
            " first_index, last_index, chunk_count, data, emitted_ms) SELECT %s, 0, at, at, 1, '[1]', '{1}' FROM f"
        )
        owner.rows(commit, 1, stream, stream)
        assert list(audit.unfenced(archive)) == []
        with contextlib.closing(Archive(f"{database_url}?application_name=w1")) as other:
            other.rows(commit, 1, stream, stream)
        assert [each.partition(": ")[2] for each in audit.unfenced(archive)] == [
            "w1 moved the checkpoint, and w0 held the lease",
            "w1 wrote a row at 1, and w0 held the lease",
        ]
        owner.rows("UPDATE tailrace.streams SET token = token - 1, rev = rev + 2 WHERE id = %s", stream)
        assert len(list(audit.unfenced(archive))) == 4
