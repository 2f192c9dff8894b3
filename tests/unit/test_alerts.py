"""Rules, alerts, dashboard, runbooks and docs/metrics.md name what there is, and each alert is tested both ways."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tailrace import metrics
from tailrace.serve import metrics as of_serving
from tailrace.service.exporter import FIGURES, OF_ASKING
from tests.operated import (
    PROMETHEUS,
    ROOT,
    RUNBOOKS,
    alerts,
    commands_in,
    known_series,
    of_servers,
    of_workers,
    read_yaml,
    recorded,
    rule_tests,
    series_in,
)
from tests.unit.test_deploy_files import parse
from tools import dashboard

HEADINGS = [
    "What you see",
    "What it means",
    "How long you have",
    "What to type",
    "How you know that it is over",
]
PAGE_LINES = 60
METRICS = (ROOT / "docs" / "metrics.md").read_text()

each_alert = pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
each_runbook = pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, text=True, timeout=110, cwd=PROMETHEUS
    )
    return done.returncode, done.stdout + done.stderr


# --- names


def test_every_series_that_is_asked_for_exists() -> None:
    queries = {rule["record"]: rule["expr"] for rule in recorded()} | {
        alert["alert"]: " ".join([alert["expr"], *alert["annotations"].values()]) for alert in alerts()
    }
    queries |= {panel.title: " ".join(query.expr for query in panel.queries) for _, panel in dashboard.panels()}
    known = known_series()
    assert {where: unknown for where, expr in queries.items() if (unknown := series_in(expr) - known)} == {}
    assert len(set().union(*map(series_in, queries.values()))) > 60


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ("sum(rate(tailrace_gaps_total[5m])) > 0", {"tailrace_gaps_total"}),
        ('up{job="tailrace_no"} == 0 or absent(up)', {"up"}),
        ("tailrace:open:sum + process_open_fds", {"tailrace:open:sum", "process_open_fds"}),
    ],
)
def test_names_in_a_query_are_found(expr: str, found: set[str]) -> None:
    assert series_in(expr) == found


# --- alerts


@each_alert
def test_an_alert_says_what_it_means_what_is_lost_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) - {"until"} == {"summary", "loss", "runbook"}
    assert (ROOT / alert["annotations"]["runbook"]).parent == RUNBOOKS
    page = (ROOT / alert["annotations"]["runbook"]).read_text()
    assert f"`{alert['alert']}`" in page.partition("## What it means")[0]
    assert alert["for"] != "0m" or "1h" in alert["expr"]  # what is counted over an hour does not flap


@each_alert
def test_an_alert_is_tested_both_ways(alert: dict[str, Any]) -> None:
    asked = [test for test in rule_tests() if test["name"].startswith(f"{alert['alert']} ")]
    expr = f'count by (alertname) (max_over_time(ALERTS{{alertname="{alert["alert"]}", alertstate="firing"}}[2h30m]))'
    fires, quiet = 0, 0
    for test in asked:
        [question] = test["promql_expr_test"]
        assert question["expr"] == expr
        fires += question["exp_samples"] != []
        quiet += question["exp_samples"] == []
        assert ("does not fire" in test["name"]) is (question["exp_samples"] == [])
    assert fires > 0
    assert quiet > 0


def test_severities_are_in_groups_of_their_own() -> None:
    for group in read_yaml(PROMETHEUS / "alerts.yml")["groups"]:
        [severity] = {alert["labels"]["severity"] for alert in group["rules"]}
        assert group["name"] == {"page": "tailrace-now", "ticket": "tailrace-this-week"}[severity]


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    tests = sorted(f"tests/{path.name}" for path in (PROMETHEUS / "tests").glob("*.yml"))
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml", "alerts.yml"),
        ("test", "rules", *tests),
    ):
        code, said = promtool(*arguments)
        assert code == 0, said


class _Every(Collector):
    def collect(self) -> Any:
        for name, (text, *labels) in FIGURES.items():
            family = GaugeMetricFamily(f"tailrace_archive_{name}", text, labels=labels)
            family.add_metric(["x"] * len(labels), 1)
            yield family
        for name, text in OF_ASKING.items():
            yield GaugeMetricFamily(f"tailrace_archive_{name}", text, value=1)


@needs_promtool
def test_names_units_and_help_are_as_prometheus_asks() -> None:
    registry = CollectorRegistry()
    registry.register(_Every())
    for page in map(generate_latest, (metrics.registry, of_serving.registry, registry)):
        code, said = promtool("check", "metrics", stdin=page.decode())
        assert (code, said) == (0, "")


# --- the dashboard


def test_the_dashboard_is_what_its_script_makes() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run python tools/dashboard.py"


def test_panels_say_what_they_show_and_ask_the_source_that_is_chosen() -> None:
    made = json.loads(dashboard.text())
    panels = [panel for panel in made["panels"] if panel["type"] != "row"]
    assert made["panels"][0]["title"] == "Is anything being lost?"
    assert len(panels) > 40
    for panel in panels:
        assert len(panel["description"]) > 5
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert [each["type"] for each in made["templating"]["list"]] == ["datasource"]
    assert len({panel["id"] for panel in made["panels"]}) == len(made["panels"])
    places = {
        (x, y)
        for panel in made["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in made["panels"])


# --- runbooks


@each_runbook
def test_a_runbook_is_a_page_with_its_five_headings(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    assert len(text.splitlines()) <= PAGE_LINES
    assert f"docs/runbooks/{page.name}" in {alert["annotations"]["runbook"] for alert in alerts()}
    for _, _, rest in (part.partition("\n") for part in text.split("## ")[1:]):
        assert rest.strip()


@each_runbook
def test_every_command_of_a_runbook_is_taken_by_the_program(page: Path) -> None:
    commands = list(commands_in(page.read_text()))
    assert commands
    for command in commands:
        parse(command)


@each_runbook
def test_every_series_of_a_runbook_exists(page: Path) -> None:
    named = {name for code in re.findall(r"`([^`\n]+)`", page.read_text()) for name in series_in(code) if name != "up"}
    assert (
        named - known_series() - {alert["alert"] for alert in alerts()} - {"tailrace_runtime", "tailrace_server"}
        == set()
    )


@each_runbook
def test_every_line_of_the_log_in_a_runbook_is_one(page: Path) -> None:
    events = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE))
    said = [part for part in re.split(r"(?<=[.:;])\s", page.read_text()) if re.search(r"\b[Ll]ogs?\b", part)]
    named = {name for part in said for name in re.findall(r"`([a-z]+(?:_[a-z]+)+)`", part)}
    assert named - events - known_series() == set()


# --- docs/metrics.md


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of a section's table, by its first."""
    section = METRICS.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("` "): row[1:] for row in cells}


