"""What operate/ has for whoever watches: rules, alerts, the dashboard and the runbooks, read for tests of them."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tailrace import metrics
from tailrace.serve import metrics as of_serving
from tailrace.service.exporter import FIGURES, OF_ASKING

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "operate" / "prometheus"
RUNBOOKS = ROOT / "docs" / "runbooks"
FROM_OTHERS = {
    "up",
    "ALERTS",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
"""Series of Prometheus itself, and those of prometheus-client's ProcessCollector."""
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
_SERIES = re.compile(r"\b(?:tailrace[:_][a-z0-9_:]+|process_[a-z_]+|ALERTS|up(?=[{) ]|$))")


def of_workers() -> dict[str, Any]:
    """Return the metrics of a worker, by the name under which they are described."""
    return {family.name: family for family in metrics.registry.collect() if family.name.startswith("tailrace_")}


def of_servers() -> dict[str, Any]:
    """Return the metrics of `tailrace serve`, likewise."""
    return {family.name: family for family in of_serving.registry.collect() if family.name.startswith("tailrace_")}


def known_series() -> set[str]:
    """Return every name that a query may have: with the suffixes that Prometheus' format gives, and recorded ones."""
    shown = of_workers() | of_servers()
    names = {name + suffix for name, family in shown.items() for suffix in SUFFIXES[family.type]}
    names |= {f"tailrace_archive_{name}" for name in (*FIGURES, *OF_ASKING)}
    return names | FROM_OTHERS | {rule["record"] for rule in recorded()}


def series_in(expr: str) -> set[str]:
    """Return the names of series in a query."""
    return set(_SERIES.findall(re.sub(r'"[^"]*"', '""', expr)))


@functools.cache
def read_yaml(path: Path) -> Any:
    """Return what is in a file; to be read only, since it is read from the disk once: that takes 50 ms."""
    return yaml.safe_load(path.read_text())


def _rules(name: str) -> Iterator[dict[str, Any]]:
    for group in read_yaml(PROMETHEUS / name)["groups"]:
        yield from group["rules"]


def recorded() -> list[dict[str, Any]]:
    """Return the recording rules."""
    return list(_rules("rules.yml"))


def alerts() -> list[dict[str, Any]]:
    """Return the alerts."""
    return list(_rules("alerts.yml"))


def rule_tests() -> list[dict[str, Any]]:
    """Return the tests of alerts: groups of promtool's own format."""
    return [test for path in sorted((PROMETHEUS / "tests").glob("*.yml")) for test in read_yaml(path)["tests"]]


def commands_in(text: str) -> Iterator[tuple[str, ...]]:
    """Return the commands of a page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            yield tuple(shlex.split(line, comments=True))
