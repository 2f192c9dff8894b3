"""Servers for the length of a test, and the ways they can fail there.

`Postgres.restart_immediate`, `Postgres.stop_immediate`, `Server.kill`, `Server.stop` and `Server.start` are the
failures: a server comes back on the port it had. Postgres keeps what was committed, Valkey comes back empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tailrace.devtools.servers.home import Endpoints, Home
from tailrace.devtools.servers.postgres import Postgres
from tailrace.devtools.servers.server import THROWAWAY, Server, ServerSettings
from tailrace.devtools.servers.valkey import Valkey

AnyServer = TypeVar("AnyServer", bound=Server)


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
    """Run both servers under ``root``, which is made when it is missing; end them afterwards, files stay."""
    with ephemeral_postgres(root, settings) as postgres, ephemeral_valkey(root, settings) as valkey:
        yield Servers(postgres, valkey)


@contextmanager
def ephemeral_postgres(root: Path, settings: ServerSettings = THROWAWAY) -> Iterator[Postgres]:
    """Run a Postgres under ``root``."""
    with ExitStack() as stack:
        yield _started(Postgres(Home(root), settings), stack)


@contextmanager
def ephemeral_valkey(root: Path, settings: ServerSettings = THROWAWAY) -> Iterator[Valkey]:
    """Run a Valkey under ``root``."""
    with ExitStack() as stack:
        yield _started(Valkey(Home(root), settings), stack)


def _started(server: AnyServer, stack: ExitStack) -> AnyServer:
    server.home.create()
    stack.callback(server.stop)
    server.start()
    return server
