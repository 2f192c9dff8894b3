"""A canary: whatever upstream, Postgres and Redis say, no secret is in a row, message, event, metric, log or screen."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from celery import Celery
from psycopg import sql

from tailrace.model import Wire
from tests.acceptance.cli_runner import Cli, cli_for, wait_for
from tests.integration.schema_rows import Archive
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore

KEY = "CANARYcanary12345"  # nothing that a pattern would know
ECHO = f"You sent: {{'X-Key': '{KEY}'}} to this page"
PIECE = 9
"""So many characters of either end of a secret are looked for, in any case: half of one is not known as a secret."""
ALWAYS = 100_000
EVENT_STREAM = ("content-type", "text/event-stream")
STREAMS: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {
    **{f"s{status}": (status, ()) for status in (400, 404, 409, 500)},
    "type": (200, (("content-type", ECHO),)),
    "version": (200, (EVENT_STREAM, ("x-stream-version", ECHO))),
    "encoding": (200, (EVENT_STREAM, ("content-encoding", ECHO))),
    "location": (302, (("location", f"http://127.0.0.1:1/{KEY}"),)),
    "later": (429, (("retry-after", KEY),)),
}
"""Run → how its stream is answered, with the echo as its body."""
FEEDS: dict[str, tuple[int, tuple[tuple[str, str], ...]]] = {
    **{f"f{status}": (status, ()) for status in (400, 500, 200)},
    "handle": (409, (("electric-handle", KEY), ("location", f"/{KEY}"))),
}
CHUNK = '"Authorization: Bearer abcdefgh12345678"'
TOLD = "app.told"
WORKER = ("-A", "tailrace.tasks", "worker", "-P", "gevent", "-c", "30", "-Q", "tailrace", "--task-events")
"""`tailrace worker` sends no events; who wants them starts Celery's own command."""
SAYING = r"""
    SELECT count(*) FROM (SELECT last_error FROM tailrace.runs UNION ALL SELECT last_error FROM tailrace.streams) AS said
    WHERE last_error ~ 'You sent.*\*\*\*'"""


@pytest.fixture
def upstream(store: LiveStore) -> Iterator[RunningServer]:
    with running(create_app(store, api_key=KEY)) as server:
        yield server


@pytest.fixture
def cli(tmp_path: Path, database_url: str, redis_url: str, upstream: RunningServer) -> Cli:
    urls = {"database_url": database_url, "redis_url": redis_url}
    return cli_for(tmp_path, **urls, api_url=upstream.url, key=KEY).with_(
        TAILRACE_LOG_LEVEL="debug", TAILRACE_UNKNOWN_RUN_SECONDS="0.1", TAILRACE_ON_SEALED=f"{TOLD}@theirs"
    )


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    with archive.connection:
        yield archive


def echoing(store: LiveStore, upstream: RunningServer) -> list[str]:
    """Make every way in which upstream can say something give the key back; return the runs."""
    faults, body = upstream.faults, ECHO.encode()
    faults.runs_feed().answer(502, body=body, times=ALWAYS)  # so each run is asked for by itself
    runs = [*STREAMS, "event", "code", *FEEDS, "plain"]
    for run in runs:
        store.create_run(run, Wire.V2)
        store.append_chunks(run, "ai", [CHUNK if run == "plain" else "1"])
    for run, (status, headers) in STREAMS.items():
        faults.stream(run, "ai").answer(status, body=body, headers=headers, times=ALWAYS)
    for run, (status, headers) in FEEDS.items():
        faults.feed(run).answer(status, body=body, headers=headers, times=ALWAYS)
    faults.stream("event", "ai").error_event(message=ECHO, times=ALWAYS)
    faults.stream("code", "ai").error_event(code=ECHO, times=ALWAYS)
    faults.feed("nobody").answer(404, body=body, times=ALWAYS)
    return [*runs, "nobody"]


