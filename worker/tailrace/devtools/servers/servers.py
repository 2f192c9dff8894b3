"""Both servers of a home together: what the commands ``up`` and ``down`` do."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tailrace.devtools.servers.home import Endpoints, Home
from tailrace.devtools.servers.postgres import Postgres
from tailrace.devtools.servers.server import DURABLE, Server, ServerFailed, ServerSettings
from tailrace.devtools.servers.valkey import Valkey


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server as it is now. ``pid`` is None when it does not run; ``port`` is 0 before its first start."""

    name: str
    pid: int | None
    port: int
    log: Path


@dataclass(frozen=True, slots=True)
class HomeStatus:
    """A home as it is now. ``endpoints`` is None unless both servers run."""

    home: Path
    endpoints: Endpoints | None
    servers: tuple[ServerStatus, ...]


def up(home: Path, settings: ServerSettings = DURABLE) -> Endpoints:
    """Start what does not run of the servers under ``home`` and wait until both take connections.

    Makes the directory (0700) when it is missing. Password and ports stay the same from one start to the next, a port
    only as long as nobody else has taken it. The servers live on when this process ends.

    Raises:
        BadSettings: something outside must change (the extra is not installed, the directory cannot be used, root may
            not start Postgres here); the message says what.
        ServerFailed: a server did not come up.
    """
    place = Home(home)
    servers = _servers(place, settings)
    for server in servers:
        server.binary()  # nothing is made when it could not be used
    place.create()
    try:
        with place.locked():
            for server in servers:
                server.start()
    except (OSError, subprocess.SubprocessError) as error:  # a full disk, a program for another machine
        raise ServerFailed(f"the servers in {place} did not start: {error}") from error
    return _endpoints(*servers)


def down(home: Path) -> tuple[str, ...]:
    """End the servers under ``home``, and nothing else. Returns the names of those that ran.

    Raises:
        BadSettings: the directory is somebody else's.
        ServerFailed: a server does not stop.
    """
    place = Home(home)
    if not place.exists():
        return ()
    with place.locked():
        return tuple(server.name for server in reversed(_servers(place)) if server.stop())


def find(home: Path) -> Endpoints | None:
    """Where the servers under ``home`` answer; None unless both run. Starts and changes nothing.

    Raises:
        BadSettings: the directory is somebody else's.
    """
    place = Home(home)
    if not place.exists():
        return None
    servers = _servers(place)
    return _endpoints(*servers) if all(server.port and server.pid is not None for server in servers) else None


def status(home: Path) -> HomeStatus:
    """What runs under ``home``. Starts and changes nothing.

    Raises:
        BadSettings: the directory is somebody else's.
    """
    place = Home(home)
    if not place.exists():
        return HomeStatus(place.path, None, ())
    return HomeStatus(
        place.path,
        find(place.path),
        tuple(ServerStatus(server.name, server.pid, server.port, server.log_path) for server in _servers(place)),
    )


def _servers(home: Home, settings: ServerSettings = DURABLE) -> tuple[Postgres, Valkey]:
    return Postgres(home, settings), Valkey(home, settings)


def _endpoints(postgres: Server, valkey: Server) -> Endpoints:
    return Endpoints(database_url=postgres.url(), redis_url=valkey.url())
