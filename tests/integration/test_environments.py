"""Several environments in one archive: each with a worker, a name and a key of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.schema_rows import Archive
from worker.backfill.housekeeping import discovery_of
from worker.replay.app import create_app
from worker.replay.live import LiveStore
from worker.replay.server import RunningServer, running
from worker.runtime import Runtime
from worker.settings import Settings
from worker.store.forget import Forgetting, RunForgotten

KEYS = {"staging": "tr_stg_one", "production": "tr_prod_two"}


@pytest.fixture
def servers() -> Iterator[dict[str, RunningServer]]:
    stores = {name: LiveStore() for name in KEYS}
    for name, store in stores.items():
        for n in range(5):
            store.create_run(f"run_{n}", tags=[name])
            store.open_stream(f"run_{n}", "ai")
    with (
        running(create_app(stores["staging"], api_key=KEYS["staging"])) as one,
        running(create_app(stores["production"], api_key=KEYS["production"])) as two,
    ):
        yield {"staging": one, "production": two}


@pytest.fixture
def runtimes(database_url: str, servers: dict[str, RunningServer]) -> Iterator[dict[str, Runtime]]:
    made = {}
    for name, server in servers.items():
        settings = Settings(
            secret_key=KEYS[name], api_url=server.url, environment=name, discover="all", discover_seconds=0.1
        )
        made[name] = Runtime(settings, database_url)
        made[name].runs.enrol(server.url)
    yield made
    for runtime in made.values():
        runtime.close()


def test_rows_carry_their_environment(database_url: str, runtimes: dict[str, Runtime]) -> None:
    for runtime in runtimes.values():
        finder = discovery_of(runtime)
        assert finder is not None
        assert finder.step() == 5
        runtime.watch(10)
    with Archive(database_url).connection as connection:
        rows = connection.execute(
            "SELECT environment, count(*), min(tags[1]) FROM tailrace.run_overview GROUP BY 1 ORDER BY 1"
        ).fetchall()
    assert rows == [("production", 5, "production"), ("staging", 5, "staging")]
    claimed = {name: set(runtime.claim(100)) for name, runtime in runtimes.items()}
    assert [len(ids) for ids in claimed.values()] == [5, 5]
    assert not claimed["staging"] & claimed["production"]


def test_a_401_stops_only_its_own(servers: dict[str, RunningServer], runtimes: dict[str, Runtime]) -> None:
    finders = {name: discovery_of(runtime) for name, runtime in runtimes.items()}
    servers["staging"].faults.everything().answer(401, times=99)
    for finder in finders.values():
        assert finder is not None
        finder.step()
    assert runtimes["staging"].runs.halted()
    assert runtimes["production"].runs.halted() is None
    assert runtimes["production"].watch(10)[1] == 5
    assert runtimes["staging"].watch(10) == (0, 0)


def test_forgetting_in_one_leaves_the_other(runtimes: dict[str, Runtime]) -> None:
    for runtime in runtimes.values():
        runtime.request("run_0", None, {})
    Forgetting(runtimes["staging"].engine).forget("staging", "run_0")
    with pytest.raises(RunForgotten):
        runtimes["staging"].request("run_0", None, {})
    runtimes["production"].request("run_0", None, {})
