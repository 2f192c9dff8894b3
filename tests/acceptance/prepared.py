"""Commands in processes of their own that need not import anything: they are forked from one that has done it.

Most of what a short command costs is its imports, and there are hundreds of them here. `PreparedCommands` is for the
tests; run as a program, this is the process that forks. Its children run what `python -m tailrace` runs, with their
own arguments, environment, folder and standard streams. What the interpreter itself reads at its start (`PYTHON...`,
the locale) they can't have of their own.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

READ_AT_START = ("PYTHON", "LANG", "LC_", "COVERAGE_")
LONGEST = 1 << 20
IMPORTED = ("sqlalchemy.dialects.postgresql.psycopg", "celery", "kombu.transport.redis", "alembic.command", "httpx")


class PreparedCommands:
    """Runs one command at a time; thread-safe."""

    def __init__(self, control: socket.socket, environ: Mapping[str, str]) -> None:
        self._control = control
        self._at_start = _read_at_start(environ)
        self._lock = threading.Lock()

    def run(
        self, arguments: list[str], cwd: Path, environ: Mapping[str, str], stdin: bytes, timeout_s: float
    ) -> subprocess.CompletedProcess[bytes] | None:
        """Run a command to its end. None where only an interpreter of its own can: another locale, or one is running.

        Raises:
            TimeoutExpired: it was killed.
        """
        if _read_at_start(environ) != self._at_start or not self._lock.acquire(blocking=False):
            return None
        try:
            with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                given.write(stdin)
                given.seek(0)
                request = json.dumps({"arguments": arguments, "cwd": str(cwd), "environ": dict(environ)}).encode()
                streams = [given.fileno(), out.fileno(), err.fileno()]
                socket.send_fds(self._control, [request], streams)
                pid = self._answer()
                self._control.settimeout(timeout_s)
                try:
                    code = self._answer()
                except TimeoutError:
                    os.kill(pid, signal.SIGKILL)
                    self._control.settimeout(None)
                    self._answer()
                    raise subprocess.TimeoutExpired(arguments, timeout_s) from None
                finally:
                    self._control.settimeout(None)
                for file in (out, err):
                    file.seek(0)
                return subprocess.CompletedProcess(arguments, code, out.read(), err.read())
        finally:
            self._lock.release()

    def _answer(self) -> int:
        said = self._control.recv(16)
        assert said, "the process that forks has ended"
        return int(said)


@contextlib.contextmanager
def prepared(environ: Mapping[str, str]) -> Iterator[PreparedCommands]:
    """Start the process that forks, with what an interpreter reads at its start."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())], env=dict(environ), pass_fds=[theirs.fileno()]
        )
        theirs.close()
        yield PreparedCommands(ours, environ)
    process.wait(20)


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith(READ_AT_START)}


def _import_all() -> None:
    import tailrace.cli

    for module in pkgutil.iter_modules(tailrace.cli.__path__, "tailrace.cli."):
        importlib.import_module(module.name)
    for package in ("store", "source", "service", "config", "devtools"):
        found = importlib.import_module(f"tailrace.{package}")
        for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
            importlib.import_module(module.name)
    for name in IMPORTED:
        importlib.import_module(name)


def _fork_as_asked(control: socket.socket) -> None:
    """Fork for each request and tell its pid and exit code. Returns in the child."""
    while True:
        request, streams, _, _ = socket.recv_fds(control, LONGEST, 3)
        if not request:
            sys.exit()
        pid = os.fork()
        if pid == 0:
            control.close()
            asked = json.loads(request)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            os.chdir(asked["cwd"])
            os.environ.clear()
            os.environ.update(asked["environ"])
            sys.argv[1:] = asked["arguments"]
            return
        for stream in streams:
            os.close(stream)
        control.send(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        control.send(b"%d" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    _fork_as_asked(socket.socket(fileno=int(sys.argv[1])))
    from tailrace.__main__ import main

    main()
