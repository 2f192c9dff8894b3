"""Kinds of Redis that others have: with TLS, behind Sentinel, as a cluster.

Of the embedded Valkey, which is built without TLS, and of the system's Redis; where there is none, tests that need it
are skipped.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tailrace.devtools.servers.binaries import valkey_binary
from tests.chaos.fleet import wait_for

PASSWORD = "a password: with / and @"
QUOTED = "a%20password%3A%20with%20%2F%20and%20%40"


def program_of(kind: str) -> str:
    """Return the server program: ``valkey`` or ``redis``."""
    if kind == "valkey":
        return str(valkey_binary())
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    return found


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs."""

    port: int
    process: subprocess.Popen[bytes]


@contextmanager
def server(
    kind: str, place: Path, *more: str, tls: Certificates | None = None, sentinel: bool = False
) -> Iterator[Running]:
    """Run a server on a port of its own, with more lines of its configuration; end it afterwards."""
    program, port = program_of(kind), free_port()
    place.mkdir(parents=True)
    ports = [f"port {port}"]
    if tls is not None:
        ports = ["port 0", f"tls-port {port}", f"tls-cert-file {tls.server}", f"tls-key-file {tls.key}"]
        ports += [f"tls-ca-cert-file {tls.authority}", "tls-auth-clients no"]
    lines = [*ports, "bind 127.0.0.1", f"dir {place}", 'save ""', f'requirepass "{PASSWORD}"', *more]
    if sentinel:
        lines = [*ports, "bind 127.0.0.1", f"dir {place}", *more]
    configuration = place / "server.conf"  # a sentinel writes into it
    configuration.write_text("\n".join(lines) + "\n")
    with (place / "log").open("wb") as log:
        command = [program, str(configuration), *(["--sentinel"] if sentinel else [])]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None, 30, f"{kind} listens")
        assert process.poll() is None, (place / "log").read_text()
        yield Running(port, process)
    finally:
        process.terminate()
        process.wait(20)


@dataclass(frozen=True, slots=True)
class Certificates:
    """An authority, and what it says of 127.0.0.1."""

    authority: Path
    server: Path
    key: Path


def certificates(place: Path) -> Certificates:
    """Make an authority of our own, and a certificate by it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    place.mkdir(parents=True)
    authority, authority_key = place / "ca.pem", place / "ca.key"
    key, request, made = place / "server.key", place / "server.csr", place / "server.pem"
    extension = place / "extension"
    extension.write_text("subjectAltName = IP:127.0.0.1\n")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for arguments in (
        ("req", "-x509", *new_key, "-keyout", authority_key, "-out", authority, "-days", "2", "-subj", "/CN=tests"),
        ("req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"),
        ("x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority_key, "-CAcreateserial", "-out", made,
         "-days", "2", "-extfile", extension),
    ):  # fmt: skip
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    return Certificates(authority, made, key)


@dataclass(slots=True)
class Behind:
    """A primary, its replica, and the sentinel that watches them."""

    sentinel: int
    primary: Running
    replica: Running

    @property
    def url(self) -> str:
        return f"sentinel://:{QUOTED}@127.0.0.1:{self.sentinel}/0"

    def primary_port(self) -> int:
        with redis.Redis(port=self.sentinel, decode_responses=True) as client:
            return int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tailrace-test")[1])


@contextmanager
def behind_sentinel(kind: str, place: Path) -> Iterator[Behind]:
    """Run three servers: when the primary is away for half a second, the replica takes its place."""
    with contextlib.ExitStack() as running:
        login = f'masterauth "{PASSWORD}"'
        primary = running.enter_context(server(kind, place / "primary", login))
        follow = f"replicaof 127.0.0.1 {primary.port}"
        replica = running.enter_context(server(kind, place / "replica", login, follow, "repl-diskless-sync-delay 0"))
        name = "tailrace-test"
        sentinel = running.enter_context(
            server(
                kind,
                place / "sentinel",
                f"sentinel monitor {name} 127.0.0.1 {primary.port} 1",
                f'sentinel auth-pass {name} "{PASSWORD}"',
                f"sentinel down-after-milliseconds {name} 500",
                f"sentinel failover-timeout {name} 2000",
                sentinel=True,
            )
        )
        behind = Behind(sentinel.port, primary, replica)
        with redis.Redis(port=sentinel.port, decode_responses=True) as client:

            def known() -> bool:
                found = client.execute_command("SENTINEL", "REPLICAS", name)
                return bool(found) and "master-link-status" in str(found) and "'ok'" in str(found)

            wait_for(known, 30, "the sentinel knows the replica")
        yield behind


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
