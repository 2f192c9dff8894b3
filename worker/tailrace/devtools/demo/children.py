"""The processes of the demonstration: each is known by its pid and ended by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tailrace.errors import TerminalError

LOG_SHOWN_BYTES = 1_500
END_TIMEOUT_S = 12.0


class ChildFailed(TerminalError):
    """A process of the demonstration ended by itself. The message has the end of its log."""


class Child:
    """A `tailrace` command that runs beside us. Leaving the context ends it."""

    def __init__(self, verb: str, arguments: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.verb = verb
        self.log = log
        # -P and its own directory: a folder named `worker` where we were started must not be imported instead of ours.
        # A session of its own: Ctrl-C is for us, and we end the others.
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tailrace", verb, *arguments],
                cwd=log.parent,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if verb == "replay" else output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Make sure that it lives.

        Raises:
            ChildFailed: it does not.
        """
        code = self._process.poll()
        if code is not None:
            end = self.log.read_bytes()[-LOG_SHOWN_BYTES:].decode(errors="replace").strip()
            raise ChildFailed(
                f"`tailrace {self.verb}` (pid {self.pid}) ended with {code}. The end of {self.log}:\n{end}"
            )

    def first_line(self, timeout_s: float) -> str:
        """Wait for the first line that it prints.

        Raises:
            ChildFailed: it ended before, or printed nothing.
        """
        output = self._process.stdout
        assert output is not None, "its output goes to its log"
        watch = threading.Timer(timeout_s, self._process.kill)
        watch.start()
        try:
            line = output.readline().decode().strip()
        finally:
            watch.cancel()
        if not line:
            self._process.wait(END_TIMEOUT_S)
            self.check()
        return line

    def kill(self) -> None:
        """End it with SIGKILL: it can do nothing about it, and nothing more."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(END_TIMEOUT_S)

    def end(self) -> None:
        """Ask it to end, and see to it that it does."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(END_TIMEOUT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
