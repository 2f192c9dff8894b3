"""Real servers, the stand-in upstream and real workers, each in processes of their own."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psycopg
import redis

from tailrace.devtools.servers.server import DURABLE
from tailrace.serve.app import DEFAULT_KEY
from tailrace.store.migrate import upgrade
from tests.throwaway import Servers, ephemeral

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "bench_template"
READY_S = 60.0


class Failed(Exception):
    """The measurement could not be made."""


def _end_with_parent() -> None:
    """In the child: ask the kernel to end it when we end, however we end (prctl PR_SET_PDEATHSIG)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class Child:
    """A process that is ours to end."""

    def __init__(self, arguments: Sequence[str], environ: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"{self.log.name} ended: {self.log.read_text()[-2000:]}")
        return line.strip()

    def end(self, timeout_s: float = 30.0) -> float:
        """Ask it to end; return the seconds that this took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        return time.monotonic() - began


class Served(Protocol):
    """An upstream, wherever it runs."""

    url: str


class UpstreamProcess(Child):
    """`benchmarks.upstream`, spoken to."""

    def __init__(self, environ: dict[str, str], log: Path, feed: str) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.upstream", feed], environ, log)
        self.url = json.loads(self.line())

    def do(self, name: str, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": name, **arguments}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())


class Database:
    """A fresh archive, asked from outside."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True, application_name="benchmark")

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query, values or None)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *values: object) -> Any:
        return self.rows(query, *values)[0][0]


class Stage:
    """What a scenario works with."""

    def __init__(self, place: Path, servers: Servers, names: Iterator[int] | None = None, broker: int = 0) -> None:
        """``names``: numbers that nobody else on these servers uses. ``broker``: which database of Redis it has."""
        self.place = place
        self.servers = servers
        self.postgres_pid = servers.postgres.pid or 0
        self.valkey_pid = servers.valkey.pid or 0
        self.redis_url = f"{servers.endpoints.redis_url.rpartition('/')[0]}/{broker}"
        self._names = names or itertools.count(1)
        self.database = self._fresh()

    def _url(self, name: str) -> str:
        return self.servers.postgres.url(name)

    def _fresh(self) -> Database:
        name = f"bench_{next(self._names)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as admin:
            if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (TEMPLATE,)).fetchone():
                admin.execute(f"CREATE DATABASE {TEMPLATE}")  # type: ignore[arg-type]
                upgrade(self._url(TEMPLATE))
            admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")  # type: ignore[arg-type]
        return Database(self._url(name))

    def _drop(self, database: Database) -> None:
        name = database.connection.info.dbname
        database.connection.close()
        with psycopg.connect(self._url("postgres"), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[arg-type]
            admin.execute("CHECKPOINT")

    @contextmanager
    def another(self) -> Iterator[Stage]:
        """A second archive on the same servers, to compare with."""
        other = Stage(self.place, self.servers, self._names, broker=1)
        try:
            yield other
        finally:
            self._drop(other.database)

    def clear(self) -> None:
        """A new archive and an empty broker, and nothing left for Postgres to write."""
        self._drop(self.database)
        with redis.Redis.from_url(self.redis_url) as broker:
            broker.flushall()
        self.database = self._fresh()

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {
            "PYTHONPATH": str(ROOT),
            "TAILRACE_DATABASE_URL": self.database.url,
            "TAILRACE_REDIS_URL": self.redis_url,
            "TRIGGER_SECRET_KEY": DEFAULT_KEY,
            "TAILRACE_LOG_FORMAT": "json",
            "TAILRACE_LOG_LEVEL": "warning",
        }

    @contextmanager
    def upstream(self, feed: str = "native") -> Iterator[UpstreamProcess]:
        child = UpstreamProcess(self.environ, self.place / f"upstream-{next(self._names)}.log", feed)
        try:
            yield child
        finally:
            child.end()

    @contextmanager
    def worker(self, upstream: Served, slots: int = 100, **settings: str) -> Iterator[Child]:
        """A worker that is ready. ``settings``: variables, by name."""
        child = self.start_worker(upstream, slots, **settings)
        try:
            yield child
        finally:
            child.end()

    def start_worker(self, upstream: Served, slots: int = 100, **settings: str) -> Child:
        before = self.workers()
        child = Child(
            [sys.executable, "-m", "tailrace", "worker", "--slots", str(slots)],
            {**self.environ, "TRIGGER_API_URL": upstream.url, **settings},
            self.place / f"worker-{next(self._names)}.log",
        )
        until = time.monotonic() + READY_S
        while self.workers() == before:
            if child.process.poll() is not None or time.monotonic() > until:
                raise Failed(f"the worker did not start: {child.log.read_text()[-2000:]}")
            time.sleep(0.02)
        return child

    def workers(self) -> int:
        """How many workers have said that they are there."""
        return int(self.database.value("SELECT count(*) FROM tailrace.workers"))

    def pids(self, upstream: UpstreamProcess | None = None, *workers: Child) -> dict[str, int]:
        """The processes to measure, by name."""
        named = {f"worker{'' if len(workers) == 1 else number + 1}": each.pid for number, each in enumerate(workers)}
        named |= {"postgres": self.postgres_pid, "valkey": self.valkey_pid}
        return named | ({"upstream": upstream.pid} if upstream else {})

    def ask(self, run_id: str, **options: Any) -> None:
        """``ingest_run.delay(run_id)``, with this stage's broker."""
        from tailrace.tasks import ingest_run

        os.environ["TAILRACE_REDIS_URL"] = self.redis_url
        # The app keeps the broker that it was asked for first, and each stage has one of its own.
        with ingest_run.app.connection_for_write(self.redis_url) as connection:
            ingest_run.apply_async((run_id,), options, connection=connection)

    def row_writes(self) -> int:
        """Rows written so far, all tables together."""
        self.database.rows("SELECT pg_stat_clear_snapshot()")
        counted = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables"
        return int(self.database.value(counted))

    def stream(self, run_id: str, timeout_s: float = 30.0) -> int:
        """The id of a run's only stream, as soon as it has a row."""
        return int(
            self.wait(
                lambda: self.database.rows(
                    "SELECT s.id FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run WHERE r.run_id = %s",
                    run_id,
                ),
                timeout_s,
                f"a stream of {run_id}",
                0.005,
            )[0][0]
        )

    def reached(self, stream_id: int, index: int, timeout_s: float = 120.0) -> None:
        """Wait until this index of a stream is committed."""
        query = "SELECT last_chunk_index >= %s FROM tailrace.streams_now WHERE id = %s"
        self.wait(lambda: self.database.value(query, index, stream_id), timeout_s, f"index {index}", 0.01)

    def wait(self, happened: Any, timeout_s: float, what: str, every_s: float = 0.02) -> Any:
        """Return what ``happened`` gives as soon as that is true."""
        until = time.monotonic() + timeout_s
        while not (found := happened()):
            if time.monotonic() > until:
                raise Failed(f"not within {timeout_s:g} s: {what}")
            time.sleep(every_s)
        return found


@contextmanager
def stage() -> Iterator[Stage]:
    """Start the servers under a temporary directory; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tailrace-bench-") as name:
        place = Path(name)
        place.chmod(0o755)  # the servers may run under another account
        with ephemeral(place / "servers", DURABLE) as servers:
            yield Stage(place, servers)
