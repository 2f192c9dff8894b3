"""What a process that serves has done and has in hand, for Prometheus. Each metric is named once, here.

In a registry of their own: who serves shows nothing of a worker, and a worker nothing of these. No label takes a value
that a reader, a run or a chunk could choose.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from tailrace.model import Wire

__all__ = [
    "ELSEWHERE",
    "answers",
    "connections",
    "connections_limit",
    "failed_looks",
    "look_seconds",
    "readers",
    "refused_requests",
    "registry",
    "sent_bytes",
]

ELSEWHERE: Final = "upstream"
"""In place of a wire: what is passed on from upstream (``--fallback``)."""
_LOOKS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: a look takes milliseconds, and from 0.1 s on readers have chunks later than is promised."""

registry: Final = CollectorRegistry()


def _counter(name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"tailrace_serve_{name}", help_text, labels, registry=registry)


def _gauge(name: str, help_text: str, *labels: str) -> Gauge:
    return Gauge(f"tailrace_serve_{name}", help_text, labels, registry=registry)


answers = _counter("answers", "Requests that were answered, by what they were for and status.", "route", "code")
refused_requests = _counter("refused_requests", "Requests whose credential was refused (401), by why.", "reason")
sent_bytes = _counter("sent_bytes", "Bodies of answers, as they were written to sockets.")
readers = _gauge("readers", "Streams that are being read, by their wire; upstream: passed on from there.", "wire")
look_seconds = Histogram(
    "tailrace_serve_look_seconds",
    "From asking what was committed to the streams that are followed to giving it out; asked every 0.05 s.",
    buckets=_LOOKS,
    registry=registry,
)
failed_looks = _counter("failed_looks", "Looks at the database, for all who wait, that failed.", "kind")
connections = _gauge("postgres_connections", "Connections to Postgres that are in use at this moment.")
connections_limit = _gauge("postgres_connections_limit", "As many this process may use.")
build = _gauge("build_info", "The version that serves; always 1.", "version")

# Shown as 0 from the start: the first one is an increase then.
for _wire in (*Wire, ELSEWHERE):
    readers.labels(_wire)
for _kind in ("streams", "runs"):
    failed_looks.labels(_kind)
for _reason in ("missing", "wrong", "other"):
    refused_requests.labels(_reason)
build.labels(version("tailrace")).set(1)
ProcessCollector(registry=registry)
