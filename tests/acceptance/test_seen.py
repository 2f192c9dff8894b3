"""What an operator sees: metrics, probes and the exporter, of real processes."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tailrace.model import Wire
from tests.acceptance.cli_runner import Cli, ask, cli_for, wait_for
from tests.chaos.tcpproxy import Proxy
from tests.scraped import Series, free_port, page, scraped
from tests.upstream import LiveStore, RunningServer

SEALED = "SELECT FROM tailrace.tallies WHERE (state, streams) = ('sealed', 1)"
ALIVE = "SELECT FROM tailrace.workers WHERE expires_at > now()"


def series(name: str, **labels: str) -> Series:
    return f"tailrace_{name}", tuple(sorted(labels.items()))


def written(store: LiveStore, run_id: str, chunks: int) -> None:
    store.create_run(run_id, Wire.V2)
    store.append_chunks(run_id, "ai", [str(n) for n in range(chunks)])
    store.finish_run(run_id)


@pytest.mark.parametrize("pool", ["gevent", "prefork"])
def test_a_worker_shows_what_it_has_done(cli: Cli, store: LiveStore, pool: str) -> None:
    """Under prefork the numbers of its children, and one that is dead takes none of its chunks with it."""
    port, folder = free_port(), cli.cwd / "temporary"
    folder.mkdir()
    cli = cli.with_(TMPDIR=str(folder), TAILRACE_MAX_CONNECTIONS="50", TAILRACE_SCRUB_DAYS="7")
    written(store, "run_1", 30)
    with cli.started("worker", "--pool", pool, "--slots", "2", "--metrics-port", str(port)):
        wait_for(lambda: bool(ask(cli, ALIVE)), "the worker runs")
        assert cli.run("ingest", "run_1", "--wait").code == 0
        wait_for(lambda: scraped(port).get(series("committed_chunks_total")) == 30, "its chunks are counted")
        seen = scraped(port)
        assert seen[series("committed_bytes_total")] == len("".join(map(str, range(30))))
        assert seen[series("slots")] > 0
        assert seen[series("connections_limit")] == 50
        assert seen[series("scrub_within_seconds")] == 7 * 86_400
        assert seen[series("commit_seconds_count")] > 0
        assert seen[series("upstream_answers_total", environment="default", code="200")] > 0
        asked = cli.with_(TAILRACE_METRICS_PORT=str(port))
        assert asked.run("health", "--live").code == 0
        assert asked.run("health", "--ready").code == 0
    assert cli.run("health", "--live", "--port", str(port)).code == 5, "nobody answers any more"
    assert list(folder.iterdir()) == [], "what its processes shared is gone"


def test_a_worker_whose_database_is_away_lives_and_is_not_ready(
    tmp_path: Path, database_url: str, redis_url: str, upstream: RunningServer
) -> None:
    parts = urlsplit(database_url)
    with contextlib.closing(Proxy((str(parts.hostname), int(parts.port or 0)))) as proxy:
        user = parts.netloc.rpartition("@")[0]
        carried = parts._replace(netloc=f"{user}@127.0.0.1:{proxy.port}").geturl()
        cli = cli_for(tmp_path, database_url=carried, redis_url=redis_url, api_url=upstream.url).with_(
            TAILRACE_METRICS_PORT=str(free_port()), TAILRACE_LEASE_SECONDS="2", TAILRACE_LEASE_RENEW_SECONDS="0.5"
        )
        with cli.started("worker", "--slots", "2"):
            wait_for(lambda: cli.run("health", "--ready").code == 0, "the worker is ready")
            proxy.refuse()
            wait_for(lambda: cli.run("health", "--ready").code == 1, "it is not ready")
            said = cli.run("health", "--ready")
            assert "leases could not be renewed" in str(said)
            assert cli.run("health", "--live").code == 0
            proxy.behave()
            wait_for(lambda: cli.run("health", "--ready").code == 0, "it is ready again")


def test_the_exporter_tells_of_a_fleet_that_is_dead(cli: Cli, store: LiveStore) -> None:
    port = free_port()
    written(store, "run_1", 30)
    store.create_run("run_2", Wire.V2)
    store.append_chunks("run_2", "ai", ["1", "2"])
    with cli.started("exporter", "--port", str(port)) as exporter:
        quick = cli.with_(TAILRACE_LEASE_SECONDS="2", TAILRACE_LEASE_RENEW_SECONDS="0.5")
        with quick.started("worker", "--slots", "2") as worker:
            wait_for(lambda: bool(ask(cli, ALIVE)), "the worker runs")
            assert cli.run("ingest", "run_1", "--wait").code == 0
            assert cli.run("ingest", "run_2").code == 0
            wait_for(lambda: ask(cli, "SELECT count(*) FROM tailrace.chunks WHERE run_id = 'run_2'") == [(2,)], "read")
            # The worker counts too: whichever day is due first, until this one was counted since.
            wait_for(
                lambda: ask(cli, "SELECT tailrace.tally(0)") and bool(ask(cli, SEALED)), "what is sealed is counted"
            )
            wait_for(lambda: scraped(port).get(series("archive_workers")) == 1, "the worker is seen")
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait(20)
        wait_for(lambda: scraped(port)[series("archive_workers")] == 0, "it is gone")
        seen = scraped(port)
        assert seen[series("archive_up")] == 1
        assert seen[series("archive_closed_streams", environment="default", state="sealed", verdict="complete")] == 1
        assert seen[series("archive_open_streams", environment="default", state="active")] == 1
        assert seen[series("archive_chunks", environment="default")] >= 30
        assert seen[series("archive_beat_age_seconds")] >= 0
        assert seen[series("archive_partitions_ahead_seconds")] > 10 * 86_400
        assert seen[series("archive_mismatched_streams")] == 0
        assert "ok" in page(port, "/ready")
        exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(20) == 0
