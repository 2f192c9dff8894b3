"""The faults of a schedule. Each strikes once, says under what name it counts, and ends by itself or by a timer.

None instead of a name: there was nothing that it could strike.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import redis
from celery import Celery

from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tests.chaos.tcpproxy import Point, Proxy
from tests.upstream.faults import Lie

if TYPE_CHECKING:
    from tests.chaos.schedule import Schedule

COMMIT_S = 3.0
"""How long a fault inside a commit waits for one."""


TRUTH_S = 6.0
"""Between two lies every reader has met the truth."""

# --- workers


def kill(schedule: Schedule) -> str | None:
    worker = schedule.one()
    if worker is None:
        return None
    schedule.kill(worker)
    schedule.replace()
    return "kill"


def terminate(schedule: Schedule) -> str | None:
    worker = schedule.one()
    if worker is None:
        return None
    worker.terminate()
    schedule.start_worker()
    return "terminate"


def suspend(schedule: Schedule) -> str | None:
    """For less than a lease, or for longer."""
    worker = schedule.one()
    if worker is None:
        return None
    worker.suspend()
    schedule.later(schedule.dice.choice((0.5, 5.0)), worker.resume)
    return "suspend"


def in_commit(schedule: Schedule) -> str | None:
    """At a named point of a commit: the worker is killed or suspended, or the connection breaks."""
    worker = schedule.one()
    if worker is None:
        return None
    point, how = schedule.dice.choice(list(Point)), schedule.dice.choice(("kill", "stop", "cut"))
    actions: dict[str, Callable[[], None]] = {
        "kill": lambda: schedule.kill(worker),
        "stop": lambda: os.kill(worker.pid, signal.SIGSTOP),
        "cut": lambda: None,
    }
    # The connections of a killed process are closed by its kernel; those of a suspended one hang.
    happened = worker.database.at(point, actions[how], cut=how != "stop")
    if not happened.wait(COMMIT_S) and (worker.database.disarm() or not happened.wait(COMMIT_S)):
        return None
    if how == "kill":
        schedule.replace()
    elif how == "stop":
        time.sleep(schedule.dice.choice((0.2, 4.0)))
        worker.database.cut()
        worker.resume()
    return f"{point}: {how}"


# --- Postgres


def postgres_restart(schedule: Schedule) -> str | None:
    schedule.servers.postgres.restart_immediate()
    return "postgres_restart"


def postgres_cut(schedule: Schedule) -> str | None:
    return _cut_at_a_byte(schedule, "postgres_cut", lambda worker: worker.database)


def postgres_slow(schedule: Schedule) -> str | None:
    worker = schedule.one()
    if worker is None:
        return None
    proxy = worker.database
    proxy.bytes_per_s = 20_000
    schedule.later(3, lambda: setattr(proxy, "bytes_per_s", 0.0))
    return "postgres_slow"


def postgres_drip(schedule: Schedule) -> str | None:
    return _drip(schedule, "postgres_drip", lambda worker: worker.database)


def postgres_stall(schedule: Schedule) -> str | None:
    return _stall(schedule, "postgres_stall", lambda worker: worker.database)


def postgres_unreachable(schedule: Schedule) -> str | None:
    worker = schedule.one()
    if worker is None:
        return None
    worker.database.refuse()
    schedule.later(schedule.dice.uniform(0.5, 5), worker.database.behave)
    return "postgres_unreachable"


# --- Redis


def valkey_kill(schedule: Schedule) -> str | None:
    schedule.servers.valkey.kill()
    time.sleep(schedule.dice.uniform(0, 2))
    schedule.servers.valkey.start()
    return "valkey_kill"


def valkey_stall(schedule: Schedule) -> str | None:
    return _stall(schedule, "valkey_stall", lambda worker: worker.redis)


def flushall(schedule: Schedule) -> str | None:
    with redis.Redis.from_url(schedule.servers.valkey.url()) as broker:
        broker.flushall()
    return "flushall"


def duplicates(schedule: Schedule) -> str | None:
    """Three messages for each stream, to whoever takes them first."""
    try:
        streams = schedule.fleet.archive.rows("SELECT id FROM tailrace.streams")
    except psycopg.Error:
        return None
    app = Celery(broker=schedule.servers.valkey.url(), set_as_current=False)
    for (stream,) in streams:
        for _ in range(3):
            app.send_task("tailrace.ingest_stream", [stream], queue="tailrace", retry=False)
    app.close()
    return "duplicates"


# --- upstream


def upstream_cut(schedule: Schedule) -> str | None:
    return _cut_at_a_byte(schedule, "upstream_cut", lambda worker: worker.upstream)


def upstream_broken_bodies(schedule: Schedule) -> str | None:
    """The next six answers end within their bodies, by an end or a reset."""
    faults, dice = schedule.upstream.faults.everything(), schedule.dice
    for _ in range(6):
        dice.choice((faults.cut, faults.reset))(after_bytes=dice.randint(0, 3_000))
    _break_connections(schedule)
    return "upstream_broken_bodies"


def upstream_storm(schedule: Schedule) -> str | None:
    schedule.upstream.faults.everything().answer(schedule.dice.choice((429, 500, 502, 503, 504)), times=12)
    _break_connections(schedule)
    return "upstream_storm"


def upstream_hang(schedule: Schedule) -> str | None:
    """Bodies that stop without an end, and requests that nobody answers."""
    faults = schedule.upstream.faults.everything()
    faults.hang(after_bytes=schedule.dice.randint(0, 500), times=4)
    faults.silence(times=2)
    _break_connections(schedule)
    return "upstream_hang"


def upstream_drip(schedule: Schedule) -> str | None:
    return _drip(schedule, "upstream_drip", lambda worker: worker.upstream)


def upstream_stall(schedule: Schedule) -> str | None:
    return _stall(schedule, "upstream_stall", lambda worker: worker.upstream)


def refused_once(schedule: Schedule) -> str | None:
    """A firewall on the way refuses one request for each stream, and its page shows what it was asked with."""
    faults, dice = schedule.upstream.faults, schedule.dice
    page = f"<html>blocked: Authorization: Bearer {DEFAULT_KEY}</html>".encode()
    for truth in schedule.oracle.truths:
        status = dice.choice((400, 403, 404, 409, 410, 422))
        faults.stream(truth.run_id, truth.key).answer(status, body=page)
    for run_id in schedule.oracle.runs:
        faults.feed(run_id).answer(dice.choice((400, 403, 409, 422)), body=page)
    _break_connections(schedule)
    return "refused_once"


def contradicted(schedule: Schedule) -> str | None:
    """A proxy on the way lies about each v2 stream, once. What is said three times in a row would be believed."""
    faults, dice = schedule.upstream.faults, schedule.dice
    if time.monotonic() < schedule.lied_at + TRUTH_S:
        return None
    schedule.lied_at = time.monotonic()
    for truth in schedule.oracle.truths:
        if truth.wire is Wire.V2:
            faults.stream(truth.run_id, truth.key).lie(dice.choice(list(Lie)))
    _break_connections(schedule)
    return "contradicted"


def malformed_rows(schedule: Schedule) -> str | None:
    """The feed of many runs, twice, and that of each run, once, have rows that can't be read."""
    faults = schedule.upstream.faults
    strays: list[object] = [None, 5, [], {"headers": 5}, {"key": 5, "value": {}}]

    def body(run_ids: list[str]) -> bytes:
        rows = [
            {
                "key": f"bad {run_id}",
                "value": {
                    "friendlyId": run_id,
                    "status": "EXECUTING",
                    "createdAt": "yesterday",
                    "realtimeStreams": "{",
                },
                "headers": {"operation": "insert"},
            }
            for run_id in run_ids
        ]
        return json.dumps([*strays, *rows, {"headers": {"control": "up-to-date"}}]).encode()

    faults.runs_feed().answer(200, body=body(schedule.oracle.runs), times=2)
    for run_id in schedule.oracle.runs:
        faults.feed(run_id).answer(200, body=body([run_id]))
    return "malformed_rows"


