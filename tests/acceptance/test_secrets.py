"""A canary: whatever upstream says, the key that it was asked with is in no row, message, log or screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql

from tailrace.model import Wire
from tests.acceptance.cli_runner import Cli, cli_for, wait_for
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore

KEY = "CANARYcanary12345"  # nothing that a pattern would know
ECHO = f"You sent: {{'X-Key': '{KEY}'}} to this page"
ALWAYS = 100_000
FAILING = 8
HIDDEN = """
    SELECT count(*) FROM (SELECT last_error FROM tailrace.runs UNION ALL SELECT last_error FROM tailrace.streams) AS said
    WHERE last_error LIKE '%You sent%***%'"""


@pytest.fixture
def store() -> LiveStore:
    return LiveStore()


@pytest.fixture
def upstream(store: LiveStore) -> Iterator[RunningServer]:
    with running(create_app(store, api_key=KEY)) as server:
        yield server


@pytest.fixture
def cli(tmp_path: Path, database_url: str, redis_url: str, upstream: RunningServer) -> Cli:
    urls = {"database_url": database_url, "redis_url": redis_url}
    return cli_for(tmp_path, **urls, api_url=upstream.url, key=KEY).with_(TAILRACE_LOG_LEVEL="debug")


def echoing(store: LiveStore, upstream: RunningServer) -> list[str]:
    """Make every way in which upstream can say something give the key back; return the runs."""
    faults, body = upstream.faults, ECHO.encode()
    runs = []
    faults.runs_feed().answer(502, body=body, times=ALWAYS)  # so each run is asked for by itself
    for name in ("s400", "s404", "s409", "s500", "event"):
        runs.append(name)
        store.create_run(name, Wire.V2)
        store.append_chunks(name, "ai", [b'"1"'])
        if name == "event":
            faults.stream(name, "ai").error_event(message=ECHO, times=ALWAYS)
        else:
            faults.stream(name, "ai").answer(int(name[1:]), body=body, times=ALWAYS)
    for name in ("f400", "f500", "f200"):
        runs.append(name)
        store.create_run(name, Wire.V2)
        faults.feed(name).answer(int(name[1:]), body=body, times=ALWAYS)
    assert len(runs) == FAILING
    return runs


def database_dump(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.execute(
            """SELECT c.relname FROM pg_catalog.pg_class c
               WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind IN ('r', 'v', 'p')"""
        ).fetchall()
        rows = [
            row[0]
            for (name,) in names
            for row in connection.execute(sql.SQL("SELECT x::text FROM {} x").format(sql.Identifier("tailrace", name)))
        ]
    return "\n".join(rows)


def broker_dump(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        texts = []
        for key in client.scan_iter():
            match client.type(key):
                case b"list":
                    texts.append(repr(client.lrange(key, 0, -1)))
                case b"hash":
                    texts.append(repr(client.hgetall(key)))
                case b"string":
                    texts.append(repr(client.get(key)))
    return "\n".join(texts)


def test_the_key_comes_back_in_every_answer_and_is_nowhere(
    cli: Cli, store: LiveStore, upstream: RunningServer, database_url: str, redis_url: str
) -> None:
    runs = echoing(store, upstream)
    seen = []
    with psycopg.connect(database_url, autocommit=True) as connection, cli.started("worker", "--slots", "20"):
        for run in runs:
            assert cli.run("ingest", run).code == 0

        def hidden() -> int:
            row = connection.execute(HIDDEN).fetchone()
            assert row is not None
            return int(row[0])

        wait_for(lambda: hidden() >= FAILING, "each of them has its reason in a row, with the key hidden")
        upstream.faults.everything().answer(403, body=ECHO.encode(), times=ALWAYS)
        store.create_run("halting", Wire.V2)
        assert cli.run("ingest", "halting").code == 0
        wait_for(
            lambda: bool(
                connection.execute(
                    "SELECT FROM tailrace.environments WHERE halted_reason LIKE '%You sent%***%'"
                ).fetchall()
            ),
            "the environment is halted, with a reason",
        )
        for command in (["doctor"], ["status"], ["status", "--json"], *(["status", run] for run in runs)):
            seen.append(str(cli.run(*command)))
    seen += [database_dump(database_url), broker_dump(redis_url)]
    seen += [log.read_text() for log in cli.cwd.glob("*.log")]
    assert sum("You sent" in text for text in seen) >= 5  # it was said in all of these
    secrets = [KEY, *filter(None, (urlsplit(url).password for url in (database_url, redis_url)))]
    assert len(secrets) > 1
    for secret in secrets:
        for text in seen:
            assert secret not in text, text[max(0, text.find(secret) - 300) : text.find(secret) + 100]
