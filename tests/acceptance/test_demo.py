"""`tailrace demo` from an empty folder, with nothing set and much set wrongly; then what it leaves behind."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tailrace.devtools.demo.recordings import chunks_of
from tailrace.devtools.recordings import bundled_recordings
from tests.acceptance.cli_runner import Cli, Done
from tests.throwaway import remove

SENT = {path.stem: chunks_of(path.read_bytes()) for path in bundled_recordings()}
# What a person may have set for the real thing: none of it may reach the demonstration.
FOREIGN = {
    "DATABASE_URL": "postgresql://nobody:geheim@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "TRIGGER_SECRET_KEY": "tr_prod_geheimgeheimgeheim",
    "TRIGGER_API_URL": "http://127.0.0.1:1",
    "TAILRACE_SEAL_QUIET_SECONDS": "3600",
}


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command in a folder whose path is long."""
    folder = tmp_path_factory.mktemp("demo") / ("long " * 20).strip() / ("path-" * 10)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 150
    cli = Cli(folder)
    yield cli
    cli.run("down")
    remove(folder / ".tailrace")


@pytest.fixture(scope="module")
def demo(cli: Cli) -> tuple[Done, float]:
    """The demonstration, once, and how long it took."""
    began = time.monotonic()
    done = cli.with_(**FOREIGN).run("demo", timeout_s=110)
    return done, time.monotonic() - began


@pytest.mark.timeout(150)
def test_the_demonstration_finds_every_chunk_once_and_in_order(demo: tuple[Done, float]) -> None:
    done, seconds = demo
    assert done.code == 0, done
    found = json.loads(done.stdout.splitlines()[-1])
    resumed_at = found.pop("resumed_at")
    assert found == {
        "runs": 2,
        "streams": 3,
        "chunks": sum(len(texts) for streams in SENT.values() for texts in streams.values()),
        "lost": 0,
        "duplicated": 0,
        "out_of_order": 0,
        "sealed": 3,
    }
    assert 0.3 <= resumed_at / len(SENT["demo_ai"]["ai-output"]) <= 0.6, "the worker died in mid-stream"
    assert seconds < 60
    assert "geheim" not in f"{done}"


def test_its_processes_are_gone_and_its_archive_stays(cli: Cli, demo: tuple[Done, float]) -> None:
    pids = [
        int(line.rpartition("pid ")[2].rstrip(")")) for line in demo[0].stdout.decode().splitlines() if "(pid" in line
    ]
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    for name, run_id in (("demo_ai", "run_demo_ai"), ("demo_report", "run_demo_report")):
        for key, texts in SENT[name].items():
            printed = cli.run("chunks", run_id, "--stream", key)
            assert printed.stdout == b"".join(text + b"\n" for text in texts)
            assert "using the embedded servers in" in printed.stderr
    assert b"How a water mill works" in cli.run("text", "run_demo_ai").stdout


def test_the_queries_it_shows_can_be_repeated(cli: Cli, demo: tuple[Done, float]) -> None:
    shown = [line.strip() for line in demo[0].stdout.decode().splitlines()]
    start = next(at for at, line in enumerate(shown) if line.startswith("SELECT stream_key"))
    statement = "\n".join(shown[start : start + 3])
    rows = [json.loads(line) for line in cli.run("sql", statement, "--json").stdout.splitlines()]
    assert {row["stream_key"]: row["chunks"] for row in rows} == {
        key: len(texts) for key, texts in SENT["demo_ai"].items()
    }


def test_the_page_that_it_names_shows_what_it_archived(cli: Cli, demo: tuple[Done, float]) -> None:
    told = demo[0].stdout.decode()
    assert "http://127.0.0.1:8787/ while" in told  # here another port: that one may be taken
    [command] = re.findall(r"(key add NAME --environment \w+)", told)
    key = cli.run(*command.split()).stdout.decode().strip()
    with cli.started("serve", "--port", "0") as server:
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        with httpx.Client(base_url=url, trust_env=False, timeout=60, headers={"origin": url}) as person:
            shown = person.post("/console/sign-in", data={"key": key}, follow_redirects=True).text
    assert "run_demo_ai" in shown


def test_commands_use_the_embedded_servers_only_where_nothing_is_set(
    cli: Cli, demo: tuple[Done, float], tmp_path: Path
) -> None:
    assert demo[0].code == 0
    assert cli.run("sql", "SELECT 1").code == 0
    assert cli.with_(DATABASE_URL=FOREIGN["DATABASE_URL"]).run("sql", "SELECT 1").code == 5
    assert Cli(tmp_path).run("sql", "SELECT 1").code == 2
    elsewhere = Cli(tmp_path, {"TAILRACE_HOME": str(cli.cwd / ".tailrace")})
    assert elsewhere.run("sql", "SELECT 1").code == 0
    assert not (cli.cwd / ".tailrace").stat().st_mode & 0o077, "only its owner may look inside"


@pytest.mark.timeout(150)
def test_it_can_be_repeated_and_down_stops_the_servers(cli: Cli, demo: tuple[Done, float]) -> None:
    assert demo[0].code == 0
    again = cli.run("demo", timeout_s=110)
    assert again.code == 0, again
    assert json.loads(again.stdout.splitlines()[-1])["lost"] == 0
    assert "run_demo_ai_2" in again.stdout.decode()

    down = cli.run("down")
    assert down.code == 0, down
    assert "Stopped" in down.stderr
    refused = cli.run("sql", "SELECT 1")
    assert refused.code == 2, refused
    assert "tailrace up" in refused.stderr

    assert cli.run("up").code == 0
    assert cli.run("chunks", "run_demo_ai", "-s", "progress").stdout.count(b"\n") == len(SENT["demo_ai"]["progress"])
