"""Put the parts together: settings in, a process that can read streams out. The only place that knows all parts."""

from __future__ import annotations

import os
import random
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from tailrace import metrics
from tailrace.errors import (
    BadSettings,
    LeaseLost,
    StoreUnavailable,
    WorkerError,
)
from tailrace.model import LeasedStream
from tailrace.service import telling, trace_export
from tailrace.service.coalesced import Coalesced
from tailrace.service.environments import Environment, Environments
from tailrace.service.leasing import LeaseKeeper
from tailrace.service.loops import Loop
from tailrace.service.readers import Readers
from tailrace.service.reading import Reading
from tailrace.store.backfills import ListedRuns
from tailrace.store.choosing import Balance, Choosing
from tailrace.store.commit import Committer
from tailrace.store.engine import FairPool, create_engine, end, one_at_a_time
from tailrace.store.leases import Leases, WorkerRow
from tailrace.store.outbox import Outbox
from tailrace.store.runs import Runs
from tailrace.store.writer import Writer, WriterLimits
from tailrace.tracing import traces

if TYPE_CHECKING:
    from tailrace.config.settings import Settings

log = structlog.get_logger("tailrace")

COMMIT_GRACE_S = 10.0
"""Chunks that wait so much longer than their batch's age are late: a failover of Postgres takes some seconds."""
SHARED_CONNECTIONS = 2
"""Of a process, besides the one that commits and the one that keeps its leases: what else there is to ask is short."""
LOCKED_S = 0.05
"""After so long a stream is asked for again whose row somebody had locked: a choice among thousands takes as long."""
TRACES_S = 2.0
"""How long the last spans may take to be sent: less than what is left of the time to drain."""
TURN_S = 10.0
"""How long a reader may keep its place while others wait for one: v1 fills its 1 000 entries in that time at 100/s."""


