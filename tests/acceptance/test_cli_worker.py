"""`tailrace worker` and the requests that reach it through the broker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tests.acceptance.cli_runner import DEADLINE_S, Cli, ask, cli_for, stored, wait_for
from tests.upstream import RunningServer
from tests.upstream.live import LiveStore

TEXTS = [b'{"n":1.10}', b'"\\ud800"', b"[ ]"]
PRINTED = b"".join(text + b"\n" for text in TEXTS)


@pytest.fixture
def worker(cli: Cli) -> Iterator[int]:
    """A worker under gevent, as deployments run it; its pid."""
    with cli.started("worker", "--slots", "20") as process:
        wait_for(lambda: bool(ask(cli, "SELECT FROM tailrace.workers WHERE expires_at > now()")), "the worker runs")
        yield process.pid


def test_requests_reach_the_worker_and_waiting_sees_them_sealed(cli: Cli, store: LiveStore, worker: int) -> None:
    for run_id, wire in (("run_1", Wire.V1), ("run_2", Wire.V2)):
        store.create_run(run_id, wire)
        store.append_chunks(run_id, "ai", TEXTS)
        store.append_chunk(run_id, "a/b ü", "1")
        store.finish_run(run_id)
    asked = cli.run("ingest", "run_2", "--json")
    assert asked.code == 0, asked
    assert json.loads(asked.stdout) == {"run_id": "run_2", "streams": None, "state": "enqueued"}

    done = cli.run("ingest", "run_1", "--wait", "--json")

    assert done.code == 0, done
    assert json.loads(done.stdout)["state"] == "sealed"
    assert "ai: 3 chunks, " in done.stderr
    assert cli.run("ingest", "run_2", "--wait").code == 0
    for run_id in ("run_1", "run_2"):
        assert cli.run("chunks", run_id, "--stream", "ai").stdout == PRINTED
        assert cli.run("chunks", run_id, "--stream", "a/b ü").stdout == b"1\n"


@pytest.mark.parametrize("wire", [Wire.V1, Wire.V2])
def test_asking_again_for_a_sealed_run_archives_what_was_written_since(
    cli: Cli, store: LiveStore, redis_url: str, wire: Wire
) -> None:
    """And whoever wanted to be told of the run is told again."""
    cli = cli.with_(TAILRACE_ON_SEALED="app.archived@theirs")
    store.create_run("run_1", wire)
    store.append_chunks("run_1", "ai", TEXTS)
    store.finish_run("run_1")
    with cli.started("worker", "--slots", "20"), redis.Redis.from_url(redis_url) as broker:
        for told, asked in ((1, "first"), (3, "again"), (5, "and again")):
            done = cli.run("ingest", "run_1", "--wait", "--json")
            assert done.code == 0, done
            (stream,) = json.loads(done.stdout)["streams"]
            assert (stream["state"], stream["verdict"]) == ("sealed", "complete")
            wait_for(lambda told=told: broker.llen("theirs") == told, f"{told} messages: sealed, opened, sealed")  # type: ignore[misc]
            store.append_chunk("run_1", "ai", json.dumps(f"after the {asked} time"))
        assert cli.run("ingest", "run_1", "--wait").code == 0
    assert cli.run("chunks", "run_1").stdout == PRINTED + b"".join(
        f'"after the {asked} time"\n'.encode() for asked in ("first", "again", "and again")
    )


def test_an_unknown_run_fails_with_its_reason(cli: Cli) -> None:
    cli = cli.with_(TAILRACE_UNKNOWN_RUN_SECONDS="1")
    with cli.started("worker", "--slots", "5"):
        done = cli.run("ingest", "run_x", "--wait")
    assert done.code == 3, done
    assert "run_x failed: upstream did not know the run" in done.stderr


def test_a_refused_key_ends_waiting_with_4(cli: Cli) -> None:
    cli = cli.with_(TRIGGER_SECRET_KEY="tr_dev_wrongwrongwrong")
    with cli.started("worker", "--slots", "5", "--pool", "threads"):
        done = cli.run("ingest", "run_x", "--wait")
    assert done.code == 4, done
    assert "TRIGGER_SECRET_KEY" in done.stderr
    assert cli.run("doctor").code == 4


def test_without_a_worker_waiting_says_so_and_the_request_waits(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunks("run_1", "ai", TEXTS)
    store.finish_run("run_1")
    with cli.started("ingest", "run_1", "--wait") as waiting:
        said = next(iter(cli.cwd.glob("tailrace-ingest-*.log")))
        wait_for(lambda: "tailrace worker" in said.read_text(), "it says that there is no worker")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(DEADLINE_S) == 130
    with cli.started("worker", "--slots", "5"):
        wait_for(lambda: stored(cli, "run_1") == PRINTED, "the worker takes the request that waited")


def test_an_upstream_that_cannot_be_reached_is_shown_and_loses_nothing(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunks("run_1", "ai", TEXTS)
    store.finish_run("run_1")
    nowhere = cli.with_(TRIGGER_API_URL="http://127.0.0.1:1")
    with nowhere.started("worker", "--slots", "5"), nowhere.started("ingest", "run_1", "--wait") as waiting:
        said = next(iter(cli.cwd.glob("tailrace-ingest-*.log")))
        wait_for(lambda: "upstream can't be asked, trying again" in said.read_text(), "it says what is wrong")
        assert waiting.poll() is None
    with cli.started("worker", "--slots", "5"):
        wait_for(lambda: stored(cli, "run_1") == PRINTED, "the request is still there")


def test_sigterm_drains_and_another_worker_goes_on(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunk("run_1", "ai", "1")
    with cli.started("worker", "--slots", "5") as worker:
        assert cli.run("ingest", "run_1").code == 0
        wait_for(lambda: stored(cli, "run_1") == b"1\n", "the first chunk is stored")
        store.append_chunk("run_1", "ai", "2")
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait(15) == 0
    store.append_chunk("run_1", "ai", "3")
    store.finish_run("run_1")
    with cli.started("worker", "--slots", "5"):
        assert cli.run("ingest", "run_1", "--wait").code == 0
    assert cli.run("chunks", "run_1").stdout == b"1\n2\n3\n"


def test_doctor_finds_nothing_wrong_with_all_there(cli: Cli, worker: int) -> None:
    done = cli.run("doctor", "--json")
    assert done.code == 0, done
    findings = {each["name"]: each["severity"] for each in json.loads(done.stdout)["findings"]}
    assert set(findings) == {"settings", "database", "schema", "workers", "broker", "upstream"}
    assert set(findings.values()) == {"ok"}


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"TRIGGER_SECRET_KEY": ""}, 2, "TRIGGER_SECRET_KEY"),
        ({"TRIGGER_SECRET_KEY": "tr_dev_wrongwrongwrong"}, 4, "TRIGGER_SECRET_KEY"),
        ({"TRIGGER_API_URL": "http://127.0.0.1:1"}, 5, "TRIGGER_API_URL"),
        ({"REDIS_URL": "redis://:geheim@127.0.0.1:1"}, 5, "REDIS_URL"),
        ({"DATABASE_URL": "postgresql://me:geheim@127.0.0.1:1/x"}, 5, "DATABASE_URL"),
    ],
)
def test_doctor_says_what_is_wrong_and_what_to_set(cli: Cli, change: dict[str, str], code: int, says: str) -> None:
    done = cli.with_(**change).run("doctor")
    assert done.code == code, done
    assert says in done.stdout.decode()
    assert "geheim" not in f"{done}"
    assert "wrongwrong" not in f"{done}"


def test_doctor_says_to_migrate(tmp_path: Path, empty_database_url: str) -> None:
    done = cli_for(tmp_path, database_url=empty_database_url).run("doctor")
    assert "tailrace migrate" in done.stdout.decode()


def test_a_worker_without_an_archive_ends_and_says_what_to_run(
    tmp_path: Path, empty_database_url: str, redis_url: str, upstream: RunningServer
) -> None:
    cli = cli_for(tmp_path, database_url=empty_database_url, redis_url=redis_url, api_url=upstream.url)
    done = cli.run("worker", "--slots", "20")
    assert done.code == 1, done
    assert "tailrace migrate" in done.stderr


def test_a_pool_that_cannot_grow_is_refused_and_one_that_can_counts_with_its_largest(cli: Cli) -> None:
    """Celery's own command only; ``--autoscale`` is of no use to readers, which wait."""
    celery = ("-A", "tailrace.tasks", "worker", "-Q", "tailrace", "--autoscale=20,2", "-P")
    with cli.started(*celery, "threads", program="celery") as worker:
        assert worker.wait(DEADLINE_S) == 1
    slots = "SELECT FROM tailrace.workers WHERE expires_at > now() AND slots > 2"
    with cli.started(*celery, "prefork", program="celery"):
        wait_for(lambda: bool(ask(cli, slots)), "the worker runs")


