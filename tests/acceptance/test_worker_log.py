"""What a worker writes off a terminal: JSON and nothing else, a line for each change, and none while nothing changes."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from tailrace.model import Wire
from tailrace.serve.timing import Timing
from tests.acceptance.cli_runner import DEADLINE_S, Cli, ask, cli_for, stored, wait_for
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore

TURNS = 20


def renewed(cli: Cli) -> list[tuple[Any, ...]]:
    """Each turn of the lease keeper leaves another row version; those of the control loop are as frequent."""
    return ask(cli, "SELECT xmin::text FROM tailrace.workers")


def wait_for_turns(cli: Cli) -> None:
    for _ in range(TURNS):
        before = renewed(cli)
        wait_for(lambda before=before: renewed(cli) != before, "another turn")  # type: ignore[misc]


def test_a_worker_writes_json_only_and_nothing_while_nothing_changes(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    store = LiveStore()
    with running(create_app(store, timing=Timing().scaled(0.1))) as upstream:
        cli = cli_for(tmp_path, database_url=database_url, redis_url=redis_url, api_url=upstream.url)
        cli = cli.with_(TAILRACE_PARK_AFTER_SECONDS="0.2", TAILRACE_PARK_V2_SECONDS="0.2")
        with cli.started("worker", "--slots", "20") as worker:
            (log,) = cli.cwd.glob("tailrace-worker-*.log")
            wait_for(lambda: "worker_ready" in log.read_text(), "the worker is ready")
            ready = log.read_text()
            wait_for_turns(cli)
            assert log.read_text() == ready

            store.create_run("run_1", Wire.V2)
            store.append_chunk("run_1", "ai", "1")
            assert cli.run("ingest", "run_1").code == 0
            wait_for(lambda: stored(cli, "run_1") == b"1\n", "the first chunk is stored")
            rounds = "SELECT FROM tailrace.streams WHERE token >= 5 AND state = 'parked'"
            wait_for(lambda: bool(ask(cli, rounds)), "the silent stream has come round several times")
            told = log.read_text().removeprefix(ready)

            worker.send_signal(signal.SIGTERM)
            assert worker.wait(DEADLINE_S) == 0
            assert worker.stdout is not None
            assert worker.stdout.read() == b""
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"timestamp", "level", "logger", "event"} <= set.intersection(*(set(line) for line in lines))
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["streams_found", "lease_acquired"]
    assert {line["logger"] for line in lines if line["level"] == "info"} == {"tailrace"}
    ending = ["drain_began", "worker_stopped"]
    assert [line["event"] for line in lines if line["event"] in ending] == ending
