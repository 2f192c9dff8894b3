"""Processes that outlive the one that started them: spawn, recognise, signal, see them end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tailrace.devtools.servers import launcher
from tailrace.devtools.servers.account import Account

POLL_S = 0.01
FIRST_SPARE_DESCRIPTOR = 10  # above those that the spawned process gets
ALIVE_DESCRIPTOR = 3  # where a server holds the lock that says it lives
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
RESET_SIGNALS = [
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGPIPE,
    signal.SIGCHLD,
    signal.SIGUSR1,
    signal.SIGUSR2,
]


@dataclass(frozen=True, slots=True)
class Command:
    """A server program, its arguments, and with whose rights it runs.

    ``directory`` is where it keeps its files. ``end_signal`` is what it gets when the process that starts it ends;
    None: it lives on.
    """

    program: Path
    arguments: tuple[str, ...]
    directory: Path
    account: Account | None = None
    end_signal: signal.Signals | None = None

    def argv(self) -> list[str]:
        """The whole command line; through the launcher when rights or the end must be arranged first."""
        direct = [str(self.program), *self.arguments]
        if self.account is None and self.end_signal is None:
            return direct
        account = f"{self.account.uid}:{self.account.gid}" if self.account else "-"
        options = [account, str(int(self.end_signal or 0)), str(self.directory)]
        return [sys.executable, "-I", "-S", str(launcher.__file__), *options, *direct]


def environment() -> dict[str, str]:
    """What a server sees of our environment: enough to run. Our secrets and other people's PG* settings are not."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


def spawn(command: Command, *, log: int, alive: int) -> int:
    """Start a server in a session of its own, so that no terminal, no Ctrl-C and no closed pipe of ours reaches it.

    Args:
        log: descriptor that gets its stdout and stderr.
        alive: descriptor with a lock; it holds that lock for as long as any process of it lives.

    Returns:
        Its pid. Not `subprocess`, whose object complains when it goes before the process does.
    """
    argv = command.argv()
    spare = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST_SPARE_DESCRIPTOR) for descriptor in (log, alive)]
    log, alive = spare
    try:
        return os.posix_spawn(
            argv[0],
            argv,
            environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, alive, ALIVE_DESCRIPTOR),
                *((os.POSIX_SPAWN_CLOSE, number) for number in _inheritable(above=ALIVE_DESCRIPTOR)),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=RESET_SIGNALS,
        )
    finally:
        for descriptor in spare:
            os.close(descriptor)


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


def _inheritable(above: int) -> Sequence[int]:
    """Descriptors that a child would get from us: pipes of make or of a CI, for instance, which must not stay open."""
    found = []
    place = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    for name in os.listdir(place):  # noqa: PTH208 (a directory that changes while it is read)
        number = int(name)
        with suppress(OSError):
            if number > above and os.get_inheritable(number):
                found.append(number)
    return found
