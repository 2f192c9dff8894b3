"""Workers that need not import anything: they are forked from a process that has done it.

Most of what a worker costs until it is ready is its imports, and a run of the tests starts more than a hundred. Each runs
what `python -m tailrace worker` runs, with its own arguments, environment, folder, session and log, but becomes Celery
without a new interpreter. Run as a program, this is the process that forks.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
"""What a worker has of our environment."""
LONGEST = 1 << 20
IMPORTED = (
    *("sqlalchemy.dialects.postgresql.psycopg", "kombu.transport.redis", "httpx", "httpx_sse"),
    *("celery.bin.celery", "celery.bin.worker", "celery.apps.worker", "celery.worker.consumer"),
)
NUMBER = struct.Struct("q")
PACKAGES = ("config", "ingest", "service", "source", "store", "tasks", "wire")


class PreparedWorkers:
    """Starts workers; a process that forks for each kind of pool, from its first worker on."""

    def __init__(self) -> None:
        self._forking = {gevent: _Forking(gevent) for gevent in (True, False)}

    def start(self, arguments: Sequence[str], folder: Path, environ: Mapping[str, str], log: Path) -> Forked:
        """Start ``tailrace worker`` with these arguments."""
        request = {"arguments": list(arguments), "folder": str(folder), "environ": dict(environ)}
        told, tells = os.pipe()
        with log.open("ab") as output:
            self._forking["gevent" in arguments].ask(json.dumps(request).encode(), [output.fileno(), tells])
        os.close(tells)
        return Forked(told)

    def close(self) -> None:
        for each in self._forking.values():
            each.close()


class _Forking:
    """A process that forks, from the first time it is asked."""

    def __init__(self, gevent: bool) -> None:
        self._gevent = gevent
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: bytes, files: list[int]) -> None:
        if self._process is None:
            environ = {name: value for name, value in os.environ.items() if name in KEPT}
            environ["PYTHONDONTWRITEBYTECODE"] = "1"
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(self._theirs.fileno()), str(int(self._gevent))],
                env=environ,
                pass_fds=[self._theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        socket.send_fds(self._ours, [request], files)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
        if self._process is not None:
            self._process.wait(20)


class Forked:
    """A worker, as `subprocess.Popen` shows one: it is not our child, and a pipe says how it ended."""

    def __init__(self, told: int) -> None:
        self._told = told
        self.returncode: int | None = None
        self.pid = self._next()
        self._ending = select.poll()  # not `select`, which takes no number above 1 023
        self._ending.register(told, select.POLLIN)

    def poll(self) -> int | None:
        return self._ended_within(0.0)

    def wait(self, timeout: float) -> int:
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("tailrace worker", timeout)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _ended_within(self, timeout_s: float) -> int | None:
        if self.returncode is None and self._ending.poll(timeout_s * 1_000):
            self.returncode = self._next()
            os.close(self._told)
        return self.returncode

    def _next(self) -> int:
        said = os.read(self._told, NUMBER.size)
        assert said, "the process that forks has ended"
        (number,) = NUMBER.unpack(said)
        return int(number)


@contextlib.contextmanager
def prepared_workers() -> Iterator[PreparedWorkers]:
    workers = PreparedWorkers()
    try:
        yield workers
    finally:
        workers.close()


# --- the process that forks


def _import_all(gevent: bool) -> None:
    if gevent:
        from celery import maybe_patch_concurrency

        maybe_patch_concurrency(["celery", "-P", "gevent"])
    for name in IMPORTED:
        importlib.import_module(name)
    for package in PACKAGES:
        found = importlib.import_module(f"tailrace.{package}")
        for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
            importlib.import_module(module.name)
    for name in ("app", "worker"):
        importlib.import_module(f"tailrace.cli.{name}")


def _original(name: str) -> Any:
    """Return a function of ``os`` as it was before gevent patched it: nothing here may begin a loop of gevent's."""
    if "gevent.monkey" not in sys.modules:
        return getattr(os, name)
    return sys.modules["gevent.monkey"].get_original("os", name)


def _fork_as_asked(control: socket.socket) -> None:
    """Fork for each request, and for each worker a process that waits for it. Returns in the worker."""
    fork, waitpid = _original("fork"), _original("waitpid")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        request, files, _, _ = socket.recv_fds(control, LONGEST, 2)
        if not request:
            os._exit(0)
        output, tells = files
        if fork() == 0:
            _end_with_parent()
            control.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            worker = fork()
            if worker == 0:
                _end_with_parent()
                os.close(tells)
                _settle(json.loads(request), output)
                return
            os.close(output)
            os.write(tells, NUMBER.pack(worker))
            _, status = waitpid(worker, 0)
            os.write(tells, NUMBER.pack(os.waitstatus_to_exitcode(status)))
            os._exit(0)
        os.close(output)
        os.close(tells)


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that forked it ends: none outlives the tests (prctl(2))."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _settle(request: dict[str, Any], output: int) -> None:
    """Have what the worker has of its own."""
    os.setsid()
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv = ["tailrace", "worker", *request["arguments"]]


def _become(_path: str, command: list[str]) -> None:
    """Go on as the Celery worker of this command line, which is ``python -m celery ...``."""
    from celery.__main__ import main

    sys.argv = command[2:]
    main()


if __name__ == "__main__":
    given = socket.socket(fileno=int(sys.argv[1]))
    _import_all(gevent=sys.argv[2] == "1")
    gc.freeze()
    _fork_as_asked(given)
    os.execv = _become  # type: ignore[assignment]
    from tailrace.__main__ import main

    main()
