"""Real Celery workers as processes, each behind proxies of its own, with the upstream and the archive they work on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg

from tailrace.serve import Timing
from tailrace.serve.app import DEFAULT_KEY
from tests.chaos.prepared_workers import KEPT
from tests.chaos.tcpproxy import Proxy
from tests.upstream import LiveStore, RunningServer, create_app, running

READY = "worker_ready"
START_S = 40.0
QUICK = {
    "TAILRACE_SEAL_QUIET_SECONDS": "0.5",
    "TAILRACE_WATCH_SECONDS": "0.5",
    "TAILRACE_CONTROL_SECONDS": "0.5",
    "TAILRACE_LEASE_SECONDS": "3",
    "TAILRACE_LEASE_RENEW_SECONDS": "0.7",
    "TAILRACE_RETRY_BASE_MS": "50",
    "TAILRACE_RETRY_CAP_MS": "1000",
    "TAILRACE_PARK_V1_SECONDS": "1",
    "TAILRACE_PARK_V2_SECONDS": "1",
    "TAILRACE_WAIT_SECONDS": "5",
    "TAILRACE_HOLD_SECONDS": "0.5",
    "TAILRACE_HINT_SECONDS": "5",
}
"""Everything faster, where the defaults would only make a test wait."""


def wait_for(happened: Callable[[], Any], timeout_s: float, what: str = "", every_s: float = 0.05) -> Any:
    """Return what ``happened`` gives as soon as that is true; fail when it does not come true in time."""
    until = time.monotonic() + timeout_s
    while True:
        found = happened()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"not within {timeout_s:g} s: {what or happened}")
        time.sleep(every_s)


class Archive:
    """The database, asked from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self.url, autocommit=True, fallback_application_name="test")
        try:
            cursor = self._connection.execute(query, values or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError:
            self._connection.close()
            raise

    def value(self, query: str, *values: object) -> Any:
        ((value,),) = self.rows(query, *values)
        return value

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    # --- what tests ask again and again

    def request(self, run_id: str, *, streams: Sequence[str] | None = None) -> int:
        return int(
            self.value("SELECT tailrace.request_ingest(%s, %s)", run_id, list(streams) if streams is not None else None)
        )

    def leased(self) -> int:
        """Streams that a living worker holds."""
        return int(
            self.value(
                "SELECT count(*) FROM tailrace.streams s JOIN tailrace.workers w ON w.id = s.worker_id"
                " WHERE w.expires_at > now()"
            )
        )

    def all_sealed(self, runs: int) -> bool:
        return bool(
            self.value("SELECT count(*) = %s FROM tailrace.runs WHERE state = 'sealed'", runs)
            and self.value("SELECT count(*) = 0 FROM tailrace.streams WHERE state <> 'sealed'")
        )

    def violations(self) -> list[tuple[Any, ...]]:
        return self.rows("SELECT * FROM tailrace.verify_accounts()")

    def texts(self, run_id: str, key: str, generation: int | None = None) -> list[str]:
        return [
            text
            for (text,) in self.rows(
                "SELECT data_text FROM tailrace.chunks WHERE run_id = %s AND stream_key = %s"
                " AND (%s::int IS NULL OR generation = %s) ORDER BY generation, chunk_index",
                run_id,
                key,
                generation,
                generation,
            )
        ]


class Launched(Protocol):
    """A process that was started, as `subprocess.Popen` shows it."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...
    def kill(self) -> None: ...


def in_a_new_interpreter(arguments: Sequence[str], folder: Path, environ: dict[str, str], log: Path) -> Launched:
    """Start ``tailrace worker`` as a user does."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace", "worker", *arguments],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


launch: Callable[[Sequence[str], Path, dict[str, str], Path], Launched] = in_a_new_interpreter


