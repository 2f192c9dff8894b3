"""The short version of `make chaos`: twelve hard bounces and twelve clean ones, and one random schedule."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.chaos.fleet import QUICK, Worker, scene, wait_for
from tests.chaos.oracle import Oracle
from tests.chaos.schedule import Schedule, Tally
from worker.embedded.throwaway import Servers
from worker.replay import LiveStore
from worker.store.migrate import upgrade

HARD, CLEAN = 12, 12


@pytest.mark.timeout(240)
def test_twelve_hard_bounces_and_twelve_clean_ones(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """0 missing, 0 doubled; and after each bounce somebody goes on."""
    store = LiveStore(v1_max_entries=None)
    oracle = Oracle(store, random.Random(12), runs=2, keys=3, calm=True)
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _):
        archive = workers.archive
        # Two wait for their turn at any time, so that no bounce has to wait for a start.
        line: list[Worker] = [workers.start(slots=20) for _ in range(3)]
        oracle.start()
        for run_id in oracle.runs:
            archive.request(run_id)
        gaps = []
        for bounce in range(HARD + CLEAN):
            worker = line.pop(0)
            worker.wait_ready()
            line[0].wait_ready()
            wait_for(lambda: archive.leased() > 0, 20)
            if bounce % 2:
                worker.terminate()
            else:
                worker.kill()
            since = time.monotonic()
            line.append(workers.start(slots=20))
            target = oracle.chunks
            wait_for(
                lambda target=target: archive.value("SELECT sum(chunk_count) FROM tailrace.streams") >= target,  # type: ignore[misc]
                20,
                f"bounce {bounce}: what was written before it is stored",
            )
            gaps.append(time.monotonic() - since)
        oracle.finish()
        wait_for(lambda: archive.all_sealed(2), 60)
        differences = list(oracle.differences(archive))
        print(f"{HARD} hard and {CLEAN} clean bounces: {oracle.chunks} chunks, stored at most {max(gaps):.2f} s later")
        assert differences == []
        assert archive.violations() == []
        assert archive.value("SELECT count(*) FROM tailrace.holes") == 0
        assert oracle.chunks > 1_000


@pytest.mark.timeout(240)
def test_a_random_schedule(servers_to_break: Servers, tmp_path: Path) -> None:
    """The seed is printed; ``make chaos SEED=...`` plays it again."""
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"SEED={seed}")
    upgrade(servers_to_break.postgres.url())
    tally = Tally()
    place = tmp_path / "schedule"
    found = Schedule(seed, servers_to_break, servers_to_break.postgres.url(), place, tally).run(15)
    print(json.dumps(tally.figures()))
    assert found == [], f"SEED={seed}"
    shutil.rmtree(place)


def test_the_oracle_finds_what_is_wrong(database_url: str) -> None:
    """A comparison that finds nothing must be able to find something."""
    from tests.chaos.fleet import Archive

    store = LiveStore(v1_max_entries=None)
    oracle = Oracle(store, random.Random(1), runs=2, keys=1)
    for truth in oracle.truths:
        oracle._append(truth, 5)
    archive = Archive(database_url)
    for truth in oracle.truths:
        run = archive.request(truth.run_id)
        (stream,) = archive.rows(
            "INSERT INTO tailrace.streams (run, stream_key, wire, last_chunk_index, chunk_count, byte_count)"
            " VALUES (%s, %s, %s, 3, 4, %s) RETURNING id",
            run, truth.key, truth.wire.value, sum(len((truth.lives[0][n] or "").encode()) for n in range(4)),
        )[0]  # fmt: skip
        texts = [truth.lives[0][number] or "" for number in range(4)]
        archive.rows(
            "INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms,"
            " odd) VALUES (%s, 0, 0, 3, 4, %s::json, '{1,2,3,4}', true)",
            stream,
            f"[{','.join(texts)}]",
        )
    differences = list(oracle.differences(archive))
    assert {each.partition(":")[0] for each in differences} == {"run_0/k0", "run_1/k0"}
    assert all("missing" in each for each in differences)
    archive.close()
