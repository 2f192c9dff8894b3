"""What every test may ask for: a real Postgres, a real Valkey, and surroundings that are the same everywhere.

============================ ======== ===========================================================================
fixture                      scope    what it is
============================ ======== ===========================================================================
``postgres_server``          session  the Postgres of this run; tests share it, so none may stop it. Another one than the
                                      embedded: ``TAILRACE_TEST_DATABASE_URL``, of a superuser, or
                                      ``TAILRACE_TEST_POSTGRES``, a folder of programs, which are then used for every
                                      Postgres that tests start
``administrator``            session  the connection by which databases come and go
``template_database``        session  the name of a database migrated to head; cloned, never connected to
``database_url``             test     a migrated database of the test's own
``empty_database_url``       test     an empty database of the test's own
``valkey_server``            session  the Valkey of this run; tests share it, so none may stop it
``redis_url``                test     that Valkey, emptied
``servers_to_break``         test     a Postgres and a Valkey of the test's own, to stop, kill and start
============================ ======== ===========================================================================

Tests under ``tests/unit`` cannot reach the network. No test may leave anything open (`tests.leaks`).
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import hypothesis
import psycopg
import pytest
import redis
from psycopg import sql

from tailrace import redaction
from tailrace.devtools.servers.valkey import Valkey
from tests.throwaway import Servers, ephemeral, ephemeral_postgres, ephemeral_valkey, in_memory

OUR_PREFIXES = ("TRIGGER_", "TAILRACE_", "CELERY_", "PG")
OUR_VARIABLES = frozenset({"DATABASE_URL", "REDIS_URL", "VERCEL_GIT_COMMIT_REF"})
PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})  # no proxy belongs between a test and its own servers

pytest_plugins = ["tests.leaks", "tests.order"]

UNIT = Path(__file__).parent / "unit"
OPEN_FILES = 8_192  # a stand-in upstream lives in the test's own process, with a socket for each stream

_numbers = itertools.count(1)
_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "gw")  # several of them may share one server

OTHER_SERVER = os.environ.get("TAILRACE_TEST_DATABASE_URL")
"""Where tests find a Postgres that is not the embedded one. Read here: the settings of whoever runs them are forgotten."""

# A deadline measures the machine, not the code.
hypothesis.settings.register_profile("tailrace", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tailrace"))


def _is_ours(name: str) -> bool:
    return name in OUR_VARIABLES or name.startswith(OUR_PREFIXES) or name.lower() in PROXIES


def _forget_settings() -> None:
    for name in [name for name in os.environ if _is_ours(name)]:
        del os.environ[name]


def pytest_configure() -> None:
    """Forget our settings before any session fixture reads them; allow the sockets of a thousand streams."""
    _forget_settings()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a script's background: commands under test inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:  # an ordinary user's is 1 024 on many systems
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture(autouse=True)
def _clean_environment() -> None:
    """No test sees what another one left set, nor the secrets that another one used."""
    _forget_settings()
    redaction.forget()


@pytest.fixture(autouse=True)
def _no_network_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.path.is_relative_to(UNIT):
        return

    def refuse(_socket: socket.socket, address: object) -> None:
        raise RuntimeError(f"a unit test tried to connect to {address!r}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_args, **_more: refuse(None, host))


class PostgresServer(Protocol):
    """A Postgres that tests have to themselves."""

    def url(self, database: str) -> str:
        """Return the URL of one of its databases."""


class _OtherServer:
    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)

    def url(self, database: str) -> str:
        return self._url._replace(path=f"/{database}").geturl()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    if OTHER_SERVER is not None:
        yield _OtherServer(OTHER_SERVER)
        return
    with ephemeral_postgres(in_memory() or tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def administrator(postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    """The one connection that makes and drops databases: to connect for each took a tenth of what such a test costs."""
    with psycopg.connect(postgres_server.url("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer, administrator: psycopg.Connection) -> Iterator[str]:
    from tailrace.store.migrate import upgrade  # here: only tests with a database need it

    template = f"tailrace_template_{_WORKER}_{os.getpid()}"
    _administer(administrator, "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", template)
    upgrade(postgres_server.url(template))
    # A database that somebody is connected to cannot be cloned.
    _administer(administrator, "ALTER DATABASE {} ALLOW_CONNECTIONS false", template)
    administrator.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [template])
    yield template
    _administer(administrator, "DROP DATABASE {}", template)


@pytest.fixture
def database_url(
    postgres_server: PostgresServer, administrator: psycopg.Connection, template_database: str
) -> Iterator[str]:
    with database(postgres_server, administrator, template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer, administrator: psycopg.Connection) -> Iterator[str]:
    with database(postgres_server, administrator, "template0") as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with ephemeral_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: Valkey) -> Iterator[str]:
    with redis.Redis.from_url(valkey_server.url()) as client:
        client.flushall()
    yield valkey_server.url()
    _leave_brokers()


@pytest.fixture
def servers_to_break(tmp_path: Path) -> Iterator[Servers]:
    with ephemeral(tmp_path / "servers") as servers:
        yield servers
        _leave_brokers()


def _leave_brokers() -> None:
    """Close what Celery apps of this process keep, else for as long as it lives; each makes it anew when it needs it."""
    if "kombu.pools" in sys.modules:
        sys.modules["kombu.pools"].reset()
    if "celery._state" in sys.modules:
        for app in sys.modules["celery._state"]._get_active_apps():
            app._pool = None  # closed: nothing could be sent any more
            if "amqp" in vars(app):
                app.amqp._producer_pool = None


@contextmanager
def database(server: PostgresServer, administrator: psycopg.Connection, template: str) -> Iterator[str]:
    """Make a database like this one, and return its URL; it ends with the block."""
    name = f"test_{_WORKER}_{os.getpid()}_{next(_numbers)}"
    # By copying files, not page by page through the log: a third of the time, and this happens before most tests.
    _administer(administrator, "CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, template)
    try:
        yield server.url(name)
    finally:
        _administer(administrator, "DROP DATABASE {} WITH (FORCE)", name)


def _administer(administrator: psycopg.Connection, statement: str, *names: str) -> None:
    administrator.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))  # type: ignore[arg-type]