def postgres_echoes(archive: Archive, secret: str) -> None:
    """Have Postgres refuse what is written of one stream, with its password in what it says."""
    archive.run(
        f"""CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF strpos(NEW.data::text, 'poison') > 0 THEN RAISE EXCEPTION 'You sent: {secret}' USING ERRCODE = '22000'; END IF;
            RETURN NEW; END $$"""
    )
    archive.run(
        "CREATE TRIGGER refuse BEFORE INSERT ON tailrace.segments FOR EACH ROW EXECUTE FUNCTION public.refuse()"
    )


# --- where something could be


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
    """Everything in Redis, and what is in base64 in it: the bodies of messages."""
    with redis.Redis.from_url(url) as client:
        texts = []
        for key in client.scan_iter():
            match client.type(key):
                case b"list":
                    texts.append(repr(client.lrange(key, 0, -1)))
                case b"hash":
                    texts.append(repr(client.hgetall(key)))
                case b"set":
                    texts.append(repr(client.smembers(key)))
                case b"zset":
                    texts.append(repr(client.zrange(key, 0, -1)))
                case b"string":
                    texts.append(repr(client.get(key)))
    bodies = re.findall(r"[A-Za-z0-9+/]{32,}={0,2}", "\n".join(texts))
    for body in bodies:
        with contextlib.suppress(binascii.Error):
            texts.append(base64.b64decode(body, validate=True).decode(errors="replace"))
    return "\n".join(texts)


