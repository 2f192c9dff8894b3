"""The archive's figures for Prometheus: read from Postgres alone, so that they are there when every worker is gone.

Series named ``tailrace_archive_*``. A figure that there is nothing to say of has no series: no lag where no tail is
known, no seconds until upstream forgets where everything is read as it should be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from tailrace.errors import WorkerError
from tailrace.store.figures import Figures

log = structlog.get_logger("tailrace")

SCRAPE_S: Final = 8.0
"""So long all of it may take: Prometheus waits ten seconds."""
FRESH_S: Final = 5.0
"""An answer this young is given again: several who scrape cost Postgres no more than one."""

FIGURES: Final = {
    "closed_streams": ("Streams that are sealed, failed or cancelled.", "environment", "state", "verdict"),
    "open_streams": ("Streams that are being archived, up to a hundred thousand.", "environment", "state"),
    "leased_streams": ("Streams that a worker reads now.", "environment"),
    "troubled_streams": ("Streams whose last attempt failed.", "environment"),
    "stuck_streams": ("Streams of which nothing comes although there is more.", "environment"),
    "chunks": (
        "Chunks in the archive. A stream that closes counts again when its day was counted: soon if it began yesterday "
        "or today, else within an hour.",
        "environment",
    ),
    "json_bytes": ("JSON text of those chunks, uncompressed.", "environment"),
    "losses": ("Losses upstream, of streams that are closed.", "environment"),
    "quarantined_records": ("Records that can't be chunks, of streams that are closed.", "environment"),
    "lag_records": ("How far the worst stream is behind upstream's tail.", "environment"),
    "lag_seconds": (
        "Age of the newest chunk that is stored of the worst stream that is behind upstream's tail.",
        "environment",
    ),
    "oldest_open_stream_seconds": ("Age of the oldest stream that is not closed.", "environment"),
    "forgotten_in_seconds": (
        "Until upstream may forget what was not read, of the worst stream that is not being read as it should; "
        "negative: it may have.",
        "environment",
    ),
    "open_runs": ("Runs that are asked for or watched, up to a hundred thousand.", "environment", "state"),
    "halted_seconds": ("For how long upstream has refused the environment's key; 0: it does not.", "environment"),
    "discovery_lag_seconds": ("How long ago new runs were last found up to.", "environment"),
    "backfills": ("Backfills that are not over.", "environment"),
    "failing_backfills": ("Backfills whose last page could not be read.", "environment"),
    "backfill_seen_runs": ("Runs that these backfills have listed.", "environment"),
    "backfill_requested_runs": ("Runs that these backfills have asked for.", "environment"),
    "workers": ("Workers that live.",),
    "worker_slots": ("Streams that they may read at once.",),
    "beat_age_seconds": ("Since the last sign of life of any worker.",),
    "unsent_messages": ("Messages about settled runs that wait to be sent.",),
    "oldest_unsent_message_seconds": ("Age of the oldest of them.",),
    "uncompacted_streams": ("Sealed streams that wait to be compacted or made searchable, up to ten thousand.",),
    "partitions_ahead_seconds": ("For how long new streams have a place to be stored.",),
    "tally_age_seconds": ("Since the closed streams of today and yesterday were counted.",),
    "mismatched_streams": (
        "Streams with which something was wrong when they were last verified; ten thousand at most.",
    ),
    "verified_age_seconds": ("What was stored so long ago or earlier has been verified since.",),
    "never_verified": ("Days that are over and were never verified.",),
    "size_bytes": ("Tables and indexes of the archive, as Postgres last counted their pages.",),
    "postgres_sessions": ("Sessions of the Postgres server, everybody's.",),
    "postgres_sessions_limit": ("max_connections of the Postgres server.",),
}
"""What each figure says, and the labels of its series; all gauges."""
OF_ASKING: Final = {
    "up": "Whether the archive could be read; all else is there if so.",
    "scrape_seconds": "How long that took.",
}
"""What the exporter says of itself."""


class ArchiveCollector(Collector):
    """Asks the archive when it is scraped."""

    def __init__(self, figures: Figures, clock: Callable[[], float] = time.monotonic) -> None:
        self._figures = figures
        self._clock = clock
        self._lock = threading.Lock()  # one asks, the others wait for its answer
        self._families: list[GaugeMetricFamily] = []
        self._asked_at = -FRESH_S
        self.wrong: str | None = None

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()  # else the registry would ask the database as the collector is registered

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with self._lock:
            if self._clock() - self._asked_at >= FRESH_S:
                self._families = self._ask()
                self._asked_at = self._clock()
            return list(self._families)

    def _ask(self) -> list[GaugeMetricFamily]:
        began = self._clock()
        families = {
            name: GaugeMetricFamily(f"tailrace_archive_{name}", text, labels=labels)
            for name, (text, *labels) in FIGURES.items()
        }
        try:
            with self._figures.within(SCRAPE_S):
                for name, labels, value in self._samples():
                    families[name].add_metric(labels, value)
            wrong = None
        except WorkerError as error:  # half of the figures would be worse than none
            wrong = str(error).partition("\n")[0]
            families = {}
        if wrong != self.wrong and (wrong is None or self.wrong is None):
            if wrong is None:
                log.info("archive_answered")
            else:
                log.error("archive_not_read", error=wrong)
        self.wrong = wrong
        asking = {name: GaugeMetricFamily(f"tailrace_archive_{name}", text) for name, text in OF_ASKING.items()}
        asking["up"].add_metric((), float(wrong is None))
        asking["scrape_seconds"].add_metric((), self._clock() - began)
        return [*asking.values(), *families.values()]

    def _samples(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        figures = self._figures
        chunks: dict[str, int] = {}
        size: dict[str, int] = {}
        losses: dict[str, int] = {}
        quarantined: dict[str, int] = {}
        for held in figures.held():
            where = held.environment
            yield "closed_streams", (where, held.state, held.verdict), held.streams
            chunks[where] = chunks.get(where, 0) + held.chunks
            size[where] = size.get(where, 0) + held.bytes
            losses[where] = losses.get(where, 0) + held.losses
            quarantined[where] = quarantined.get(where, 0) + held.quarantined
        of_open: dict[str, dict[str, float]] = {}
        for each in figures.open():
            where = each.environment
            yield "open_streams", (where, each.state), each.streams
            chunks[where] = chunks.get(where, 0) + each.chunks
            size[where] = size.get(where, 0) + each.bytes
            worst = of_open.setdefault(where, {"leased_streams": 0, "troubled_streams": 0, "stuck_streams": 0})
            worst["leased_streams"] += each.leased
            worst["troubled_streams"] += each.troubled
            worst["stuck_streams"] += each.stuck
            worst["oldest_open_stream_seconds"] = max(worst.get("oldest_open_stream_seconds", 0.0), each.oldest_s)
            if each.lag is not None:
                worst["lag_records"] = max(worst.get("lag_records", 0.0), each.lag)
            if each.forgotten_in_s is not None:
                sooner = min(worst.get("forgotten_in_seconds", each.forgotten_in_s), each.forgotten_in_s)
                worst["forgotten_in_seconds"] = sooner
        for where, found in of_open.items():
            for name, value in found.items():
                yield name, (where,), value
        for name, by_environment in (
            ("chunks", chunks),
            ("json_bytes", size),
            ("losses", losses),
            ("quarantined_records", quarantined),
            ("lag_seconds", figures.lag_seconds()),
        ):
            for where, value in by_environment.items():
                yield name, (where,), value
        for where, state, runs in figures.runs():
            yield "open_runs", (where, state), runs
        for environment in figures.environments():
            yield "halted_seconds", (environment.environment,), environment.halted_s or 0.0
            if environment.discovery_lag_s is not None:
                yield "discovery_lag_seconds", (environment.environment,), environment.discovery_lag_s
        for backfill in figures.backfills():
            yield "backfills", (backfill.environment,), backfill.running
            yield "failing_backfills", (backfill.environment,), backfill.failing
            yield "backfill_seen_runs", (backfill.environment,), backfill.seen
            yield "backfill_requested_runs", (backfill.environment,), backfill.requested
        fleet = figures.fleet()
        yield "workers", (), fleet.workers
        yield "worker_slots", (), fleet.slots
        coverage = figures.coverage()
        yield "mismatched_streams", (), coverage.mismatches
        yield "never_verified", (), coverage.days_never_verified
        if coverage.oldest_at is not None:
            yield "verified_age_seconds", (), max(0.0, (datetime.now(UTC) - coverage.oldest_at).total_seconds())
        chores = figures.chores()
        yield "unsent_messages", (), chores.unsent
        yield "uncompacted_streams", (), chores.uncompacted
        yield "partitions_ahead_seconds", (), chores.partitions_ahead_s
        yield "size_bytes", (), chores.size_bytes
        yield "postgres_sessions", (), chores.sessions
        yield "postgres_sessions_limit", (), chores.sessions_limit
        for name, seconds in (
            ("beat_age_seconds", fleet.beat_age_s),
            ("oldest_unsent_message_seconds", chores.unsent_age_s),
            ("tally_age_seconds", chores.tally_age_s),
        ):
            if seconds is not None:
                yield name, (), seconds


def registry_of(collector: ArchiveCollector) -> CollectorRegistry:
    """Return a registry with the archive's figures and nothing else."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