class Runtime:
    """One process's share of the work. Thread-safe.

    `open` what only asks and watches; `start` what reads streams too. Readers are started by `ingest_stream`, which
    blocks until the stream is left.
    """

    def __init__(self, settings: Settings, database_url: str, *, pool: str = "local", slots: int = 1) -> None:
        self.settings = settings
        # Four connections, whatever there is to do; who waits for one is served in turn. No overflow: such connections
        # are closed as soon as they are given back, and to open one costs more (a password is checked with thousands of
        # hashes) than to wait for one.
        self.engine = create_engine(database_url, poolclass=FairPool, pool_size=SHARED_CONNECTIONS)
        # Compaction and retention can take long, and leave the other ones alone.
        self.background_engine = one_at_a_time(self.engine)
        # For its leases alone: after an outage a thousand readers ask at once, and behind them these would run out.
        self._lease_engine = create_engine(database_url, poolclass=FairPool, pool_size=1)
        # One, always the same: libpq never gives back the memory of the largest statement that a connection has sent.
        self._commit_engine = create_engine(database_url, pool_size=1, max_overflow=0)
        row = WorkerRow(uuid.uuid4(), socket.gethostname(), os.getpid(), pool, slots)
        self.writer = Writer(
            Committer(self._commit_engine, row.id),
            WriterLimits(
                buffer_max_bytes=settings.buffer_max_bytes,
                stream_max_bytes=settings.stream_buffer_max_bytes,
                hold_s=settings.hold_seconds,
            ),
            random=random.random,
        )
        self.environments = Environments(
            settings,
            lambda access: Environment(access, settings, self.engine, self.writer.room, row.id),
        )
        self.outbox = Outbox(self.engine, self.environments.names)
        self.leases = Leases(
            self.engine, row, settings.lease_seconds, settings.max_connections, keeping=self._lease_engine
        )
        self.choosing = Choosing(self.engine, row.id, settings.max_connections)
        self.readers = Readers()
        self._acquiring = Coalesced(self._acquire)
        self._reading = Reading(settings, self.environments, self.engine)
        self._keeper = LeaseKeeper(settings, self.leases, self.readers, self._show)
        self._shown: set[str] = set()  # environments that have a series
        self._late = False
        self.writes = False
        self._spans = trace_export.start(settings.traces, str(row.id), os.environ)
        self._key_keeper = Loop(
            "keys", self._follow_keys, what="keys_following", retry_s=lambda: settings.control_seconds
        )

    # --- life

    def start(self, *, slice_max_s: float | None = None) -> None:
        """Begin to hold leases and to write. ``slice_max_s`` bounds the setting, where slots are few."""
        if slice_max_s is not None:
            self._reading.slice_s = min(self._reading.slice_s, slice_max_s)
        self.writer.start()
        self.writes = True
        self._start_keepers()

    def start_choosing(self) -> None:
        """Keep this process's row alive for its hints; for a process that chooses what others read (prefork)."""
        self._start_keepers()

    def _start_keepers(self) -> None:
        self._keeper.start()
        if self.environments.may_change:
            self._key_keeper.start()

    @property
    def loops(self) -> list[Loop]:
        """Those that keep the process going."""
        return [self._keeper.loop, *([self._key_keeper] if self.environments.may_change else [])]

    def unrenewed_s(self) -> float:
        """Return how long ago this process's leases were last renewed."""
        return self._keeper.unrenewed_s()

    def _show(self) -> None:
        """Have the metrics say what is in hand, and one line in the log when chunks begin or cease to wait too long."""
        reading = self.readers.by_environment()
        self._shown |= set(reading)
        for name in self._shown:
            metrics.reading.labels(name).set(reading.get(name, 0))
        metrics.buffer_bytes.set(self.writer.room.held_bytes)
        late = self.writer.overdue(COMMIT_GRACE_S)
        metrics.uncommitted.set(late)
        if (late > 0) is not self._late:
            self._late = late > 0
            if late:
                log.warning("commits_delayed", streams=late, failing_s=round(self.writer.failing_s(), 1))
            else:
                log.info("commits_caught_up")

    def drain(self) -> None:
        """Tell every reader to leave; does not wait. What they have is committed, and others go on at once."""
        self.readers.drain()
        self.leases.leave()
        self._keeper.wake()  # in its own thread: Postgres may be away

    def stop(self, timeout_s: float) -> None:
        """Leave every stream, commit, give the leases back. What does not end in time is read again by others."""
        until = time.monotonic() + timeout_s
        self.drain()
        self.readers.wait_empty(max(0.1, until - time.monotonic()))
        self.writer.stop(max(0.1, until - time.monotonic()))
        self._key_keeper.stop()
        self._keeper.stop()
        try:
            self.leases.retire()
        except WorkerError as error:
            log.info("leases_not_returned", error=str(error))  # they end by themselves, and others take them
        self.close()

    def close(self) -> None:
        self.environments.close()
        end(self.engine)
        end(self._lease_engine)
        end(self._commit_engine)
        trace_export.stop(self._spans, TRACES_S)

    # --- runs

    def request(
        self,
        run_id: str,
        streams: Sequence[str] | None,
        options: dict[str, Any],
        priority: int = 0,
        then: str | None = None,
        environment: str | None = None,
        traceparent: str | None = None,
    ) -> int:
        """Make a run's row: from here on it is ingested, whatever happens to messages. Give the row's id.

        ``traceparent``: the trace that all of it is to be in.

        Raises:
            UnknownEnvironment: the archive has no such environment.
            BadSettings: none is named, and it can't be told which is meant.
        """
        return self._runs(environment).request(run_id, streams, options, priority, then, traceparent)

    def cancel(self, run_id: str, environment: str | None = None) -> int | None:
        """Stop a run: the readers of other processes leave at their next look at their leases, ours now."""
        runs = self._runs(environment)
        stopped = runs.cancel(run_id)
        if stopped:
            log.info("run_cancelled", environment=runs.environment, run_id=run_id, streams=stopped)
            self._keeper.call_readers()
        return stopped

    def begin_backfill(
        self, since: datetime, until: datetime, filters: Mapping[str, Any], environment: str | None = None
    ) -> None:
        """Make a backfill's row, for one environment or for each that is served.

        Raises:
            UnknownEnvironment: the archive has no such environment.
        """
        for name in [environment] if environment else self.environments.names():
            ListedRuns(self.engine, name).begin_backfill(since, until, filters)

    def _runs(self, environment: str | None) -> Runs:
        """Return the statements about runs of an environment, which others may serve."""
        return Runs(self.engine, environment or self.environments.meant())

    def watch(self, limit: int, run: int | None = None) -> tuple[int, int]:
        """Look at runs that are due in every environment, as `Environment.watch` does in its own."""
        looks = [environment.watch(limit, run) for environment in self.environments.all()]
        return sum(looked for looked, _ in looks), sum(found for _, found in looks)

    def look_soon(self, run: int, run_id: str, environment: str | None = None) -> None:
        """Look at a run that was just asked for, if its environment is served here.

        Raises:
            StoreUnavailable
        """
        served = self.environments.get(environment or self.environments.meant())
        if served is not None:
            served.watching.look_soon(run, run_id)

    def maintenance(self) -> None:
        """What has to happen now and then: partitions for the coming days, rows of workers long dead."""
        self.leases.follow_clock()  # if nobody who lives saw it go back
        self.leases.ensure_partitions()
        self.leases.sweep_workers()
        self.outbox.sweep()

    # --- streams

    def claim(self, limit: int, run: int | None = None) -> list[int]:
        """Choose streams that this process should read."""
        return self.choosing.claim(self.environments.names(), limit, self.settings.hint_seconds, run)

    def balance(self, overdue_s: float) -> Balance:
        """Count the work of the whole fleet in the environments that are served here."""
        return self.choosing.balance(self.environments.names(), overdue_s)

    def give_turns(self) -> int:
        """Let streams that wait for a place have one: have readers leave that have had their turn; return how many."""
        waiting, workers = self.choosing.waiting(self.environments.names(), max(1, len(self.readers)))
        share = -(-waiting // max(1, workers))
        return self.readers.give_turns(share, TURN_S) if share else 0

    def ingest_stream(self, stream_id: int) -> None:
        """Read one stream until it is left; a stream that somebody else reads, or that needs nothing, is left alone."""
        signal = self.readers.begin(stream_id)
        if signal is None:
            return
        try:
            try:
                stream = self._acquiring.get(stream_id)
            except StoreUnavailable as error:
                # If the lease was given all the same, the lease keeper gives it back.
                log.info("lease_not_acquired", stream_id=stream_id, error=str(error))
                return
            if stream is None:
                return
            # Before its key is asked for: that may change.
            self.readers.leased(stream_id, stream.environment, stream.run_end.over)
            bound = log.bind(
                environment=stream.environment,
                run_id=stream.ref.run_id,
                stream_key=stream.ref.stream_key,
                lease_token=stream.token,
            )
            telling.began(bound, stream)
            lease = traces().lease(stream)
            sink = self.writer.open(stream, self._reading.limits(stream), signal.leave, lease)
            try:
                outcome = self._reading.read(stream, sink, signal, bound)
                with lease.settling(outcome):
                    sink.settle(outcome)
            except LeaseLost as error:
                lease.lost()
                bound.info("lease_lost", error=str(error))
                return
            finally:
                sink.abandon()
            telling.left(bound, stream, outcome, sink.checkpoint.last_index)
        finally:
            self.readers.end(stream_id)

    def _acquire(self, stream_ids: list[int]) -> dict[int, LeasedStream]:
        got = {stream.id: stream for stream in self.leases.acquire(stream_ids)}
        missed = [stream_id for stream_id in stream_ids if stream_id not in got]
        if missed:
            # Another process, choosing too, may have had the row at this moment; it does not keep it.
            time.sleep(LOCKED_S)
            got |= {stream.id: stream for stream in self.leases.acquire(missed)}
            self.choosing.unhint([stream_id for stream_id in missed if stream_id not in got])
        placed = traces().placed(list(got.values()), self.leases.begin_traces)
        return {stream.id: stream for stream in placed}

    def _follow_keys(self) -> float:
        """Take up what changes in the file with the keys: readers leave, and streams are read on with the new one."""
        try:
            self.readers.leave_environments(self.environments.look())
            self.environments.enrol_missed()
        except BadSettings as error:  # raised once; what was good before stays
            log.error("keys_file_refused", error=str(error))
        return self.settings.control_seconds
