"""A worker starts whatever is away, and begins when it is there."""

from __future__ import annotations

from pathlib import Path

from tailrace.model import Wire
from tailrace.store.migrate import upgrade
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.throwaway import Servers
from tests.upstream import LiveStore


def test_a_worker_that_starts_while_postgres_is_away_waits_for_it(servers_to_break: Servers, tmp_path: Path) -> None:
    postgres, urls = servers_to_break.postgres, servers_to_break.endpoints
    upgrade(postgres.url())
    store = LiveStore()
    store.create_run("run_1", Wire.V2)
    store.append_chunk("run_1", "a", "1")
    store.finish_run("run_1")
    with scene(tmp_path, urls.database_url, urls.redis_url, store, **QUICK) as (workers, _):
        postgres.stop()
        worker = workers.started()
        assert "environments_not_enrolled" in worker.said()
        postgres.start()
        wait_for(lambda: workers.archive.value("SELECT count(*) FROM tailrace.environments") == 1, 15)
        workers.archive.request("run_1")
        wait_for(lambda: workers.archive.texts("run_1", "a") == ["1"], 15)
        assert worker.alive
