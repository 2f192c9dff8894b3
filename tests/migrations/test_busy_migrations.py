"""Migrations on an archive that is in use: nobody waits long, what was there stays, and each can be broken off."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.store import migrate
from tailrace.store.engine import create_engine
from tailrace.store.indexes import patient

SEGMENT = """
    INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
    VALUES (%s, 0, %s, %s, 1, '["text"]', '{1}')"""
ROOT = Path(__file__).parents[2]


def old_archive(url: str, segments: int = 500) -> int:
    """An archive as 0002 made and filled it; gives the id of its stream."""
    migrate.upgrade(url, "0002")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT tailrace.request_ingest('run_1')")
        row = connection.execute(
            "INSERT INTO tailrace.streams (run, stream_key) SELECT id, 'ai' FROM tailrace.runs RETURNING id"
        ).fetchone()
        assert row is not None
        for n in range(segments):
            connection.execute(SEGMENT, [row[0], n, n])
        return int(row[0])


def invalid(connection: psycopg.Connection) -> int:
    row = connection.execute(
        """SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
           WHERE c.relnamespace = 'tailrace'::regnamespace AND NOT i.indisvalid"""
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_writers_and_readers_go_on_while_it_migrates(empty_database_url: str) -> None:
    url = empty_database_url
    stream = old_archive(url)
    ended = threading.Event()
    longest = {"write": 0.0, "read": 0.0}
    written = [500]
    failures: list[BaseException] = []

    def work(kind: str) -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                while not ended.is_set():
                    began = time.monotonic()
                    if kind == "write":  # what the previous release's Writer sends: it knows no new column
                        connection.execute(SEGMENT, [stream, written[0], written[0]])
                        connection.execute("UPDATE tailrace.streams SET rev = rev + 1 WHERE id = %s", [stream])
                        written[0] += 1
                    else:
                        connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone()
                    longest[kind] = max(longest[kind], time.monotonic() - began)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(kind,)) for kind in longest]
    for thread in threads:
        thread.start()
    try:
        migrate.upgrade(url)
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    assert max(longest.values()) < 5.0
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone() == (written[0],)
        changes = connection.execute("SELECT chunk_index FROM tailrace.changes_since(-1)").fetchall()
        assert sorted(row[0] for row in changes) == list(range(written[0]))
        assert invalid(connection) == 0


def test_a_lock_that_does_not_come_fails_soon_and_changes_nothing(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_archive(empty_database_url, 1)
    with psycopg.connect(empty_database_url) as holder:
        holder.execute("SELECT FROM tailrace.streams FOR UPDATE")
        began = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            migrate.upgrade(empty_database_url)
        assert time.monotonic() - began < 60  # the holder never lets go
        assert migrate.current(empty_database_url) == "0002"
    migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) == migrate.head()


def test_index_building_that_was_broken_off_is_finished(empty_database_url: str) -> None:
    stream = old_archive(empty_database_url, 5)
    migrate.upgrade(empty_database_url, "0004")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        with psycopg.connect(empty_database_url) as holder:  # CONCURRENTLY waits for it and is cut off
            holder.execute(SEGMENT, [stream, 100, 100])
            holder.execute("UPDATE tailrace.streams SET rev = rev + 1")
            connection.execute("SET statement_timeout = '300ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(
                    """CREATE INDEX CONCURRENTLY streams_keep_idx ON tailrace.streams (id) WHERE state = 'sealed'
                       AND keep_error IS NULL AND (compacted_at IS NULL OR indexed_at IS NULL)"""
                )
        assert invalid(connection) == 1
        migrate.upgrade(empty_database_url)
        assert invalid(connection) == 0
        assert migrate.current(empty_database_url) == migrate.head()


def test_building_is_patient_and_what_comes_after_it_is_not(database_url: str) -> None:
    engine = create_engine(database_url)
    timeouts = sa.text("SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout')")
    with engine.connect() as connection:
        connection.execute(sa.text("SET lock_timeout = '5s'; SET statement_timeout = '5min'"))
        with patient(connection):
            assert connection.scalar(timeouts) == "0 0"
        assert connection.scalar(timeouts) == "5s 5min"
    engine.dispose()


@pytest.mark.parametrize("index", ["segments_change_id_idx", "segments_changes_idx"])
def test_new_partitions_have_the_index_too(database_url: str, index: str) -> None:
    engine = create_engine(database_url)
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT tailrace.ensure_partitions(20)"))
        without = connection.execute(
            sa.text(
                """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                   WHERE i.inhparent = 'tailrace.segments'::regclass AND NOT EXISTS (
                       SELECT FROM pg_index x JOIN pg_inherits p ON p.inhrelid = x.indexrelid
                       WHERE x.indrelid = c.oid AND p.inhparent = CAST(:index AS regclass))"""
            ),
            {"index": f"tailrace.{index}"},
        ).all()
    engine.dispose()
    assert without == []


def test_going_back_keeps_the_chunks(empty_database_url: str) -> None:
    old_archive(empty_database_url, 10)
    migrate.upgrade(empty_database_url)
    migrate.downgrade(empty_database_url, "0002")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*), min(text_delta) FROM tailrace.chunks").fetchone() == (10, "text")
        columns = connection.execute("SELECT * FROM tailrace.chunks LIMIT 0").description
        assert [column.name for column in columns or ()][-1] == "committed_at"
    migrate.upgrade(empty_database_url)