def command_lines(session: int) -> str:
    """What the processes of a session were started with, as whoever is on the machine sees it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.getsid(int(place.name)) == session:
                found.append(repr((place / "cmdline").read_bytes()))
    return "\n".join(found)


@contextlib.contextmanager
def celery_events(app: Celery) -> Iterator[list[str]]:
    """All that workers tell of their tasks."""
    told: list[str] = []
    ready = threading.Event()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: told.append(repr(event))})
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        thread = threading.Thread(target=receiver.capture)
        thread.start()
        try:
            assert ready.wait(20)
            yield told
        finally:
            receiver.should_stop = True
            thread.join()


def inspected(app: Celery) -> str:
    """What a worker answers to `celery inspect`."""
    asked = app.control.inspect(timeout=20, limit=1)
    questions: list[Callable[[], Any]] = [
        lambda: asked.conf(with_defaults=True),
        *(asked.active, asked.reserved, asked.scheduled, asked.stats, asked.report, asked.registered),
        *(asked.active_queues, asked.revoked),
    ]
    answers = [question() for question in questions]
    assert all(answers), answers
    return repr(answers)


def assert_hidden(secrets: list[str], seen: dict[str, str]) -> None:
    for secret in secrets:
        for piece in (secret[:PIECE], secret[-PIECE:]):
            for place, text in seen.items():
                at = text.lower().find(piece.lower())
                assert at < 0, f"{place}: {text[max(0, at - 300) : at + 100]}"


# --- the tests


def test_the_secrets_come_back_in_every_answer_and_are_nowhere(
    cli: Cli, store: LiveStore, upstream: RunningServer, archive: Archive, database_url: str, redis_url: str
) -> None:
    runs = echoing(store, upstream)
    database_password, redis_password = (urlsplit(url).password or "" for url in (database_url, redis_url))
    postgres_echoes(archive, database_password)
    store.create_run("postgres", Wire.V2)
    store.append_chunks("postgres", "ai", ['"poison"'])
    seen: dict[str, str] = {}
    app = Celery(broker=redis_url, set_as_current=False)
    with cli.started(*WORKER, program="celery") as worker, celery_events(app) as events:
        for run in (*runs, "postgres"):
            app.send_task("tailrace.ingest_run", [run], queue="tailrace")
        # In each row the reason, with the secret hidden; "version" cuts it away, "handle" says nothing of it.
        reasons = len(STREAMS) + len(FEEDS) - 2 + len(["event", "code", "nobody", "postgres"])
        wait_for(lambda: archive.value(SAYING) >= reasons, f"{reasons} have their reason in a row")
        wait_for(lambda: "failed" in broker_dump(redis_url) and TOLD in broker_dump(redis_url), "others are told")
        seen["inspect"] = inspected(app)
        seen["command lines"] = command_lines(worker.pid)
        upstream.faults.everything().answer(403, body=ECHO.encode(), times=ALWAYS)
        store.create_run("halting", Wire.V2)
        app.send_task("tailrace.ingest_run", ["halting"], queue="tailrace")
        halted = r"SELECT count(*) FROM tailrace.environments WHERE halted_reason ~ 'You sent.*\*\*\*'"
        wait_for(lambda: bool(archive.value(halted)), "the environment is halted, with a reason")
        for command in (["doctor"], ["status"], ["status", "--json"], ["status", "s400"], ["status", "f500"]):
            seen[" ".join(command)] = str(cli.run(*command))
        seen["database"] = database_dump(database_url)
        seen["broker"] = broker_dump(redis_url)
        with accepting_nobody(database_url):
            app.send_task("tailrace.ingest_run", ["waits"], queue="tailrace")
            wait_for(lambda: any("task-retried" in event for event in events), "a task is tried again, and says why")
        seen["events"] = "\n".join(events)
    app.close()
    seen["logs"] = "\n".join(log.read_text() for log in cli.cwd.glob("*.log"))
    assert sum("You sent" in text for text in seen.values()) >= 5  # it was said in all of these
    assert "tailrace.ingest_run" in seen["events"]
    assert "tailrace" in seen["command lines"]
    assert archive.value("SELECT data_text FROM tailrace.chunks WHERE run_id = 'plain'") == CHUNK  # kept as it came
    assert_hidden([KEY, database_password, redis_password], seen)


@contextlib.contextmanager
def accepting_nobody(database_url: str) -> Iterator[None]:
    """Postgres refuses every connection to a database."""
    name = sql.Identifier(urlsplit(database_url).path.strip("/"))
    other = urlsplit(database_url)._replace(path="/postgres").geturl()
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND application_name"
            " LIKE 'tailrace%%'",
            [urlsplit(database_url).path.strip("/")],
        )
        yield
        connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


DATABASE_URLS = [
    f"postgresql://u:{KEY}@127.0.0.1:port/d",
    f"postgresql://u:p@{KEY}@127.0.0.1:1/d",
    f"postgresql://u:{KEY}#/@127.0.0.1:1/d",
    f"mysql://u:{KEY}@127.0.0.1/d",
    f"postgresql://u@127.0.0.1:1/d?password={KEY}&connect_timeout={KEY}",
]
REDIS_URLS = [
    f"redis://:{KEY}@127.0.0.1:port/0",
    f"redis://:p@{KEY}@127.0.0.1:1/0",
    f"redis://:p/{KEY}@127.0.0.1:1/0",
    f"amqp://u:{KEY}@127.0.0.1//",
    f"redis://127.0.0.1:1/0?password={KEY}",
]


@pytest.mark.parametrize(
    ("verb", "database", "broker"),
    [
        *(("migrate", url, "") for url in DATABASE_URLS[::2]),
        *(("status", url, "") for url in DATABASE_URLS[1::2]),
        *(("doctor", *urls) for urls in zip(DATABASE_URLS, REDIS_URLS, strict=True)),
        ("worker", DATABASE_URLS[0], REDIS_URLS[0]),
        *(("worker", "postgresql://u:p@127.0.0.1:1/d", url) for url in REDIS_URLS[::2]),
    ],
)
def test_a_url_that_does_not_parse_shows_no_password(verb: str, database: str, broker: str, tmp_path: Path) -> None:
    done = cli_for(tmp_path, database_url=database, redis_url=broker, api_url="http://127.0.0.1:1").run(verb)
    assert done.code != 0
    assert_hidden([KEY], {verb: str(done)})
