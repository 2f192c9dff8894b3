"""What the exporter and `status` say of an archive is what it holds, and is there when its clock or its rows are odd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.errors import StoreUnavailable
from tailrace.model import RunView
from tailrace.service.exporter import ArchiveCollector
from tailrace.store import figures
from tailrace.store.backfills import ListedRuns
from tailrace.store.engine import create_engine
from tailrace.store.figures import Figures
from tailrace.store.keeping.tallies import Tallies
from tests.integration.schema_rows import Archive


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    made = Archive(database_url)
    yield made
    made.connection.close()


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    made = create_engine(database_url, pool_size=2)
    yield made
    made.dispose()


@contextmanager
def locked(database_url: str, table: str) -> Iterator[None]:
    """Somebody has the whole table, for as long as they like."""
    with psycopg.connect(database_url) as connection:
        connection.execute(f"LOCK TABLE tailrace.{table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
        yield
        connection.rollback()


@pytest.mark.unbalanced
def test_lag_is_the_age_of_what_is_stored_and_not_of_the_last_commit(archive: Archive, engine: sa.Engine) -> None:
    """A reader that commits every second and is days behind is days behind."""
    stream = archive.stream()
    archive.run(
        "INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms, odd)"
        " VALUES (%s, 0, 0, 0, 1, '[1]', ARRAY[(extract(epoch FROM now()) * 1000)::bigint - 86400000], false)",
        stream,
    )
    archive.run(
        "UPDATE tailrace.streams SET state = 'active', lag = 500, last_chunk_index = 0, chunk_count = 1, last_chunk_at = now()"
    )
    assert Figures(engine).lag_seconds() == {"default": pytest.approx(86_400, abs=600)}


@pytest.mark.unbalanced
@pytest.mark.parametrize("how", ["cancel_run('run_1')", "request_ingest('run_1')"])
def test_what_only_a_reader_knows_ends_with_it(archive: Archive, engine: sa.Engine, how: str) -> None:
    archive.stream()
    archive.run("UPDATE tailrace.streams SET state = 'active'")
    archive.run("UPDATE tailrace.streams SET stuck_at = now()")
    assert sum(each.stuck for each in Figures(engine).open()) == 1
    if "request" in how:
        archive.run("UPDATE tailrace.streams SET state = 'failed'")
        archive.run("UPDATE tailrace.runs SET state = 'failed'")
    archive.rows(f"SELECT tailrace.{how}")
    assert archive.value("SELECT stuck_at FROM tailrace.streams") is None


def test_tallies_count_what_is_closed_once(archive: Archive, engine: sa.Engine) -> None:
    for run in range(3):
        archive.whole_stream(['"a"', '"b"'], run_id=f"run_{run}")
    archive.run("UPDATE tailrace.streams SET state = 'active'")
    archive.run("UPDATE tailrace.streams SET state = 'sealed', verdict = 'complete', sealed_at = now() WHERE id > %s",
                archive.value("SELECT min(id) FROM tailrace.streams"))  # fmt: skip
    tallies = Tallies(engine)
    assert tallies.count(0.0) is not None
    while tallies.count(60.0) is not None:
        pass
    (held,) = Figures(engine).held()
    assert (held.state, held.verdict, held.streams, held.chunks) == ("sealed", "complete", 2, 4)
    (open_,) = Figures(engine).open()
    assert (open_.streams, open_.chunks) == (1, 2)
    assert Figures(engine).chores().tally_age_s == pytest.approx(0, abs=60)


def test_a_count_gives_up_on_a_lock_instead_of_taking_as_long_as_somebody_holds_it(
    archive: Archive, engine: sa.Engine, database_url: str
) -> None:
    """Else the worker, which pauses by how long a count took, would not count for days."""
    tallies = Tallies(engine)
    with psycopg.connect(database_url) as somebody:
        somebody.execute("LOCK TABLE tailrace.tallied IN SHARE MODE")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            tallies.count(0)
    assert tallies.count(0) is not None


def test_two_who_count_wait_for_each_other_only_for_the_same_day(
    archive: Archive, engine: sa.Engine, database_url: str
) -> None:
    tallies = Tallies(engine)
    while tallies.count(60.0) is not None:
        pass
    with psycopg.connect(database_url) as other:
        other.execute("SELECT tailrace.tally(0)")  # a day is being counted, and is not done
        taken = tallies.count(0.0)
        other.rollback()
    assert taken is not None


def test_a_figure_that_takes_too_long_is_given_up(
    engine: sa.Engine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "STATEMENT_S", 0.3)
    collector = ArchiveCollector(Figures(engine))
    with locked(database_url, "verified_days"):
        samples = list(collector.collect())
    assert [family.name for family in samples] == ["tailrace_archive_up", "tailrace_archive_scrape_seconds"]
    assert samples[0].samples[0].value == 0
    assert "statement timeout" in (collector.wrong or "")


def test_all_of_them_together_have_a_bound(engine: sa.Engine) -> None:
    now = iter([0.0, *[9.0] * 100])
    asked = Figures(engine, clock=lambda: next(now))
    with pytest.raises(figures.QueryRefused, match="too long"), asked.within(8.0):
        asked.held()


def test_a_list_waits_for_nobodys_transaction(archive: Archive, engine: sa.Engine, database_url: str) -> None:
    """Whoever finds runs does not keep a connection for as long as an application has asked and not committed."""
    listed = ListedRuns(engine, "default")
    views = [RunView("run_1", "EXECUTING", False, ())]
    with psycopg.connect(database_url) as application:
        application.execute("SELECT tailrace.request_ingest('run_1')")
        with pytest.raises(StoreUnavailable, match="open transaction"):
            listed.request_listed(views, 1)
        application.rollback()
    assert listed.request_listed(views, 1) == ["run_1"]
