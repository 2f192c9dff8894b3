"""A run is asked for in the caller's own transaction, and no message is needed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from celery import Celery
from sqlalchemy.orm import Session

from tailrace.model import Wire
from tailrace.requests import request_ingest
from tailrace.tasks.app import VISIBILITY_TIMEOUT_S
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.upstream import LiveStore


def runs(engine: sa.Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text("SELECT run_id, selection, priority, then_tasks FROM tailrace.runs ORDER BY 1"))]  # fmt: skip


def test_it_goes_with_the_callers_transaction(engine: sa.Engine) -> None:
    with Session(engine) as session:
        request_ingest(session, "run_1")
        session.rollback()
        assert runs(engine) == []
        request_ingest(session, "run_1", ["a", "b"], backfill=True, then="app.done@mine")
        assert runs(engine) == []
        session.commit()
    assert runs(engine) == [("run_1", ["a", "b"], 1, ["app.done@mine"])]
    with engine.begin() as connection:
        again = request_ingest(connection, "run_1", then="app.other")
        assert request_ingest(connection, "run_1", then="app.other") == again
    assert runs(engine) == [("run_1", None, 0, ["app.done@mine", "app.other"])]


def test_an_unknown_environment_is_refused(engine: sa.Engine) -> None:
    with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="there is no environment"):
        request_ingest(connection, "run_1", environment="nowhere")


def test_it_needs_nothing_that_only_workers_have() -> None:
    program = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"httpx", "gevent", "msgspec", "pydantic", "structlog", "typer", "alembic", "celery"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import tailrace.requests
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_found_after_the_commit_with_no_message_at_all(
    engine: sa.Engine, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """Redis is wiped between ``.delay()`` and pickup: that message is gone, the request that is a row is not."""
    store = LiveStore()
    for run_id in ("run_row", "run_message"):
        store.create_run(run_id, Wire.V1)
        store.append_chunk(run_id, "a", '"here"')
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _):
        with Session(engine) as session:
            request_ingest(session, "run_row")
            session.commit()
        app = Celery(broker=redis_url, set_as_current=False)
        for run_id in ("run_row", "run_message"):
            app.send_task("tailrace.ingest_run", [run_id], queue="tailrace")
        app.close()
        with redis.Redis.from_url(redis_url) as broker:
            assert broker.llen("tailrace") == 2
            broker.flushall()
        workers.started()
        began = time.monotonic()
        wait_for(lambda: workers.archive.texts("run_row", "a") == ['"here"'], 10)
        print(f"a request that is a row: read {time.monotonic() - began:.2f} s after the worker was ready")
        with Session(engine) as session:
            began = time.monotonic()
            request_ingest(session, "run_message")
            session.commit()
        wait_for(lambda: workers.archive.texts("run_message", "a") == ['"here"'], 10)
        print(f"and beside a running one: {time.monotonic() - began:.2f} s after the commit")


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_a_message_in_the_hands_of_a_worker_that_was_killed_is_delivered_again(
    pool: str, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """After Celery's visibility timeout, which is an hour: the message is made so old in Redis."""
    store = LiveStore()
    store.create_run("run_0", Wire.V1)
    store.append_chunk("run_0", "a", '"here"')
    with scene(tmp_path, database_url, redis_url, store, **QUICK) as (workers, _):
        worker = workers.started(pool)
        worker.database.hang()  # so it can't make a row of it
        app = Celery(broker=redis_url, set_as_current=False)
        app.send_task("tailrace.ingest_run", ["run_0"], queue="tailrace")
        app.close()
        with redis.Redis.from_url(redis_url) as broker:
            wait_for(lambda: broker.zcard("unacked_index") == 1, 20, "it has the message")
            worker.kill()
            assert workers.archive.value("SELECT count(*) FROM tailrace.runs") == 0
            (message,) = broker.zrange("unacked_index", 0, -1)
            broker.zincrby("unacked_index", -(VISIBILITY_TIMEOUT_S + 1), message)
        workers.started(pool)
        wait_for(lambda: workers.archive.texts("run_0", "a") == ['"here"'], 30)
