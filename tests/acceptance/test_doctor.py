"""`tailrace doctor` sees what would only show when work is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql

from tailrace.store.migrate import upgrade
from tests.acceptance.cli_runner import Cli, cli_for
from tests.throwaway import Servers


@pytest.fixture
def cli(tmp_path: Path, database_url: str, redis_url: str) -> Cli:
    return cli_for(tmp_path, database_url=database_url, redis_url=redis_url, api_url="http://127.0.0.1:1")


def findings(cli: Cli, severity: str = "problem") -> dict[str, Any]:
    """What doctor says of this severity, by name; of upstream, which nobody serves here, nothing."""
    found = json.loads(cli.run("doctor", "--json").stdout)["findings"]
    return {each["name"]: each for each in found if each["severity"] == severity and each["name"] != "upstream"}


def test_all_is_well(cli: Cli) -> None:
    assert findings(cli) == {}


def test_a_read_only_database(cli: Cli, database_url: str) -> None:
    name = sql.Identifier(urlsplit(database_url).path.strip("/"))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    found = findings(cli)
    assert found["database"]["says"] == "nothing can be written: it is read-only (default_transaction_read_only)"
    assert "DATABASE_URL" in found["database"]["todo"]
    assert found["database"]["exit_code"] == 1


def test_a_standby(tmp_path: Path, servers_to_break: Servers) -> None:
    postgres = servers_to_break.postgres
    upgrade(postgres.url())
    postgres.stop()
    (postgres.directory / "standby.signal").touch()
    postgres.start()
    cli = cli_for(tmp_path, database_url=postgres.url(), redis_url=servers_to_break.valkey.url())
    assert findings(cli)["database"]["says"] == "nothing can be written: the server is a standby"


@pytest.mark.parametrize(
    ("policy", "limit", "severity"),
    [
        ("allkeys-lru", "100mb", "problem"),
        ("allkeys-random", "100mb", "problem"),
        ("allkeys-lfu", "0", "note"),
        ("volatile-lru", "100mb", None),
        ("noeviction", "100mb", None),
    ],
)
def test_a_redis_that_drops_keys(cli: Cli, redis_url: str, policy: str, limit: str, severity: str | None) -> None:
    with redis.Redis.from_url(redis_url) as broker:
        before = broker.config_get("maxmemory*")
        try:
            broker.config_set("maxmemory-policy", policy)
            broker.config_set("maxmemory", limit)
            for each in ("problem", "note"):
                found = findings(cli, each).get("broker")
                assert (found is not None) == (each == severity)
                assert found is None or policy in found["says"]
        finally:
            for name in ("maxmemory", "maxmemory-policy"):
                broker.config_set(name, before[name])


def test_a_mistyped_variable(cli: Cli) -> None:
    wrong = cli.with_(TAILRACE_BATCH_MAX_BYTE="5000", TAILRACE_PORT_5432_TCP="tcp://10.0.0.1:5432")
    done = wrong.run("doctor")
    assert done.code == 2
    assert "TAILRACE_BATCH_MAX_BYTE is no setting" in done.stdout.decode()
    assert "Did you mean TAILRACE_BATCH_MAX_BYTES?" in done.stdout.decode()
    assert "TAILRACE_PORT_5432_TCP" in findings(wrong, "note")["settings"]["says"]
