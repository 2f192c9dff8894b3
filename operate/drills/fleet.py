"""Servers, upstream, exporter and workers in one folder, which end with it."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg
import redis
from sqlalchemy.engine import make_url

from drills.figures import page, read
from drills.upstream import OLD_KEY, Upstream
from drills.written import WrittenRun
from tailrace.devtools.servers import down, home_directory, up
from tailrace.devtools.servers.home import LINK, Home
from tailrace.devtools.servers.postgres import Postgres
from tailrace.devtools.servers.valkey import Valkey
from tailrace.serve.server import listen
from tailrace.store.migrate import upgrade

RUNS = 8
SHORT, SHORT_RECORDS = "run_drill_short", 20
"""One more run, which is over soon."""
SERVER = "drill_server"
"""The account of a server for readers."""
ROWS_S = 90.0
OURS = ("TRIGGER_", "TAILRACE_", "CELERY_", "PG")


class Fleet:
    """One fleet. ``settings`` are of its workers and of whoever works on it; ``every_s``: how often a run writes."""

    def __init__(self, home: Path, stack: ExitStack, settings: Mapping[str, str], every_s: float) -> None:
        self.home = home
        self._stack = stack
        self._settings = settings
        self._workers: list[subprocess.Popen[bytes]] = []
        self._sessions: list[psycopg.Connection] = []
        self._repeated: tuple[threading.Event, threading.Thread] | None = None
        self.keys = home / "keys.toml"
        endpoints = up(home)
        stack.callback(down, home)
        self.database_url, self._redis_url = endpoints.database_url, endpoints.redis_url
        upgrade(self.database_url)
        runs = [WrittenRun(f"run_drill_{number}", every_s) for number in range(1, RUNS + 1)]
        self.upstream = Upstream([*runs, WrittenRun(SHORT, 0.05, SHORT_RECORDS)])
        stack.callback(self.upstream.stop)
        self.write_key(OLD_KEY)
        self.exporter_port, self.next_port = _free_port(), _free_port()
        self._ports: list[int] = []
        self._server_port = 0
        self._exporter: subprocess.Popen[bytes] | None = None
        self.start_exporter()
        stack.callback(self._let_go)

    # --- what is done to it

    def write_key(self, key: str) -> None:
        """Write the file with the key that the workers read."""
        self.keys.touch(mode=0o600)
        self.keys.write_text(f'[default]\nkey = "{key}"\napi_url = "{self.upstream.url}"\n')

    def start_exporter(self) -> None:
        self._exporter = self._start("exporter", "--port", str(self.exporter_port))

    def start_server(self) -> None:
        """Start a server for readers, with an account of its own."""
        self.tailrace("roles")
        password = secrets.token_hex(16)
        self.execute(f"CREATE ROLE {SERVER} LOGIN PASSWORD '{password}' IN ROLE tailrace_server")
        url = make_url(self.database_url).set(username=SERVER, password=password)
        self._server_port = _free_port()
        self._ports.append(_free_port())
        ports = ("--port", str(self._server_port), "--metrics-port", str(self._ports[-1]))
        self._start("serve", *ports, DATABASE_URL=url.render_as_string(hide_password=False))

    def read(self) -> bool:
        """Ask the server for a run, as a reader does; return whether it was answered well."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._server_port}/api/v3/runs/run_drill_1",
            headers={"Authorization": f"Bearer {OLD_KEY}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def until_answered(self) -> None:
        """Wait until the server answers.

        Raises:
            TimeoutError: it does not.
        """
        until = time.monotonic() + ROWS_S
        while not self.read():
            if time.monotonic() > until:
                raise TimeoutError(f"the server has not answered within {ROWS_S:.0f} s")
            time.sleep(0.2)

    def kill_exporter(self) -> None:
        if self._exporter is not None:
            _kill(self._exporter)

    def start_worker(self, slots: int = 50, *, seen: bool = True, **settings: str) -> None:
        """Start a worker. ``seen``: with its metrics port. ``settings`` hold for it alone."""
        port: tuple[str, ...] = ()
        if seen:
            self._ports.append(_free_port())
            port = ("--metrics-port", str(self._ports[-1]))
        self._workers.append(self._start("worker", "--slots", str(slots), *port, **settings))

    def stop_workers(self) -> None:
        """Have every worker that this started leave in order."""
        for worker in self._workers:
            _end(worker)

    def kill_workers(self) -> None:
        """SIGKILL for every worker that this started."""
        for worker in self._workers:
            _kill(worker)

    def stop_database(self) -> None:
        """Stop Postgres as a power cut does."""
        Postgres(Home(self.home)).stop_immediate()

    def stop_broker(self) -> None:
        Valkey(Home(self.home)).stop()

    def start_servers(self) -> None:
        """Start those of Postgres and Valkey that do not run."""
        up(self.home)

    def open_session(self, name: str, statement: str = "SELECT 1") -> None:
        """Open a session of Postgres that leaves a transaction open after the statement, under this name."""
        self._session(name).execute(statement)

    def open_loop(self, name: str, block: str) -> None:
        """Open a session of Postgres, under this name, in which this runs in a loop of PL/pgSQL until it is ended."""
        session = self._session(name)
        session.autocommit = True  # so that the loop may commit
        session.pgconn.send_query(f"DO $$ BEGIN LOOP {block} END LOOP; END $$".encode())

    def _session(self, name: str) -> psycopg.Connection:
        session = psycopg.connect(self.database_url, application_name=name)
        self._sessions.append(session)
        return session

    def push(self, message: bytes) -> None:
        """Put something into the workers' queue."""
        with redis.Redis.from_url(self._redis_url) as client:
            client.lpush("tailrace", message)

    def again(self, every_s: float, do: Callable[[], object]) -> None:
        """Do something again and again, until `calm`."""
        ended = threading.Event()

        def repeat() -> None:
            while not ended.is_set():
                do()
                ended.wait(every_s)

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        self._repeated = ended, thread

    def calm(self) -> None:
        """End what is done again and again."""
        if self._repeated is not None:
            ended, thread = self._repeated
            ended.set()
            thread.join(60)
            self._repeated = None

    def request(self) -> None:
        """Ask for every run that goes on."""
        for number in range(1, RUNS + 1):
            self.execute("SELECT tailrace.request_ingest(%s)", f"run_drill_{number}")

    def execute(self, statement: str, *values: object, **named: object) -> list[tuple[object, ...]]:
        """Run a statement as the owner; return its rows."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            done = connection.execute(statement, named or values)
            return done.fetchall() if done.description else []

    def until_row(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Wait until a question has an answer, and return it.

        Raises:
            TimeoutError: it has none.
        """
        until = time.monotonic() + ROWS_S
        while not (rows := self.execute(statement, *values)):
            if time.monotonic() > until:
                raise TimeoutError(f"not within {ROWS_S:.0f} s: {statement}")
            time.sleep(0.5)
        return rows

    def tailrace(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on it."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "tailrace", *arguments],
            cwd=self.home,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def begin(self, *arguments: str) -> None:
        """Run a command on it without waiting for it."""
        self._start(*arguments)

    # --- what is seen of it

    def figures(self) -> dict[str, float]:
        """Return what is shown now."""
        return read(page(self.exporter_port), map(page, (*self._ports, self.next_port)))

    def said(self) -> str:
        """Return the end of what each process has logged."""
        return "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in self.home.glob("*.log"))

    def terminal(self) -> Path:
        """Write a file that a terminal reads to work on it, and return where it is. It has passwords in it."""
        path = self.home / "terminal"
        path.touch(mode=0o600)
        variables = self._variables() | {"TAILRACE_METRICS_PORT": str(self.next_port)}
        path.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))
        return path

    def _variables(self) -> dict[str, str]:
        return {
            "TAILRACE_HOME": str(self.home),
            "TAILRACE_KEYS_FILE": str(self.keys),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self._redis_url,
            **self._settings,
        }

    def _environ(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | self._variables()

    def _start(self, verb: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{verb}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tailrace", verb, *arguments],
                cwd=self.home,
                env=self._environ() | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, and we end it
            )
        self._stack.callback(_end, process)
        return process

    def _let_go(self) -> None:
        self.calm()
        for connection in self._sessions:
            connection.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(20)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            _kill(process)


def _free_port() -> int:
    with listen("127.0.0.1", 0) as found:
        return int(found.getsockname()[1])


@contextmanager
def started(folder: Path, settings: Mapping[str, str], every_s: float) -> Iterator[Fleet]:
    """Return a fleet that ends with the block, with its files."""
    home = home_directory({}, folder)
    try:
        with ExitStack() as stack:
            yield Fleet(home, stack, settings, every_s)
    finally:
        with suppress(OSError):  # root's servers have theirs elsewhere
            shutil.rmtree((home / LINK).readlink(), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