def locked_rows(schedule: Schedule) -> str | None:
    """Somebody holds the rows of half of the streams for a while."""
    hold_s = schedule.dice.uniform(0.5, 4)
    try:
        with psycopg.connect(schedule.database_url) as connection:
            connection.execute("SELECT FROM tailrace.streams WHERE id % 2 = 0 FOR UPDATE")
            time.sleep(hold_s)
    except psycopg.Error:
        return None
    return "locked_rows"


def malformed_messages(schedule: Schedule) -> str | None:
    """What no producer of ours would send, in the queue of requests."""
    dice = schedule.dice
    bodies = (b"[]", b"null", b'[["run_1"],{}]', b"[5,{},{}]", b'[["run_1"],[],{}]', b"nope", b"{}", b"\xff\xfe")
    with redis.Redis.from_url(schedule.servers.valkey.url()) as broker:
        for _ in range(10):
            headers = {"task": dice.choice(("tailrace.ingest_run", "tailrace.ingest_stream")), "id": str(dice.random())}
            properties = {
                "delivery_info": {"exchange": "", "routing_key": "tailrace"},
                "delivery_tag": str(dice.random()),
                "body_encoding": "base64",
            }
            broker.lpush(
                "tailrace",
                json.dumps(
                    {
                        "body": base64.b64encode(dice.choice(bodies)).decode(),
                        "content-encoding": "utf-8",
                        "content-type": "application/json",
                        "headers": headers,
                        "properties": properties,
                    }
                ),
            )
    return "malformed_messages"


