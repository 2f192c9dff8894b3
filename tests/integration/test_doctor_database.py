"""`tailrace doctor` and Postgres: each thing that can be wrong with a real one is found, named, and no other with it."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from tailrace.cli import doctor
from tailrace.cli.checks.finding import Finding, Severity, made
from tailrace.devtools.servers import ports
from tailrace.store import roles
from tailrace.store.migrate import upgrade
from tailrace.store.pooler import Pooling, pooling
from tests.acceptance.cli_runner import wait_for
from tests.integration.schema_rows import Archive

PASSWORD = "Xq7-hidden"


class Place:
    """A database of a test's own, and what doctor says of it."""

    def __init__(self, url: str, environ: pytest.MonkeyPatch) -> None:
        self.url = url
        self.name = urlsplit(url).path.strip("/")
        self._environ = environ

    def run(self, statement: str, *names: str) -> None:
        """Run a statement as a superuser; {} are names."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))  # type: ignore[arg-type]

    def at(self, **parts: str | int | None) -> str:
        """The URL with other parts: user, password, host, port, database."""
        old = urlsplit(self.url)
        new = {
            "user": old.username,
            "password": old.password,
            "host": old.hostname,
            "port": old.port,
            "database": self.name,
        }
        new |= parts
        return "postgresql://{user}:{password}@{host}:{port}/{database}".format(**new)

    def found(self, url: str | None = None) -> dict[str, Finding]:
        """What is wrong, by code."""
        findings = {each.code: each for each in self.all(url)}
        secret = urlsplit(self.url).password or ""
        for each in findings.values():
            assert secret not in f"{each}"
            assert PASSWORD not in f"{each}"
        return {code: each for code, each in findings.items() if each.severity is Severity.PROBLEM}

    def all(self, url: str | None = None) -> list[Finding]:
        """All that doctor says."""
        self._environ.setenv("DATABASE_URL", url or self.url)
        return list(made("database", doctor._database))

    @contextmanager
    def role(self, *grants: str) -> Iterator[str]:
        """The URL of a role that may do no more than it is granted; {} is the role."""
        name = f"tr_doctor_{self.name}"
        self.run("CREATE ROLE {} LOGIN PASSWORD 'x'", name)
        try:
            for grant in grants:
                self.run(grant, name)
            yield self.at(user=name, password="x")
        finally:
            self.run("DROP OWNED BY {}", name)
            self.run("DROP ROLE {}", name)


@pytest.fixture
def place(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(database_url, monkeypatch)


def test_nothing_is_wrong_with_a_new_archive(place: Place) -> None:
    assert place.found() == {}


# --- it can't be reached


@pytest.mark.parametrize(
    ("parts", "code", "says"),
    [
        ({"password": PASSWORD}, "database-password", "password authentication failed"),
        ({"user": "nobody_here", "password": PASSWORD}, "database-password", "nobody_here"),
        ({"host": "no-such-host.invalid", "password": PASSWORD}, "database-host", "no-such-host.invalid"),
        ({"port": 1, "password": PASSWORD}, "database-refused", "refused"),
        ({"database": "not_there"}, "database-missing", "not_there"),
    ],
)
def test_which_part_of_the_url_is_wrong_is_told(place: Place, parts: dict[str, Any], code: str, says: str) -> None:
    found = place.found(place.at(**parts))
    assert list(found) == [code]
    assert says in found[code].says
    assert "DATABASE_URL" in (found[code].todo or "")
    assert found[code].exit_code == 5


def test_a_host_that_drops_what_is_sent(place: Place) -> None:
    """It takes the connection and says nothing, as a firewall's other half does."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = place.found(place.at(port=listening.getsockname()[1]) + "?connect_timeout=2")
    assert list(found) == ["database-silent"]
    gc.collect()  # psycopg leaves the socket of a connection that came too late to the collector


def test_a_server_without_tls(place: Place) -> None:
    assert list(place.found(f"{place.url}?sslmode=require")) == ["database-tls"]


def test_a_password_that_is_not_percent_encoded(place: Place) -> None:
    """Refused before anybody could take its end for a host."""
    for sign in "@/#?":
        found = place.found(place.at(password=f"x{sign}{PASSWORD}"))
        assert list(found) == ["database-url"]
        assert found["database-url"].exit_code == 2


