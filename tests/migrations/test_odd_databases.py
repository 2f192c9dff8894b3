"""Databases that somebody else has set up: what we rely on is set, what cannot be is refused."""

from __future__ import annotations

import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from tailrace.errors import BadSettings
from tailrace.store import migrate
from tailrace.store.engine import create_engine
from tests.acceptance.cli_runner import cli_for
from tests.conftest import PostgresServer
from tests.migrations.catalog import describe

ODD = {
    "datestyle": "SQL, DMY",
    "standard_conforming_strings": "off",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
}


def odd(url: str) -> None:
    name = sql.Identifier(urlsplit(url).path[1:])
    with psycopg.connect(url, autocommit=True) as connection:
        for setting, value in ODD.items():
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
            )


def test_an_archive_is_made_as_anywhere(database_url: str, empty_database_url: str) -> None:
    odd(empty_database_url)
    migrate.upgrade(empty_database_url)
    with psycopg.connect(
        empty_database_url, autocommit=True
    ) as connection:  # a picture shows texts as its session has them
        connection.execute(
            sql.SQL("ALTER DATABASE {} RESET ALL").format(sql.Identifier(urlsplit(empty_database_url).path[1:]))
        )
    assert describe(empty_database_url) == describe(database_url)


def test_sessions_have_what_we_rely_on_in_and_out_of_transactions(database_url: str) -> None:
    odd(database_url)
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            assert isinstance(connection.scalar(sa.text("SELECT now()")), datetime)
            assert connection.scalar(sa.text(r"SELECT length('\a')")) == 2
            connection.rollback()  # set for the session, not for its first transaction
            assert connection.scalar(sa.text("SHOW DateStyle")).startswith("ISO")
            assert connection.scalar(sa.text("SHOW standard_conforming_strings")) == "on"
    finally:
        engine.dispose()


def test_commands_read_what_is_there(database_url: str, tmp_path: Path) -> None:
    odd(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SELECT tailrace.request_ingest('run_1')")
    cli = cli_for(tmp_path, database_url=database_url)
    done = cli.run("status", "--json")
    assert done.code == 0, done
    assert b"run_1" in done.stdout


@contextmanager
def latin1(server: PostgresServer) -> Iterator[str]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(
            "CREATE DATABASE in_latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'"
        )
        try:
            yield server.url("in_latin1")
        finally:
            connection.execute("DROP DATABASE in_latin1 WITH (FORCE)")


def test_another_encoding_than_utf8_is_refused_and_nothing_is_made(postgres_server: PostgresServer) -> None:
    with latin1(postgres_server) as url:
        with pytest.raises(BadSettings, match="LATIN1, and an archive needs UTF8"):
            migrate.upgrade(url)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT to_regnamespace('tailrace')").fetchone() == (None,)


class Older:
    """Passes on what a client and a server say, but for the server's version."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(self._server) as server:
                self._pass_on(client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for ready in select.select([client, server], [], [])[0]:
                try:
                    said = ready.recv(65_536)
                except ConnectionError:
                    return
                if not said:
                    return
                if ready is client:
                    server.sendall(said)
                else:
                    client.sendall(re.sub(rb"(server_version\0)\d\d", rb"\g<1>14", said))


def test_a_postgres_that_is_too_old_is_refused_in_a_sentence(empty_database_url: str, tmp_path: Path) -> None:
    url = urlsplit(empty_database_url)
    assert url.hostname is not None
    assert url.port is not None
    older = Older((url.hostname, url.port))
    through = url._replace(netloc=url.netloc.replace(f":{url.port}", f":{older.port}")).geturl()
    try:
        with pytest.raises(BadSettings, match="The database is PostgreSQL 14, and Tailrace needs 15 or newer"):
            migrate.upgrade(through)
        for command in (("migrate",), ("status",)):
            done = cli_for(tmp_path, database_url=through).run(*command)
            assert done.code == 2, done
            assert "PostgreSQL 14" in done.stderr
    finally:
        older.close()
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT to_regnamespace('tailrace')").fetchone() == (None,)
