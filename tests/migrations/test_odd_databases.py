"""Databases that somebody else has set up: what we rely on is set, what cannot be is refused."""

from __future__ import annotations

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
