"""Others are told when a run is settled: after the commit, at least once, whatever becomes of Redis."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import redis

from tailrace.model import Wire
from tests.chaos.fleet import QUICK, Archive, scene, wait_for
from tests.upstream import LiveStore


def told(redis_url: str, queue: str) -> list[tuple[str, dict[str, Any]]]:
    """The messages that lie in a queue: task and keyword arguments."""
    with redis.Redis.from_url(redis_url) as broker:
        raw: Any = broker.lrange(queue, 0, -1)
    found = []
    for each in reversed(raw):
        message = json.loads(each)
        body = json.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], body[1]))
    return found


def task_ids(redis_url: str, queue: str) -> list[str]:
    """The ids of the messages that lie in a queue, the oldest first."""
    with redis.Redis.from_url(redis_url) as broker:
        raw: Any = broker.lrange(queue, 0, -1)
    return [json.loads(each)["headers"]["id"] for each in reversed(raw)]


def test_tasks_are_told_and_told_again_when_redis_forgets(tmp_path: Path, database_url: str, redis_url: str) -> None:
    store = LiveStore()
    store.create_run("run_0", Wire.V2)
    store.append_chunks("run_0", "ai", ["1", "2"])
    settings = QUICK | {"TAILRACE_ON_SEALED": "app.archived@theirs", "TAILRACE_UNKNOWN_RUN_SECONDS": "1"}
    with scene(tmp_path, database_url, redis_url, store, **settings) as (workers, _):
        archive = workers.archive
        worker = workers.started()
        archive.rows("SELECT tailrace.request_ingest('run_0', p_then => 'app.mine@mine')")
        archive.request("run_nobody")
        wait_for(lambda: len(told(redis_url, "theirs")) == 1, 20)
        assert told(redis_url, "theirs")[0][1]["run_id"] == "run_nobody"
        assert told(redis_url, "theirs")[0][1]["event"] == "failed"
        store.finish_run("run_0")
        wait_for(lambda: len(told(redis_url, "theirs")) == 2, 20)
        ((task, arguments),) = wait_for(lambda: told(redis_url, "mine"), 5)
        assert task == "app.mine"
        assert arguments["run_id"] == "run_0"
        assert arguments["event"] == "sealed"
        assert arguments["environment"] == "default"
        assert arguments["verdicts"]["ai"]["verdict"] == "complete"
        assert arguments["verdicts"]["ai"]["chunks"] == 2
        # Nobody has read them yet, and Redis forgets them.
        before = {queue: task_ids(redis_url, queue) for queue in ("mine", "theirs")}
        with redis.Redis.from_url(redis_url) as broker:
            broker.flushall()
        wait_for(lambda: len(told(redis_url, "theirs")) == 2 and len(told(redis_url, "mine")) == 1, 20)
        assert {queue: sorted(task_ids(redis_url, queue)) for queue in before} == {
            queue: sorted(ids) for queue, ids in before.items()
        }
        # Redis is away while a run is opened again; the message waits in the table.
        worker.redis.refuse()
        archive.rows("SELECT tailrace.request_ingest('run_0', '{other}')")
        wait_for(lambda: archive.value("SELECT count(*) > 0 FROM tailrace.outbox WHERE sent_at IS NULL"), 10)
        worker.redis.behave()
        wait_for(lambda: "reopened" in [arguments["event"] for _, arguments in told(redis_url, "theirs")], 40)


def test_an_event_is_written_with_what_it_tells_of(database_url: str) -> None:
    archive = Archive(database_url)
    run = archive.request("run_0")
    with archive_transaction(database_url) as connection:
        connection.execute("UPDATE tailrace.runs SET state = 'sealed' WHERE id = %s", [run])
        assert connection.execute("SELECT event FROM tailrace.outbox").fetchall() == [("sealed",)]
        connection.rollback()
    assert archive.rows("SELECT event FROM tailrace.outbox") == []
    for state in ("watched", "sealed", "watched", "failed", "requested", "cancelled", "requested"):
        archive.rows("UPDATE tailrace.runs SET state = %s WHERE id = %s", state, run)
    assert [event for (event,) in archive.rows("SELECT event FROM tailrace.outbox ORDER BY id")] == [
        "sealed",
        "reopened",
        "failed",
        "reopened",
    ]
    archive.close()


def archive_transaction(database_url: str) -> Any:
    import psycopg

    return psycopg.connect(database_url)
