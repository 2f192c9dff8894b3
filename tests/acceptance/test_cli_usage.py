"""What every command does before it does anything: help, versions, missing and wrong settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tailrace.cli.exits import MEANINGS
from tests.acceptance.cli_runner import Cli, cli_for
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore

VERBS = (
    "demo",
    "up",
    "down",
    "migrate",
    "doctor",
    "ingest",
    "status",
    "chunks",
    "text",
    "sql",
    "worker",
    "replay",
    "serve",
)
SECRET = "tr_dev_0123456789abcdefghij"
UNUSED_PORT = 1


@pytest.fixture
def bare(tmp_path: Path) -> Cli:
    """The command with nothing set, started as a user starts it."""
    return Cli(tmp_path, fresh=True)


def test_help_names_every_verb_and_every_exit_code(bare: Cli) -> None:
    done = bare.run("--help")
    assert done.code == 0
    text = done.stdout.decode()
    assert all(verb in text for verb in VERBS)
    assert all(re.search(rf"\b{code:d}\s+{re.escape(meaning[:30])}", text) for code, meaning in MEANINGS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(bare: Cli, verb: str) -> None:
    done = bare.run(verb, "--help")
    assert done.code == 0
    assert f"tailrace {verb}" in done.stdout.decode()


def test_help_imports_nothing_that_takes_long(bare: Cli) -> None:
    """So it comes at once; `benchmarks/quick.py` measures how soon."""
    imported = bare.with_(PYTHONPROFILEIMPORTTIME="1").run("--help").stderr
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.splitlines()}
    assert "typer" in names
    assert names.isdisjoint({"celery", "kombu", "sqlalchemy", "psycopg", "gevent", "httpx", "redis", "alembic"})


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tailrace st", ["status"]),
        ("tailrace worker --pool ", ["gevent", "threads", "prefork", "solo"]),
        ("tailrace sql --exp", ["--expanded"]),
    ],
)
def test_a_shell_can_complete_commands_options_and_values(bare: Cli, typed: str, offered: list[str]) -> None:
    asking = bare.with_(_TAILRACE_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(typed.split(" ")) - 1))
    done = asking.run()
    assert done.code == 0, done
    assert done.stdout.decode().split() == offered


def test_the_version_is_that_of_the_package(bare: Cli) -> None:
    assert re.fullmatch(rb"tailrace \d+\.\d+\.\d+\n", bare.run("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("chunks", "run_1"),
        ("text", "run_1"),
        ("sql", "SELECT 1"),
        ("migrate",),
        ("ingest", "run_1", "--local"),
        ("ingest", "run_1", "--wait"),
    ],
)
def test_a_missing_database_is_refused_by_name(bare: Cli, arguments: tuple[str, ...]) -> None:
    done = bare.with_(TRIGGER_SECRET_KEY=SECRET, REDIS_URL=f"redis://127.0.0.1:{UNUSED_PORT}").run(*arguments)
    assert done.code == 2, done
    assert "DATABASE_URL" in done.stderr


def test_a_missing_broker_is_refused_by_name(bare: Cli) -> None:
    done = bare.with_(TRIGGER_SECRET_KEY=SECRET).run("ingest", "run_1")
    assert done.code == 2, done
    assert "REDIS_URL" in done.stderr


@pytest.mark.parametrize("arguments", [("worker",), ("ingest", "run_1", "--local")])
def test_a_missing_key_is_refused_by_name(bare: Cli, arguments: tuple[str, ...]) -> None:
    set_ = {"DATABASE_URL": "postgresql://127.0.0.1/x", "REDIS_URL": "redis://127.0.0.1"}
    done = bare.with_(**set_).run(*arguments)
    assert done.code == 2, done
    assert "TRIGGER_SECRET_KEY" in done.stderr


def test_a_wrong_setting_is_refused_by_name(bare: Cli) -> None:
    done = bare.with_(TAILRACE_BATCH_MAX_CHUNKS="many").run("ingest", "run_1")
    assert done.code == 2, done
    assert "TAILRACE_BATCH_MAX_CHUNKS" in done.stderr


def test_a_wrong_url_is_refused_without_its_password(bare: Cli) -> None:
    done = bare.with_(DATABASE_URL="mysql://me:geheim@host/x").run("status")
    assert done.code == 2, done
    assert "DATABASE_URL" in done.stderr
    assert "geheim" not in done.stderr


def test_a_database_that_does_not_answer_is_named_without_its_password(bare: Cli) -> None:
    done = bare.with_(DATABASE_URL=f"postgresql://me:geheim@127.0.0.1:{UNUSED_PORT}/x").run("status")
    assert done.code == 5, done
    assert "Postgres did not answer" in done.stderr
    assert "DATABASE_URL" in done.stderr
    assert "geheim" not in done.stderr


def test_a_broker_that_does_not_answer_is_named_without_its_password(bare: Cli) -> None:
    done = bare.with_(REDIS_URL=f"redis://me:geheim@127.0.0.1:{UNUSED_PORT}/0").run("ingest", "run_1")
    assert done.code == 5, done
    assert "Redis did not answer" in done.stderr
    assert "REDIS_URL" in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("run_id", [b"", b"\xff\xfe", b"r" * 2000])
@pytest.mark.parametrize("verb", ["chunks", "ingest", "status", "text"])
def test_a_run_id_that_cannot_be_one_is_a_usage_error(bare: Cli, verb: str, run_id: bytes) -> None:
    assert bare.run(verb, run_id).code == 2


def test_a_stream_key_that_cannot_be_one_is_a_usage_error(bare: Cli) -> None:
    assert bare.run("ingest", "run_1", "--stream", "").code == 2


def test_an_unknown_verb_is_a_usage_error(bare: Cli) -> None:
    assert bare.run("swim").code == 2


def test_a_database_without_archive_says_what_to_run(tmp_path: Path, empty_database_url: str) -> None:
    cli = cli_for(tmp_path, database_url=empty_database_url)
    with running(create_app(LiveStore())) as upstream:
        for arguments in (("status",), ("chunks", "run_1"), ("ingest", "run_1", "--local")):
            done = cli.with_(TRIGGER_API_URL=upstream.url).run(*arguments)
            assert done.code == 1, done
            assert "tailrace migrate" in done.stderr


def test_migrate_makes_the_archive_and_can_be_repeated(tmp_path: Path, empty_database_url: str) -> None:
    cli = cli_for(tmp_path, database_url=empty_database_url)
    first, second = cli.run("migrate"), cli.run("migrate")
    assert (first.code, second.code) == (0, 0), first
    assert "Migrated" in first.stderr
    assert "up to date" in second.stderr
    assert cli.run("status").code == 0


def test_down_where_nothing_runs_is_no_error(bare: Cli) -> None:
    assert bare.run("down").code == 0
