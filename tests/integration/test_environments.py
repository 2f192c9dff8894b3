"""Several environments in one archive: each with a worker of its own, or all served by one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailrace.config.settings import Settings
from tailrace.errors import BadSettings, Unauthorized, UnknownEnvironment
from tailrace.service.environments import Environment
from tailrace.service.maintenance import discovery_of
from tailrace.service.runtime import Runtime
from tailrace.store.keeping.forget import Forgetting, RunForgotten
from tests.integration.schema_rows import Archive
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore

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
        made[name].environments.enrol()
    yield made
    for runtime in made.values():
        runtime.close()


def test_rows_carry_their_environment(database_url: str, runtimes: dict[str, Runtime]) -> None:
    for runtime in runtimes.values():
        finder = discovery_of(runtime.environments.default)
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
    finders = {name: discovery_of(runtime.environments.default) for name, runtime in runtimes.items()}
    servers["staging"].faults.everything().answer(401, times=99)
    for finder in finders.values():
        assert finder is not None
        finder.step()
    assert runtimes["staging"].environments.default.runs.halted()
    assert runtimes["production"].environments.default.runs.halted() is None
    assert runtimes["production"].watch(10)[1] == 5
    assert runtimes["staging"].watch(10) == (0, 0)


def test_forgetting_in_one_leaves_the_other(runtimes: dict[str, Runtime]) -> None:
    for runtime in runtimes.values():
        runtime.request("run_0", None, {})
    Forgetting(runtimes["staging"].engine).forget("staging", "run_0")
    with pytest.raises(RunForgotten):
        runtimes["staging"].request("run_0", None, {})
    runtimes["production"].request("run_0", None, {})


# --- all served by one process


class Served:
    """One runtime for all, from a file."""

    def __init__(self, place: Path, database_url: str, servers: dict[str, RunningServer]) -> None:
        self.file = place / "keys.toml"
        self.servers = servers
        self.keys(**KEYS)
        self.archive = Archive(database_url)
        self.runtime = Runtime(Settings(keys_file=self.file, control_seconds=0.1), database_url, slots=8)
        self.runtime.environments.enrol()

    def keys(self, **keys: str) -> None:
        tables = [f'[{name}]\nkey = "{key}"\napi_url = "{self.servers[name].url}"\n' for name, key in keys.items()]
        self.file.write_text("\n".join(tables))

    def environment(self, name: str) -> Environment:
        found = self.runtime.environments.get(name)
        assert found is not None
        return found


@pytest.fixture
def served(tmp_path: Path, database_url: str, servers: dict[str, RunningServer]) -> Iterator[Served]:
    made = Served(tmp_path, database_url, servers)
    yield made
    made.runtime.stop(5.0)
    made.archive.connection.close()


def test_an_environment_with_many_streams_leaves_room_for_one_with_few(served: Served) -> None:
    """The one with many has waited longer, and has readers already."""
    many = [served.archive.stream(f"run_{n}", "ai", "production") for n in range(40)]
    held = [served.archive.stream(f"run_held_{n}", "ai", "production") for n in range(3)]
    few = [served.archive.stream(f"run_{n}", "ai", "staging") for n in range(5)]
    backfilled = served.archive.stream("run_old", "ai", "staging")
    served.archive.run(
        "UPDATE tailrace.streams SET next_attempt_at = now() - interval '1 hour' WHERE id = ANY(%s)", many
    )
    served.archive.run(
        "UPDATE tailrace.runs SET priority = 1 WHERE id = (SELECT run FROM tailrace.streams WHERE id = %s)", backfilled
    )
    leases = served.runtime.leases
    leases.renew()
    assert len(leases.acquire(held)) == 3
    first = served.runtime.claim(5)
    assert (len(set(first) & set(few)), len(set(first) & set(many))) == (4, 1), "until both have as many"
    second = served.runtime.claim(40)
    assert backfilled not in second, "live streams go first, whosesoever"
    assert set(first + second) == {*many, *few}
    assert served.runtime.claim(5) == [backfilled]
    served.runtime.choosing.unhint([*many, *few, backfilled])
    assert set(served.runtime.choosing.claim(["staging"], 50, 30.0)) == {*few, backfilled}


def test_who_names_no_environment_is_refused_where_there_are_several(served: Served) -> None:
    with pytest.raises(BadSettings, match=r"Several environments are served \(production, staging\)"):
        served.runtime.request("run_0", None, {})
    with pytest.raises(UnknownEnvironment, match="no environment 'other'"):
        served.runtime.request("run_0", None, {}, environment="other")
    served.runtime.request("run_0", None, {}, environment="staging")
    assert served.runtime.cancel("run_0", "production") is None
    assert served.runtime.cancel("run_0", "staging") == 0
    week = timedelta(days=7)
    now = datetime.now(UTC)
    served.runtime.begin_backfill(now - week, now, {}, "staging")
    served.runtime.begin_backfill(now - 2 * week, now, {})
    with pytest.raises(UnknownEnvironment):
        served.runtime.begin_backfill(now - week, now, {}, "other")
    assert served.archive.rows(
        "SELECT e.name FROM tailrace.backfills b JOIN tailrace.environments e ON e.id = b.environment_id ORDER BY e.name"
    ) == [("production",), ("staging",), ("staging",)]


def test_an_environment_that_goes_parks_its_streams_and_goes_on_when_it_is_back(served: Served) -> None:
    runtime = served.runtime
    for name in KEYS:
        runtime.request("run_0", None, {}, environment=name)
    assert runtime.watch(10)[1] == 2
    runtime.start()
    chosen = runtime.claim(10)
    readers = [threading.Thread(target=runtime.ingest_stream, args=(stream,), daemon=True) for stream in chosen]
    for reader in readers:
        reader.start()
    for server in served.servers.values():
        assert server.traffic.wait_until(lambda server=server: server.traffic.streams_read() == 1, 10)  # type: ignore[misc]
    before = served.environment("production")

    served.keys(production=KEYS["production"])
    state = _wait(lambda: served.archive.rows(STATES), lambda rows: ("staging", "parked", True) in rows)
    assert ("production", "active", False) in state
    assert runtime.environments.names() == ["production"]
    assert served.environment("production") is before
    served.archive.run("UPDATE tailrace.streams SET next_attempt_at = now() WHERE worker_id IS NULL")
    assert runtime.claim(10) == []
    assert served.archive.value("SELECT count(*) FROM tailrace.environments WHERE halted_at IS NOT NULL") == 0

    served.keys(**KEYS)
    _wait(lambda: runtime.environments.names(), lambda names: len(names) == 2)
    assert len(runtime.claim(10)) == 1


def test_an_old_key_that_is_refused_halts_nothing(served: Served) -> None:
    old = served.environment("staging")
    served.runtime.start()
    served.keys(production=KEYS["production"], staging="tr_stg_new")
    _wait(lambda: served.environment("staging"), lambda found: found is not old)
    old.key.halt(Unauthorized("the old one"))
    assert old.runs.halted() is None
    served.environment("staging").key.halt(Unauthorized("the new one"))
    assert old.runs.halted() == "the new one"
    served.keys(**KEYS)
    _wait(old.runs.halted, lambda reason: reason is None)


STATES = """SELECT e.name, s.state, s.worker_id IS NULL FROM tailrace.streams s
            JOIN tailrace.runs r ON r.id = s.run JOIN tailrace.environments e ON e.id = r.environment_id"""


def _wait(look: Callable[[], Any], wanted: Callable[[Any], bool], timeout_s: float = 15.0) -> Any:
    until = time.monotonic() + timeout_s
    while not wanted(found := look()):
        assert time.monotonic() < until, f"still {found}"
        time.sleep(0.02)
    return found
