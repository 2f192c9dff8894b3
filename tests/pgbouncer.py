"""The real PgBouncer in front of a test's database; where it is not installed, tests that need it are skipped."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tailrace.devtools.servers.account import unprivileged
from tests.chaos.fleet import wait_for

PROGRAM = shutil.which(
    "pgbouncer", path=os.defpath + os.pathsep + "/usr/sbin" + os.pathsep + os.environ.get("PATH", "")
)

CONFIGURATION = """
[databases]
{database} = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {mode}
default_pool_size = {servers}
max_client_conn = 200
"""
"""As Debian has it but for the size: no parameter of a client is ignored."""


@contextmanager
def pgbouncer(database_url: str, mode: str, *, servers: int = 4) -> Iterator[str]:
    """Run a PgBouncer with one pool of so many connections to a database; give the URL that leads through it."""
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed")
    url = urlsplit(database_url)
    assert url.username is not None
    assert url.password is not None
    place = Path(tempfile.mkdtemp(prefix="tailrace-pgbouncer-"))  # not below pytest's, where another account may not be
    own_port = _free_port()
    users = place / "users.txt"
    users.write_text(f'"{url.username}" "{unquote(url.password)}"\n')
    (place / "pgbouncer.ini").write_text(
        CONFIGURATION.format(
            database=url.path[1:],
            host=url.hostname,
            port=url.port,
            own_port=own_port,
            users=users,
            mode=mode,
            servers=servers,
        )
    )
    who = {}
    if os.geteuid() == 0:  # it refuses to run as root
        account = unprivileged()
        who = {"user": account.uid, "group": account.gid}
        for path in (place, *place.iterdir()):
            os.chown(path, account.uid, account.gid)
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, str(place / "pgbouncer.ini")], cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who
        )  # type: ignore[call-overload]
    try:
        wait_for(lambda: _answers(own_port, process, place / "log"), 30, "PgBouncer answers")
        user, at, _ = url.netloc.rpartition("@")
        yield url._replace(netloc=f"{user}{at}127.0.0.1:{own_port}").geturl()
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(place)


def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
