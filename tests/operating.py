"""docs/operate.md as a script: its blocks in order, and the clusters, accounts and variables that they are run with.

A block that begins with `ON_SERVER` is run as the account that Postgres' files belong to, every other as whoever runs the
tests. Postgres' programs are those of the servers of this run.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tailrace.devtools.servers.account import Account
from tailrace.devtools.servers.binaries import postgres_binary
from tailrace.devtools.servers.ports import pick
from tailrace.devtools.servers.postgres import Postgres
from tailrace.serve.app import DEFAULT_KEY
from tests.throwaway import OTHER_PROGRAMS, ROOT, THROWAWAY

PAGE = ROOT / "docs" / "operate.md"
ON_SERVER = re.compile(r"# where (Postgres|the replica) runs, as its account\n")
BLOCK_S = 120.0

OF_A_PRIMARY = replace(THROWAWAY, postgres=(*THROWAWAY.postgres, ("wal_level", "logical"), ("archive_mode", "on")))
"""What takes a restart, and the page says so."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of the page, under its heading of the second level."""

    heading: str
    language: str
    text: str

    @property
    def on_server(self) -> bool:
        return ON_SERVER.match(self.text) is not None


@functools.cache
def blocks(heading: str | None = None) -> list[Block]:
    """Return the blocks under a heading, or all of the page, in order."""
    found = []
    for part in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title = part.partition("\n")[0]
        found += [
            Block(title, language, text)
            for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        ]
    return [each for each in found if heading in (None, each.heading)]


@dataclass(slots=True)
class Operator:
    """Who runs the commands of the page, with the variables that it speaks of. Each block is a shell of its own."""

    folder: Path
    account: Account | None
    programs: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, block: Block) -> str:
        """Run a block as it stands; return what it printed. Fails when any command of it does."""
        done = subprocess.run(
            ["sh", "-eu", "-c", block.text],
            cwd=self.folder,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
            check=False,
            **self._rights(block.on_server),  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{block.text}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return str(done.stdout) + str(done.stderr)

    def program(self, name: str, *arguments: str) -> None:
        """Run one of Postgres' programs as the account."""
        command = [self.programs / name, *arguments]
        subprocess.run(
            command, cwd=self.folder, env=self._environ(), check=True, capture_output=True, **self._rights(True)
        )  # type: ignore[call-overload]

    def directory(self, name: str) -> Path:
        """Make a directory that both may write to."""
        made = self.folder / name
        made.mkdir()
        if self.account is not None:
            os.chown(made, self.account.uid, self.account.gid)
        return made

    def _environ(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.programs), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
        return {"PATH": path, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(self.folder), **self.variables}

    def _rights(self, on_server: bool) -> dict[str, object]:
        if self.account is None or not on_server:
            return {}
        return {"user": self.account.uid, "group": self.account.gid, "extra_groups": []}


def operator_of(server: Postgres, **variables: str) -> Operator:
    """Return who operates this server, in a folder beside its files."""
    account = server.home.account
    programs = Path(OTHER_PROGRAMS) if OTHER_PROGRAMS else postgres_binary("postgres", account).parent
    return Operator(server.home.path, account, programs, {"TRIGGER_SECRET_KEY": DEFAULT_KEY, **variables})


def settle(server: Postgres) -> None:
    """Have copies of its files run with the settings that it was started with, but for the port (``PGPORT``)."""
    pairs = dict(server.settings.postgres) | {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    with (server.directory / "postgresql.conf").open("a") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in pairs.items())


@contextmanager
def copied(operator: Operator, variable: str) -> Iterator[tuple[Path, int]]:
    """Yield where a cluster is to be made by the page, and its port; end it afterwards. ``variable`` names the place."""
    place, port = operator.folder / variable.lower(), pick()
    operator.variables |= {variable: str(place), "PGPORT": str(port)}
    try:
        yield place, port
    except BaseException:
        with suppress(OSError):
            print((place / "log").read_text()[-3_000:])
        raise
    finally:
        if (place / "postmaster.pid").exists():
            operator.program("pg_ctl", "stop", f"--pgdata={place}", "--mode=immediate", "--wait")
        shutil.rmtree(place, ignore_errors=True)
        del operator.variables[variable], operator.variables["PGPORT"]


def at_port(url: str, port: int) -> str:
    """Return the same URL of a cluster that is a copy."""
    return re.sub(r":\d+/", f":{port}/", url)
