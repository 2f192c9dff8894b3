"""Put the parts together: settings in, a process that can read streams out. The only place that knows all parts."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog

from worker.discover import TOGETHER_RUNS, WatchTogether
from worker.errors import (
    LeaseLost,
    NotFound,
    RequestRefused,
    StoreUnavailable,
    TransientError,
    Unauthorized,
    WorkerError,
)
from worker.ingest.late import has_more
from worker.ingest.loop import Reader, ReadPolicy
from worker.ingest.sequence import REPEAT_WINDOW
from worker.model import NOT_KNOWN_YET, LeasedStream, Settlement, StreamState, Verdict, Wire
from worker.readings import Readings, Together
from worker.retry import backoff
from worker.source.client import Endpoint, Upstream
from worker.source.tail import Tail
from worker.store.batch import BatchLimits
from worker.store.commit import Committer
from worker.store.discovery import ManyRuns
from worker.store.engine import autocommit, create_engine
from worker.store.late import LateChecks, LateRun, LateStream
from worker.store.leases import Leases, WorkerRow
from worker.store.outbox import Outbox
from worker.store.runs import Runs, WatchedRun
from worker.store.streams import StreamQueries
from worker.store.writer import Writer, WriterLimits
from worker.telemetry import metrics

if TYPE_CHECKING:
    from worker.settings import Settings

log = structlog.get_logger("tailrace")

METRICS_S = 60.0
"""How often a process says what it has done since it started."""
TURN_S = 10.0
"""How long a reader may keep its place while others wait for one: v1 fills its 1 000 entries in that time at 100/s."""
LATE_CLAIM_S = 3_600.0
"""When a late check that failed is made again."""
LATE_GIVE_UP_S = 86_400.0
"""A late check that has failed for so long is not made."""
V1_FORGETS_S = 23 * 3_600.0
"""A v1 stream has no late check after this: upstream forgets it a day after its last writer."""
STRAYS_S = 3.0
"""How often it is looked for leases of this process that no reader has."""


def upstream_for(settings: Settings) -> Upstream:
    """Give the upstream that the settings name. Opens nothing.

    Raises:
        BadSettings: there is no key.
    """
    return Upstream(
        Endpoint(
            api_url=settings.api_url,
            key=settings.key,
            preview_branch=settings.preview_branch,
            connect_timeout_s=settings.connect_timeout_seconds,
            read_timeout_s=settings.read_timeout_seconds,
        )
    )


class Runtime:
    """One process's share of the work. Thread-safe.

    `open` what only asks and watches; `start` what reads streams too. Readers are started by `ingest_stream`, which
    blocks until the stream is left.
    """

    def __init__(self, settings: Settings, database_url: str, *, pool: str = "local", slots: int = 1) -> None:
        self.settings = settings
        # No overflow: such connections are closed as soon as they are given back, and to open one costs more (a
        # password is checked with thousands of hashes) than to wait for one.
        self.engine = create_engine(database_url, pool_size=16, max_overflow=0)
        self._statements = autocommit(self.engine)  # one for all streams: each is 4 kB
        # Connections of their own for what keeps the process going: after an outage a thousand readers ask at once, and
        # behind them the leases would run out.
        self._vital_engine = create_engine(database_url, pool_size=8, max_overflow=0)
        self.upstream = upstream_for(settings)
        self.runs = Runs(self._vital_engine, settings.environment)
        self.outbox = Outbox(self._vital_engine, settings.environment)
        self.late = LateChecks(self._vital_engine, settings.environment)
        row = WorkerRow(uuid.uuid4(), socket.gethostname(), os.getpid(), pool, slots)
        self.leases = Leases(self._vital_engine, row, settings.lease_seconds, settings.max_connections)
        self.readings = Readings()
        self.writer = Writer(
            Committer(self._vital_engine),
            WriterLimits(
                buffer_max_bytes=settings.buffer_max_bytes,
                stream_max_bytes=settings.stream_buffer_max_bytes,
                hold_s=settings.hold_seconds,
            ),
            random=random.random,
        )
        self.many_runs = ManyRuns(self.engine, settings.environment)
        self.together = WatchTogether(
            self.many_runs,
            self.upstream,
            watch_s=settings.watch_seconds,
            quiet_s=settings.seal_quiet_seconds,
            late_check_s=settings.late_check_seconds,
        )
        self._acquiring = Together(self._acquire)
        self._slice_s = settings.slice_seconds
        self._ended = threading.Event()
        self._claimed: set[int] = set()  # runs that are being looked at
        self._strays: dict[int, int] = {}
        self._strays_at = 0.0
        self._keeper = threading.Thread(target=self._keep, name="tailrace-leases", daemon=True)

    # --- life

    def start(self, *, slice_s: float | None = None) -> None:
        """Begin to hold leases and to write. ``slice_s`` replaces the setting where slots are few."""
        if slice_s is not None:
            self._slice_s = slice_s
        try:
            self.leases.renew()
        except StoreUnavailable as error:  # the lease thread goes on trying
            log.warning("lease_renewal_failed", error=str(error))
        self.writer.start()
        self._keeper.start()

    def start_choosing(self) -> None:
        """Keep this process's row alive for its hints; for a process that chooses what others read (prefork)."""
        self.leases.renew()
        self._keeper.start()

    def drain(self) -> None:
        """Tell every reader to leave; does not wait. What they have is committed, and others go on at once."""
        self.readings.drain()

    def stop(self, timeout_s: float) -> None:
        """Leave every stream, commit, give the leases back. What does not end in time is read again by others."""
        until = time.monotonic() + timeout_s
        self.drain()
        self.readings.wait_empty(max(0.1, until - time.monotonic()))
        self.writer.stop(max(0.1, until - time.monotonic()))
        self._ended.set()
        if self._keeper.is_alive():
            self._keeper.join(1.0)
        try:
            self.leases.retire()
            if self._claimed:  # whoever looks at them waits for upstream, and will not come to an end
                self.many_runs.give_back(list(self._claimed))
        except WorkerError as error:
            log.warning("leases_not_returned", error=str(error))
        self.close()

    def close(self) -> None:
        self.upstream.close()
        self.engine.dispose()
        self._vital_engine.dispose()

    # --- runs

    def request(
        self,
        run_id: str,
        streams: Sequence[str] | None,
        options: dict[str, Any],
        priority: int = 0,
        then: str | None = None,
    ) -> int:
        """Make a run's row: from here on it is ingested, whatever happens to messages. Give the row's id."""
        return self.runs.request(run_id, streams, options, priority, then)

    def cancel(self, run_id: str) -> int | None:
        """Stop a run: the readers of other processes leave at their next look at their leases, ours now."""
        stopped = self.runs.cancel(run_id)
        if stopped:
            log.info("run_cancelled", run_id=run_id, streams=stopped)
            self._call_readers()
        return stopped

    def watch(self, limit: int, run: int | None = None) -> tuple[int, int]:
        """Look at runs that are due: status and stream keys. Many are looked at with one call, up to ``limit`` alone.

        Give how many were looked at alone, and how many streams are new.
        """
        # Whoever claimed runs and died keeps them from others as long as its streams.
        due = self.runs.claim_watch(limit if run is not None else TOGETHER_RUNS, self.settings.lease_seconds, run)
        claimed = {watched.id for watched in due}
        self._claimed |= claimed
        try:
            alone, found = self.together.look(due)
            if len(alone) > limit:
                self.many_runs.give_back([watched.id for watched in alone[limit:]])
            return min(len(alone), limit), found + sum(self._watch_one(watched) for watched in alone[:limit])
        finally:
            self._claimed -= claimed

    def _watch_one(self, run: WatchedRun) -> int:
        settings = self.settings
        try:
            view = self.upstream.run(run.run_id)
        except NotFound as error:
            if not run.known and run.asked_for_s >= settings.unknown_run_seconds:
                reason = f"upstream did not know the run for {settings.unknown_run_seconds:g} s: {error}"
                self.runs.fail(run, reason)
                log.warning("run_failed", run_id=run.run_id, reason=reason)
            else:
                self.runs.postpone(run, f"{NOT_KNOWN_YET}: {error}", settings.watch_seconds)
            return 0
        except Unauthorized as error:
            self.halt(error)
            self.runs.postpone(run, str(error), settings.watch_seconds)
            return 0
        except StoreUnavailable:
            raise
        except RequestRefused as error:
            self.runs.fail(run, str(error))
            log.warning("run_failed", run_id=run.run_id, reason=str(error))
            return 0
        except WorkerError as error:
            delay_s = backoff(run.attempt, settings.watch_seconds, settings.retry_cap_s, random.random)
            self.runs.postpone(run, str(error), max(delay_s, settings.watch_seconds))
            return 0
        found = self.runs.observe(run, view, settings.watch_seconds)
        if found:
            log.info("streams_found", run_id=run.run_id, streams=found)
        if self.runs.seal(run, settings.seal_quiet_seconds, settings.late_check_seconds):
            log.info("run_sealed", run_id=run.run_id)
        return found

    def check_late(self, limit: int) -> int:
        """Look once more at sealed runs that are due, and reopen those that have more; give how many were looked at."""
        due = self.late.claim(limit, LATE_CLAIM_S)
        for run in due:
            self._check_late(run)
        return len(due)

    def _check_late(self, run: LateRun) -> None:
        try:
            view = self.upstream.run(run.run_id)
            new_keys = run.wants_all and not run.keys.issuperset(view.stream_keys)
            more = [stream.id for stream in self.late.streams(run) if self._has_more(stream, run.over_for_s)]
        except NotFound:  # upstream has forgotten it
            self.late.done(run)
        except Unauthorized as error:
            self.halt(error)
        except StoreUnavailable:
            raise
        except WorkerError as error:
            if run.sealed_for_s > self.settings.late_check_seconds + LATE_GIVE_UP_S:
                log.warning("late_check_given_up", run_id=run.run_id, error=str(error))
                self.late.done(run)
        else:
            if not (new_keys or more):
                self.late.done(run)
            elif self.late.reopen(run, more):
                log.info("run_reopened", run_id=run.run_id, streams=len(more))

    def _has_more(self, stream: LateStream, over_for_s: float) -> bool:
        if stream.wire is Wire.V1 and over_for_s > V1_FORGETS_S:
            return False
        with self.upstream.stream(stream.ref) as source:
            return has_more(Tail(source, self.settings.event_max_bytes), stream.wire, stream.checkpoint)

    def upkeep(self) -> None:
        """What has to happen now and then: partitions for the coming days, rows of workers long dead."""
        self.leases.ensure_partitions()
        self.leases.sweep_workers()
        self.outbox.sweep()

    def halt(self, error: Unauthorized) -> None:
        """Stop everything of this environment, with one alarm."""
        if self.runs.halt(str(error)):
            log.error("environment_halted", environment=self.settings.environment, reason=str(error))

    # --- streams

    def claim(self, limit: int, run: int | None = None) -> list[int]:
        """Choose streams that this process should read."""
        return self.leases.claim(self.settings.environment, limit, self.settings.hint_seconds, run)

    def give_turns(self) -> int:
        """Let streams that wait for a place have one: have readers leave that have had their turn; give how many."""
        waiting, workers = self.leases.waiting(self.settings.environment, max(1, len(self.readings)))
        share = -(-waiting // max(1, workers))
        return self.readings.give_turns(share, TURN_S) if share else 0

    def ingest_stream(self, stream_id: int) -> None:
        """Read one stream until it is left; a stream that somebody else reads, or that needs nothing, is left alone."""
        signal = self.readings.begin(stream_id)
        if signal is None:
            return
        try:
            try:
                stream = self._acquiring.get(stream_id)
            except StoreUnavailable as error:
                # If the lease was given all the same, `_release_strays` gives it back.
                log.warning("lease_not_acquired", stream_id=stream_id, error=str(error))
                return
            if stream is None:
                return
            self.readings.leased(stream_id)
            bound = log.bind(run_id=stream.ref.run_id, stream_key=stream.ref.stream_key, lease_token=stream.token)
            bound.info("lease_acquired", position=stream.checkpoint.last_index)
            sink = self.writer.open(stream, self._limits(stream))
            queries = StreamQueries(self._statements, stream_id, REPEAT_WINDOW)
            settlement: Settlement
            try:
                with self.upstream.stream(stream.ref) as source:
                    tail = Tail(source, self.settings.event_max_bytes)
                    reader = Reader(
                        *(stream, tail, sink, queries, self._policy(), signal),
                        random=random.random,
                        alarm=lambda what: bound.error("stream_changed", reason=what),
                    )
                    try:
                        settlement = reader.run()
                    except Unauthorized as error:
                        self.halt(error)
                        settlement = Settlement(StreamState.PARKED, error=str(error))
                    except TransientError as error:
                        settlement = Settlement(StreamState.PARKED, delay_s=self.settings.retry_cap_s, error=str(error))
                    except WorkerError as error:
                        if isinstance(error, LeaseLost):
                            raise
                        settlement = Settlement(StreamState.FAILED, error=str(error), verdict=Verdict.FAILED)
                    except Exception as error:  # noqa: BLE001  whatever it is, the thread must outlive it
                        # A fault of ours, met by this stream's data. It must neither be hidden nor spin.
                        bound.exception("reader_failed")
                        settlement = self._after_own_fault(stream, error)
                sink.settle(settlement)
            except LeaseLost as error:
                bound.info("lease_lost", reason=str(error))
                return
            finally:
                sink.abandon()
            bound.info(f"stream_{_LEFT[settlement.state]}", position=sink.checkpoint.last_index, error=settlement.error)
        finally:
            self.readings.end(stream_id)

    def _after_own_fault(self, stream: LeasedStream, error: Exception) -> Settlement:
        attempt = stream.attempt + 1
        delay_s = backoff(attempt, self.settings.retry_base_s, self.settings.retry_cap_s, random.random)
        what = f"{type(error).__name__}: {error}"
        return Settlement(StreamState.PARKED, delay_s=max(1.0, delay_s), attempt=attempt, error=what)

    def _acquire(self, stream_ids: list[int]) -> dict[int, LeasedStream]:
        got = {stream.id: stream for stream in self.leases.acquire(stream_ids)}
        missed = [stream_id for stream_id in stream_ids if stream_id not in got]
        if missed and self.settings.max_connections is not None:
            self.leases.unhint(missed)  # the fleet has no place for them: they must not wait for their hints to age
        return got

    def _limits(self, stream: LeasedStream) -> BatchLimits:
        """Give the batch limits of a stream: the request's where it has some, else the settings'."""
        settings, options = self.settings, stream.options
        return BatchLimits(
            max_chunks=int(options.get("batch_max_chunks", settings.batch_max_chunks)),
            max_bytes=int(options.get("batch_max_bytes", settings.batch_max_bytes)),
            max_age_s=float(options.get("batch_max_age_ms", settings.batch_max_age_ms)) / 1000,
        )

    def _policy(self) -> ReadPolicy:
        settings = self.settings
        return ReadPolicy(
            wait_s=settings.wait_seconds,
            park_after_s=settings.park_after_seconds,
            park_v1_s=settings.park_v1_seconds,
            park_v2_s=settings.park_v2_seconds,
            quiet_s=settings.seal_quiet_seconds,
            slice_s=self._slice_s,
            retry_base_s=settings.retry_base_ms / 1000,
            retry_cap_s=settings.retry_cap_s,
        )

    # --- the lease thread

    def _keep(self) -> None:
        """Renew this process's row, and call readers whose run is over or whose lease is gone."""
        failed = 0
        said_at = time.monotonic()
        while not self._ended.is_set():
            try:
                self.leases.renew()
                self._call_readers()
                self._release_strays()
                failed = 0
            except Exception as error:  # noqa: BLE001  whatever it is, the thread must outlive it
                # The leases live on until somebody takes them, which needs the same database. Whatever it was, this
                # thread must not end: others would take over what is read here.
                failed += 1
                if failed == 1:
                    log.warning("lease_renewal_failed", error=str(error))
            if time.monotonic() - said_at >= METRICS_S:
                said_at = time.monotonic()
                log.info("metrics", reading=len(self.readings.leased_ids()), **metrics.snapshot())
            self._ended.wait(1.0 if failed else min(self.settings.lease_renew_seconds, self.settings.control_seconds))

    def _call_readers(self) -> None:
        reading = self.readings.leased_ids()
        if not reading:
            return
        calls = self.leases.calls(reading)
        self.readings.look_again([stream_id for stream_id, over, ours in calls if over and ours])
        self.readings.leave([stream_id for stream_id, _, ours in calls if not ours])

    def _release_strays(self) -> None:
        """Give back leases that no reader has: the answer to an acquire was lost, or a reader died of a fault.

        Only those that were already so at the last look: a reader begins before its lease is there.
        """
        if time.monotonic() - self._strays_at < STRAYS_S:
            return
        self._strays_at = time.monotonic()
        found = self.leases.strays(self.readings.begun_ids())
        again = {stream_id: token for stream_id, token in found.items() if self._strays.get(stream_id) == token}
        self._strays = found
        if again:
            self.leases.give_back(again)
            log.warning("stray_leases_returned", streams=len(again))


_LEFT = {
    StreamState.ACTIVE: "handed_on",
    StreamState.PARKED: "parked",
    StreamState.SEALED: "sealed",
    StreamState.FAILED: "failed",
    StreamState.CANCELLED: "cancelled",
}
