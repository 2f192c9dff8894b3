"""One trace of real processes: from a host's `.delay` to the seal, received over OTLP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.service.spans import COMMIT, CONNECT, LEASE, PROCESS, SEAL, SETTLE, SPANS
from tests.acceptance.cli_runner import Cli, ask, kept, wait_for
from tests.spans import Collector, Seen, collecting
from tests.upstream import LiveStore

HOST = """
from opentelemetry.sdk.trace import TracerProvider
from tailrace.tasks import ingest_run

with TracerProvider().get_tracer("host").start_as_current_span("host") as span:
    ingest_run.delay("run_1")
    found = span.get_span_context()
    print(found.trace_id, found.span_id)
"""
ALIVE = "SELECT count(*) FROM tailrace.workers WHERE expires_at > now()"
TOKEN = "canary-of-the-collector"
CHUNK = '"what a model said"'


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    with collecting() as found:
        yield found


@pytest.fixture
def cli(cli: Cli, collector: tuple[Collector, str]) -> Cli:
    return cli.with_(
        TAILRACE_TRACES="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector[1],
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}",
    )


def asked(cli: Cli) -> tuple[int, int]:
    """Ask for the run as a host does that traces; return its span."""
    environ = {**kept(), **cli.environ}
    done = subprocess.run([sys.executable, "-c", HOST], env=environ, capture_output=True, text=True, check=True)
    trace, span = map(int, done.stdout.split())
    return trace, span


def sealed(cli: Cli) -> bool:
    return bool(ask(cli, "SELECT FROM tailrace.runs WHERE state = 'sealed'"))


def check(spans: list[Seen], host: tuple[int, int]) -> None:
    """Of one run with one stream: all in the host's trace, each where it belongs, and nothing in it that must not be."""
    assert {span.trace for span in spans} == {host[0]}
    (task,) = [span for span in spans if span.name == PROCESS]
    assert (task.kind, task.parent) == ("CONSUMER", host)
    leases = [span for span in spans if span.name == LEASE]
    of_leases = {span.number for span in leases}
    assert {span.parent for span in spans if span.name in (LEASE, SEAL)} == {task.number}
    assert {span.parent for span in spans if span.name in (CONNECT, COMMIT, SETTLE)} <= of_leases
    assert {span.name for span in spans} >= {PROCESS, LEASE, CONNECT, COMMIT, SETTLE, SEAL}
    for span in spans:
        assert set(span.attributes) <= set(SPANS[span.name])
        assert span.service == "tailrace"
        assert not span.failed
        for secret in (DEFAULT_KEY, TOKEN, "what a model said", "postgresql://", "redis://"):
            assert secret not in span.said


def test_a_run_is_one_trace_over_two_workers_and_all_is_sent_as_they_leave(
    cli: Cli, store: LiveStore, collector: tuple[Collector, str]
) -> None:
    """Batches wait for a minute here, so what arrives was sent at the drain."""
    received = collector[0]
    store.create_run("run_1", Wire.V2)
    store.append_chunk("run_1", "ai", CHUNK)
    patient = cli.with_(OTEL_BSP_SCHEDULE_DELAY="60000")
    with patient.started("worker", "--slots", "2") as first:
        wait_for(lambda: ask(cli, ALIVE) == [(1,)], "the first worker runs")
        host = asked(cli)
        wait_for(lambda: bool(ask(cli, "SELECT FROM tailrace.segments")), "its chunk is committed")
        with patient.started("worker", "--slots", "2") as second:
            wait_for(lambda: ask(cli, ALIVE) == [(2,)], "the second worker runs")
            assert received.all() == []
            first.terminate()
            assert first.wait(30) == 0
            assert {span.name for span in received.all()} == {PROCESS, LEASE, CONNECT, COMMIT, SETTLE}
            store.append_chunk("run_1", "ai", CHUNK)
            store.finish_run("run_1")
            wait_for(lambda: sealed(cli), "the run is sealed")
            second.terminate()
            assert second.wait(30) == 0
    spans = received.all()
    check(spans, host)
    leases = sorted(
        (span for span in spans if span.name == LEASE), key=lambda span: span.attributes["tailrace.lease_token"]
    )
    assert [span.attributes["tailrace.lease_token"] for span in leases[:2]] == [1, 2]
    assert leases[0].links == ()
    assert leases[1].links == (leases[0].number,)
    ends = [span.attributes["tailrace.state"] for span in spans if span.name == SETTLE]
    assert ends[0] == "active"
    assert "sealed" in ends
    assert received.headers[0]["authorization"] == f"Bearer {TOKEN}"


def test_each_process_of_a_pool_sends_its_spans_while_it_runs(
    cli: Cli, store: LiveStore, collector: tuple[Collector, str]
) -> None:
    """Under prefork the messages and the streams are the children's, and the seal the parent's."""
    store.create_run("run_1", Wire.V2)
    store.append_chunk("run_1", "ai", CHUNK)
    store.finish_run("run_1")
    with cli.with_(OTEL_BSP_SCHEDULE_DELAY="50").started("worker", "--pool", "prefork", "--slots", "2"):
        wait_for(lambda: bool(ask(cli, f"{ALIVE} HAVING count(*) > 0")), "the worker runs")
        host = asked(cli)
        wait_for(lambda: bool(collector[0].all(SEAL)), "the trace is whole")
    check(collector[0].all(), host)


def test_a_collector_that_refuses_costs_nothing_but_spans(
    cli: Cli, store: LiveStore, collector: tuple[Collector, str], tmp_path: Path
) -> None:
    collector[0].status = 403
    store.create_run("run_1", Wire.V2)
    store.append_chunk("run_1", "ai", CHUNK)
    store.finish_run("run_1")
    with cli.with_(OTEL_BSP_SCHEDULE_DELAY="50").started("worker", "--pool", "threads", "--slots", "2") as worker:
        wait_for(lambda: ask(cli, ALIVE) == [(1,)], "the worker runs")
        asked(cli)
        wait_for(lambda: sealed(cli), "the run is sealed")
        wait_for(lambda: len(collector[0].headers) > 2, "spans were refused several times")
        worker.terminate()
        assert worker.wait(30) == 0
    (log,) = tmp_path.glob("tailrace-worker-*.log")
    said = log.read_text()
    assert said.count("traces_export_failed") == 1
    assert "Failed to export" not in said
    assert TOKEN not in said


def test_without_the_sdk_a_worker_does_not_start_and_says_what_to_install(cli: Cli, tmp_path: Path) -> None:
    away = tmp_path / "away" / "opentelemetry"
    away.mkdir(parents=True)
    (away / "__init__.py").write_text("")  # as if another distribution had brought the namespace alone
    path = os.pathsep.join(filter(None, (str(away.parent), cli.environ.get("PYTHONPATH", ""))))
    done = Cli(cli.cwd, {**cli.environ, "PYTHONPATH": path}, fresh=True).run("worker", "--slots", "2")
    assert done.code != 0
    assert "pip install 'tailrace[traces]'" in done.stderr
