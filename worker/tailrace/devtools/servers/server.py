"""One server of a home: start it, find it again by its pid file, end it."""

from __future__ import annotations

import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tailrace.devtools.servers import ports, process
from tailrace.devtools.servers.account import Account
from tailrace.devtools.servers.home import Home, State, try_flock
from tailrace.errors import TerminalError

START_TIMEOUT_S = 60.0  # recovery after a crash reads the log of all that was not yet in place
LEFT_OVER_TIMEOUT_S = 15.0  # Postgres' own helpers notice the death of their parent within seconds
PORT_TRIES = 20
LOG_START = "--- start"
LOG_LIMIT_BYTES = 16 << 20
LOG_SHOWN_BYTES = 2_000


class ServerFailed(TerminalError):
    """An embedded server did not start, or did not stop. The message has the end of its log."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How servers are run. Pairs are settings in the servers' own words."""

    postgres: tuple[tuple[str, str], ...]
    valkey: tuple[tuple[str, str], ...]
    initdb: tuple[str, ...]


POSTGRES_COMMON = (
    ("shared_buffers", "128MB"),
    ("max_connections", "200"),  # a worker process keeps a handful; tests open many
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("jit", "off"),  # compiling costs more than our short statements take
    ("log_min_duration_statement", "5s"),
)
VALKEY_COMMON = (
    ("maxmemory-policy", "noeviction"),  # an evicted key is a lost message
    ("loglevel", "notice"),
)

DURABLE = ServerSettings(
    postgres=(*POSTGRES_COMMON, ("fsync", "on")),
    valkey=(*VALKEY_COMMON, ("save", ""), ("appendonly", "yes"), ("appendfsync", "everysec")),
    initdb=(),
)
"""For development: what was committed survives a power cut, what was queued at most loses its last second."""