class Worker:
    """One worker process; known by its pid, ended by it."""

    def __init__(self, name: str, pool: str, slots: int, environ: dict[str, str], log: Path, proxies: list[Proxy]):
        self.name = name
        self.log = log
        self._told_to_end = False
        self.database, self.redis, *upstream = proxies
        self.upstream: Proxy | None = upstream[0] if upstream else None
        self.process = launch(["--pool", pool, "--slots", str(slots)], log.parent, environ, log)

    @property
    def proxies(self) -> list[Proxy]:
        return [proxy for proxy in (self.database, self.redis, self.upstream) if proxy is not None]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def fell(self) -> bool:
        """It was ready, nobody ended it, and it is gone. (One that finds no Postgres as it starts says so and ends.)"""
        return not self.alive and not self._told_to_end and READY in self.said()

    def wait_ready(self) -> Worker:
        def ready() -> bool:
            if not self.alive:
                raise AssertionError(f"worker {self.name} ended:\n{self.said()[-3000:]}")
            return READY in self.said()

        wait_for(ready, START_S, f"worker {self.name} ready")
        return self

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL: it can do nothing about it."""
        self._told_to_end = True
        self.signal(signal.SIGKILL)
        self.process.wait(20)

    def suspend(self) -> None:
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def terminate(self) -> None:
        self._told_to_end = True
        self.signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"worker {self.name} still runs after {timeout_s:g} s:\n{self.said()[-3000:]}"
            ) from None

    def rss_bytes(self) -> int:
        """What it has in memory now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def end(self) -> None:
        """Whatever state it is in, end it."""
        if self.alive:
            self.resume()
            self.process.kill()
            self.process.wait(20)
        for proxy in self.proxies:
            proxy.close()


class Fleet:
    """Workers on one database, one broker and one upstream."""

    def __init__(self, place: Path, database_url: str, redis_url: str, api_url: str, **settings: str) -> None:
        self.place = place
        self.archive = Archive(database_url)
        self.database_url = database_url
        self.redis_url = redis_url
        self.api_url = api_url
        self.settings = settings
        self.workers: list[Worker] = []

    def start(
        self,
        pool: str = "gevent",
        slots: int = 100,
        *,
        direct: bool = False,
        upstream_too: bool = False,
        **settings: str,
    ) -> Worker:
        """Start a worker; does not wait until it is ready.

        ``direct``: without the proxies, which cost time. ``upstream_too``: one more, towards upstream. The worker's
        connections to Postgres carry its name.
        """
        name = f"w{len(self.workers)}"
        proxies = [Proxy(_address(self.database_url)), Proxy(_address(self.redis_url))]
        if upstream_too:
            proxies.append(Proxy(_address(self.api_url)))
        database_url = f"{self.database_url}?application_name={name}"
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        environ = kept | {
            "DATABASE_URL": database_url if direct else _through(database_url, proxies[0]),
            "REDIS_URL": self.redis_url if direct else _through(self.redis_url, proxies[1]),
            "TRIGGER_SECRET_KEY": DEFAULT_KEY,
            "TRIGGER_API_URL": _through(self.api_url, proxies[2]) if upstream_too else self.api_url,
            "TAILRACE_LOG_FORMAT": "json",
            "PYTHONDONTWRITEBYTECODE": "1",
            **self.settings,
            **settings,
        }
        worker = Worker(name, pool, slots, environ, self.place / f"{name}.log", proxies)
        self.workers.append(worker)
        return worker

    def started(self, pool: str = "gevent", slots: int = 100, *, direct: bool = False, **settings: str) -> Worker:
        return self.start(pool, slots, direct=direct, **settings).wait_ready()

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.archive.close()


@contextlib.contextmanager
def fleet(place: Path, database_url: str, redis_url: str, api_url: str, **settings: str) -> Iterator[Fleet]:
    """Workers that are ended at the end, however they are."""
    place.mkdir(parents=True, exist_ok=True)
    made = Fleet(place, database_url, redis_url, api_url, **settings)
    try:
        yield made
    finally:
        made.close()


FAST = Timing(second_s=0.1, block_s=0.2, ping_s=0.5, s2_ping_min_s=0.2, s2_ping_max_s=0.5)
"""An upstream whose seconds are a tenth."""


@contextlib.contextmanager
def scene(
    place: Path, database_url: str, redis_url: str, store: LiveStore, *, timing: Timing = FAST, **settings: str
) -> Iterator[tuple[Fleet, RunningServer]]:
    """An upstream over ``store`` and a fleet that reads it."""
    with (
        running(create_app(store, timing=timing)) as upstream,
        fleet(place / "workers", database_url, redis_url, upstream.url, **settings) as workers,
    ):
        yield workers, upstream


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def _through(url: str, proxy: Proxy) -> str:
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()
