"""Brokers as others have them: Redis 7 by TLS, with and without a check of its certificate; Valkey behind Sentinel; no
cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tailrace.model import Wire
from tests.acceptance.cli_runner import cli_for
from tests.chaos.fleet import QUICK, Archive, scene, wait_for
from tests.redises import QUOTED, behind_sentinel, certificates, server
from tests.upstream import LiveStore

ASK = "from tailrace.tasks import ingest_run; import sys; ingest_run.delay(sys.argv[1])"


def ask(run_id: str, **variables: str) -> None:
    """As an application does: in a process of its own, which knows only where Redis is."""
    environ = {"PATH": os.environ["PATH"], **variables}
    subprocess.run([sys.executable, "-P", "-c", ASK, run_id], env=environ, check=True, timeout=60)


def is_read(archive: Archive, run_id: str) -> None:
    wait_for(lambda: archive.texts(run_id, "a") == ["1"], 60, f"{run_id} is read")


def store_of(*names: str) -> LiveStore:
    store = LiveStore()
    for name in names:
        store.create_run(name, Wire.V2)
        store.append_chunk(name, "a", "1")
    return store


def test_tls(tmp_path: Path, database_url: str) -> None:
    """A worker that knows the authority, and an application that does not look at the certificate."""
    made = certificates(tmp_path / "certificates")
    with (
        server("redis", tmp_path / "redis", tls=made) as broker,
        scene(tmp_path, database_url, "redis://127.0.0.1:1", store_of("run_1"), **QUICK) as (workers, _),
    ):
        url = f"rediss://:{QUOTED}@127.0.0.1:{broker.port}/0"
        workers.started(direct=True, REDIS_URL=f"{url}?ssl_ca_certs={made.authority}")
        ask("run_1", REDIS_URL=f"{url}?ssl_cert_reqs=none")
        is_read(workers.archive, "run_1")
        unknown = cli_for(tmp_path, redis_url=url, database_url=database_url).run("ingest", "run_1")
        assert unknown.code != 0
        assert "certificate verify failed" in unknown.stderr


def test_sentinel(tmp_path: Path, database_url: str) -> None:
    """Before and after another server has taken the place of the first."""
    with (
        behind_sentinel("valkey", tmp_path / "redis") as behind,
        scene(tmp_path, database_url, "redis://127.0.0.1:1", store_of("run_1", "run_2"), **QUICK) as (workers, _),
    ):
        variables = {"REDIS_URL": behind.url, "TAILRACE_REDIS_MASTER": "tailrace-test"}
        workers.started(direct=True, **variables)
        ask("run_1", **variables)
        is_read(workers.archive, "run_1")
        behind.primary.process.kill()
        wait_for(lambda: behind.primary_port() == behind.replica.port, 30, "another is the primary")
        ask("run_2", **variables)
        is_read(workers.archive, "run_2")


def test_a_cluster_is_refused_in_a_sentence(tmp_path: Path, database_url: str) -> None:
    with server("valkey", tmp_path / "redis", "cluster-enabled yes") as broker:
        url = f"redis://:{QUOTED}@127.0.0.1:{broker.port}/0"
        cli = cli_for(tmp_path, redis_url=url, database_url=database_url, api_url="http://127.0.0.1:1")
        for command in (("ingest", "run_1"), ("worker", "--slots", "1")):
            done = cli.run(*command)
            assert done.code != 0
            assert "is a Redis Cluster, which Celery can't use" in done.stderr, done