def listed(labels: Any) -> str:
    return ", ".join(f"`{label}`" for label in labels)


@pytest.mark.parametrize(
    ("heading", "module", "families"),
    [("Of a worker", metrics, of_workers), ("Of `tailrace serve`", of_serving, of_servers)],
    ids=["worker", "serve"],
)
def test_every_metric_of_a_process_is_described(
    heading: str, module: ModuleType, families: Callable[[], dict[str, Any]]
) -> None:
    described = rows(heading)
    assert len(described) >= 9
    expected = {}
    for name, family in families().items():
        shown = name + "_total" if family.type == "counter" else name
        labels = getattr(getattr(module, _variable(module, name)), "_labelnames", ())
        expected[shown] = [family.type, listed(labels), family.documentation]
    assert {name: cells[:3] for name, cells in described.items()} == expected
    assert all(cells[3] for cells in described.values())


def _variable(module: ModuleType, name: str) -> str:
    """Return the name in a module of what is registered under ``name``."""
    [found] = [key for key, value in vars(module).items() if getattr(value, "_name", None) == name]
    return found


def test_every_figure_of_the_archive_is_described() -> None:
    described = rows("Of the archive")
    expected = {f"tailrace_archive_{name}": ["", text] for name, text in OF_ASKING.items()} | {
        f"tailrace_archive_{name}": [listed(labels), text] for name, (text, *labels) in FIGURES.items()
    }
    assert {name: cells[:2] for name, cells in described.items()} == expected


def test_every_rule_and_alert_is_described() -> None:
    assert set(rows("Recording rules")) == {rule["record"] for rule in recorded()}
    assert rows("Alerts") == {
        alert["alert"]: [
            alert["labels"]["severity"],
            alert["for"],
            f"[{Path(alert['annotations']['runbook']).stem}]({alert['annotations']['runbook'].removeprefix('docs/')})",
        ]
        for alert in alerts()
    }
