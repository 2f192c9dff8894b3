"""One schedule of faults on real processes: drawn from a seed, then the archive is compared with the truth."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis

from tests.chaos.fleet import FAST, QUICK, Fleet, Worker, scene, wait_for
from tests.chaos.oracle import Oracle
from tests.chaos.tcpproxy import Point
from worker.embedded.throwaway import Servers
from worker.replay import LiveStore, RunningServer

SEAL_S = 90.0
"""Progress: faults over, everything is sealed within this time. Some of it is the start of a worker."""
SETTINGS = QUICK | {"TAILRACE_READ_TIMEOUT_SECONDS": "2", "TAILRACE_CONNECT_TIMEOUT_SECONDS": "2"}
SKEWED = Path(__file__).parent / "skewed"


@dataclass
class Tally:
    """What all schedules together did."""

    schedules: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    violations: list[str] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        times = sorted(self.takeovers)

        def at(share: float) -> float | None:
            return round(times[min(len(times) - 1, int(len(times) * share))], 2) if times else None

        return {
            "schedules": self.schedules,
            "faults": dict(sorted(self.faults.items())),
            "chunks_checked": self.chunks,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "out_of_order": self.out_of_order,
            "violations": len(self.violations),
            "takeovers": len(times),
            "takeover_s": {"p50": at(0.5), "p99": at(0.99), "max": at(1.0)},
        }


class Schedule:
    """Workers, an oracle, and faults for some seconds."""

    def __init__(self, seed: int, servers: Servers, database_url: str, place: Path, tally: Tally) -> None:
        self.seed = seed
        self.dice = random.Random(seed)
        self.servers = servers
        self.database_url = database_url
        self.place = place
        self.tally = tally
        self._watchers: list[threading.Thread] = []

    def run(self, faults_s: float) -> list[str]:
        """Give what is wrong at the end; nothing, if all is well."""
        dice = self.dice
        store = LiveStore(v1_max_entries=None)
        with redis.Redis.from_url(self.servers.valkey.url()) as broker:
            broker.flushall()
        with scene(self.place, self.database_url, self.servers.valkey.url(), store, timing=FAST, **SETTINGS) as (
            workers,
            upstream,
        ):
            self.fleet, self.upstream = workers, upstream
            oracle = Oracle(store, random.Random(dice.random()), runs=4, keys=3)
            for _ in range(2):
                self.start_worker()
            oracle.start()
            for run_id in oracle.runs:
                workers.archive.request(run_id)
            for worker in workers.workers:
                worker.wait_ready()
            until = time.monotonic() + faults_s
            while time.monotonic() < until:
                fault = dice.choice(FAULTS)
                self.tally.faults[fault.__name__] += 1
                fault(self)
                time.sleep(dice.uniform(0.05, 0.8))
            self.calm()
            oracle.finish()
            found = self._verdict(oracle)
        self.tally.schedules += 1
        self.tally.chunks += oracle.chunks
        self.tally.violations += [f"seed {self.seed}: {each}" for each in found]
        return found

    def _verdict(self, oracle: Oracle) -> list[str]:
        archive = self.fleet.archive
        found = []
        try:
            wait_for(lambda: quiet(lambda: archive.all_sealed(len(oracle.runs))), SEAL_S, "sealed", 0.2)
        except AssertionError:
            open_streams = archive.rows(
                "SELECT r.run_id, s.stream_key, s.state, s.worker_id, s.last_chunk_index, s.last_error, s.next_attempt_at"
                " - now(), r.state, r.last_error FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
                " WHERE s.state <> 'sealed' OR r.state <> 'sealed'"
            )
            found.append(f"no progress: {open_streams}")
        for watcher in self._watchers:
            watcher.join(30)
        for difference in oracle.differences(archive):
            found.append(difference)
            self.tally.lost += "missing" in difference
            self.tally.duplicated += "doubled" in difference
            self.tally.out_of_order += "order" in difference
        found += [f"accounts: {violation}" for violation in archive.violations()]
        return found

    # --- workers

    def start_worker(self) -> Worker:
        pool = self.dice.choice(("gevent", "gevent", "threads"))
        clock_s = self.dice.choice((0, 0, 0, -3600, 86400))
        extra = {"PYTHONPATH": str(SKEWED), "CHAOS_CLOCK_S": str(clock_s)} if clock_s else {}
        self.tally.faults["clock"] += bool(clock_s)
        return self.fleet.start(pool, 40, **extra)

    def one(self) -> Worker | None:
        alive = [worker for worker in self.fleet.workers if worker.alive]
        return self.dice.choice(alive) if alive else None

    def replace(self) -> None:
        """There are two workers at most times."""
        if sum(worker.alive for worker in self.fleet.workers) < 2:
            self.start_worker()

    def killed(self, worker: Worker) -> None:
        """Kill it, and note how long its streams stay without a reader."""
        held = quiet(lambda: self.fleet.archive.rows(
            "SELECT s.id, s.token FROM tailrace.streams s JOIN tailrace.workers w ON w.id = s.worker_id"
            " WHERE w.pid = %s", worker.pid)) or []  # fmt: skip
        worker.kill()
        since = time.monotonic()
        watcher = threading.Thread(target=self._watch_takeover, args=(dict(held), since), daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _watch_takeover(self, tokens: dict[int, int], since: float) -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.database_url, autocommit=True) as connection:
            while tokens and time.monotonic() - since < 60:
                for stream, token, worker in connection.execute(
                    "SELECT id, token, worker_id FROM tailrace.streams WHERE id = ANY(%s)", [list(tokens)]
                ).fetchall():
                    if token > tokens[stream] or worker is None:
                        self.tally.takeovers.append(time.monotonic() - since)
                        del tokens[stream]
                time.sleep(0.05)

    def calm(self) -> None:
        """No more faults; somebody is there to work."""
        for worker in self.fleet.workers:
            if worker.alive:
                worker.database.behave()
                worker.redis.behave()
                worker.resume()
        self.upstream.faults.clear()
        if not self.servers.valkey.is_ready():
            self.servers.valkey.start()
        self.replace()


def quiet(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except psycopg.Error:
        return None


# --- the faults


def kill(schedule: Schedule) -> None:
    if worker := schedule.one():
        schedule.killed(worker)
        schedule.replace()


def terminate(schedule: Schedule) -> None:
    if worker := schedule.one():
        worker.terminate()
        schedule.start_worker()


def suspend(schedule: Schedule) -> None:
    if worker := schedule.one():
        worker.suspend()
        threading.Timer(schedule.dice.choice((0.5, 5.0)), worker.resume).start()


def in_commit(schedule: Schedule) -> None:
    """At a named point of a commit: the worker is killed or suspended, or the connection breaks."""
    worker = schedule.one()
    if worker is None:
        return
    point, how = schedule.dice.choice(list(Point)), schedule.dice.choice(("kill", "stop", "cut"))
    schedule.tally.faults[f"in_commit {point} {how}"] += 1
    actions = {
        "kill": lambda: os.kill(worker.pid, signal.SIGKILL),
        "stop": lambda: os.kill(worker.pid, signal.SIGSTOP),
        "cut": lambda: None,
    }
    happened = worker.database.at(point, actions[how], cut=how == "cut")
    if not happened.wait(3):
        worker.database.disarm()
        return
    if how == "kill":
        worker.process.wait(10)
        schedule.replace()
    elif how == "stop":
        time.sleep(schedule.dice.choice((0.2, 4.0)))
        worker.database.cut()
        worker.resume()


def postgres_restart(schedule: Schedule) -> None:
    schedule.servers.postgres.restart_immediate()


def postgres_cut(schedule: Schedule) -> None:
    if worker := schedule.one():
        worker.database.cut()


def postgres_slow(schedule: Schedule) -> None:
    if worker := schedule.one():
        worker.database.bytes_per_s = 20_000
        threading.Timer(3, lambda: setattr(worker.database, "bytes_per_s", 0.0)).start()


def postgres_unreachable(schedule: Schedule) -> None:
    if worker := schedule.one():
        worker.database.refuse()
        threading.Timer(schedule.dice.uniform(0.5, 5), worker.database.behave).start()


def valkey_kill(schedule: Schedule) -> None:
    schedule.servers.valkey.kill()
    time.sleep(schedule.dice.uniform(0, 2))
    schedule.servers.valkey.start()


def flushall(schedule: Schedule) -> None:
    with contextlib.suppress(redis.RedisError), redis.Redis.from_url(schedule.servers.valkey.url()) as broker:
        broker.flushall()


def duplicates(schedule: Schedule) -> None:
    """Three messages for each stream, to whoever takes them first."""
    from celery import Celery

    streams = quiet(lambda: schedule.fleet.archive.rows("SELECT id FROM tailrace.streams")) or []
    app = Celery(broker=schedule.servers.valkey.url(), set_as_current=False)
    with contextlib.suppress(Exception):
        for (stream,) in streams:  # type: ignore[attr-defined]
            for _ in range(3):
                app.send_task("tailrace.ingest_stream", [stream], queue="tailrace", retry=False)
    app.close()


def upstream_cut(schedule: Schedule) -> None:
    faults, dice = schedule.upstream.faults.everything(), schedule.dice
    for _ in range(6):
        dice.choice((faults.cut, faults.reset))(after_bytes=dice.randint(0, 3_000))
    break_connections(schedule)


def upstream_storm(schedule: Schedule) -> None:
    schedule.upstream.faults.everything().answer(schedule.dice.choice((429, 500, 502, 503, 504)), times=12)
    break_connections(schedule)


def upstream_hang(schedule: Schedule) -> None:
    faults = schedule.upstream.faults.everything()
    faults.hang(after_bytes=schedule.dice.randint(0, 500), times=4)
    faults.silence(times=2)
    break_connections(schedule)


def break_connections(schedule: Schedule) -> None:
    """Readers come back at once, and meet what waits for them."""
    connections = schedule.upstream.upstream.connections
    for transport in connections.transports():
        loop = getattr(transport, "_loop", None)
        if loop is not None:
            loop.call_soon_threadsafe(transport.abort)


FAULTS: tuple[Callable[[Schedule], None], ...] = (
    *(kill, terminate, suspend, in_commit, in_commit),
    *(postgres_restart, postgres_cut, postgres_slow, postgres_unreachable),
    *(valkey_kill, flushall, duplicates),
    *(upstream_cut, upstream_storm, upstream_hang),
)

__all__ = ["FAULTS", "Fleet", "RunningServer", "Schedule", "Tally"]
