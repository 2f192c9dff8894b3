"""The owner migrates, the runtime writes, a reader sees the views and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tailrace.store import roles
from tailrace.store.engine import create_engine
from tailrace.store.keeping.compaction import Compacted, Compaction
from tests.integration.schema_rows import Archive

_numbers = itertools.count(1)


class Database:
    def __init__(self, url: str) -> None:
        self.url = url
        self.archive = Archive(url)
        n = next(_numbers)
        self.runtime, self.reader = f"tr_runtime_{n}", f"tr_reader_{n}"

    def as_(self, role: str) -> psycopg.Connection[tuple[Any, ...]]:
        url = make_url(self.url).set(username=role, password="x").render_as_string(hide_password=False)
        return psycopg.connect(url, autocommit=True)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    done = roles.set_up(database_url, database.runtime, database.reader, timeout_s=7)
    assert done.refused is None
    for role in (database.runtime, database.reader):
        database.archive.run(f"ALTER ROLE {role} LOGIN PASSWORD 'x'")
    yield database
    for role in (database.runtime, database.reader):
        database.archive.run(f"DROP OWNED BY {role}")
        database.archive.run(f"DROP ROLE {role}")
    database.archive.connection.close()


def test_a_reader_sees_every_view_and_function_of_the_contract(database: Database) -> None:
    stream = database.archive.whole_stream(['"one"', '{"type":"text-start","id":"0"}', '{"type":"start"}', '"two"'])
    database.archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
    with database.as_(database.reader) as connection:
        for view in roles.VIEWS:
            connection.execute(f"SELECT * FROM tailrace.{view}").fetchall()  # type: ignore[arg-type]
        assert connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone() == (4,)
        assert connection.execute("SELECT text FROM tailrace.stream_text").fetchone() == ("two",)
        assert connection.execute("SELECT longest_stall_s FROM tailrace.stream_stats").fetchone() == (0.001,)
        for call in (
            "chunks_range('run_1', 'ai', 0, 1)",
            "changes_since(-1)",
            "search_text('one')",
            f"parts_of_stream({stream})",
            f"parts_of_stream({stream}, '{{text}}')",
            "stream_id_at(now())",
        ):
            connection.execute(f"SELECT * FROM tailrace.{call}").fetchall()  # type: ignore[arg-type]


TABLES = (
    *("environments", "workers", "runs", "streams", "segments", "holes", "quarantine", "facts", "search"),
    *("forgotten", "exported", "backfills", "discoveries", "schedules", "alembic_version"),
)


@pytest.mark.parametrize("table", TABLES)
def test_a_reader_sees_no_table(database: Database, table: str) -> None:
    with database.as_(database.reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(f"SELECT * FROM tailrace.{table}")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT tailrace.request_ingest('run_2')",
        "SELECT tailrace.compact_stream(1)",
        "SELECT tailrace.forget_run('default', 'run_1')",
        "SELECT tailrace.drop_day('2026-01-01')",
        "SELECT tailrace.ensure_partitions()",
        "CREATE TABLE tailrace.mine (x int)",
        "DELETE FROM tailrace.chunks",
    ],
)
def test_a_reader_changes_nothing(database: Database, statement: str) -> None:
    database.archive.whole_stream(['"one"'])
    with database.as_(database.reader) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
            connection.execute(statement)  # type: ignore[arg-type]


def test_a_reader_has_a_statement_timeout_and_reads_only(database: Database) -> None:
    with database.as_(database.reader) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_the_runtime_does_all_that_a_worker_does_and_no_more(database: Database) -> None:
    stream = database.archive.whole_stream(['"one"', '"two"'])
    with database.as_(database.runtime) as connection:
        connection.execute("SELECT tailrace.request_ingest('run_2')")
        connection.execute("SELECT tailrace.ensure_partitions()")
        connection.execute("UPDATE tailrace.streams SET state = 'active'")
        connection.execute("UPDATE tailrace.streams SET state = 'sealed'")
        connection.execute("SELECT * FROM tailrace.run_overview").fetchall()
        assert connection.execute("SELECT tailrace.clear_day('2020-01-01')").fetchone() == (0,)
        assert connection.execute("SELECT tailrace.drop_day('2020-01-01')").fetchone() == (False,)
        for refused in ("CREATE TABLE tailrace.mine (x int)", "ALTER TABLE tailrace.runs ADD COLUMN x int"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM tailrace.alembic_version")
    url = make_url(database.url).set(username=database.runtime, password="x").render_as_string(hide_password=False)
    engine = create_engine(url)
    compaction = Compaction(engine)
    assert compaction.compact(stream) == Compacted(1, 1)
    assert compaction.index(stream) == 1
    engine.dispose()
    with database.as_(database.runtime) as connection:
        assert connection.execute("SELECT archived FROM tailrace.forget_run('default', 'run_1')").fetchone() == (True,)


def test_it_can_be_repeated(database: Database) -> None:
    assert roles.set_up(database.url, database.runtime, database.reader).refused is None


def test_where_roles_cannot_be_made_the_statements_are_given(database: Database) -> None:
    database.archive.run("CREATE ROLE tr_modest LOGIN PASSWORD 'x'")
    try:
        url = make_url(database.url).set(username="tr_modest", password="x").render_as_string(hide_password=False)
        done = roles.set_up(url, "tr_never_made", "tr_never_made_either")
        assert done.refused is not None
        assert "permission denied" in done.refused
        assert 'CREATE ROLE "tr_never_made" NOLOGIN' in done.script
        assert database.archive.value("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tr_never%%'") == 0
    finally:
        database.archive.run("DROP ROLE tr_modest")


def test_odd_role_names_are_only_names(database: Database) -> None:
    odd = 'tr "odd"; --'
    assert roles.set_up(database.url, odd, database.reader).refused is None
    database.archive.run('DROP OWNED BY "tr ""odd""; --"')
    database.archive.run('DROP ROLE "tr ""odd""; --"')
