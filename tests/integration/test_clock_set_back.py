"""Postgres' clock ran an hour ahead and was set right: nothing waits for that hour to pass."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from tailrace.model import Wire
from tailrace.store.engine import create_engine
from tailrace.store.leases import Leases, WorkerRow
from tests.chaos.fleet import QUICK, wait_for
from tests.integration.test_outage import recovered, writing

TABLES = (
    *("runs", "streams", "outbox", "backfills", "discoveries", "environments", "workers"),
    *("tallied", "verifications", "schedules"),
)


def set_back(database_url: str) -> None:
    """Leave the archive as it is when the clock was an hour ahead until now: every moment in it is an hour later."""
    with psycopg.connect(database_url) as connection:
        for table in TABLES:
            columns = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE (table_schema, table_name) = ('tailrace', %s)"
                " AND data_type = 'timestamp with time zone' AND column_name NOT IN ('finished_at', 'until', 'since')",
                [table],
            ).fetchall()
            moved = sql.SQL(", ").join(
                sql.SQL("{0} = {0} + interval '1 hour'").format(sql.Identifier(name)) for (name,) in columns
            )
            connection.execute(sql.SQL("UPDATE tailrace.{} SET {}").format(sql.Identifier(table), moved))


@pytest.mark.parametrize("survived", [True, False], ids=["workers live", "workers died ahead"])
def test_nothing_waits_for_a_clock_that_was_set_back(
    survived: bool, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    with writing(tmp_path, database_url, redis_url, count=2) as (workers, author, store):
        archive = workers.archive
        store.create_run("run_quiet", Wire.V2)
        store.append_chunk("run_quiet", "x", "1")
        for run_id in ("run_quiet", "run_unknown"):
            archive.request(run_id)
        wait_for(lambda: archive.texts("run_quiet", "x") == ["1"], 20)
        wait_for(lambda: archive.value("SELECT count(*) FROM tailrace.runs WHERE watch_attempt > 0"), 20)
        if not survived:
            for worker in list(workers.workers):
                worker.kill()
        set_back(database_url)
        since = time.monotonic()
        if not survived:
            workers.started()
        recovered(archive, author, since, "the clock was set back", 25)
        store.append_chunk("run_quiet", "x", "2")
        wait_for(lambda: archive.texts("run_quiet", "x") == ["1", "2"], 15, "a quiet stream is read on")
        store.create_run("run_unknown", Wire.V2)
        store.append_chunk("run_unknown", "x", "1")
        wait_for(lambda: archive.texts("run_unknown", "x") == ["1"], 15, "a run is looked for")
        author.finish()
        for run_id in ("run_quiet", "run_unknown"):
            store.finish_run(run_id)
        wait_for(lambda: archive.all_sealed(4), 30, "everything is sealed")
        assert archive.violations() == []
        assert sum(worker.said().count("clock_went_back") for worker in workers.workers) == 1


def test_a_clock_that_is_right_moves_nothing(database_url: str) -> None:
    """Whatever is due in a while stays so; a lease that somebody just renewed is no sign."""
    engine = create_engine(database_url, poolclass=sa.pool.NullPool)
    leases = Leases(engine, WorkerRow(uuid.uuid4(), "host", 1, "threads", 10), float(QUICK["TAILRACE_LEASE_SECONDS"]))
    with psycopg.connect(database_url, autocommit=True) as connection:
        for _ in range(3):
            leases.renew()
        connection.execute("SELECT tailrace.request_ingest('run_later')")
        connection.execute("UPDATE tailrace.runs SET next_watch_at = now() + interval '1 hour'")
        leases.follow_clock()
        ((left,),) = connection.execute("SELECT next_watch_at - now() FROM tailrace.runs").fetchall()
        assert left > timedelta(minutes=59)
