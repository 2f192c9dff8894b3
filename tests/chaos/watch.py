"""`make watch`: a real Prometheus watches a schedule of chaos; then every query of the dashboard, rules and alerts is asked.

Needs `prometheus` on PATH. Exit code 1 when Prometheus refuses a query, when one has no answer and `QUIET` does not say why, or
when the schedule found anything wrong. Draws docs/img/dashboard.svg when told to.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.chaos.__main__ import TEMPLATE, prepare, say
from tests.chaos.fleet import Worker, wait_for
from tests.chaos.schedule import SLOTS, Schedule
from tests.chaos.tally import Tally
from tests.operated import PROMETHEUS, alerts, recorded
from tests.scraped import free_port
from tests.throwaway import ephemeral
from tools.dashboard import SERVED, Query, panels
from tools.dashboard_picture import ask, asked, curves, picture

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "img" / "dashboard.svg"
SCRAPE_S = 2
SEEN = {"TAILRACE_DISCOVER": "all", "TAILRACE_DISCOVER_SCAN_SECONDS": "5", "TAILRACE_MAX_CONNECTIONS": "60"}
"""So that there is something to see of finding runs and of the limit of connections."""
WAITING_BACKFILL = """
INSERT INTO tailrace.backfills (environment_id, filters, since, until, next_page_at)
SELECT id, '{}', now() - interval '1 day', now(), now() + interval '1 hour' FROM tailrace.environments WHERE name = 'default'
"""
"""One that begins in an hour: of so few runs it would be over between two looks."""
QUIET = {
    "Behind, in seconds": "whenever it was asked, no stream was behind upstream's tail",
    "Upstream may forget in": "every stream is read, or was tried less than a minute ago",
    "Rows that can't be read": "upstream's rows can be read in this run",
    "tailrace:malformed_rows:increase1h": "upstream's rows can be read in this run",
    "max(tailrace_archive_verified_age_seconds)": "a day is verified when it is over",
    "max(tailrace_archive_oldest_unsent_message_seconds)": "messages are sent at once",
    "Quarantined": "nothing came that can't be a chunk",
    "tailrace:quarantined_records:increase1h": "nothing came that can't be a chunk",
    "Messages refused": "the dice sent no strange messages",
    "tailrace:refused_messages:increase1h": "the dice sent no strange messages",
    "Gone from upstream": "the dice trimmed nothing",
    "tailrace:gaps:increase1h": "the dice trimmed nothing",
    "tailrace:serve_failures:ratio5m": "no server is scraped",
} | {
    panel.title if len(panel.queries) == 1 else query.expr: "no server is scraped"
    for _, panel in panels([SERVED])
    for query in panel.queries
}
"""What may have no answer, and what that means. Alerts have none while all is well."""


class Watched(Schedule):
    """A schedule whose workers are scraped."""

    targets: Path
    until = 0.0

    def start_worker(self) -> Worker:
        port = free_port()
        worker = self.fleet.start(
            "gevent", SLOTS.get("gevent", 40), upstream_too=True, TAILRACE_METRICS_PORT=str(port), **SEEN
        )
        known = json.loads(self.targets.read_text()) if self.targets.exists() else []
        written = self.targets.with_suffix(".new")
        written.write_text(
            json.dumps([*known, {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": worker.name}}])
        )
        written.replace(self.targets)
        return worker

    def _verdict(self) -> list[str]:
        found = super()._verdict()
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            for _ in range(3):  # yesterday, today, and one that a worker was just at
                connection.execute("SELECT tailrace.tally(0)")
        time.sleep(2 * SCRAPE_S + 6)  # until Prometheus has seen it: the exporter's answers are up to five seconds old
        self.until = time.time()
        return found


@contextlib.contextmanager
def process(arguments: Sequence[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that is ended afterwards."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            arguments, env={**os.environ, **variables}, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait(20)


@contextlib.contextmanager
def prometheus(place: Path, exporter_port: int, targets: Path) -> Iterator[str]:
    """Run a Prometheus with the rules and alerts of operate/; return its URL."""
    port = free_port()
    config = {
        "global": {
            "scrape_interval": f"{SCRAPE_S}s",
            "scrape_timeout": f"{SCRAPE_S}s",
            "evaluation_interval": f"{SCRAPE_S}s",
        },
        "rule_files": [str(PROMETHEUS / "rules.yml"), str(PROMETHEUS / "alerts.yml")],
        "scrape_configs": [
            {"job_name": "tailrace", "static_configs": [{"targets": [f"127.0.0.1:{exporter_port}"]}]},
            {"job_name": "tailrace-worker", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]},
        ],
    }
    (place / "prometheus.yml").write_text(yaml.safe_dump(config))
    arguments = [
        "prometheus",
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url = f"http://127.0.0.1:{port}"
    with process(arguments, place / "prometheus.log"):
        wait_for(lambda: answers(f"{url}/-/ready"), 60, "Prometheus is ready")
        yield url


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def questions() -> Iterator[tuple[str, str, str]]:
    """Return every query that operate/ asks: what asks it, its name, the query."""
    for _, panel in panels():
        for query in panel.queries:
            yield "panel", panel.title if len(panel.queries) == 1 else query.expr, query.expr
    for rule in recorded():
        yield "rule", rule["record"], rule["record"]
    for alert in alerts():
        yield "alert", alert["alert"], alert["expr"]


def asked_all(url: str, start: float, end: float) -> list[str]:
    """Ask everything; say what has no answer, and return what should have one."""
    wrong: list[str] = []
    counted: dict[str, list[int]] = {}
    for kind, name, expr in questions():
        found = len(ask(url, expr, start, end))
        counts = counted.setdefault(kind, [0, 0])
        counts[0] += 1
        counts[1] += found > 0
        if found == 0 and kind != "alert":
            say(f"  no answer: {kind} {name}: {QUIET.get(name, 'UNEXPECTED')}")
            if name not in QUIET:
                wrong.append(f"{kind} {name} has no answer")
    for kind, (many, with_data) in counted.items():
        say(f"{kind}s: {many} queries, all accepted, {with_data} with data")
    fired = curves(url, Query('ALERTS{alertstate="firing"}', "{{alertname}}"), start, end)
    pending = curves(url, Query('ALERTS{alertstate="pending"}', "{{alertname}}"), start, end)
    say(f"alerts that fired: {', '.join(sorted({each.legend for each in fired})) or 'none'}")
    say(f"alerts that were pending: {', '.join(sorted({each.legend for each in pending})) or 'none'}")
    broken = [rule for rule in _rules(url) if rule["health"] != "ok"]
    return wrong + [f"{rule['name']}: {rule.get('lastError')}" for rule in broken]


def _rules(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v1/rules", timeout=30) as answer:
        groups = json.load(answer)["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.watch")
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--draw", action="store_true", help=f"draw {PICTURE.relative_to(ROOT)}")
    given = parser.parse_args()
    tally = Tally()
    with (
        tempfile.TemporaryDirectory(prefix="tailrace-watch-") as folder,
        ephemeral(Path(folder) / "servers") as servers,
    ):
        place = Path(folder)
        prepare(servers)
        with psycopg.connect(servers.postgres.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE watched TEMPLATE {TEMPLATE}")
        database_url = servers.postgres.url("watched")
        schedule = Watched(given.seed, servers, database_url, place / "chaos", tally)
        schedule.targets = place / "workers.json"
        port = free_port()
        command = [sys.executable, "-P", "-m", "tailrace"]
        with (
            process([*command, "exporter", "--port", str(port)], place / "exporter.log", DATABASE_URL=database_url),
            prometheus(place, port, schedule.targets) as url,
        ):
            start = time.time()
            with psycopg.connect(database_url) as connection:
                connection.execute(WAITING_BACKFILL)
            wrong = schedule.run(given.seconds)
            say(f"faults: {', '.join(f'{name} {many}' for name, many in sorted(tally.faults.items()))}")
            say(f"chunks: {tally.chunks}, violations: {len(wrong)}")
            end = schedule.until
            wrong += asked_all(url, start, end)
            if given.draw:
                took = f"{end - start:.0f} s of make watch, seed {given.seed}: {sum(tally.faults.values())} faults on real workers"
                when = time.strftime("%Y-%m-%d", time.gmtime(end))
                PICTURE.parent.mkdir(exist_ok=True)
                PICTURE.write_text(
                    picture(asked(url, start, end), start, end, f"{took}, {tally.chunks} chunks ({when})")
                )
                say(f"drawn: {PICTURE.relative_to(ROOT)}")
    for each in wrong:
        say(f"  WRONG {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
