"""Wait for a run to be settled, and put into words how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tailrace.errors import StoreUnavailable
from tailrace.model import NOT_KNOWN_YET

if TYPE_CHECKING:
    from tailrace.store.queries import Archive, Halted, RunStatus, StreamStatus

SETTLED_RUN = frozenset({"sealed", "failed", "cancelled"})
SETTLED_STREAM = frozenset({"sealed", "failed", "cancelled"})
POLL_S = 0.4
DATABASE_AWAY_S = 60.0
"""How long a database that went away may stay away before waiting is given up."""


class Line(NamedTuple):
    """One stream's progress, for a `View`. ``lag``: chunks that upstream has and we don't; None when unknown."""

    key: str
    chunks: int
    lag: int | None
    words: str
    settled: bool


class View(AbstractContextManager["View"], Protocol):
    """Shows progress."""

    def show(self, lines: Sequence[Line], note: str) -> None:
        """Show the streams as they are now, and a word about the run; an empty note says that there is none."""


class End(StrEnum):
    """How a run, or the part of it that was asked for, ended."""

    SEALED = "sealed"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Waited:
    """The end of waiting. ``reason`` says why, unless it was sealed."""

    end: End
    reason: str
    run: RunStatus | None
    streams: list[StreamStatus]


class Before(NamedTuple):
    """The run as it was before it was asked for again: what is settled since then must not be taken for the answer."""

    state: str
    requested_at: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is waited for. ``keys`` None: every stream of the run. The two times are those of the workers' settings."""

    run_id: str
    environment: str
    keys: Sequence[str] | None
    quiet_s: float
    unknown_run_s: float
    before: Before | None = None


def wait_settled(
    archive: Archive,
    wanted: Wanted,
    view: View,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Waited:
    """Look at the run again and again until it is settled.

    Raises:
        StoreUnavailable: the database was away for a minute. The ingestion does not depend on us.
    """
    away_since: float | None = None
    while True:
        try:
            run = _requested(archive, wanted)
            streams = archive.streams(run.id) if run is not None else []
            halted = archive.halted(wanted.environment)
            workers = archive.live_workers() if run is None or run.state == "requested" else 1
            away_since = None
        except StoreUnavailable as error:
            away_since = clock() if away_since is None else away_since
            if clock() - away_since > DATABASE_AWAY_S:
                raise
            view.show([], f"the database does not answer, trying again: {error}")
            sleep(POLL_S * 5)
            continue
        view.show([line(run, each, wanted.quiet_s) for each in streams if run], note(run, streams, workers, wanted))
        outcome = settled(run, streams, halted, wanted.keys)
        if outcome is not None:
            return outcome
        sleep(POLL_S)


def settled(
    run: RunStatus | None, streams: list[StreamStatus], halted: list[Halted], keys: Sequence[str] | None
) -> Waited | None:
    """Return how it ended; None when it has not. Pure."""
    if halted:
        return Waited(End.REFUSED, halted[0].reason, run, streams)
    if run is None:
        return None
    chosen = [each for each in streams if keys is None or each.stream_key in keys]
    if run.state in ("failed", "cancelled"):
        return Waited(End.FAILED, run.last_error or f"the run was {run.state}", run, streams)
    all_there = keys is not None and len(chosen) == len(set(keys))
    if run.state == "sealed" or (all_there and all(each.state in SETTLED_STREAM for each in chosen)):
        bad = [each for each in chosen if each.state != "sealed"]
        reason = "; ".join(f"stream {each.stream_key} {each.state}: {each.last_error or 'no reason'}" for each in bad)
        return Waited(End.FAILED if bad else End.SEALED, reason, run, streams)
    return None


def line(run: RunStatus, stream: StreamStatus, quiet_s: float) -> Line:
    """Put one stream's progress into words. Pure."""
    lag = stream.lag if stream.state not in SETTLED_STREAM else 0
    return Line(stream.stream_key, stream.chunks, lag, words(run, stream, quiet_s), stream.state in SETTLED_STREAM)


def words(run: RunStatus, stream: StreamStatus, quiet_s: float) -> str:
    """Return what a stream is doing. Pure."""
    if stream.state == "sealed":
        return "sealed" if stream.verdict == "complete" else f"sealed, {stream.verdict.replace('_', ' ')}"
    if stream.state in SETTLED_STREAM:
        return f"{stream.state}: {stream.last_error}" if stream.last_error else stream.state
    if stream.worker:
        return "reading"
    wait = f"{stream.next_attempt_s:.0f} s"
    if stream.state == "parked" and stream.next_attempt_s > 0:
        if stream.last_error and stream.attempt:
            return f"trying again in {wait}: {stream.last_error}"
        if run.over:
            return f"over; sealed after {quiet_s:g} s without anything new, last look in {wait}"
        return f"silent; looked at again in {wait}"
    return "waiting for a reader"


def note(run: RunStatus | None, streams: Sequence[StreamStatus], workers: int, wanted: Wanted) -> str:
    """Return what there is to know of the run besides its streams. Pure."""
    if run is None or run.state == "requested":
        error = run.last_error if run is not None else None
        if run is not None and error and error.startswith(NOT_KNOWN_YET):
            left = max(0.0, wanted.unknown_run_s - run.asked_for_s)
            return f"upstream does not know {wanted.run_id} yet; giving up in {left:.0f} s"
        if error:
            return f"upstream can't be asked, trying again: {error}"
        if not workers:
            return "no worker runs yet: start one with `tailrace worker`; the request waits for it"
        return "waiting for a worker to take the request"
    if run.last_error and run.state == "watched":
        return f"upstream can't be asked, trying again: {run.last_error}"
    if run.state in SETTLED_RUN:  # how it ended is told by whoever waits
        return ""
    if not streams:
        return f"no streams yet (run is {run.status})" + ("; sealed after the quiet period" if run.over else "")
    if run.state == "watched" and all(each.state in SETTLED_STREAM for each in streams):
        return f"all streams are settled; the run is sealed after {wanted.quiet_s:g} s without a new one"
    return ""


def _requested(archive: Archive, wanted: Wanted) -> RunStatus | None:
    """Read the run; None while our request has not reached the archive."""
    found = archive.runs_named(wanted.run_id, wanted.environment)
    if not found:
        return None
    run, before = found[0], wanted.before
    if before is not None and before.state in SETTLED_RUN and run.requested_at == before.requested_at:
        return None
    return run
