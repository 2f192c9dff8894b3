"""`tailrace serve` as an operator starts and ends it."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.acceptance.cli_runner import cli_for, wait_for
from tests.integration.schema_rows import Archive as Rows
from tests.scraped import Series, free_port, page, scraped

LONG_S = 60.0

pytestmark = pytest.mark.unbalanced


def series(name: str, **labels: str) -> Series:
    return f"tailrace_serve_{name}", tuple(sorted(labels.items()))


def test_it_answers_with_a_key_of_its_own_and_ends_when_told(tmp_path: Path, database_url: str) -> None:
    cli = cli_for(tmp_path, database_url=database_url, key="")
    rows = Rows(database_url)
    rows.whole_stream(['"one"', '"two"'])
    rows.run("UPDATE tailrace.streams SET wire = 'v2', state = 'active'")
    rows.run("UPDATE tailrace.runs SET status = 'COMPLETED', created_at = now(), keys_read_at = now()")
    rows.connection.close()
    added = cli.run("key", "add", "web", "--environment", "default")
    key = added.stdout.decode().splitlines()[-1]
    metrics = free_port()
    with cli.started("serve", "--port", "0", "--metrics-port", str(metrics)) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        with httpx.Client(base_url=url, trust_env=False, timeout=LONG_S) as client:
            assert client.get("/healthcheck").text == "OK"
            assert client.get("/api/v3/runs/run_1").status_code == 401
            client.headers["authorization"] = f"Bearer {key}"
            assert client.get("/api/v3/runs/run_1").json()["status"] == "COMPLETED"
            assert client.get("/api/v3/runs/run_2").status_code == 404
            assert [run["id"] for run in client.get("/api/v1/runs?filter[status]=COMPLETED").json()["data"]] == [
                "run_1"
            ]
            stream = client.get("/realtime/v1/streams/run_1/ai", headers={"timeout-seconds": "1"}).text
            assert stream.count('"seq_num":') >= 2
            assert stream.endswith("data: [DONE]\n\n")
            with client.stream("GET", "/realtime/v1/streams/run_1/ai"):
                wait_for(lambda: scraped(metrics)[series("readers", wire="v2")] == 1, "the reader is counted")
            wait_for(lambda: scraped(metrics)[series("readers", wire="v2")] == 0, "it is gone")
        assert (page(metrics, "/live"), page(metrics, "/ready")) == ("ok\n", "ok\n")
        seen = scraped(metrics)
        for route, code, count in [
            ("stream", "200", 2),
            ("api", "401", 1),
            ("api", "404", 1),
            ("healthcheck", "200", 1),
        ]:
            assert seen[series("answers_total", route=route, code=code)] == count
        assert seen[series("refused_requests_total", reason="missing")] == 1
        assert seen[series("sent_bytes_total")] > len(stream)
        assert seen[series("look_seconds_count")] > 0
        assert seen[series("failed_looks_total", kind="streams")] == 0
        assert 0 <= seen[series("postgres_connections")] <= seen[series("postgres_connections_limit")] == 10
        assert ("tailrace_slots", ()) not in seen, "nothing of a worker"
        taken = cli.run("serve", "--port", url.rpartition(":")[2])
        assert taken.code == 2, taken
        assert "can't be had" in taken.stderr
        with httpx.Client(base_url=url, trust_env=False, timeout=LONG_S, headers={"origin": url}) as person:
            shown = person.post("/console/sign-in", data={"key": key}, follow_redirects=True)
            assert "/console/runs/default/run_1" in shown.text
            assert person.get("/api/v3/runs/run_1").status_code == 401  # the cookie is good for pages only
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG_S) == 0


def test_it_does_not_start_without_an_archive(tmp_path: Path, empty_database_url: str) -> None:
    cli = cli_for(tmp_path, database_url=empty_database_url, key="")
    refused = cli.run("serve", "--port", "0")
    assert refused.code == 1
    assert "tailrace migrate" in refused.stderr
