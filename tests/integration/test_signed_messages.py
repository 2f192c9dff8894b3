"""A worker with a key takes only what was signed with one of its keys, wherever it stands in the broker."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

from tailrace.celery import register
from tailrace.model import Wire
from tailrace.tasks.signature import HEADER
from tests.chaos.fleet import Archive, scene, wait_for
from tests.foreignmessages import CANARY, asking, message, stored
from tests.integration.test_refused_messages import CONTROL, SETTINGS, events, refused
from tests.scraped import free_port
from tests.upstream import LiveStore

NEW = "new-5f0c1f3a9be24d7d8c6b7d8c6b24d9be"
OLD = "old-9a8b7c6d5e4f3a2b1c0dd0c1b2a3f4e5"
WRONG = "wrong-0123456789abcdef00fedcba987654"
QUEUE = "tailrace"


def ask(redis_url: str, monkeypatch: pytest.MonkeyPatch, key: str, *run_ids: str) -> None:
    """Ask for runs as a host does, with an app of its own. No key: unsigned."""
    monkeypatch.setenv("TAILRACE_SIGN_KEY", key)
    with Celery("host", broker=redis_url, set_as_current=False) as host:
        for run_id in run_ids:
            register(host).send_task("tailrace.ingest_run", [run_id])
    monkeypatch.delenv("TAILRACE_SIGN_KEY")


def queued(broker: redis.Redis) -> list[dict[str, Any]]:
    """Take every message out of the queue."""
    found = [json.loads(text) for text in broker.lrange(QUEUE, 0, -1)]  # type: ignore[union-attr]
    broker.delete(QUEUE)
    return found


def waiting(broker: redis.Redis) -> bool:
    return bool(broker.llen(QUEUE) or broker.hlen("unacked"))


def archived(archive: Archive, *run_ids: str) -> None:
    for run_id in run_ids:
        wait_for(lambda run_id=run_id: archive.texts(run_id, "ai") == ['"0"'], 60, f"{run_id} is archived")  # type: ignore[misc]


def store_of(*run_ids: str) -> LiveStore:
    store = LiveStore()
    for run_id in run_ids:
        store.create_run(run_id, Wire.V2)
        store.append_chunk(run_id, "ai", '"0"')
    return store


def bombs_and_forgeries(signed: dict[str, Any]) -> list[bytes]:
    """What somebody may make who can read and write the queue, but has no key."""
    text = json.dumps(signed)
    theirs = json.dumps([["run_theirs"], {}, {}]).encode()
    bomb = message(raw=zlib.compress(b"[" * 20_000_000))
    bomb["headers"] |= {"compression": "application/x-gzip", HEADER: signed["headers"][HEADER]}
    huge = json.loads(text) | {"body": base64.b64encode(b"[" * 5_000_000).decode()}
    changed = json.loads(text) | {"body": base64.b64encode(theirs).decode()}
    renamed = json.loads(text)
    renamed["headers"]["task"] = "tailrace.cancel_run"
    return [
        stored(asking("run_theirs")),
        stored(asking([], task="celery.map")),
        stored(asking(CANARY, task="tailrace.nosuch")),
        *map(stored, (bomb, huge, changed, renamed)),
    ]


@pytest.mark.parametrize("pool", ["gevent", "prefork"])
def test_only_what_is_signed_is_taken(
    pool: str, tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    settings = SETTINGS | {"TAILRACE_SIGN_KEY": f"{NEW},{OLD}", "TAILRACE_METRICS_PORT": str(port)}
    store = store_of("run_new", "run_old", "run_theirs")
    with (
        redis.Redis.from_url(redis_url) as broker,
        scene(tmp_path, database_url, redis_url, store, **settings) as (workers, _),
    ):
        ask(redis_url, monkeypatch, OLD, "run_old")
        (signed,) = queued(broker)  # as a neighbour would read it
        ask(redis_url, monkeypatch, WRONG, "run_theirs")
        ask(redis_url, monkeypatch, "", "run_theirs")
        bad = [*map(stored, queued(broker)), *bombs_and_forgeries(signed)]
        broker.lpush(QUEUE, *bad)
        ask(redis_url, monkeypatch, NEW, "run_new")
        broker.lpush(QUEUE, stored(signed), stored(signed))  # a copy does no harm
        worker = workers.started(pool, 4, direct=True)
        archive = workers.archive
        archived(archive, "run_new", "run_old")
        assert broker.publish(CONTROL, stored(message([]))) == 0  # `celery control shutdown` reaches nobody
        wait_for(lambda: not waiting(broker), 30, "nothing is left in the queue")
        assert archive.rows("SELECT run_id FROM tailrace.runs ORDER BY run_id") == [("run_new",), ("run_old",)]
        # Its own hints are signed too: nothing else was refused.
        assert refused(port) == {"signature": len(bad)}
        worker.terminate()
        assert worker.wait(30) == 0
        (told,) = events(worker, "message_refused")
        assert told["kind"] == "signature"
        said = worker.said()
        assert not [each for each in (CANARY, NEW, OLD, WRONG, "Traceback") if each in said]


@pytest.mark.parametrize(
    ("of_worker", "refuses"),
    [
        ({"TAILRACE_SIGN_KEY": NEW, "TAILRACE_UNSIGNED_MESSAGES": "accept"}, {"signature": 1}),
        ({}, {}),
    ],
    ids=["not everybody signs yet", "the worker has no key yet"],
)
def test_a_fleet_is_given_its_keys_step_by_step(
    of_worker: dict[str, str],
    refuses: dict[str, int],
    tmp_path: Path,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    settings = SETTINGS | of_worker | {"TAILRACE_METRICS_PORT": str(port)}
    with scene(tmp_path, database_url, redis_url, store_of("run_signed", "run_plain"), **settings) as (workers, _):
        worker = workers.started("threads", 4, direct=True)
        archive = workers.archive
        wait_for(lambda: archive.rows("SELECT 1 FROM tailrace.environments"), 20, "it serves an environment")
        if refuses:
            ask(redis_url, monkeypatch, WRONG, "run_theirs")
        ask(redis_url, monkeypatch, NEW, "run_signed")
        ask(redis_url, monkeypatch, "", "run_plain")
        archived(archive, "run_signed", "run_plain")
        assert refused(port) == refuses
        worker.terminate()
        assert worker.wait(30) == 0
        assert [each["task"] for each in events(worker, "message_unsigned")] == ["tailrace.ingest_run"] * len(refuses)


def test_logins_of_redis_have_what_they_need_and_no_more(
    tmp_path: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of the documentation, as they stand there."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    lines = [line.replace(">...", ">x").split() for line in page.splitlines() if line.startswith("ACL SETUSER")]
    worker_login, asker_login = (line[2] for line in lines)
    parts = urlsplit(redis_url)

    def url_of(login: str) -> str:
        return parts._replace(netloc=f"{login}:x@{parts.hostname}:{parts.port}").geturl()

    port = free_port()
    settings = SETTINGS | {"TAILRACE_SIGN_KEY": NEW, "TAILRACE_METRICS_PORT": str(port)}
    with redis.Redis.from_url(redis_url) as admin:
        for line in lines:
            admin.execute_command(*line)  # type: ignore[no-untyped-call]
        try:
            with (
                scene(tmp_path, database_url, url_of(worker_login), store_of("run_new"), **settings) as (workers, _),
                redis.Redis.from_url(url_of(asker_login)) as asker,
            ):
                ask(url_of(asker_login), monkeypatch, NEW, "run_new")
                for beyond in (
                    lambda: asker.lrange(QUEUE, 0, -1),
                    lambda: asker.rpop(QUEUE),
                    lambda: asker.delete(QUEUE),
                    lambda: asker.lpush("celery", "theirs"),
                    lambda: asker.hgetall("unacked"),
                    lambda: asker.set("tailrace:epoch", "1"),
                    lambda: asker.publish(CONTROL, "shutdown"),
                    lambda: asker.flushall(),
                    lambda: asker.config_get("*"),
                ):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        beyond()
                worker = workers.started("gevent", 4, direct=True)
                archived(workers.archive, "run_new")
                wait_for(lambda: not waiting(admin), 30, "nothing is left in the queue")
                assert refused(port) == {}
                worker.terminate()
                assert worker.wait(30) == 0
                assert "NOPERM" not in worker.said(), worker.said()[-3_000:]
        finally:
            admin.acl_deluser(worker_login, asker_login)
