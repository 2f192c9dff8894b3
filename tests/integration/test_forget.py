"""Forgetting a run: nothing is left of it, anywhere, and it does not come back."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.errors import UnknownEnvironment
from tailrace.store.commit import Committer
from tailrace.store.keeping.forget import Forgetting
from tailrace.store.leases import Leases, WorkerRow
from tests.integration.schema_rows import Archive
from tests.integration.test_commit import batch, flush_of

SECRET = "tomatensuppe"


@pytest.fixture
def forgetting(engine: sa.Engine) -> Forgetting:
    return Forgetting(engine)


def told(archive: Archive, run_id: str = "run_1") -> int:
    """A run that says a secret everywhere where a run can say something."""
    stream = archive.whole_stream([f'"{SECRET}"'], run_id=run_id, key=f"key-{SECRET}")
    archive.hole(stream, 1, 1, "quarantined")
    archive.quarantine(stream, 1, SECRET.encode())
    archive.run(
        """UPDATE tailrace.runs SET tags = ARRAY['person-5', %s], last_error = %s,
           task_identifier = %s WHERE run_id = %s""",
        SECRET,
        SECRET,
        SECRET,
        run_id,
    )
    archive.run("UPDATE tailrace.streams SET last_error = %s WHERE id = %s", SECRET, stream)
    for state in ("active", "sealed"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
    archive.value("SELECT tailrace.index_text(%s)", stream)
    archive.run(
        """INSERT INTO tailrace.exported (target, stream_id, run, path, chunk_count, digest)
           SELECT 's3://x', s.id, s.run, 's3://x/part-1.parquet', 1, s.digest FROM tailrace.streams s WHERE id = %s""",
        stream,
    )
    return stream


def places_with(archive: Archive, word: str) -> set[str]:
    """Every table of the schema, partitions too, that has the word in any row, whatever the column."""
    tables = archive.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tailrace'::regnamespace AND relkind IN ('r', 'p')"
    )
    needle = word.encode().hex()
    return {
        name
        for (name,) in tables
        if archive.value(f'SELECT count(*) FROM tailrace."{name}" t WHERE t::text ~ %s', f"{word}|{needle}")
    }


def test_nothing_is_left_in_any_table(archive: Archive, forgetting: Forgetting) -> None:
    stream = told(archive)
    other = archive.whole_stream(['"else"'], run_id="run_2")
    assert {"runs", "streams", "segments", "quarantine", "search"} <= places_with(archive, SECRET)
    done = forgetting.forget("default", "run_1")
    assert (done.archived, done.streams, done.exports) == (True, 1, ["s3://x/part-1.parquet"])
    assert places_with(archive, SECRET) == set()
    assert places_with(archive, "run_1") == set()
    assert places_with(archive, str(stream)) == set()
    assert archive.value("SELECT count(*) FROM tailrace.chunks WHERE stream_id = %s", other) == 1
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []


def test_it_does_not_come_back_whoever_asks(archive: Archive, forgetting: Forgetting) -> None:
    told(archive)
    forgetting.forget("default", "run_1")
    with pytest.raises(psycopg.errors.CheckViolation, match="forgotten"):
        archive.value("SELECT tailrace.request_ingest('run_1')")
    listed = '[{"run_id": "run_1"}, {"run_id": "run_2"}]'
    assert archive.rows("SELECT * FROM tailrace.request_listed('default', %s)", listed) == [("run_2",)]
    assert archive.rows("SELECT run_id FROM tailrace.runs") == [("run_2",)]


def test_the_tombstone_can_be_lifted(archive: Archive, forgetting: Forgetting) -> None:
    told(archive)
    forgetting.forget("default", "run_1")
    assert forgetting.allow_again("default", "run_1")
    assert not forgetting.allow_again("default", "run_1")
    assert archive.value("SELECT tailrace.request_ingest('run_1')")


def test_a_run_that_was_never_archived_is_kept_out_too(archive: Archive, forgetting: Forgetting) -> None:
    done = forgetting.forget("default", "run_never")
    assert (done.archived, done.streams) == (False, 0)
    with pytest.raises(psycopg.errors.CheckViolation):
        archive.value("SELECT tailrace.request_ingest('run_never')")


def test_a_second_time_still_knows_the_exports(archive: Archive, forgetting: Forgetting) -> None:
    told(archive)
    first = forgetting.forget("default", "run_1")
    again = forgetting.forget("default", "run_1")
    assert (again.archived, again.exports) == (False, first.exports)


def test_by_tag(archive: Archive, forgetting: Forgetting) -> None:
    for run_id in ("run_1", "run_2"):
        told(archive, run_id)
    archive.whole_stream(['"else"'], run_id="run_3")
    assert forgetting.runs_with_tag("default", "person-5") == ["run_1", "run_2"]
    assert forgetting.runs_with_tag("default", "person-5' OR true --") == []


def test_the_same_run_id_in_another_environment_stays(archive: Archive, forgetting: Forgetting) -> None:
    archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('prod', 'https://x')")
    told(archive)
    archive.stream("run_1", "ai", "prod")
    forgetting.forget("default", "run_1")
    assert archive.rows("SELECT environment FROM tailrace.run_overview") == [("prod",)]
    with pytest.raises(UnknownEnvironment):
        forgetting.forget("nowhere", "run_1")


def test_a_writer_at_work_on_it_is_fenced_off(archive: Archive, engine: sa.Engine, forgetting: Forgetting) -> None:
    stream_id = archive.stream()
    leases = Leases(engine, WorkerRow(uuid4(), "here", 1, "local", 1), 10.0)
    leases.renew()
    (stream,) = leases.acquire([stream_id])
    committer = Committer(engine, leases.worker_id)
    assert committer.commit([flush_of(stream, batch(0, b'"tomatensuppe"'))]) == {stream_id}
    forgetting.forget("default", "run_1")
    assert committer.commit([flush_of(stream, batch(1, b'"tomatensuppe"'))]) == set()
    assert committer.fates([stream_id]).of == {}
    assert places_with(archive, SECRET) == set()


def until_it_waits_or_ends(archive: Archive, work: Future[object]) -> None:
    """Until somebody waits for a lock in this database, or the work is done without."""
    waiting = """SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND state = 'active'"""
    give_up = time.monotonic() + 30
    while not work.done() and not archive.value(waiting):
        assert time.monotonic() < give_up


def test_a_request_on_its_way_does_not_slip_through(
    archive: Archive, forgetting: Forgetting, database_url: str
) -> None:
    """Somebody asked for the run in a transaction that is not committed yet: nobody can see it, and it is forgotten."""
    caller = Archive(database_url)
    with caller.connection, ThreadPoolExecutor() as pool:
        with caller.connection.transaction():
            caller.value("SELECT tailrace.request_ingest('run_1')")
            forgot = pool.submit(forgetting.forget, "default", "run_1")
            until_it_waits_or_ends(archive, forgot)
        assert forgot.result(30).archived
    assert archive.rows("SELECT run_id FROM tailrace.runs") == []
    with pytest.raises(psycopg.errors.CheckViolation):
        archive.value("SELECT tailrace.request_ingest('run_1')")


def test_a_request_that_comes_meanwhile_is_refused(archive: Archive, database_url: str) -> None:
    caller, forgetter = Archive(database_url), Archive(database_url)
    with caller.connection, forgetter.connection, ThreadPoolExecutor() as pool:
        with forgetter.connection.transaction():
            forgetter.rows("SELECT * FROM tailrace.forget_run('default', 'run_1')")
            asked = pool.submit(caller.value, "SELECT tailrace.request_ingest('run_1')")
            until_it_waits_or_ends(archive, asked)
        with pytest.raises(psycopg.errors.CheckViolation, match="forgotten"):
            asked.result(30)
    assert archive.rows("SELECT run_id FROM tailrace.runs") == []


def test_two_forget_the_same_run_at_once(archive: Archive, forgetting: Forgetting, database_url: str) -> None:
    told(archive)
    forgetter = Archive(database_url)
    with forgetter.connection, ThreadPoolExecutor() as pool:
        with forgetter.connection.transaction():
            forgetter.rows("SELECT * FROM tailrace.forget_run('default', 'run_1')")
            forgot = pool.submit(forgetting.forget, "default", "run_1")
            until_it_waits_or_ends(archive, forgot)
        done = forgot.result(30)
    assert (done.archived, done.exports) == (False, ["s3://x/part-1.parquet"])
    assert places_with(archive, SECRET) == set()
