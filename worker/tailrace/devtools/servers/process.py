"""Processes that outlive the one that started them: spawn, recognise, signal, see them end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from tailrace.devtools.servers.account import Account

POLL_S = 0.01
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


class Rights(TypedDict, total=False):
    """Arguments of `subprocess.Popen`."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Command:
    """A server program, its arguments, and with whose rights it runs: None means with ours."""

    program: Path
    arguments: tuple[str, ...]
    account: Account | None = None

    def argv(self) -> list[str]:
        """The whole command line."""
        return [str(self.program), *self.arguments]

    def rights(self) -> Rights:
        """What `subprocess` has to be told of the account."""
        return {} if self.account is None else {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}


def environment() -> dict[str, str]:
    """What a server sees of our environment: enough to run. Our secrets and other people's PG* settings are not."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


def spawn(command: Command, *, log: int, alive: int) -> int:
    """Start a server in a session of its own, so that no terminal, no Ctrl-C and no closed pipe of ours reaches it.

    Args:
        log: descriptor that gets its stdout and stderr.
        alive: descriptor with a lock; it holds that lock for as long as any process of it lives.

    Returns:
        Its pid.
    """
    child = subprocess.Popen(
        command.argv(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment(),
        cwd="/",
        start_new_session=True,
        pass_fds=[alive],  # and no other: pipes of make or of a CI, for instance, must not stay open
        **command.rights(),
    )
    child.returncode = 0  # it is meant to outlive us, and `subprocess` would complain of that when this object goes
    return child.pid


def run(command: Command, *, alive: int, stdin: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program of a server to its end, with the rights and surroundings it would have as a server.

    It holds the lock of ``alive`` too: it can outlive us, and nobody may clear up while it works.
    """
    return subprocess.run(
        command.argv(),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(),
        cwd="/",
        pass_fds=[alive],
        timeout=timeout_s,
        check=False,
        **command.rights(),
    )


def recognise(pid: int, program: str, argument: str) -> bool:
    """Whether ``pid`` is a living process of ``program`` that was given ``argument`` (a path of ours).

    Pids are given out anew, soonest after a reboot or in a new container, so a pid alone proves nothing.
    """
    if sys.platform == "linux":
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        # A dead process that nobody has waited for has no command line.
        return os.path.basename(words[0]) == program.encode() and os.fsencode(argument) in words[1:]  # noqa: PTH119 (bytes)
    shown = subprocess.run(
        ["ps", "-ww", "-o", "stat=,command=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    state, _, line = shown.partition(" ")
    return not state.startswith("Z") and program in line and argument in line


def send(pid: int, number: signal.Signals, *, still_ours: Callable[[], bool]) -> bool:
    """Signal a process, unless the pid has become somebody else's. Returns whether it was sent."""
    try:
        held = os.pidfd_open(pid)  # from here the signal cannot go astray
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # macOS, old kernels, strict containers
        held = None
    try:
        if still_ours():
            with suppress(ProcessLookupError):
                if held is None:
                    os.kill(pid, number)
                else:
                    signal.pidfd_send_signal(held, number)
                return True
        return False
    finally:
        if held is not None:
            os.close(held)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Look again and again. Returns what was seen last."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def exit_code(pid: int) -> int | None:
    """The exit code of a child of ours that ended; None while it runs, or when it is not our child."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended else None


def is_gone(pid: int, *, still_ours: Callable[[], bool]) -> bool:
    """Whether a process has ended. A child of ours is waited for, or it would stay as a zombie."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not still_ours()