@pytest.mark.parametrize("query", ["nosuch=1", "sslmode=nosuch", "connect_timeout=soon"])
def test_a_url_whose_query_nobody_understands(place: Place, query: str) -> None:
    """An error that no kind was made for: it is told in the words of who refused, and what can be looked at is."""
    found = place.found(f"{place.url}?{query}")
    assert len(found) == 1
    assert query.partition("=")[0] in f"{found}"


def test_a_role_that_may_not_log_in(place: Place) -> None:
    with place.role("ALTER ROLE {} NOLOGIN") as url:
        assert list(place.found(url)) == ["database-password"]


def test_a_database_without_connections_left(place: Place) -> None:
    with place.role("ALTER ROLE {} CONNECTION LIMIT 0") as url:
        assert list(place.found(url)) == ["database-full"]


# --- it can't do what is needed


def test_a_read_only_database(place: Place) -> None:
    place.run("ALTER DATABASE {} SET default_transaction_read_only = on", place.name)
    assert list(place.found()) == ["database-read-only"]


def test_another_encoding(place: Place) -> None:
    other = f"{place.name}_latin"
    place.run("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'", other)
    try:
        found = place.found(place.at(database=other))
    finally:
        place.run("DROP DATABASE {}", other)
    assert list(found) == ["database-encoding", "archive-missing"]
    assert "LATIN1" in found["database-encoding"].says


