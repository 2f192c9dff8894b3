"""One schedule of faults on real processes: drawn from a seed, then the archive is compared with the truth."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psycopg
import redis

from tailrace.serve.app import DEFAULT_KEY
from tests.chaos import audit
from tests.chaos.faults import FAULTS
from tests.chaos.fleet import FAST, QUICK, Archive, Fleet, Worker, scene, wait_for
from tests.chaos.oracle import Oracle
from tests.chaos.tally import Tally
from tests.throwaway import Servers
from tests.upstream import LiveStore, RunningServer

Answer = TypeVar("Answer")

SEAL_S = 90.0
"""Progress: faults over, everything is sealed within this time. Some of it is the start of a worker."""
RECOVER_S = 60.0
"""Progress: so long after a single fault began, everything written before is stored, and what a dead worker read is
somebody else's. The fault itself, and the start of a worker on a busy machine, are in it."""
BUSY = 0.7
"""How often a fault befalls the worker that reads most."""
STRUCK_S = 1.0
"""So long a single fault is left to meet what is written; without that, nobody would notice most of them."""
PARTITION_GONE = 0.3
"""In so many schedules the partition of the day is missing at first."""
REASONS = """
SELECT last_error FROM tailrace.streams WHERE last_error IS NOT NULL
UNION ALL SELECT last_error FROM tailrace.runs WHERE last_error IS NOT NULL
UNION ALL SELECT halted_reason FROM tailrace.environments WHERE halted_reason IS NOT NULL
"""
"""Where what upstream says of an error is kept; some of its pages show the key."""
APART = 0.5
"""The share of schedules in which each fault waits until the one before is overcome, so that recovery can be timed."""
SETTINGS = QUICK | {"TAILRACE_READ_TIMEOUT_SECONDS": "2", "TAILRACE_CONNECT_TIMEOUT_SECONDS": "2"}
SLOTS = {"prefork": 8, "solo": 1}
"""Processes: eight for twelve streams, which then take turns."""
SKEWED = Path(__file__).parent / "skewed"


