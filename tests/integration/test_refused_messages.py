"""No message ends a worker or goes back to the queue: what is none is refused, counted and told without its body."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from tailrace.model import Wire
from tests.chaos.fleet import QUICK, Worker, scene, wait_for
from tests.foreignmessages import BAD, CANARY, asking, first_protocol, fuzzed, message, stored
from tests.scraped import free_port, scraped
from tests.upstream import LiveStore

SETTINGS = QUICK | {"TAILRACE_PARK_AFTER_SECONDS": "0.5", "TAILRACE_LOG_LEVEL": "debug"}
REFUSED = "tailrace_refused_messages_total"
CONTROL = "/0.celery.pidbox"
"""Where kombu has Celery's remote control, in database 0."""
SEED = int(os.environ.get("SEED", "20261127"))
FUZZED = int(os.environ.get("FUZZED", "400"))


def events(worker: Worker, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def refused(port: int) -> dict[str, int]:
    """What the process that takes messages has counted, by what was wrong; nothing of what never was."""
    counted = scraped(port).items()
    return {dict(labels)["kind"]: int(value) for (name, labels), value in counted if name == REFUSED and value}


@contextmanager
def receiving(
    place: Path, database_url: str, redis_url: str, messages: Iterable[bytes], pool: str = "gevent"
) -> Iterator[tuple[Worker, dict[str, int]]]:
    """Push messages to a worker that reads a live stream; have it go on, serve what comes after them, and end.

    With the worker comes what it counted, by what was wrong.
    """
    store, port = LiveStore(), free_port()
    for run_id in ("run_live", "run_ok", "run_first", "run_after"):
        store.create_run(run_id, Wire.V2)
        store.append_chunk(run_id, "ai", '"0"')
    with scene(place, database_url, redis_url, store, **SETTINGS, TAILRACE_METRICS_PORT=str(port)) as (workers, _), redis.Redis.from_url(redis_url) as broker:  # fmt: skip
        archive = workers.archive
        archive.rows("INSERT INTO tailrace.environments (name, api_url) VALUES ('default', 'x') ON CONFLICT DO NOTHING")
        archive.request("run_live")
        worker = workers.started(pool, 4, direct=True)
        pid = worker.pid
        wait_for(lambda: archive.texts("run_live", "ai") == ['"0"'], 30, "the live stream is read")
        for text in messages:
            broker.lpush("tailrace", text)
        store.append_chunk("run_live", "ai", '"meanwhile"')
        wait_for(lambda: archive.texts("run_live", "ai") == ['"0"', '"meanwhile"'], 60, "it goes on")
        for good in (asking("run_after", ["ai"], then="app.done@theirs"), first_protocol(args=["run_first"])):
            broker.lpush("tailrace", stored(good))
        for run_id in ("run_after", "run_first"):
            wait_for(lambda run_id=run_id: archive.texts(run_id, "ai") == ['"0"'], 90, f"{run_id} is served")  # type: ignore[misc]
        wait_for(
            lambda: not (broker.llen("tailrace") or broker.hlen("unacked") or broker.zcard("unacked_index")),
            60,
            "nothing is in the queue, and nothing waits to go back to it",
        )
        assert worker.alive
        assert worker.pid == pid
        store.append_chunk("run_live", "ai", '"after"')
        wait_for(lambda: archive.texts("run_live", "ai")[-1] == '"after"', 30, "the live stream goes on")
        counted = refused(port)
        worker.terminate()
        assert worker.wait(30) == 0
        assert CANARY not in worker.said()
        assert "Traceback" not in worker.said(), worker.said()[-5_000:]
        yield worker, counted


@pytest.mark.parametrize("pool", ["gevent", "threads", "prefork", "solo"])
def test_a_malformed_message_is_refused_counted_and_told_once(
    pool: str, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    with receiving(tmp_path, database_url, redis_url, [stored(made) for _, made in BAD.values()], pool) as (
        worker,
        counted,
    ):
        expected = [kind for kind, _ in BAD.values()]
        assert {kind: many for kind, many in counted.items() if many} == {
            kind: expected.count(kind) for kind in set(expected)
        }
        told = [event["kind"] for event in events(worker, "message_refused")]
        assert sorted(told) == sorted(set(expected))  # once each


def test_nor_does_what_is_said_to_all_workers_end_one(tmp_path: Path, database_url: str, redis_url: str) -> None:
    """Celery's remote control: not the queue, but anybody may publish there too."""
    said = [b"garbage", b"\xff", b"{}", b"null", b"[]", stored(message()), stored(message([]) | {"headers": None})]
    with (
        scene(tmp_path, database_url, redis_url, LiveStore(), **SETTINGS) as (workers, _),
        redis.Redis.from_url(redis_url) as broker,
    ):
        worker = workers.started("gevent", 4, direct=True)
        for text in said:
            wait_for(lambda text=text: broker.publish(CONTROL, text), 20, "the worker listens")  # type: ignore[misc]
        broker.lpush("tailrace", b"garbage")
        wait_for(lambda: events(worker, "message_refused"), 20, "it goes on")
        # An app of its own: ours would keep this broker for whoever is tested next in this process.
        with Celery("asking", broker=redis_url, set_as_current=False) as asking_app:
            # What the worker could not read had it subscribe anew, and what is said meanwhile it does not hear.
            wait_for(lambda: asking_app.control.ping(timeout=2, limit=1), 30, "it answers")
        assert worker.alive
        worker.terminate()
        assert worker.wait(30) == 0


def test_whatever_is_pushed_into_the_queue(tmp_path: Path, database_url: str, redis_url: str) -> None:
    print(f"SEED={SEED}")
    with receiving(tmp_path, database_url, redis_url, fuzzed(SEED, FUZZED)) as (_, counted):
        assert sum(counted.values()) > FUZZED / 2
