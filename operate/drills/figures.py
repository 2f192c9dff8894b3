"""What is seen of a fleet: figures, and what they show over a time."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

Figures = Mapping[str, float]
"""What Prometheus would have: sums of each metric's series, without ``tailrace_``; of closed streams for each state,
and `MADE_OF` others. ``up_exporter`` and ``up_workers``: how many answer."""

NO_FIGURES = ("_created", "_bucket", "_sum", "_count")
SLOW_S = "2.5"
"""A bound of the commits' histogram: if one in a hundred takes longer, so is their 99th percentile."""
FAILED = re.compile("5..|429|none")
"""The codes of answers that the recording rule takes for failures."""
MADE_OF = {
    "upstream_answers_failed": "tailrace_upstream_answers_total",
    "serve_answers_failed": "tailrace_serve_answers_total",
    "commits": "tailrace_commit_seconds_count",
    "commits_slow": "tailrace_commit_seconds_bucket",
}
"""Figures that are worked out, each with the series that it is of."""


def page(port: int) -> str:
    """Return the metrics page at a port of this machine; empty: nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def read(exporter: str, workers: Iterable[str]) -> dict[str, float]:
    """Return what stands on these pages."""
    pages = [text for text in workers if text]
    found = {"up_exporter": float(bool(exporter)), "up_workers": float(len(pages))}
    for text in (exporter, *pages):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                for name, value in _told(sample):
                    found[name] = found.get(name, 0.0) + value
    return found


def _told(sample: Sample) -> Iterator[tuple[str, float]]:
    name, labels, value = sample.name.removeprefix("tailrace_"), sample.labels, sample.value
    if name == "commit_seconds_count":
        yield "commits", value
        yield "commits_slow", value
    elif name == "commit_seconds_bucket" and labels["le"] == SLOW_S:
        yield "commits_slow", -value
    if name == sample.name or name.endswith(NO_FIGURES):
        return
    if name == "archive_closed_streams":
        name += f"_{labels['state']}"
    elif name == "upstream_answers_total" and FAILED.fullmatch(labels["code"]):
        yield "upstream_answers_failed", value
    elif name == "serve_answers_total" and labels["code"].startswith("5"):
        yield "serve_answers_failed", value
    yield name, value


class Still:
    """Whether a figure has been there and has not changed for so long."""

    def __init__(self, name: str, for_s: float) -> None:
        self._name = name
        self._for_s = for_s
        self._last: float | None = None
        self._since_s = time.monotonic()

    def __call__(self, figures: Figures) -> bool:
        value = figures.get(self._name)
        if value != self._last or value is None:
            self._last, self._since_s = value, time.monotonic()
        return time.monotonic() - self._since_s >= self._for_s


class Share:
    """Whether, since this was first asked, one counter has grown by a part of another's growth that is above ``above``
    and under ``under``; False while the other has grown by less than ``least``."""

    def __init__(self, part: str, whole: str, *, above: float, under: float = 1.1, least: int = 20) -> None:
        self._names = part, whole
        self._bounds = above, under
        self._least = least
        self._began: tuple[float, float] | None = None

    def __call__(self, figures: Figures) -> bool:
        part, whole = (figures.get(name, 0.0) for name in self._names)
        if self._began is None:
            self._began = part, whole
        grown = whole - self._began[1]
        above, under = self._bounds
        return grown >= self._least and above < (part - self._began[0]) / grown < under
