"""`tailrace doctor` as a command: what it prints, what it ends with, and what only real processes show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tailrace.celery import beat_schedule
from tailrace.store.migrate import upgrade
from tests.acceptance.cli_runner import Cli, ask, cli_for, wait_for
from tests.throwaway import Servers
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore

FIELDS = ["name", "code", "severity", "says", "todo", "exit_code"]


@pytest.fixture
def cli(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Cli]:
    with running(create_app(LiveStore())) as upstream:
        yield cli_for(tmp_path, database_url=database_url, redis_url=redis_url, api_url=upstream.url)


def findings(cli: Cli) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli.run("doctor", "--json").stdout)["findings"]
    return found


def problems(cli: Cli) -> dict[str, Any]:
    return {each["code"]: each for each in findings(cli) if each["severity"] == "problem"}


def test_all_is_well_but_for_a_worker(cli: Cli) -> None:
    done = cli.run("doctor")
    assert done.code == 0, done
    lines = done.stdout.decode().splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [
        ["✓", "settings"],
        ["✓", "database"],
        ["✓", "schema"],
        ["!", "workers"],
        ["✓", "broker"],
        ["✓", "upstream"],
    ]
    assert any(line.endswith("  → Start one with `tailrace worker`; requests wait for it.") for line in lines)


def test_for_programs_each_finding_has_the_documented_fields(cli: Cli) -> None:
    found = findings(cli)
    assert [list(each) for each in found] == [FIELDS] * len(found)
    document = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    assert all(f"| `{field}` |" in document for field in FIELDS)
    names = next(line for line in document.splitlines() if line.startswith("| `name` |"))
    assert all(each["name"] in names for each in found)


def test_the_exit_code_is_that_of_the_first_problem(cli: Cli) -> None:
    wrong = cli.with_(TAILRACE_BATCH_MAX_BYTE="5000", TAILRACE_PORT_5432_TCP="tcp://10.0.0.1:5432")
    done = wrong.run("doctor")
    assert done.code == 2
    assert "TAILRACE_BATCH_MAX_BYTE is no setting" in done.stdout.decode()
    assert "Did you mean TAILRACE_BATCH_MAX_BYTES?" in done.stdout.decode()
    no_redis = cli.with_(REDIS_URL="redis://127.0.0.1:1", TRIGGER_SECRET_KEY="tr_dev_wrongwrongwrong")
    assert list(problems(no_redis)) == ["broker-refused", "key-refused"]
    assert no_redis.run("doctor").code == 5
    assert cli.with_(TRIGGER_SECRET_KEY="tr_dev_wrongwrongwrong").run("doctor").code == 4


def test_a_standby(tmp_path: Path, servers_to_break: Servers) -> None:
    postgres = servers_to_break.postgres
    upgrade(postgres.url())
    postgres.stop()
    (postgres.directory / "standby.signal").touch()
    postgres.start()
    cli = cli_for(tmp_path, database_url=postgres.url(), redis_url=servers_to_break.valkey.url())
    assert "database-standby" in problems(cli)


def test_a_worker_of_another_queue_and_a_message_of_a_beat(cli: Cli, redis_url: str) -> None:
    """The worker takes what is sent to its own queue all the same: what a beat sends it is noted."""
    command = ("-A", "tailrace.tasks", "worker", "-P", "threads", "-c", "2", "-Q", "other")
    with cli.started(*command, program="celery"):
        wait_for(lambda: bool(ask(cli, "SELECT FROM tailrace.workers")), "the worker runs")
        entry = beat_schedule()["tailrace-compact"]
        host = Celery(broker=redis_url, set_as_current=False)
        host.send_task(entry["task"], **{**entry["options"], "queue": "other"})
        host.close()
        wait_for(lambda: bool(ask(cli, "SELECT FROM tailrace.schedules")), "the schedule is noted")
        assert ask(cli, "SELECT name, every_s FROM tailrace.schedules") == [("tailrace-compact", 600.0)]
        found = problems(cli)
    assert list(found) == ["queue-unheard"]
    assert found["queue-unheard"]["says"].endswith("to the queue tailrace; those that run listen to other")
