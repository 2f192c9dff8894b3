"""Run the real command as a subprocess, against servers of the tests and a stand-in upstream."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tailrace.serve.app import DEFAULT_KEY
from tests.acceptance.prepared import PreparedCommands

# Everything that waits, waits shortly.
QUICK = {
    "TAILRACE_SEAL_QUIET_SECONDS": "0.3",
    "TAILRACE_WATCH_SECONDS": "0.2",
    "TAILRACE_CONTROL_SECONDS": "0.2",
    "TAILRACE_HOLD_SECONDS": "0.2",
    "TAILRACE_RETRY_BASE_MS": "50",
    "TAILRACE_RETRY_CAP_MS": "200",
}
BIG = 10_000_000
DEADLINE_S = 60.0

commands: PreparedCommands | None = None
"""From which commands are forked, while there are any (`conftest.py`)."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    stdout: bytes
    stderr: str

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.stdout.decode(errors='replace')}\n--- stderr\n{self.stderr}"


@dataclass(slots=True)
class Cli:
    """Runs `tailrace` in a folder of its own with an environment of its own.

    ``fresh``: each command in an interpreter of its own, where how one starts is what is tested.
    """

    cwd: Path
    environ: dict[str, str] = field(default_factory=dict)
    fresh: bool = False

    def with_(self, **variables: str) -> Cli:
        """The same with more variables."""
        return Cli(self.cwd, {**self.environ, **variables}, self.fresh)

    def run(self, *arguments: str | bytes, timeout_s: float = DEADLINE_S, stdin: bytes = b"") -> Done:
        """Run a command to its end: forked from `commands`, or, where that can't be or is not wanted, started."""
        done = None
        if commands is not None and not self.fresh:
            given = list(map(os.fsdecode, arguments))
            done = commands.run(given, self.cwd, self._environment(), stdin, timeout_s)
        if done is None:
            # -P: what lies in the folder must not be imported, as for the installed command.
            done = subprocess.run(
                [sys.executable, "-P", "-m", "tailrace", *arguments],
                cwd=self.cwd,
                env=self._environment(),
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Done(done.returncode, done.stdout, done.stderr.decode())

    @contextlib.contextmanager
    def started(self, *arguments: str, program: str = "tailrace") -> Iterator[subprocess.Popen[bytes]]:
        """Start a command that lives on, of another program if that is named; it is ended afterwards, by its pid."""
        output = self.cwd / f"{program}-{arguments[0].strip('-')}-{time.monotonic_ns()}.log"
        with output.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", program, *arguments],
                cwd=self.cwd,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        except BaseException:
            sys.stderr.write(output.read_text(errors="replace"))
            raise
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)  # its own session
                    process.wait(10)
            if process.stdout is not None:
                process.stdout.close()

    def _environment(self) -> dict[str, str]:
        return {**kept(), **self.environ}


def kept() -> dict[str, str]:
    """Return what commands have of this process's own environment."""
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "COVERAGE_PROCESS_START")
    return {name: os.environ[name] for name in names if name in os.environ}


def cli_for(
    cwd: Path, *, database_url: str = "", redis_url: str = "", api_url: str = "", key: str = DEFAULT_KEY
) -> Cli:
    """Return the command for these servers; an empty one is not set."""
    servers = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "TRIGGER_API_URL": api_url,
        "TRIGGER_SECRET_KEY": key,
    }
    return Cli(cwd, {**QUICK, **{name: value for name, value in servers.items() if value}})


def ask(cli: Cli, query: str, *values: object) -> list[tuple[Any, ...]]:
    """Ask the command's database. For waiting: a command costs a hundred times as much."""
    with psycopg.connect(cli.environ["DATABASE_URL"]) as connection:
        return connection.execute(query, values or None).fetchall()  # type: ignore[arg-type]


def stored(cli: Cli, run_id: str) -> bytes:
    """Return what `tailrace chunks` prints of a run."""
    rows = ask(
        cli,
        "SELECT data_text FROM tailrace.chunks WHERE run_id = %s ORDER BY stream_key, generation, chunk_index",
        run_id,
    )
    return b"".join(text.encode() + b"\n" for (text,) in rows)


def wait_for(what: Callable[[], bool], described: str, timeout_s: float = DEADLINE_S) -> None:
    """Wait until something is so."""
    until = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {described}"
        time.sleep(0.05)
