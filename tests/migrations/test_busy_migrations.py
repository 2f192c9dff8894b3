"""Migrating an archive that is in use: nobody waits long, what was there stays, and each step can be broken off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.store import indexes, migrate
from tailrace.store.engine import create_engine
from tailrace.store.indexes import build_index, build_partitioned_index, patient
from tests.migrations.catalog import describe

SEGMENT = """
    INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
    VALUES (%s, 0, %s, %s, 1, '["text"]', '{1}')"""
TIMEOUTS = sa.text("SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout')")

KEEP = "streams_keep_idx"
KEEP_IS = """ON tailrace.streams (id)
    WHERE state = 'sealed' AND keep_error IS NULL AND (compacted_at IS NULL OR indexed_at IS NULL)"""
CHANGES = "segments_change_id_idx"


@pytest.fixture
def migration(database_url: str) -> Iterator[sa.Connection]:
    """The session of a migration, in its autocommit block."""
    engine = create_engine(database_url)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(sa.text("SET lock_timeout = '5s'"))
        connection.execute(sa.text("SET statement_timeout = '5min'"))
        yield connection
    engine.dispose()


def filled(url: str, segments: int) -> int:
    """Fill an archive with a stream of so many segments; return the stream's id."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT tailrace.request_ingest('run_1')")
        row = connection.execute(
            "INSERT INTO tailrace.streams (run, stream_key) SELECT id, 'ai' FROM tailrace.runs RETURNING id"
        ).fetchone()
        assert row is not None
        for n in range(segments):
            connection.execute(SEGMENT, [row[0], n, n])
        return int(row[0])


def without_indexes(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP INDEX tailrace.{KEEP}")
        connection.execute(f"DROP INDEX tailrace.{CHANGES}")


BUILDING: dict[str, Callable[[sa.Connection], None]] = {
    KEEP: lambda migration: build_index(migration, KEEP, KEEP_IS),
    CHANGES: lambda migration: build_partitioned_index(migration, CHANGES, "change_id_idx", "(change_id)"),
}


def build(migration: sa.Connection) -> None:
    with patient(migration):
        for building in BUILDING.values():
            building(migration)


def invalid(connection: psycopg.Connection) -> int:
    row = connection.execute(
        """SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           WHERE c.relnamespace = 'tailrace'::regnamespace AND NOT i.indisvalid"""
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_writers_and_readers_go_on_while_it_builds_indexes(database_url: str, migration: sa.Connection) -> None:
    before = describe(database_url)
    stream = filled(database_url, 500)
    without_indexes(database_url)
    assert describe(database_url) != before
    ended = threading.Event()
    begun = threading.Barrier(3)
    longest = {"write": 0.0, "read": 0.0}
    written = [500]
    failures: list[BaseException] = []

    def work(once: Callable[[psycopg.Connection], None], kind: str) -> None:
        try:
            with psycopg.connect(database_url, autocommit=True) as connection:
                begun.wait(20)
                while not ended.is_set():
                    began = time.monotonic()
                    once(connection)
                    longest[kind] = max(longest[kind], time.monotonic() - began)
        except BaseException as error:
            failures.append(error)
            raise

    def write(connection: psycopg.Connection) -> None:
        connection.execute(SEGMENT, [stream, written[0], written[0]])
        connection.execute("UPDATE tailrace.streams SET rev = rev + 1 WHERE id = %s", [stream])
        written[0] += 1

    def read(connection: psycopg.Connection) -> None:
        connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone()

    threads = [
        threading.Thread(target=work, args=(write, "write")),
        threading.Thread(target=work, args=(read, "read")),
    ]
    for thread in threads:
        thread.start()
    try:
        begun.wait(20)
        build(migration)
        migrate.upgrade(database_url)
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    assert max(longest.values()) < 5.0
    assert describe(database_url) == before
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone() == (written[0],)
        changes = connection.execute("SELECT chunk_index FROM tailrace.changes_since(-1)").fetchall()
        assert sorted(row[0] for row in changes) == list(range(written[0]))


def test_a_lock_that_does_not_come_fails_soon_and_changes_nothing(database_url: str) -> None:
    filled(database_url, 1)
    before = describe(database_url)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT FROM tailrace.streams FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            migrate.downgrade(database_url, "base")
        assert time.monotonic() - began < 60  # the holder never lets go
        assert migrate.current(database_url) == migrate.head()
        assert describe(database_url) == before
    migrate.downgrade(database_url, "base")
    assert migrate.current(database_url) is None


def test_the_index_of_all_segments_does_not_hold_up_writers_behind_an_old_transaction(
    database_url: str, migration: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = filled(database_url, 1)
    without_indexes(database_url)
    monkeypatch.setattr(indexes, "LOCK_TIMEOUT", "200ms")  # the promise is that it is the limit, not how long it is
    with psycopg.connect(database_url) as holder:
        holder.execute(SEGMENT, [stream, 1, 1])
        with patient(migration), pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            BUILDING[CHANGES](migration)
        with psycopg.connect(database_url, autocommit=True) as writer:
            writer.execute("SET lock_timeout = '30s'")
            writer.execute(SEGMENT, [stream, 2, 2])
    build(migration)
    with psycopg.connect(database_url) as connection:
        assert invalid(connection) == 0


@pytest.mark.parametrize("index", list(BUILDING))
def test_index_building_that_was_broken_off_is_finished(
    database_url: str, migration: sa.Connection, index: str
) -> None:
    before = describe(database_url)
    filled(database_url, 5)
    without_indexes(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        (partition,) = connection.execute("SELECT tableoid::regclass::text FROM tailrace.segments").fetchone() or ("",)
        with psycopg.connect(database_url) as holder:  # CONCURRENTLY waits for it and is cut off
            holder.execute("UPDATE tailrace.streams SET rev = rev + 1")
            # The partition only: the definition on the parent is made, and the first part that is written to is not.
            holder.execute(f"LOCK TABLE {partition} IN ROW EXCLUSIVE MODE")  # type: ignore[arg-type]
            migration.execute(sa.text("SET statement_timeout = '300ms'"))
            with pytest.raises(sa.exc.OperationalError, match="statement timeout"):
                BUILDING[index](migration)
        assert invalid(connection) > 0
        build(migration)
        assert invalid(connection) == 0
    assert describe(database_url) == before


def test_what_is_built_is_not_built_again(database_url: str, migration: sa.Connection) -> None:
    nodes = sa.text("SELECT oid::bigint, relfilenode::bigint FROM pg_class WHERE relkind IN ('i', 'I') ORDER BY 1")
    before = migration.execute(nodes).all()
    build(migration)
    assert migration.execute(nodes).all() == before


def test_building_is_patient_and_what_comes_after_it_is_not(migration: sa.Connection) -> None:
    with patient(migration):
        assert migration.scalar(TIMEOUTS) == "0 0"
    assert migration.scalar(TIMEOUTS) == "5s 5min"


@pytest.mark.parametrize("index", [CHANGES, "segments_changes_idx"])
def test_new_partitions_have_the_index_too(migration: sa.Connection, index: str) -> None:
    migration.execute(sa.text("SELECT tailrace.ensure_partitions(20)"))
    without = migration.execute(
        sa.text(
            """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'tailrace.segments'::regclass AND NOT EXISTS (
                   SELECT FROM pg_index x JOIN pg_inherits p ON p.inhrelid = x.indexrelid
                   WHERE x.indrelid = c.oid AND p.inhparent = CAST(:index AS regclass))"""
        ),
        {"index": f"tailrace.{index}"},
    ).all()
    assert without == []