# --- what they share


def _cut_at_a_byte(schedule: Schedule, name: str, proxy_of: Callable[..., Proxy | None]) -> str | None:
    """Break a connection off at a byte that the seed decides, three times, whatever it stands for."""
    worker = schedule.one()
    proxy = proxy_of(worker) if worker else None
    if proxy is None:
        return None
    for _ in range(3):
        before = proxy.cuts
        proxy.cut_after(schedule.dice.randint(1, 8_000))
        until = time.monotonic() + 1.5
        while proxy.cuts == before and time.monotonic() < until:
            time.sleep(0.01)
    return name


def _drip(schedule: Schedule, name: str, proxy_of: Callable[..., Proxy | None]) -> str | None:
    """A few bytes at a time, both ways, for some seconds."""
    worker = schedule.one()
    proxy = proxy_of(worker) if worker else None
    if proxy is None:
        return None
    proxy.dripping = True
    schedule.later(schedule.dice.uniform(1, 4), lambda: setattr(proxy, "dripping", False))
    return name


def _stall(schedule: Schedule, name: str, proxy_of: Callable[..., Proxy | None]) -> str | None:
    """Nothing passes, and nothing is closed, for less than a time-out or for longer."""
    worker = schedule.one()
    proxy = proxy_of(worker) if worker else None
    if proxy is None:
        return None
    proxy.hang()
    schedule.later(schedule.dice.choice((0.5, 5.0)), proxy.behave)
    return name


def _break_connections(schedule: Schedule) -> None:
    """Readers come back at once, and meet what waits for them."""
    for transport in schedule.upstream.upstream.connections.transports():
        loop = getattr(transport, "_loop", None)
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(transport.abort)


FAULTS: tuple[Callable[[Schedule], str | None], ...] = (
    *(kill, terminate, suspend, in_commit, in_commit, in_commit),
    *(postgres_restart, postgres_cut, postgres_slow, postgres_drip, postgres_stall, postgres_unreachable),
    *(valkey_kill, valkey_stall, flushall, duplicates),
    *(refused_once, contradicted, contradicted, locked_rows, malformed_messages, malformed_rows),
    *(upstream_cut, upstream_broken_bodies, upstream_storm, upstream_hang, upstream_drip, upstream_stall),
)
"""What is drawn from; a commit's inside is drawn more often."""
