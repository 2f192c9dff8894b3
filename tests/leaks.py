"""What a test leaves open is an error at that test, by name: connections, files, threads and child processes.

A pytest plugin (`tests/conftest.py` loads it). Each test is compared, when its own fixtures are gone, with the state
before it, in which the fixtures of wider scope are already there; the last test of a session, when all fixtures are
gone, also with the state at the start. What is about to end gets `GRACE_S`. What only the garbage collector would close
was left open too, and what it warns of when it collects is an error at this test and at no later one.

A fixture of wider scope whose resources come and go while its tests run (a server that accepts, a pool that grows)
says so with `lasting`. Where there is no ``/proc`` only threads are compared.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

GRACE_S = 5.0
"""Far more than a thread needs to end, or a server to see that its client has gone, on a machine that is busy."""
STEP_S = 0.005

FILES = Path("/proc/self/fd")
TASKS = Path("/proc/self/task")
NOT_OURS = (
    *("anon_inode:inotify", "/dev/urandom", "/dev/random", "/dev/null", "anon_inode:[eventpoll]"),
    "anon_inode:[eventfd]",
)
"""What the interpreter and its libraries open once and keep. kombu lets go of an epoll only when it is collected; an event loop
that was left has two sockets besides. An eventfd belongs to the threads that polars keeps."""

_lasting: list[str] = []

AT_START = pytest.StashKey["Held"]()


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at a moment."""

    files: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]
    children: frozenset[int]

    def beyond(self, before: Held) -> Held:
        """Return what is held now and was not then."""
        return Held(self.files - before.files, self.threads - before.threads, self.children - before.children)

    def __bool__(self) -> bool:
        return bool(self.files or self.threads or self.children)

    def names(self) -> list[str]:
        """Return a name for each: the peer of a socket, the path of a file, the command of a process."""
        return [
            *sorted(_file(number, target) for number, target in self.files),
            *sorted(f"thread {each.name}" for each in self.threads),
            *sorted(_process(pid) for pid in self.children),
        ]


def held() -> Held:
    """Return what this process holds now."""
    return Held(frozenset(_open_files()), frozenset(threading.enumerate()), frozenset(_children()))


def left(before: Held) -> list[str]:
    """Return the names of what was left since ``before``, and collect the garbage of it.

    The collection is cheap: what is still alive after a test is frozen, and not looked at after the next one (it was
    half of the time of the suite). What dies later without a cycle is gone all the same.
    """
    until = time.monotonic() + GRACE_S
    while (names := _strange(held().beyond(before))) and time.monotonic() < until:
        time.sleep(STEP_S)
    gc.collect()
    gc.freeze()
    return names


@contextlib.contextmanager
def lasting(*parts: str) -> Iterator[None]:
    """While this is open, nothing whose name has one of these parts is taken for left: a fixture of wider scope has it.

    A connection that nothing refers to any more is found all the same: collected, it warns.
    """
    _lasting.extend(parts)
    try:
        yield
    finally:
        for part in parts:
            _lasting.remove(part)


def _strange(more: Held) -> list[str]:
    return [name for name in more.names() if not any(part in name for part in _lasting)] if more else []


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """The first of the test's own fixtures, so that all others are torn down before the comparison."""
    before = held()
    yield
    if names := left(before):
        pytest.fail("left open: " + "; ".join(names), pytrace=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Freeze what the tests and their imports made: it need not be looked at after every test."""
    gc.collect()
    gc.freeze()
    session.stash[AT_START] = held()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """After the last test: what the fixtures of wider scope left."""
    yield
    if nextitem is None:
        gc.unfreeze()  # what has become garbage since it was frozen holds its sockets
        gc.collect()
    if nextitem is None and (names := left(item.session.stash[AT_START])):
        pytest.fail("left open by a fixture of wider scope: " + "; ".join(names), pytrace=False)


def _open_files() -> Iterator[tuple[int, str]]:
    if not FILES.exists():
        return
    for path in FILES.iterdir():
        with contextlib.suppress(OSError):  # the very one that listed them
            target = str(path.readlink())
            if not target.startswith(NOT_OURS):
                yield int(path.name), target


def _children() -> Iterator[int]:
    """Return our processes, whichever thread started them; those that nobody waited for too."""
    if not TASKS.exists():
        return
    for task in TASKS.iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            yield from map(int, (task / "children").read_text().split())


def _file(number: int, target: str) -> str:
    if not target.startswith("socket:"):
        return f"file {target} ({number})"
    try:
        with socket.socket(fileno=os.dup(number)) as one:
            return f"socket {_address(one.getsockname())} to {_peer(one)}"
    except OSError:
        return f"socket {number}, closed since"


def _peer(one: socket.socket) -> str:
    try:
        return _address(one.getpeername())
    except OSError:
        return "nobody"


def _address(address: object) -> str:
    return ":".join(map(str, address[:2])) if isinstance(address, tuple) else repr(address)


def _process(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return f"process {pid}: {command or 'ended, but nobody waited for it'}"
    except OSError:
        return f"process {pid}, ended since"
