"""What one process has done and has in hand, for Prometheus. Each metric is named once, here, its unit in its name.

They are in a registry of their own: a host that has one too finds nothing of ours in it. Counting is always on;
`tailrace.service.endpoint` shows them to whoever asks. No label takes a value that upstream, a run or a chunk could
choose.

Where several processes read (prefork), prometheus-client keeps the numbers in files of a folder that all of them share,
if ``PROMETHEUS_MULTIPROC_DIR`` names one before this is imported.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from tailrace.model import HoleReason

__all__ = ["FOLDER_PREFIX", "answer_code", "end", "registry", "shown_registry"]

FOLDER: Final = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
"""Where prometheus-client keeps the numbers, as it was when that was imported; None: in this process."""
FOLDER_PREFIX: Final = "tailrace-metrics-"
"""What the names of such folders begin with that `tailrace worker` makes, and that are removed when it ends."""

registry: Final = CollectorRegistry()

_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: a commit takes milliseconds, and 30 s mean that Postgres hangs."""


def _counter(name: str, help_text: str, *labels: str) -> Counter:
    return Counter(f"tailrace_{name}", help_text, labels, registry=registry)


def _gauge(name: str, help_text: str, *labels: str) -> Gauge:
    return Gauge(f"tailrace_{name}", help_text, labels, registry=registry, multiprocess_mode="livesum")


def _histogram(name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(f"tailrace_{name}", help_text, buckets=buckets, registry=registry)


# --- what is stored

chunks_committed = _counter("committed_chunks", "Chunks that became durable.")
bytes_committed = _counter("committed_bytes", "JSON text of the chunks that became durable, uncompressed.")
flushes = _counter("flushes", "Batches handed to the database, by why.", "reason")
flush_chunks = _histogram("flush_chunks", "Chunks of a batch.", (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000))
flush_age_seconds = _histogram("flush_age_seconds", "How long the oldest part of a batch had waited.", _SHORT)
commit_seconds = _histogram("commit_seconds", "From sending a group commit to its answer, or to its failure.", _SHORT)

# --- what upstream did

duplicates = _counter("duplicate_records", "Records at or before the checkpoint, read again and dropped.")
gaps = _counter("gaps", "Losses upstream that were recorded, by why.", "reason")
for _loss in HoleReason:
    if _loss.lost:  # shown as 0 from the start: the first one is an increase then
        gaps.labels(_loss)
lost_records = _counter("lost_records", "Records that those losses are known to hold; some hold an unknown number.")
quarantined = _counter("quarantined_records", "Records that can't be chunks, kept raw, by what is wrong.", "reason")
malformed_rows = _counter(
    "malformed_rows", "Rows of feeds and lists of runs that can't be read, each time they are seen.", "kind"
)
upstream_answers = _counter(
    "upstream_answers", "Answers of upstream by status; none: it did not answer.", "environment", "code"
)
reconnects = _counter("reconnects", "Connections opened again, by why the one before ended.", "reason")

# --- who reads

lease_losses = _counter("lease_losses", "Streams that another worker took over while we read them.")
takeovers = _counter("takeovers", "Streams taken up whose last reader had not left them in order.")
refused_messages = _counter(
    "refused_messages", "Messages from the queue that can't be tasks, by what is wrong.", "kind"
)
slots = _gauge("slots", "Streams that this process may read at once.")
reading = _gauge("reading_streams", "Streams that this process reads.", "environment")
connections_limit = _gauge("connections_limit", "TAILRACE_MAX_CONNECTIONS, of all processes together; 0: no limit.")
scrub_within = _gauge(
    "scrub_within_seconds",
    "In so long all that is stored is verified once (TAILRACE_SCRUB_DAYS); 0: this process verifies nothing.",
)
stuck = _gauge("stuck_streams", "Streams read here of which nothing comes although there is more.")
uncommitted = _gauge("uncommitted_streams", "Streams whose chunks wait for Postgres longer than they should.")
buffer_bytes = _gauge("buffer_bytes", "What is held of what upstream sent and Postgres has not taken yet.")
build = _gauge("build_info", "The version that runs; always 1.", "version")
build.labels(version("tailrace")).set(1)

if FOLDER is None:
    # CPU, memory and open files. Of one process: where there are several, the operating system knows better.
    ProcessCollector(registry=registry)


def shown_registry() -> CollectorRegistry:
    """Return what to show: the metrics of this process, or of all that share its folder."""
    if FOLDER is None:
        return registry
    shared = CollectorRegistry()
    _Living(shared, FOLDER)  # type: ignore[no-untyped-call]
    return shared


class _Living(MultiProcessCollector):
    """Of all processes that share a folder; what one that is gone had in hand counts no more."""

    def collect(self) -> Iterable[Metric]:
        for file in Path(self._path).glob("gauge_live*_*.db"):
            pid = file.stem.rpartition("_")[2]
            if not _lives(int(pid)):
                with contextlib.suppress(FileNotFoundError):  # another scrape was faster
                    mark_process_dead(pid, self._path)  # type: ignore[no-untyped-call]
        shown: Iterable[Metric] = super().collect()  # type: ignore[no-untyped-call]
        return shown


def end() -> None:
    """Remove the folder that was made for this worker, if one was. By the process that all others belong to."""
    if FOLDER is not None and Path(FOLDER).name.startswith(FOLDER_PREFIX):
        shutil.rmtree(FOLDER, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def answer_code(status: int | None) -> str:
    """Return the label of a status: one that HTTP names, ``other``, or ``none`` where there was no answer."""
    if status is None:
        return "none"
    return str(status) if status in _KNOWN else "other"


_KNOWN: Final = frozenset(map(int, HTTPStatus))
