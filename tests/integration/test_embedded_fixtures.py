"""The fixtures that other tests stand on."""

import psycopg
import pytest
import redis

from tailrace.devtools.servers.postgres import Postgres
from tailrace.devtools.servers.valkey import Valkey
from tests.throwaway import Servers


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_migrated_database_of_its_own(database_url: str, turn: int) -> None:
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT to_regclass('tailrace.streams'), to_regclass('public.mine')").fetchone()
        assert found == ("tailrace.streams", None)
        connection.execute("CREATE TABLE public.mine ()")


def test_an_empty_database_is_empty(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT to_regnamespace('tailrace')").fetchone() == (None,)


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_finds_an_empty_redis(redis_url: str, turn: int) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("key", turn)


def test_servers_to_break_are_not_the_shared_ones(
    servers_to_break: Servers, postgres_server: Postgres, valkey_server: Valkey
) -> None:
    assert servers_to_break.postgres.pid not in (None, postgres_server.pid)
    assert servers_to_break.valkey.pid not in (None, valkey_server.pid)
