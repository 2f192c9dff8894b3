"""`tailrace doctor` and Redis: each thing that can be wrong with a real one is found, named, and no other with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery import Celery

from tailrace.celery import register
from tailrace.cli import doctor
from tailrace.cli.checks.finding import Finding, Severity, made
from tests.integration.schema_rows import Archive
from tests.integration.test_doctor_database import worker
from tests.scraped import free_port
from tests.throwaway import THROWAWAY, ServerSettings, ephemeral_valkey

PASSWORD = "Xq7-hidden"


class Place:
    """A broker, and what doctor says of it."""

    def __init__(self, url: str, environ: pytest.MonkeyPatch) -> None:
        self.url = url
        self._environ = environ

    def at(self, **parts: str | int) -> str:
        old = urlsplit(self.url)
        new = {"scheme": "redis", "password": old.password, "host": old.hostname, "port": old.port} | parts
        return "{scheme}://:{password}@{host}:{port}/0".format(**new)

    def found(self, url: str | None = None, archive_url: str | None = None) -> dict[str, Finding]:
        """What is wrong, or should be known, by code."""
        self._environ.setenv("REDIS_URL", url or self.url)
        findings = [
            each for each in made("broker", lambda: doctor._broker(archive_url)) if each.severity is not Severity.OK
        ]
        for each in findings:
            assert (urlsplit(self.url).password or "") not in f"{each}"
            assert PASSWORD not in f"{each}"
        return {each.code: each for each in findings}

    @contextmanager
    def set(self, **settings: str) -> Iterator[None]:
        with redis.Redis.from_url(self.url) as client:
            names = [name.replace("_", "-") for name in settings]
            before = {name: client.config_get(name)[name] for name in names}
            try:
                for name, value in zip(names, settings.values(), strict=True):
                    client.config_set(name, value)
                yield
            finally:
                for name in names:
                    client.config_set(name, before[name])


@pytest.fixture
def place(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(redis_url, monkeypatch)


def test_nothing_is_wrong_with_a_new_one(place: Place) -> None:
    assert place.found() == {}


@pytest.mark.parametrize(
    ("parts", "code", "says"),
    [
        ({"password": PASSWORD}, "broker-password", "password"),
        ({"host": "no-such-host.invalid", "password": PASSWORD}, "broker-host", "no-such-host.invalid"),
        ({"port": 1, "password": PASSWORD}, "broker-refused", "refused"),
        ({"scheme": "rediss", "password": PASSWORD}, "broker-silent", "imeout"),  # it waits for the end of a line
    ],
)
def test_which_part_of_the_url_is_wrong_is_told(
    place: Place, parts: dict[str, str | int], code: str, says: str
) -> None:
    found = place.found(place.at(**parts))
    assert list(found) == [code]
    assert says in found[code].says
    assert "REDIS_URL" in (found[code].todo or "")
    assert found[code].exit_code == 5


def test_no_password_where_one_is_needed(place: Place) -> None:
    parts = urlsplit(place.url)
    assert list(place.found(f"redis://{parts.hostname}:{parts.port}/0")) == ["broker-password"]


def test_a_password_that_is_not_percent_encoded(place: Place) -> None:
    for sign in "/#?":
        found = place.found(place.at(password=f"x{sign}{PASSWORD}"))
        assert list(found) == ["broker-url"]
        assert found["broker-url"].exit_code == 2


def test_a_user_who_may_not(place: Place) -> None:
    with redis.Redis.from_url(place.url) as client:
        client.execute_command("ACL", "SETUSER", "narrow", "on", ">x", "+ping", "+hello", "+client", "+select", "+info")
        try:
            parts = urlsplit(place.url)
            found = place.found(f"redis://narrow:x@{parts.hostname}:{parts.port}/0")
        finally:
            client.execute_command("ACL", "DELUSER", "narrow")
    assert list(found) == ["broker-rights"]


def test_one_that_takes_the_connection_and_says_nothing(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = place.found(place.at(port=listening.getsockname()[1]))
    assert list(found) == ["broker-silent"]


def test_one_that_speaks_no_tls(place: Place) -> None:
    """It answers at once, in plain text, as most servers do."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=_answer, args=(listening,))
        answering.start()
        found = place.found(place.at(scheme="rediss", port=listening.getsockname()[1]))
        listening.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert list(found) == ["broker-tls"]


def _answer(listening: socket.socket) -> None:
    with suppress(OSError):
        while True:
            with listening.accept()[0] as connection:
                connection.recv(1_024)
                connection.sendall(b"-ERR unknown command\r\n")


@pytest.mark.parametrize(
    ("policy", "limit", "code"),
    [
        ("allkeys-lru", "100mb", "broker-evicts"),
        ("allkeys-random", "100mb", "broker-evicts"),
        ("allkeys-lfu", "0", "broker-would-evict"),
        ("volatile-lru", "100mb", "broker-evicts-others"),
        ("volatile-ttl", "0", None),
        ("noeviction", "100mb", None),
    ],
)
def test_what_it_does_when_its_memory_is_full(place: Place, policy: str, limit: str, code: str | None) -> None:
    with place.set(maxmemory=limit, maxmemory_policy=policy):
        found = place.found()
    assert list(found) == ([] if code is None else [code])
    assert code is None or policy in found[code].says


def test_its_memory_is_full(place: Place) -> None:
    with place.set(maxmemory="1", maxmemory_policy="noeviction"):
        found = place.found()
    assert list(found) == ["broker-full"]
    assert "of 1 bytes" in found["broker-full"].says


def test_a_read_only_replica(place: Place) -> None:
    with redis.Redis.from_url(place.url) as client:
        client.replicaof("127.0.0.1", 1)  # of nobody: it waits for its primary, and is what a replica is
        try:
            found = place.found()
        finally:
            client.replicaof("NO", "ONE")
    assert list(found) == ["broker-replica"]


def test_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else it is its own port and 10 000, which may be taken, or none.
    clustered = (*THROWAWAY.valkey, ("cluster-enabled", "yes"), ("cluster-port", str(free_port())))
    with ephemeral_valkey(tmp_path / "valkey", ServerSettings((), clustered, ())) as server:
        assert list(Place(server.url(), monkeypatch).found()) == ["broker-cluster"]


# --- who listens, and what nobody takes


def test_requests_in_a_queue_that_no_worker_takes_from(place: Place) -> None:
    """Sent by a host that does not route them; those of one that does, and the host's own, are none."""
    host = Celery("host", broker=place.url, set_as_current=False)
    for _ in range(3):
        host.send_task("tailrace.ingest_run", ["run_1"])
    host.send_task("host.mail", ["tailrace.ingest_run"])
    routing = register(Celery("routing", broker=place.url, set_as_current=False))
    routing.send_task("tailrace.ingest_run", ["run_2"])
    host.close()
    routing.close()
    found = place.found()
    assert list(found) == ["queue-stray"]
    assert found["queue-stray"].says.startswith("3 requests for Tailrace wait in the queue celery,")


def test_workers_that_use_another_redis(place: Place, database_url: str) -> None:
    archive = Archive(database_url)
    with archive.connection:
        worker(archive, slots=5)
        found = place.found(archive_url=database_url)
    assert list(found) == ["workers-elsewhere"]
    assert found["workers-elsewhere"].says.startswith("1 workers run by the database")