def test_a_folder_that_hides_our_package_is_refused(cli: Cli) -> None:
    (cli.cwd / "tailrace.py").write_text("")
    done = cli.run("worker")
    assert done.code == 2, done
    assert "tailrace.py" in done.stderr


def test_with_keys_of_several_each_is_asked_and_one_can_be_named(
    cli: Cli, store: LiveStore, upstream: RunningServer
) -> None:
    """In a file: doctor looks at each, what reads here takes the one that is named, and nothing shows a key."""
    file = cli.cwd / "keys.toml"
    file.write_text(f'[good]\nkey = "{DEFAULT_KEY}"\n[bad]\nkey = "tr_dev_wrongwrongwrong"\n')
    file.chmod(0o644)
    cli = cli.with_(TRIGGER_SECRET_KEY="", TAILRACE_KEYS_FILE=str(file))
    done = cli.run("doctor", "--json")
    assert done.code == 4, done
    findings = [(each["name"], each["severity"], each["says"]) for each in json.loads(done.stdout)["findings"]]
    assert ("settings", "ok", f"{file} has the keys of 2: bad, good") in findings
    assert ("settings", "note", f"anybody on this machine may read {file}") in findings
    assert ("upstream", "ok", f"good: {upstream.url} answers and takes the key") in findings
    assert [verdict for name, verdict, says in findings if name == "key" and says.startswith("bad: ")] == ["problem"]

    store.create_run("run_1", Wire.V2)
    store.append_chunks("run_1", "ai", TEXTS)
    store.finish_run("run_1")
    assert cli.run("ingest", "run_1", "--local").code == 2, "there are two"
    assert cli.run("ingest", "run_1", "--local", "-e", "bad").code == 4
    assert cli.run("ingest", "run_1", "--local", "-e", "good").code == 0
    assert cli.run("chunks", "run_1", "-e", "good").stdout == PRINTED
    assert b'"missing": 0' in cli.run("backfill", "--since", "1d", "--dry-run", "--json", "-e", "good").stdout
    file.write_text('[good]\nkey = "tr_pat_wrongwrongwrong"\n')
    done = cli.run("worker")
    assert done.code == 2, done
    assert f"TAILRACE_KEYS_FILE: {file} [good] key is a personal access token" in done.stderr
    assert "wrongwrong" not in f"{done}"