class Schedule:
    """Workers, an oracle, and faults for some seconds."""

    fleet: Fleet
    upstream: RunningServer
    oracle: Oracle

    def __init__(
        self, seed: int, servers: Servers, database_url: str, place: Path, tally: Tally, pool: str | None = None
    ) -> None:
        """``pool``: of all workers; None: the seed decides."""
        self.seed = seed
        self.dice = random.Random(seed)
        self.servers = servers
        self.database_url = database_url
        self.place = place
        self.tally = tally
        self.pool = pool
        self.lied_at = 0.0  # when something on the way lied last
        self.story: list[str] = []  # what befell, in order
        self._watchers: list[threading.Thread] = []
        self._later: list[threading.Timer] = []
        self._late: list[str] = []

    def run(self, faults_s: float) -> list[str]:
        """Return what is wrong at the end; nothing, if all is well."""
        dice = self.dice
        store = LiveStore(v1_max_entries=None)
        with redis.Redis.from_url(self.servers.valkey.url()) as broker:
            broker.flushall()
        audit.install(self.database_url)
        if dice.random() < PARTITION_GONE:
            self._drop_partition()
        with scene(self.place, self.database_url, self.servers.valkey.url(), store, timing=FAST, **SETTINGS) as (
            self.fleet,
            self.upstream,
        ):
            self.oracle = Oracle(store, random.Random(dice.random()), runs=4, keys=3)
            for _ in range(2):
                self.start_worker()
            self.oracle.start()
            for run_id in self.oracle.runs:
                self.fleet.archive.request(run_id)
            for worker in self.fleet.workers:
                worker.wait_ready()
            self._befall(time.monotonic() + faults_s, apart=dice.random() < APART)
            self._calm()
            self.oracle.finish()
            found = self._verdict()
        self.tally.schedules += 1
        self.tally.chunks += self.oracle.chunks
        self.tally.upstream += self.oracle.acts
        self.tally.violations += [f"seed {self.seed}: {each}" for each in found]
        return found

    def _drop_partition(self) -> None:
        """The partition of the day is not there when the first chunk comes; later it holds what must not be lost."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            (day,) = connection.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").fetchone() or ("",)
            connection.execute(f"DROP TABLE tailrace.segments_{day}")
        self.tally.faults["partition_gone"] += 1
        self.story.append("partition_gone")

    def _befall(self, until: float, *, apart: bool) -> None:
        since = time.monotonic()
        while time.monotonic() < until:
            fault = self.dice.choice(FAULTS)
            began = time.monotonic()
            name = fault(self)
            if name is None:  # there was nobody whom it could befall
                continue
            self.tally.faults[name] += 1
            self.story.append(f"{began - since:.1f} {name}")
            if apart:
                self._recover(name, began)
            else:
                time.sleep(self.dice.uniform(0.05, 0.8))

    def _recover(self, fault: str, began: float) -> None:
        """Wait until what was written in the fault's first second is stored, and what a dead worker read is read."""
        time.sleep(max(0.0, began + STRUCK_S - time.monotonic()))
        archive, places = self.fleet.archive, self.oracle.places()
        while quiet(lambda: self.oracle.behind(archive, places)) != [] or any(w.is_alive() for w in self._watchers):
            if time.monotonic() - began > RECOVER_S:
                self._late.append(f"no progress {RECOVER_S:g} s after {fault}")
                return
            time.sleep(0.02)
        recovery_s = time.monotonic() - began
        self.tally.recoveries[fault].append(recovery_s)
        self.story[-1] += f" (overcome after {recovery_s:.1f} s)"

    def _calm(self) -> None:
        """No more faults; somebody is there to work."""
        for timer in self._later:
            timer.join()
        for worker in self.fleet.workers:
            if worker.alive:
                for proxy in worker.proxies:
                    proxy.behave()
                worker.resume()
        self.upstream.faults.clear()
        if not self.servers.valkey.is_ready():
            self.servers.valkey.start()
        self.replace()

    def _verdict(self) -> list[str]:
        archive = self.fleet.archive
        found = self._late
        since = time.monotonic()
        try:
            wait_for(lambda: quiet(lambda: archive.all_sealed(len(self.oracle.runs))), SEAL_S, "sealed", 0.2)
            self.tally.sealed_after.append(time.monotonic() - since)
            self.story.append(f"sealed {self.tally.sealed_after[-1]:.1f} s after the last fault")
        except AssertionError:
            open_streams = archive.rows(
                "SELECT r.run_id, s.stream_key, s.state, s.worker_id, s.last_chunk_index, s.last_error, s.next_attempt_at"
                " - now(), r.state, r.last_error FROM tailrace.streams_now s JOIN tailrace.runs r ON r.id = s.run"
                " WHERE s.state <> 'sealed' OR r.state <> 'sealed'"
            )
            found.append(f"no progress: {open_streams}")
        for watcher in self._watchers:
            watcher.join()
        differences = list(self.oracle.differences(archive))
        self.tally.note(differences)
        found += [f"{each.kind}: {each.what}" for each in differences]
        found += [
            f"{worker.name} has the key in its log" for worker in self.fleet.workers if DEFAULT_KEY in worker.said()
        ]
        found += [f"the key is in the archive: {row}" for row in archive.rows(REASONS) if DEFAULT_KEY in row[0]]
        found += [
            f"{worker.name} ended by itself: {worker.said()[-500:]}" for worker in self.fleet.workers if worker.fell
        ]
        found += [f"accounts: {violation}" for violation in archive.violations()]
        found += [f"fence: {violation}" for violation in audit.unfenced(archive)]
        return found

    # --- for the faults

    def start_worker(self) -> Worker:
        """Start one, of a pool and with a clock that the seed decides."""
        drawn = self.dice.choice(("gevent", "gevent", "threads"))
        pool = self.pool or drawn
        clock_s = self.dice.choice((0, 0, 0, -3600, 86400))
        extra = {"PYTHONPATH": str(SKEWED), "CHAOS_CLOCK_S": str(clock_s)} if clock_s else {}
        self.tally.faults["clock"] += bool(clock_s)
        return self.fleet.start(pool, SLOTS.get(pool, 40), upstream_too=True, **extra)

    def one(self) -> Worker | None:
        """Return a worker that lives: mostly the one that reads most, whom a fault hurts."""
        alive = [worker for worker in self.fleet.workers if worker.alive]
        if not alive:
            return None
        chosen, busy = self.dice.choice(alive), self.dice.random() < BUSY
        if busy:
            asked = (
                "SELECT p.name FROM tailrace.streams s JOIN chaos.processes p ON p.id = s.worker_id"
                " GROUP BY p.name ORDER BY count(*) DESC"
            )
            names = [name for (name,) in quiet(lambda: self.fleet.archive.rows(asked)) or []]
            chosen = min(alive, key=lambda worker: names.index(worker.name) if worker.name in names else len(names))
        return chosen

    def replace(self) -> None:
        """There are two workers at most times."""
        if sum(worker.alive for worker in self.fleet.workers) < 2:
            self.start_worker()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in a while, while other faults strike."""
        timer = threading.Timer(seconds, action)
        timer.start()
        self._later.append(timer)

    def kill(self, worker: Worker) -> None:
        """Kill it, and note how long its streams stay without a reader."""
        asked = "SELECT s.id, s.token FROM tailrace.streams s JOIN chaos.processes p ON p.id = s.worker_id WHERE p.name = %s"
        held = quiet(lambda: self.fleet.archive.rows(asked, worker.name)) or []
        worker.kill()
        watcher = threading.Thread(target=self._watch_takeover, args=(dict(held), time.monotonic()), daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _watch_takeover(self, tokens: dict[int, int], since: float) -> None:
        archive = Archive(self.database_url)
        asked = "SELECT id, token, worker_id FROM tailrace.streams WHERE id = ANY(%s)"
        with contextlib.closing(archive):
            while tokens:
                for stream, token, worker in quiet(lambda: archive.rows(asked, list(tokens))) or []:
                    if token > tokens[stream] or worker is None:
                        self.tally.takeovers.append(time.monotonic() - since)
                        del tokens[stream]
                if tokens and time.monotonic() - since > RECOVER_S:
                    self._late.append(f"{len(tokens)} streams were not taken over within {RECOVER_S:g} s")
                    return
                time.sleep(0.02)


def quiet(ask: Callable[[], Answer]) -> Answer | None:
    """Ask Postgres; None while it is away."""
    try:
        return ask()
    except psycopg.Error:
        return None