class Server(ABC):
    """A server process of one home.

    Its own pid file says which process it is; the command line of that process proves it. What a start decides (the
    port) is saved before the process exists, so nothing that runs is ever unknown.

    The process holds a lock on ``<name>.alive`` and so do all that it forks. Whoever gets that lock knows that none of
    them is left, also where pids say nothing (another container on the same directory), and may clear up after them.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # the name for people
    program: ClassVar[str]  # the file name of the program
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]  # in order, each with the seconds it is given

    def __init__(self, home: Home, settings: ServerSettings = DURABLE) -> None:
        self.home = home
        self.settings = settings

    @property
    def directory(self) -> Path:
        """Where it keeps its data."""
        return self.home.path / self.name

    @property
    def log_path(self) -> Path:
        """What it and its helpers print."""
        return self.home.path / f"{self.name}.log"

    @property
    def port(self) -> int:
        """The port it listens on, or will first try when it starts; 0 before its first start."""
        return self.home.load().ports.get(self.name, 0)

    @property
    def pid(self) -> int | None:
        """The process, when it lives."""
        try:
            pid = int(self._pid_path.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if self._is_ours(pid) else None

    def is_ready(self) -> bool:
        """Whether it lives and takes connections."""
        state = self.home.load()
        return self.pid is not None and self._answers(state)

    def start(self) -> None:
        """Start it and wait until it takes connections. On the port it had, when that is free. Nothing if it runs.

        Raises:
            BadSettings: something outside must change; the message says what.
            ServerFailed: it did not come up.
        """
        while not self._runs():
            with self._alone() as alive:
                if alive is not None:
                    self._launch(alive)
                    return

    def _launch(self, alive: int) -> None:
        self._clear_up()
        state = self.home.load()
        self.home.save(state)  # the password, before anything is made that needs it
        self._prepare(state, alive)
        for _ in range(PORT_TRIES):
            state = self._choose_port()
            self._before_spawn(state)
            with self._log() as log:
                child = process.spawn(self._command(state), log=log, alive=alive)
            if self._wait_ready(child):
                return
        raise ServerFailed(f"{self.title} found no free port")

    def _runs(self) -> bool:
        """Whether it lives; one that is starting is waited for, one that is stopping too."""
        if self.pid is not None and not self.port:
            self.stop()  # the state was lost, so nobody knows its password
        if process.wait_until(lambda: self.pid is None or self.is_ready(), START_TIMEOUT_S):
            return self.pid is not None
        raise ServerFailed(f"{self.title} runs, but takes no connections{self._log_quoted()}")

    def stop(self) -> bool:
        """End it, first asking it to finish. Returns whether it ran.

        Raises:
            ServerFailed: it is still there.
        """
        self._settle()  # a start that was killed may have left one that is just coming up
        ran = self._end(self.stop_signals)
        self._settle()  # its other processes end a little later
        return ran

    def kill(self) -> bool:
        """End it with SIGKILL, as a machine that fails would. Returns whether it ran."""
        return self._end(((signal.SIGKILL, 10.0),))

    @abstractmethod
    def url(self) -> str:
        """Where it answers, password included."""

    @property
    @abstractmethod
    def _pid_path(self) -> Path: ...

    @abstractmethod
    def _marker(self) -> str:
        """The argument by which its command line is known."""

    @abstractmethod
    def _clear_up(self) -> None:
        """Remove what a dead process left behind and a new one would stumble over."""

    @abstractmethod
    def _prepare(self, state: State, alive: int) -> None:
        """Make what must exist before the first start; whatever runs for that holds the lock of ``alive``."""

    @abstractmethod
    def _before_spawn(self, state: State) -> None:
        """Write what changes from start to start."""

    @abstractmethod
    def _arguments(self, state: State) -> tuple[str, ...]: ...

    @abstractmethod
    def binary(self, account: Account | None = None) -> Path:
        """The program, where this account can run it.

        Raises:
            BadSettings: the extra ``embedded`` is not installed, or the account cannot be used.
        """

    @abstractmethod
    def _answers(self, state: State) -> bool:
        """Whether the living process takes connections."""

    def _command(self, state: State) -> process.Command:
        account = self.home.account
        return process.Command(self.binary(account), self._arguments(state), account)

    def _is_ours(self, pid: int) -> bool:
        return process.recognise(pid, self.program, self._marker())

    def _end(self, signals: tuple[tuple[signal.Signals, float], ...]) -> bool:
        pid = self.pid
        if pid is None:
            return False

        def still_ours() -> bool:
            return self._is_ours(pid)

        for number, patience_s in signals:
            try:
                process.send(pid, number, still_ours=still_ours)
            except PermissionError as error:
                raise ServerFailed(f"{self.title} (pid {pid}) runs as another user; stop it as root") from error
            if process.wait_until(lambda: process.is_gone(pid, still_ours=still_ours), patience_s):
                return True
        raise ServerFailed(f"{self.title} (pid {pid}) does not stop")

    @contextmanager
    def _alone(self) -> Iterator[int | None]:
        """Hold the lock that says a process of this server lives; the server takes it over by being started.

        None: it lives after all. A start that was killed had begun it, and it had not got as far as its pid file.
        """
        alive = self.home.open_private(self._alive_path)
        locked = False

        def settled() -> bool:
            nonlocal locked
            locked = try_flock(alive)
            return locked or self.pid is not None

        try:
            if not process.wait_until(settled, LEFT_OVER_TIMEOUT_S):
                raise ServerFailed(
                    f"{self.title} in {self.home} is still in use, by processes that cannot be seen from here "
                    "(another container?); stop them there, or set TAILRACE_HOME to another directory"
                )
            yield alive if locked else None
        finally:
            os.close(alive)

    def _settle(self) -> None:
        """Wait until it either lives, with a pid file, or has no process left."""
        if self.pid is None and self._alive_path.exists():
            with suppress(ServerFailed), self._alone():
                pass

    @property
    def _alive_path(self) -> Path:
        return self.home.path / f"{self.name}.alive"

    def _choose_port(self) -> State:
        state = self.home.load()
        known = state.ports.get(self.name)
        if known is None or not ports.is_free(known):
            state.ports[self.name] = ports.pick()
            self.home.save(state)
        return state

    @contextmanager
    def _log(self) -> Iterator[int]:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_LIMIT_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        descriptor = self.home.open_private(self.log_path, flags=os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, f"{LOG_START} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}\n".encode())
            yield descriptor
        finally:
            os.close(descriptor)

    def _wait_ready(self, child: int) -> bool:
        """Wait for connections to be taken. False: the port was taken by somebody else meanwhile."""
        state = self.home.load()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            code = process.exit_code(child)
            if code is not None:
                taken = "already in use" in self.log_end() or not ports.is_free(state.ports[self.name])
                if taken:
                    return False
                raise ServerFailed(
                    f"{self.title} ended while it started; the end of {self.log_path}:\n{self.log_end()}"
                )
            if self.pid is not None and self._answers(state):
                return True
            time.sleep(process.POLL_S)
        self._end(self.stop_signals)
        raise ServerFailed(f"{self.title} took no connections for {START_TIMEOUT_S:.0f} s{self._log_quoted()}")

    def _log_quoted(self) -> str:
        return f"; the end of {self.log_path}:\n{self.log_end()}"

    def log_end(self) -> str:
        """The last lines of its log since it was last started, for people."""
        try:
            end = self.log_path.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        return end.rpartition(LOG_START)[2].strip()
