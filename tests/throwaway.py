"""Servers for the length of a test, and the ways they can fail there.

`Postgres.restart_immediate`, `Postgres.stop_immediate`, `Server.kill`, `Server.stop` and `Server.start` are the
failures: a server comes back on the port it had. Postgres keeps what was committed, Valkey comes back empty.

They end with the process that started them, however that ends: ``python -m tests.throwaway HOME`` waits beside it for
the end of a pipe, and then ends what is still there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from tailrace.devtools.servers.account import Account, unprivileged
from tailrace.devtools.servers.home import Endpoints, Home
from tailrace.devtools.servers.postgres import INITDB, Postgres
from tailrace.devtools.servers.server import POSTGRES_COMMON, VALKEY_COMMON, Server, ServerFailed, ServerSettings
from tailrace.devtools.servers.valkey import Valkey

ROOT = Path(__file__).resolve().parents[1]

OTHER_PROGRAMS = os.environ.get("TAILRACE_TEST_POSTGRES")
"""Where the programs of a Postgres are that is not the embedded one, such as ``/usr/lib/postgresql/15/bin``. Read here:
the settings of whoever runs the tests are forgotten."""

MEMORY = Path("/dev/shm")  # a file system in memory, on Linux
ENOUGH_MEMORY = 8 << 30  # bytes free there: four servers at a time, one of them with a million streams

THROWAWAY = ServerSettings(
    # A power cut may ruin it; the death of any process may not: synchronous_commit and full_page_writes stay on.
    # The schema has the role's name, so by default even a statement that forgets to name the schema would work here.
    # Tests clone a database each: half the CPU when the kernel copies the files.
    postgres=(
        *POSTGRES_COMMON,
        ("fsync", "off"),
        ("max_wal_size", "256MB"),
        ("search_path", "public"),
        ("file_copy_method", "clone"),
    ),
    valkey=(*VALKEY_COMMON, ("save", ""), ("appendonly", "no")),  # comes back empty
    initdb=("--no-sync", "--wal-segsize=4"),  # 4 MB to write before the first start, not 16
)


SINCE_18 = frozenset({"file_copy_method"})


class OtherPostgres(Postgres):
    """A Postgres of the system's, in its place."""

    # The order of bytes, as in the embedded one; a locale of its own came with 17.
    made_with: ClassVar[tuple[str, ...]] = (
        *(each for each in INITDB if "locale" not in each),
        "--locale=C.UTF-8",
    )

    def _find(self, program: str, account: Account | None = None) -> Path:
        assert OTHER_PROGRAMS is not None
        return Path(OTHER_PROGRAMS) / program

    def _check_version(self) -> None:
        """It is as old as this run."""


def postgres_of(home: Home, settings: ServerSettings) -> Postgres:
    """Return the Postgres that this run is to be tried on."""
    if OTHER_PROGRAMS is None:
        return Postgres(home, settings)
    said = subprocess.run([Path(OTHER_PROGRAMS) / "postgres", "--version"], capture_output=True, text=True, check=True)
    if int(re.findall(r"\d+", said.stdout)[0]) < 18:
        settings = replace(settings, postgres=tuple(pair for pair in settings.postgres if pair[0] not in SINCE_18))
    return OtherPostgres(home, settings)


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers, for a test that makes them fail."""

    postgres: Postgres
    valkey: Valkey

    @property
    def endpoints(self) -> Endpoints:
        """Where they answer: the same after every restart."""
        return Endpoints(self.postgres.url(), self.valkey.url())


@contextmanager
def ephemeral(root: Path, settings: ServerSettings = THROWAWAY) -> Iterator[Servers]:
    """Run both servers under ``root``, which is made when it is missing; end them and remove it afterwards."""
    servers = Servers(postgres_of(Home(root), settings), Valkey(Home(root), settings))
    with _running(root, servers.postgres, servers.valkey):
        yield servers


@contextmanager
def ephemeral_postgres(root: Path, settings: ServerSettings = THROWAWAY) -> Iterator[Postgres]:
    """Run a Postgres under ``root``, which is its alone."""
    server = postgres_of(Home(root), settings)
    with _running(root, server):
        yield server


@contextmanager
def ephemeral_valkey(root: Path, settings: ServerSettings = THROWAWAY) -> Iterator[Valkey]:
    """Run a Valkey under ``root``, which is its alone."""
    server = Valkey(Home(root), settings)
    with _running(root, server):
        yield server


def in_memory() -> Path | None:
    """Make a directory in memory that a server can have as its root. None where there is not enough of it.

    Hundreds of databases come and go in a run. On ext4 that was a quarter of all CPU: it goes through the
    inodes that were freed within the last seconds, one by one, for each file that is made.
    """
    try:
        found = os.statvfs(MEMORY)
        if found.f_bavail * found.f_frsize < ENOUGH_MEMORY:
            return None
        place = Path(tempfile.mkdtemp(prefix="tailrace-", dir=MEMORY))
        if os.geteuid() == 0:  # else it would go where root's homes are, on disk
            account = unprivileged()
            os.chown(place, account.uid, account.gid)
    except OSError:
        return None
    return place


def remove(root: Path) -> None:
    """End the servers of a home and remove it, what its link leads to included: tens of megabytes."""
    home = Home(root)
    for server in (Valkey(home), Postgres(home)):
        server.stop()
    shutil.rmtree(home.path, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _running(root: Path, *servers: Server) -> Iterator[None]:
    Home(root).create()
    with _watched(root.resolve()):
        try:
            for server in servers:
                server.start()
            yield
        finally:
            remove(root)


@contextmanager
def _watched(root: Path) -> Iterator[None]:
    """Have a process wait for our end. It leaves our session, so that no Ctrl-C ends it before."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.throwaway", str(root)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ):  # its end closes the pipe, and waits
        yield


def main() -> None:
    """Wait until standard input ends; then remove the home that is named, if it is still there."""
    sys.stdin.read()
    root = Path(sys.argv[1])
    if root.exists():
        with suppress(ServerFailed):
            remove(root)


if __name__ == "__main__":
    main()