def test_a_server_that_is_too_old(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No old one can be had: what is tried is the comparison with what this one says of itself."""
    monkeypatch.setattr("tailrace.cli.checks.database.OLDEST", 990_000)
    assert list(place.found()) == ["database-old"]


def test_few_connections_are_left(place: Place) -> None:
    with place.role("ALTER ROLE {} CONNECTION LIMIT 5") as url:
        roles.set_up(place.url, f"rt_{place.name}", f"rd_{place.name}")
        place.run("GRANT {} TO {}", f"rt_{place.name}", f"tr_doctor_{place.name}")
        found = place.found(url)
        for name in ("rt", "rd"):
            place.run("DROP OWNED BY {}", f"{name}_{place.name}")
            place.run("DROP ROLE {}", f"{name}_{place.name}")
    assert list(found) == ["database-connections"]
    assert found["database-connections"].says == "1 of the 5 connections that the role is allowed are in use"


@pytest.mark.parametrize("setting", ["statement_timeout", "idle_in_transaction_session_timeout"])
def test_a_timeout_that_would_end_commits(place: Place, setting: str) -> None:
    place.run(f"ALTER DATABASE {{}} SET {setting} = '2s'", place.name)
    found = place.found()
    assert list(found) == ["database-timeout"]
    assert f"{setting} is 2 s" in found["database-timeout"].says
    assert f"SET {setting} = '60s'" in (found["database-timeout"].todo or "")
    place.run(f"ALTER DATABASE {{}} SET {setting} = '60s'", place.name)
    assert place.found() == {}


def test_a_timeout_of_the_role(place: Place) -> None:
    with place.role("ALTER ROLE {} SET statement_timeout = '5s'", "ALTER ROLE {} SUPERUSER") as url:
        found = place.found(url)
    assert list(found) == ["database-timeout"]
    assert (found["database-timeout"].todo or "").startswith(f"ALTER ROLE tr_doctor_{place.name} SET")


@pytest.mark.parametrize(("offset_s", "says"), [(90, "90 s behind"), (-90, "90 s before"), (1, None)])
def test_clocks_that_differ(place: Place, offset_s: int, says: str | None) -> None:
    """The database's, by a function that is found before its own."""
    place.run("CREATE SCHEMA skewed")
    place.run(
        f"""CREATE FUNCTION skewed.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
            RETURN pg_catalog.clock_timestamp() + interval '{offset_s} seconds'"""
    )
    place.run("ALTER DATABASE {} SET search_path = skewed, pg_catalog", place.name)
    found = place.found()
    assert list(found) == ([] if says is None else ["clock-database"])
    assert says is None or says in found["clock-database"].says


# --- who asks, and what is there


def test_a_role_without_any_rights(place: Place) -> None:
    with place.role() as url:
        found = place.found(url)
    assert list(found) == ["rights-schema"]
    assert "GRANT tailrace_runtime TO tr_doctor" in (found["rights-schema"].todo or "")


def test_a_role_that_may_only_read(place: Place) -> None:
    grants = ("GRANT USAGE ON SCHEMA tailrace TO {}", "GRANT SELECT ON ALL TABLES IN SCHEMA tailrace TO {}")
    with place.role(*grants) as url:
        found = place.found(url)
    assert list(found) == ["rights-lacking"]
    says = found["rights-lacking"].says
    assert "lacks DELETE on facts" in says
    assert len(says) < 400


def test_a_role_that_lacks_one_right(place: Place) -> None:
    grants = (
        "GRANT USAGE ON SCHEMA tailrace TO {}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tailrace TO {}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA tailrace TO {}",
        "REVOKE UPDATE ON tailrace.streams FROM {}",
        *(f"GRANT EXECUTE ON FUNCTION tailrace.{function} TO {{}}" for function in roles.RUNTIME_CALLS[1:]),
    )
    with place.role(*grants) as url:
        found = place.found(url)
    assert list(found) == ["rights-lacking"]
    assert found["rights-lacking"].says.endswith(f"lacks EXECUTE on {roles.RUNTIME_CALLS[0]}; UPDATE on streams")


def test_no_archive_and_a_role_that_may_not_make_one(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(empty_database_url, monkeypatch)
    assert list(place.found()) == ["archive-missing"]
    with place.role() as url:
        assert list(place.found(url)) == ["archive-missing-rights"]


@pytest.mark.parametrize(
    ("revision", "code", "todo"),
    [
        ("0000", "schema-newer", "Upgrade this Tailrace"),
        (None, "archive-missing", "tailrace migrate"),
    ],
)
def test_a_schema_of_another_version(place: Place, revision: str | None, code: str, todo: str) -> None:
    place.run("DELETE FROM tailrace.alembic_version")
    if revision is not None:
        place.run(f"INSERT INTO tailrace.alembic_version VALUES ('{revision}')")
    found = place.found()
    assert list(found) == [code]
    assert todo in (found[code].todo or "")


def test_a_schema_that_is_older(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there is a second revision: this version's newest is another than the archive's, which it knows."""
    monkeypatch.setattr("tailrace.store.migrate.head", lambda: "0002")
    found = place.found()
    assert list(found) == ["schema-older"]
    assert found["schema-older"].says == "the schema is at revision 0001, this version needs 0002"


def test_partitions_that_end(place: Place) -> None:
    days = Archive(place.url)
    with days.connection:
        for (day,) in days.rows("SELECT day FROM tailrace.partition_days() WHERE day > current_date + 1"):
            place.run("DROP TABLE tailrace.{}", f"segments_{day:%Y%m%d}")
        assert "partitions-ending" in {each.code for each in place.all()}
        for (day,) in days.rows("SELECT day FROM tailrace.partition_days()"):
            place.run("DROP TABLE tailrace.{}", f"segments_{day:%Y%m%d}")
    assert list(place.found()) == ["partitions-none"]


def test_an_archive_that_came_from_another_server(place: Place) -> None:
    upgrade(place.url)
    assert "server-changed" not in place.found()
    place.run("UPDATE tailrace.counted_on SET system_identifier = system_identifier - 1")
    assert list(place.found()) == ["server-changed"]
    with place.role("GRANT USAGE ON SCHEMA tailrace TO {}", "GRANT SELECT ON tailrace.alembic_version TO {}") as url:
        assert "server-changed" not in {each.code for each in place.all(url)}  # it may not look
    with psycopg.connect(place.url, autocommit=True) as connection:
        until = connection.execute("SELECT tailrace.changes_until()").fetchone()
        upgrade(place.url)
        after = connection.execute("SELECT tailrace.changes_until()").fetchone()
    assert until is not None
    assert after is not None
    assert after[0] > until[0] + 2**32  # also where this server has counted further than the other one
    assert "server-changed" not in place.found()


# --- what is between


@contextmanager
def pgbouncer(place: Place, mode: str, *, size: int = 5) -> Iterator[str]:
    """Run a PgBouncer before the database and give the URL there."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("needs PgBouncer")
    old, port = urlsplit(place.url), ports.pick()
    # A directory that the account can read which root's PgBouncer becomes: pytest's own is for its owner only.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        configuration, log = Path(directory) / "pgbouncer.ini", Path(directory) / "log"
        configuration.write_text(
            f"""[databases]
* = host={old.hostname} port={old.port} user={old.username} password={old.password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""
        )
        account = ("--user", "nobody") if os.geteuid() == 0 else ()
        command = [program, "--quiet", *account, str(configuration)]
        with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as bouncer:
            try:
                wait_for(lambda: _listens(port) or bouncer.poll() is not None, "PgBouncer listens")
                assert bouncer.poll() is None, log.read_text()
                yield place.at(port=port)
            finally:
                bouncer.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_pgbouncer_is_recognised_in_each_of_its_modes(place: Place, mode: str) -> None:
    with pgbouncer(place, mode) as url:
        problems = place.found(url)
        codes = {each.code for each in place.all(url) if each.name == "pooler"}
    assert codes == {f"pooler-{mode}"}
    assert list(problems) == (["pooler-statement"] if mode == "statement" else [])


def test_a_pool_of_one_keeps_nobody_waiting(place: Place) -> None:
    """In session mode the second connection would never be served, with one of its own open."""
    with pgbouncer(place, "session", size=1) as url:
        assert pooling(url) is Pooling.SESSION
    with pgbouncer(place, "transaction", size=1) as url:
        assert pooling(url) is Pooling.TRANSACTION


# --- who works


def test_no_worker_though_something_waits(place: Place) -> None:
    archive = Archive(place.url)
    with archive.connection:
        archive.stream("run_1")
        assert "workers-none" in {each.code for each in place.all()}
        archive.run("UPDATE tailrace.runs SET next_watch_at = now() - interval '1 min'")
        archive.run("UPDATE tailrace.streams SET next_attempt_at = now() - interval '1 min'")
        found = place.found()
    assert list(found) == ["workers-none-and-waiting"]
    assert found["workers-none-and-waiting"].says == "none runs, and 1 runs and 1 streams wait"


def test_all_slots_are_taken(place: Place) -> None:
    archive = Archive(place.url)
    with archive.connection:
        worker(archive, slots=1)
        archive.run(
            "UPDATE tailrace.streams SET worker_id = (SELECT id FROM tailrace.workers) WHERE id = %s",
            archive.stream("run_1"),
        )
        assert place.found() == {}
        archive.run(
            "UPDATE tailrace.streams SET next_attempt_at = now() - interval '1 min' WHERE id = %s",
            archive.stream("run_2"),
        )
        found = place.found()
        assert list(found) == ["slots-taken"]
        assert found["slots-taken"].says == "all 1 slots are taken, and 1 streams wait for one"
        worker(archive, slots=1)
        assert place.found() == {}, "there is another slot: it is about to be taken"


def worker(archive: Archive, slots: int) -> None:
    archive.run(
        "INSERT INTO tailrace.workers (id, host, pid, pool, slots, expires_at, lease_s)"
        " VALUES (gen_random_uuid(), 'h', 1, 'gevent', %s, now() + interval '1 hour', 8)",
        slots,
    )


@pytest.mark.parametrize(
    ("minutes", "gone"), [(0, False), (2, False), (4, True), (60 * 24 * 29, True), (60 * 24 * 31, False)]
)
def test_a_beat_that_comes_no_more(place: Place, minutes: int, gone: bool) -> None:
    archive = Archive(place.url)
    with archive.connection:
        for name, every_s in (("tailrace-prune", 86_400 * 20), ("tailrace-discover", 60)):
            archive.run(
                "INSERT INTO tailrace.schedules VALUES (%s, %s, now() - %s * interval '1 minute')",
                name,
                every_s,
                minutes,
            )
        found = place.found()
    assert list(found) == (["beat-gone"] if gone else [])
    assert not gone or "tailrace-discover last came" in found["beat-gone"].says


def test_an_environment_that_is_halted(place: Place) -> None:
    place.run("UPDATE tailrace.environments SET halted_at = now(), halted_reason = '401'")
    found = place.found()
    assert list(found) == ["environment-halted"]
    assert found["environment-halted"].exit_code == 4
