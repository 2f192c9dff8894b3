"""One worker process, several environments (TAILRACE_KEYS_FILE): each with its key, none in another's way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tailrace.model import Wire
from tests.chaos.fleet import FAST, QUICK, Archive, Fleet, Worker, fleet, wait_for
from tests.upstream import LiveStore, RunningServer, create_app, running

OLD = {"production": "tr_prod_Geheim1old", "staging": "tr_stg_Geheim2old"}
NEW = "tr_stg_Geheim3new"
WAIT_S = 30.0


class Scene:
    """Two upstreams, a file with a key for each, and one worker. Both have a run of the same id."""

    def __init__(self, place: Path, workers: Fleet, servers: dict[str, RunningServer], stores: dict[str, LiveStore]):
        self.file = place / "keys.toml"
        self.workers, self.servers, self.stores = workers, servers, stores
        self.archive: Archive = workers.archive

    def keys(self, **keys: str) -> None:
        """Write the file as Kubernetes does: a new one in the place of the old."""
        new = self.file.with_suffix(".new")
        tables = [f'[{name}]\nkey = "{key}"\napi_url = "{self.servers[name].url}"\n' for name, key in keys.items()]
        new.write_text("\n".join(tables))
        new.chmod(0o600)
        new.rename(self.file)

    def request(self, run_id: str) -> None:
        for name in OLD:
            self.archive.rows("SELECT tailrace.request_ingest(%s, NULL, %s)", run_id, name)

    def texts(self, environment: str, run_id: str = "run_1") -> list[str]:
        return [
            text
            for (text,) in self.archive.rows(
                "SELECT data_text FROM tailrace.chunks WHERE environment = %s AND run_id = %s ORDER BY chunk_index",
                environment,
                run_id,
            )
        ]

    def halted(self) -> list[str]:
        rows = self.archive.rows("SELECT name FROM tailrace.environments WHERE halted_at IS NOT NULL ORDER BY 1")
        return [name for (name,) in rows]

    def rekey(self, environment: str, key: str) -> None:
        """Upstream takes this key from now on, and no other. Connections that are open stay so."""
        other = create_app(self.stores[environment], api_key=key, timing=FAST)
        self.servers[environment].app.router.default = other.router.default


@contextmanager
def scene(place: Path, database_url: str, redis_url: str) -> Iterator[Scene]:
    stores = {name: LiveStore() for name in OLD}
    for name, store in stores.items():
        store.create_run("run_1", Wire.V2)
        store.append_chunk("run_1", "ai", f'"{name} 1"')
    with (
        running(create_app(stores["production"], api_key=OLD["production"], timing=FAST)) as one,
        running(create_app(stores["staging"], api_key=OLD["staging"], timing=FAST)) as two,
    ):
        keys = {"TRIGGER_SECRET_KEY": "", "TAILRACE_KEYS_FILE": str(place / "keys.toml")}
        with fleet(place / "workers", database_url, redis_url, one.url, **QUICK, **keys) as workers:
            made = Scene(place, workers, {"production": one, "staging": two}, stores)
            made.keys(**OLD)
            yield made


def events(worker: Worker, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def assert_no_secret(scene: Scene, redis_url: str) -> None:
    """No key is in a log, in Redis, or in any column of any table."""
    places = {worker.name: worker.said() for worker in scene.workers.workers}
    with redis.Redis.from_url(redis_url) as broker:
        for key in broker.scan_iter():
            places[f"redis {key!r}"] = repr(broker.dump(key))
    with psycopg.connect(scene.archive.url) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'tailrace'"
        ).fetchall()
        for (table,) in tables:
            places[table] = repr(connection.execute(f"SELECT t::text FROM {table} t").fetchall())  # type: ignore[arg-type]
    assert [place for place, text in places.items() if "Geheim" in text] == []


@pytest.mark.timeout(120)
def test_a_worker_serves_all_and_a_key_is_changed_under_it(tmp_path: Path, database_url: str, redis_url: str) -> None:
    with scene(tmp_path, database_url, redis_url) as it:
        worker = it.workers.started(slots=20, direct=True)
        it.request("run_1")
        for name in OLD:
            wait_for(lambda name=name: it.texts(name) == [f'"{name} 1"'], WAIT_S, f"{name} is read")  # type: ignore[misc]
        assert it.archive.value("SELECT count(*) FROM tailrace.workers") == 1

        # Upstream takes another key: one alarm, and only its own environment stands still.
        it.rekey("staging", NEW)
        wait_for(lambda: it.halted() == ["staging"], WAIT_S, "staging is halted")
        for name in OLD:
            it.stores[name].append_chunk("run_1", "ai", f'"{name} 2"')
        wait_for(lambda: len(it.texts("production")) == 2, WAIT_S, "production goes on")
        assert it.texts("staging") in (['"staging 1"'], ['"staging 1"', '"staging 2"'])  # its reader may still be there

        # A file that is wrong changes nothing, and is told once.
        it.file.write_text(f'[production]\nkey = "tr_pat_{NEW}"\n')
        wait_for(lambda: events(worker, "keys_file_refused"), WAIT_S, "the file is refused")
        it.stores["production"].append_chunk("run_1", "ai", '"production 3"')
        wait_for(lambda: len(it.texts("production")) == 3, WAIT_S, "production goes on")

        # The right key is found without a restart.
        it.keys(production=OLD["production"], staging=NEW)
        wait_for(lambda: it.halted() == [], WAIT_S, "staging is halted no more")
        it.stores["staging"].create_run("run_2", Wire.V1)
        it.stores["staging"].append_chunk("run_2", "ai", '"new"')
        it.archive.rows("SELECT tailrace.request_ingest('run_2', NULL, 'staging')")
        wait_for(lambda: it.texts("staging", "run_2") == ['"new"'], WAIT_S, "a new run of staging is read")
        wait_for(lambda: it.texts("staging") == ['"staging 1"', '"staging 2"'], WAIT_S, "staging goes on")
        for store in it.stores.values():
            store.finish_run("run_1")
        it.stores["staging"].finish_run("run_2")
        wait_for(lambda: it.archive.all_sealed(3), WAIT_S, "all are sealed")
        assert len(events(worker, "keys_file_refused")) == 1
        assert [each["changed"] for each in events(worker, "keys_file_read")] == [["staging"]]
        assert [each["environment"] for each in events(worker, "environment_halted")] == ["staging"]
        assert {each["environment"] for each in events(worker, "lease_acquired")} == set(OLD)
        worker.terminate()
        assert worker.wait(20) == 0
        assert it.archive.violations() == []
        assert_no_secret(it, redis_url)
