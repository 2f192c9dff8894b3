"""Everything but a migration works through PgBouncer in transaction mode; a migration says what it needs.

Each transaction goes to whichever of a few connections is free, and each of these has served others before.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import psycopg
import pytest

from tailrace import streams
from tailrace.errors import BadSettings
from tailrace.model import Wire
from tailrace.serve.archive import Archive, ArchiveStore
from tailrace.serve.entries import BEGINNING
from tailrace.store import migrate
from tailrace.store.roles import set_up
from tailrace.store.sessions import keeps_sessions
from tests.acceptance.cli_runner import cli_for
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.pgbouncer import pgbouncer
from tests.upstream import LiveStore

RUNS = 8


def test_workers_and_commands(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Two workers, eight live runs, one worker killed, and fewer connections to Postgres than the two have."""
    store = LiveStore()
    names = [f"run_{n}" for n in range(RUNS)]
    for n, name in enumerate(names):
        store.create_run(name, Wire.V2 if n % 2 else Wire.V1)
        store.append_chunk(name, "a", '{"n":1.10}')
    with (
        pgbouncer(database_url, "transaction", servers=3) as pooled,
        scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _),
    ):
        archive = workers.archive
        for _ in range(2):
            workers.started(direct=True, DATABASE_URL=pooled)
        for name in names:
            archive.request(name)
        read = "SELECT count(*) FROM tailrace.streams_now WHERE chunk_count >= %s"
        wait_for(lambda: archive.value(read, 1) == RUNS, 60, "all are read")
        workers.workers[0].kill()
        for name in names:
            store.append_chunk(name, "a", '"after"')
        wait_for(lambda: archive.value(read, 2) == RUNS, 60, "all are read on")
        for name in names:
            store.finish_run(name)
        wait_for(lambda: archive.all_sealed(RUNS), 60, "all are sealed")
        assert all(archive.texts(name, "a") == ['{"n":1.10}', '"after"'] for name in names)
        assert archive.violations() == []
        said = "".join(worker.said() for worker in workers.workers)
        assert "prepared statement" not in said
        commands_work(tmp_path, pooled)
        with contextlib.closing(streams.Client("tr_dev_unused", database_url=pooled)) as client:
            assert list(streams.read("run_0", "a", source="archive", client=client)) == [{"n": 1.1}, "after"]
        assert asyncio.run(served(pooled)) == [b'{"n":1.10}\n', b'"after"\n']


async def served(url: str) -> list[bytes]:
    """What `tailrace serve` gives of a stream, which it has followed for a moment."""
    archive = Archive(url)
    try:
        reader = await ArchiveStore(archive, "default").v1_stream("run_0", "a")
        entries = await reader.after(BEGINNING, 30.0)
        assert not await reader.after(entries[-1].id, 0.3)
        return [entry.data for entry in entries]
    finally:
        await archive.close()


def commands_work(place: Path, pooled: str) -> None:
    cli = cli_for(place, database_url=pooled)
    for command in (
        ("status", "--json"),
        ("sql", "SELECT count(*) FROM tailrace.chunks", "--timeout", "5"),
        ("compact",),
        ("prune", "--days", "1"),
        ("export", "--to", str(place / "export"), "--format", "jsonl"),
        ("forget", "run_1", "--yes"),
    ):
        done = cli.run(*command)
        assert done.code == 0, (command, str(done))
    with psycopg.connect(
        pooled, autocommit=True, prepare_threshold=None
    ) as connection:  # nothing of ours stays with the pool's connections
        for _ in range(10):
            found = connection.execute("SELECT current_setting('statement_timeout'), current_setting('search_path')")
            assert found.fetchone() == ("0", "public")


def test_a_migration_asks_for_a_session(empty_database_url: str) -> None:
    with pgbouncer(empty_database_url, "transaction") as pooled:
        with pytest.raises(BadSettings, match=r"pooler in transaction mode.*set DATABASE_URL, for this command"):
            migrate.upgrade(pooled)
        assert not keeps_sessions(pooled)
        with psycopg.connect(empty_database_url) as connection:
            assert connection.execute("SELECT to_regnamespace('tailrace')").fetchone() == (None,)


def test_a_pooler_in_session_mode_will_do(empty_database_url: str) -> None:
    with pgbouncer(empty_database_url, "session") as pooled:
        migrate.upgrade(pooled)
        assert migrate.current(pooled) == migrate.head()
    assert keeps_sessions(empty_database_url)


def test_a_busy_pooler_is_known_too(empty_database_url: str) -> None:
    """Others take the connection that was just used, so that one's next transaction goes over another."""
    with pgbouncer(empty_database_url, "transaction", servers=2) as pooled, psycopg.connect(pooled) as other:
        other.execute("SELECT 1")  # its transaction goes on, and keeps one of the two
        assert not keeps_sessions(pooled)


def test_roles_are_set_up_through_it(database_url: str) -> None:
    with pgbouncer(database_url, "transaction", servers=1) as pooled:
        assert set_up(pooled, "tr_pooled", "tr_pooled_reader").refused is None
    with psycopg.connect(database_url, autocommit=True) as connection:
        for role in ("tr_pooled", "tr_pooled_reader"):
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")
