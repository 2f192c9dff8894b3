"""After an outage of upstream everything is read again within seconds, and meanwhile hardly anything is asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tailrace.model import Wire
from tests.chaos.fleet import scene, wait_for
from tests.upstream import LiveStore

RUNS = 200
AWAY_S = 8.0
ASKED_PER_S = 2.0
BACK_S = 15.0
"""On a busy machine too; alone it takes some 3 s. The cap of the backoff is 30 s."""
SETTINGS = {"TAILRACE_CONNECT_TIMEOUT_SECONDS": "2"}


@pytest.mark.parametrize("how", ["refused", "answered 503"])
def test_two_hundred_streams_go_on_within_seconds(how: str, tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Each would have waited for its own backoff, of up to 30 s."""
    store = LiveStore()
    for number in range(RUNS):
        store.create_run(f"run_{number}", Wire.V2)
        store.append_chunk(f"run_{number}", "ai", '"before"')
    with scene(tmp_path, database_url, redis_url, store, **SETTINGS) as (workers, upstream):
        archive = workers.archive
        worker = workers.start(slots=RUNS + 50, upstream_too=True).wait_ready()
        for number in range(RUNS):
            archive.request(f"run_{number}")
        stored = "SELECT sum(chunk_count) FROM tailrace.streams_now"
        wait_for(lambda: archive.value(stored) == RUNS, 60, "all are read")
        assert worker.upstream is not None
        answer = upstream.faults.everything()
        if how == "refused":
            worker.upstream.refuse()
        else:
            answer.answer(503, times=1_000_000)
            worker.upstream.cut()
        began, asked = time.monotonic(), upstream.traffic.total
        wait_for(lambda: time.monotonic() - began > AWAY_S / 2, AWAY_S)
        half, half_at = upstream.traffic.total, time.monotonic()
        for number in range(RUNS):
            store.append_chunk(f"run_{number}", "ai", '"meanwhile"')
        wait_for(lambda: time.monotonic() - began > AWAY_S, AWAY_S)
        asked_per_s = (upstream.traffic.total - half) / (time.monotonic() - half_at)
        upstream.faults.clear()
        worker.upstream.behave()
        back = time.monotonic()
        wait_for(lambda: archive.value(stored) == 2 * RUNS, 60, "all are read again")
        took_s = time.monotonic() - back
        print(
            f"{how}: {half - asked} requests in the first seconds, then {asked_per_s:.1f} a second; all after {took_s:.1f} s"
        )
        assert took_s <= BACK_S
        assert asked_per_s <= ASKED_PER_S
        assert archive.violations() == []
