"""The verbs that find and keep: backfill, compact, export, prune, forget, roles, key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.cli_runner import Cli, cli_for
from tests.integration.schema_rows import Archive
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore

HOSTILE = "x'; DROP TABLE tailrace.runs; --"


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    """Three sealed streams that were found twenty days ago, in small segments."""
    archive = Archive(database_url)
    archive.value("SELECT tailrace.ensure_partitions(1, 30)")
    for n in range(3):
        run = archive.value("SELECT tailrace.request_ingest(%s)", f"run_{n}")
        stream = archive.value(
            """INSERT INTO tailrace.streams (id, run, stream_key)
               VALUES (tailrace.stream_id_at(now() - interval '20 days') + %s, %s, 'ai') RETURNING id""",
            n,
            run,
        )
        for index in range(4):
            archive.segment(stream, [f'"word {index} "'], first=index)
        archive.settle(stream, 3, [f'"word {index} "' for index in range(4)])
        for state in ("active", "sealed"):
            archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.run("UPDATE tailrace.runs SET state = 'sealed', tags = ARRAY['tag-' || run_id, %s]", HOSTILE)
    with archive.connection:
        yield archive


@pytest.fixture
def cli(tmp_path: Path, archive: Archive, database_url: str) -> Cli:
    return cli_for(tmp_path, database_url=database_url)


def test_backfill_asks_once_for_what_is_missing(cli: Cli, archive: Archive) -> None:
    store = LiveStore()
    for n in range(5):  # three are archived
        store.create_run(f"run_{n}")
    with running(create_app(store)) as upstream:
        there = cli.with_(TRIGGER_API_URL=upstream.url)
        dry = there.run("backfill", "--since", "1d", "--dry-run", "--json")
        assert json.loads(dry.stdout) == {"runs": 5, "missing": 2, "run_ids": ["run_4", "run_3"]}, dry
        for requested in (2, 0):
            done = there.run("backfill", "--since", "1d", "--json")
            told = json.loads(done.stdout)
            assert (done.code, told["state"], told["seen"], told["requested"]) == (0, "done", 5, requested), done
        nothing = there.run("backfill", "--since", "1d", "--task", HOSTILE, "--tag", HOSTILE, "--json")
        assert json.loads(nothing.stdout)["seen"] == 0, nothing
    assert archive.value("SELECT count(*) FROM tailrace.runs") == 5


def test_a_backfill_whose_filters_upstream_refuses_says_so_at_once(cli: Cli, archive: Archive) -> None:
    with running(create_app(LiveStore())) as upstream:
        done = cli.with_(TRIGGER_API_URL=upstream.url).run("backfill", "--since", "1d", "--status", "NO_SUCH")
    assert done.code == 3, done
    assert "Query Error" in done.stderr
    assert archive.value("SELECT count(*) FROM tailrace.backfills") == 0


def test_a_backfill_of_no_time_is_a_usage_error(cli: Cli) -> None:
    assert cli.run("backfill", "--since", "1h", "--until", "2h").code == 2


def test_compact_export_and_prune(cli: Cli, archive: Archive, tmp_path: Path) -> None:
    keeping = cli.with_(TAILRACE_RETENTION_DAYS="10")
    held = keeping.run("prune", "--dry-run", "--json")
    assert {"day", "streams", "fate"} == set(json.loads(held.stdout)[0])
    compacted = cli.run("compact")
    assert "3 streams: 12 segments became 3" in compacted.stderr, compacted

    missing = keeping.run("prune", "--days", "25")
    assert (missing.code, archive.value("SELECT count(*) FROM tailrace.chunks")) == (0, 12), missing
    for files in (1, 0):  # nothing is written twice
        done = keeping.run("export", "--format", "jsonl", "--to", "out", "--then-prune")
        assert (done.code, done.stderr.count(" streams, 12 chunks")) == (0, files), done
    lines = [json.loads(line) for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    assert len(lines) == 12
    assert archive.value("SELECT count(*) FROM tailrace.chunks") == 0
    assert archive.value("SELECT count(*) FROM tailrace.run_overview WHERE verdict = 'pruned'") == 3

    assert cli.run("export", "--to", "out", "--then-prune").code == 2  # without TAILRACE_RETENTION_DAYS
    assert cli.run("export", "--to", "out", "--format", "csv").code == 2


def test_what_could_not_be_compacted_is_left_until_somebody_says_so(cli: Cli, archive: Archive) -> None:
    archive.run(
        "UPDATE tailrace.streams SET keep_error = 'the contents differ' WHERE id = (SELECT min(id) FROM tailrace.streams)"
    )
    assert "2 streams: 8 segments became 2" in cli.run("compact").stderr
    done = cli.run("compact", "--retry")
    assert "4 segments became 1" in done.stderr, done


def test_verify_compares_the_contents_of_what_is_sealed(cli: Cli, archive: Archive) -> None:
    for stream in archive.rows("SELECT id FROM tailrace.streams"):
        archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream[0])
    assert cli.run("verify").code == 0
    archive.run(
        """UPDATE tailrace.segments g SET data = replace(g.data::text, 'word 2', 'wolf 2')::json
           FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run WHERE s.id = g.stream_id AND r.run_id = 'run_1'"""
    )
    changed = cli.run("verify", "--json")
    found = [(each["run_id"], each["violation"]) for each in json.loads(changed.stdout)["violations"]]
    assert (changed.code, found) == (1, [("run_1", "digest")]), changed
    assert cli.run("verify", "run_0").code == 0
    assert cli.run("verify", "run_1").code == 1


def test_forget_deletes_and_keeps_out(cli: Cli, archive: Archive) -> None:
    done = cli.run("forget", "run_0", "--yes", "--json")
    assert json.loads(done.stdout)["streams"] == 1, done
    assert cli.run("forget", "--tag", "tag-run_1' OR true --", "--yes").code == 0
    assert archive.rows("SELECT run_id FROM tailrace.runs ORDER BY 1") == [("run_1",), ("run_2",)]
    asked = cli.run("forget", "--tag", HOSTILE)  # nobody says yes
    assert asked.code != 0, asked
    assert archive.value("SELECT count(*) FROM tailrace.runs") == 2
    assert cli.run("forget", "--tag", HOSTILE, "--yes").code == 0
    assert archive.value("SELECT count(*) FROM tailrace.runs") == 0
    assert archive.value("SELECT count(*) FROM tailrace.forgotten") == 3
    again = cli.run("forget", "--allow-again", "run_0")
    assert "may be archived again" in again.stderr, again
    assert archive.value("SELECT tailrace.request_ingest('run_0')")


def test_roles_can_be_printed_for_somebody_else_to_run(cli: Cli, archive: Archive) -> None:
    printed = cli.run("roles", "--print").stdout.decode()
    assert printed.count("CREATE ROLE") == 6
    assert 'GRANT SELECT ON "tailrace"."stream_stats" TO "tailrace_reader";' in printed


def test_a_key_is_shown_once_and_then_only_listed(cli: Cli, archive: Archive) -> None:
    said = cli.run("key", "add", "web", "--environment", "default")
    *rest, key = said.stdout.decode().splitlines()
    assert (said.code, rest) == (0, []), said
    assert key.startswith("tlr_")
    assert key not in said.stderr
    assert "default" in said.stderr
    for wrong in (("web", "default"), ("other", "nowhere"), ("", "default")):
        done = cli.run("key", "add", wrong[0], "--environment", wrong[1])
        assert (done.code != 0, done.stdout) == (True, b""), done
    assert cli.run("key", "add", "named-by-a-variable").code == 2
    listed = json.loads(cli.run("key", "list", "--json").stdout)
    assert (listed["name"], listed["environment"], listed["revoked_at"], listed["acts"]) == (
        "web",
        "default",
        None,
        False,
    )
    assert cli.run("key", "revoke", "nobody").code == 2
    for words in ("refused from now on", "revoked before"):
        done = cli.run("key", "revoke", "web")
        assert done.code == 0
        assert words in done.stderr
    shown = cli.run("key", "list")
    assert b"revoked" in shown.stdout
    stored = archive.rows("SELECT k::text FROM tailrace.access_keys k")
    assert len(stored) == 1
    assert "acts on," in cli.run("key", "add", "oncall", "--environment", "default", "--acts").stderr
    assert b"valid, acts" in cli.run("key", "list").stdout
    for piece in (key[:9], key[-9:]):
        assert piece not in f"{stored}{shown}{listed}"
