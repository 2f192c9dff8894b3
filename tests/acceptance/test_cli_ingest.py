"""`tailrace ingest --local`: a run from upstream to `tailrace chunks`, and everything that can be wrong with it."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tailrace.model import Wire
from tailrace.service.key_check import NO_SUCH_RUN
from tests.acceptance.cli_runner import DEADLINE_S, Cli, ask, cli_for, stored, wait_for
from tests.upstream import RunningServer
from tests.upstream.live import LiveStore

TEXTS = [
    b'{"b":1,"a":1.10,"b":2}',
    b'"\\u0000 \\ud800"',
    b"null",
    b"  7 ".strip(),
    '"ä — \u2028 💧"'.encode(),
    b'{"x": [ 1 ]}',
]


@pytest.fixture
def cli(tmp_path: Path, database_url: str, upstream: RunningServer) -> Cli:
    return cli_for(tmp_path, database_url=database_url, api_url=upstream.url)


@pytest.mark.parametrize("wire", [Wire.V1, Wire.V2])
def test_a_finished_run_is_sealed_and_printed_byte_for_byte(cli: Cli, store: LiveStore, wire: Wire) -> None:
    store.create_run("run_1", wire)
    store.append_chunks("run_1", "ai", TEXTS)
    store.append_chunk("run_1", "progress", b'{"percent": 100}')
    store.finish_run("run_1")

    done = cli.run("ingest", "run_1", "--local", "--wait", "--json")

    assert done.code == 0, done
    answer = json.loads(done.stdout)
    assert answer["state"] == "sealed"
    assert {each["stream_key"]: (each["state"], each["verdict"], each["wire"]) for each in answer["streams"]} == {
        "ai": ("sealed", "complete", wire.value),
        "progress": ("sealed", "complete", wire.value),
    }
    assert cli.run("chunks", "run_1", "--stream", "ai").stdout == b"".join(text + b"\n" for text in TEXTS)
    assert (
        cli.run("chunks", "run_1", "-s", "ai", "--from", "1", "--to", "2").stdout == TEXTS[1] + b"\n" + TEXTS[2] + b"\n"
    )
    assert cli.run("chunks", "run_1", "-s", "progress").stdout == b'{"percent": 100}\n'


def test_a_run_that_goes_on_is_followed_and_its_new_streams_found(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunk("run_1", "ai", '"first"')
    with cli.started("ingest", "run_1", "--local", "--json") as ingest:
        wait_for(lambda: stored(cli, "run_1") == b'"first"\n', "the first chunk is stored")
        store.append_chunk("run_1", "ai", '"second"')
        store.append_chunk("run_1", "late", '"found"')
        wait_for(lambda: b'"found"\n' in stored(cli, "run_1"), "the late stream is found")
        store.finish_run("run_1")
        stdout, _ = ingest.communicate(timeout=60)
    assert ingest.returncode == 0
    assert {each["stream_key"]: each["chunks"] for each in json.loads(stdout)["streams"]} == {"ai": 2, "late": 1}


def test_only_the_streams_that_were_asked_for_are_read(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    for key in ("a", "b", "c"):
        store.append_chunk("run_1", key, f'"{key}"')
    store.finish_run("run_1")
    assert cli.run("ingest", "run_1", "--local", "--stream", "a", "--stream", "c").code == 0
    assert cli.run("chunks", "run_1").stdout == b'"a"\n"c"\n'


def test_asking_again_for_a_sealed_run_reads_again_and_doubles_nothing(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunks("run_1", "ai", TEXTS)
    store.finish_run("run_1")
    for asked in range(1, 4):
        assert cli.run("ingest", "run_1", "--local").code == 0
        assert cli.run("chunks", "run_1").stdout.count(b"\n") == len(TEXTS) + asked - 1
        store.append_chunk("run_1", "ai", f'"after {asked}"')


def test_an_interrupted_reader_commits_and_the_same_command_goes_on(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunks("run_1", "ai", ['"1"', '"2"'])
    with cli.started("ingest", "run_1", "--local") as ingest:
        wait_for(lambda: stored(cli, "run_1").count(b"\n") == 2, "two chunks are stored")
        ingest.send_signal(signal.SIGINT)
        assert ingest.wait(DEADLINE_S) == 130
    store.append_chunk("run_1", "ai", '"3"')
    store.finish_run("run_1")
    assert cli.run("ingest", "run_1", "--local").code == 0
    assert cli.run("chunks", "run_1").stdout == b'"1"\n"2"\n"3"\n'


HOSTILE = ["../x", "a/b", "läufer ✓", "..", ".", "%2e", "x?y#z", "-- --", "\x1b[31m\n'"]


def test_any_run_id_and_any_stream_key_is_one_path_segment(cli: Cli, store: LiveStore, database_url: str) -> None:
    for run_id in HOSTILE:
        store.create_run(run_id)
        store.append_chunks(run_id, run_id + "/key", TEXTS)
        store.finish_run(run_id)

    with ThreadPoolExecutor(4) as side_by_side:
        ended = list(side_by_side.map(lambda run_id: cli.run("ingest", "--local", "--", run_id), HOSTILE))

    assert [done.code for done in ended] == [0] * len(HOSTILE), "\n".join(map(str, ended))
    assert not any("\x1b" in done.stderr for done in ended)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            """
            SELECT r.run_id, s.stream_key, s.state, s.chunk_count
            FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
            """
        ).fetchall()
    assert sorted(rows) == sorted((run_id, run_id + "/key", "sealed", len(TEXTS)) for run_id in HOSTILE)
    printed = cli.run("chunks", "--stream", HOSTILE[-1] + "/key", "--", HOSTILE[-1])
    assert printed.stdout == b"".join(text + b"\n" for text in TEXTS)
    assert "\x1b" not in cli.run("status").stdout.decode()
    runs = json.loads(cli.run("status", "--json").stdout)["runs"]
    assert {run["run_id"] for run in runs} == set(HOSTILE)


def test_the_encoding_of_the_surroundings_changes_no_byte(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1")
    store.append_chunks("run_1", "ä", TEXTS)
    store.finish_run("run_1")
    latin = cli.with_(PGCLIENTENCODING="LATIN1", LANG="C", LC_ALL="C")
    assert latin.run("ingest", "run_1", "--local").code == 0
    assert cli.run("chunks", "run_1", "--stream", "ä").stdout == b"".join(text + b"\n" for text in TEXTS)


def test_a_run_that_upstream_does_not_know_fails_after_its_time_and_says_so(cli: Cli, database_url: str) -> None:
    done = cli.with_(TAILRACE_UNKNOWN_RUN_SECONDS="1.5").run("ingest", "run_x", "--local", "--wait")
    assert done.code == 3, done
    assert "upstream does not know run_x yet; giving up in " in done.stderr
    assert "run_x failed: upstream did not know the run for 1.5 s" in done.stderr
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT state FROM tailrace.runs").fetchall() == [("failed",)]
        assert connection.execute("SELECT count(*) FROM tailrace.streams").fetchone() == (0,)


def test_a_run_that_appears_late_is_ingested(cli: Cli, store: LiveStore) -> None:
    with cli.started("ingest", "run_late", "--local", "--json") as ingest:
        wait_for(lambda: bool(ask(cli, "SELECT FROM tailrace.runs WHERE run_id = 'run_late'")), "the run is a row")
        store.create_run("run_late")
        store.append_chunk("run_late", "ai", "1")
        store.finish_run("run_late")
        ingest.communicate(timeout=60)
    assert ingest.returncode == 0
    assert cli.run("chunks", "run_late").stdout == b"1\n"


def test_a_key_that_is_refused_ends_with_4_and_is_not_shown(cli: Cli) -> None:
    done = cli.with_(TRIGGER_SECRET_KEY="tr_dev_wrongwrongwrong").run("ingest", "run_1", "--local")
    assert done.code == 4, done
    assert "TRIGGER_SECRET_KEY" in done.stderr
    assert "wrongwrong" not in done.stderr


def test_a_key_that_is_refused_in_the_middle_halts_loudly_and_a_good_one_goes_on(
    cli: Cli, store: LiveStore, upstream: RunningServer
) -> None:
    store.create_run("run_1")
    store.append_chunk("run_1", "ai", "1")
    store.finish_run("run_1")
    upstream.faults.stream("run_1", "ai").answer(403)
    upstream.faults.feed(NO_SUCH_RUN).answer(403)
    done = cli.run("ingest", "run_1", "--local")
    assert done.code == 4, done
    status = cli.run("status")
    assert "HALTED" in status.stderr
    assert json.loads(cli.run("status", "--json").stdout)["halted"][0]["environment"] == "default"

    assert cli.run("ingest", "run_1", "--local").code == 0
    assert cli.run("chunks", "run_1").stdout == b"1\n"
    assert "HALTED" not in cli.run("status").stderr


def test_an_upstream_that_cannot_be_reached_ends_with_5_and_asks_for_nothing(cli: Cli, database_url: str) -> None:
    done = cli.with_(TRIGGER_API_URL="http://127.0.0.1:1").run("ingest", "run_1", "--local", "--wait")
    assert done.code == 5, done
    assert "TRIGGER_API_URL" in done.stderr
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM tailrace.runs").fetchone() == (0,)


def test_local_needs_no_broker_and_no_running_worker(cli: Cli, store: LiveStore) -> None:
    assert "REDIS_URL" not in cli.environ
    store.create_run("run_1")
    store.finish_run("run_1")
    assert cli.run("ingest", "run_1", "--local").code == 0


def test_what_is_no_json_is_quarantined_and_the_rest_goes_on(cli: Cli, store: LiveStore) -> None:
    store.create_run("run_1", Wire.V1)
    store.append_chunks("run_1", "ai", ["1", "undefined", "[" * 5000 + "]" * 5000, "2"])
    store.append_chunk("run_1", "other", "3")
    store.finish_run("run_1")
    done = cli.run("ingest", "run_1", "--local", "--json")
    assert done.code == 0, done
    assert {each["stream_key"]: each["quarantined"] for each in json.loads(done.stdout)["streams"]} == {
        "ai": 2,
        "other": 0,
    }
    assert cli.run("chunks", "run_1").stdout == b"1\n2\n3\n"
