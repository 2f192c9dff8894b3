"""What a worker does besides reading: find runs, take backfills forward, compact what is sealed, drop what is old.

A few threads in every worker process, like the control loop: no slot of the pool, no beat and no broker is needed.
Every step is claimed in the database, so any number of processes does the work of one.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable

import structlog

from worker.backfill.runner import BackfillPolicy, Backfills
from worker.discover import Discovery
from worker.errors import WorkerError
from worker.runtime import Runtime
from worker.store.compaction import Compaction, KeepFailed
from worker.store.retention import DayFate, Retention

log = structlog.get_logger("tailrace")

FIND_S = 1.0
KEEP_S = 5.0
PRUNE_S = 3_600.0
STREAMS_PER_TURN = 50


class Housekeeping:
    """The background work of one process, for one environment or several (``runtimes``)."""

    def __init__(self, runtimes: Callable[[], Iterable[Runtime]]) -> None:
        self._runtimes = runtimes
        self._finders: dict[int, tuple[Runtime, Discovery | None, Backfills]] = {}
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(name, turn, every_s), name=f"tailrace-{name}", daemon=True)
            for name, turn, every_s in (
                ("find", self.find, FIND_S),
                ("keep", self.keep, KEEP_S),
                ("prune", self.prune, PRUNE_S),
            )
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it; a step at work is finished or taken up by others."""
        self._ended.set()

    def find(self) -> None:
        """Look for new runs where it is time, and take each backfill that is due one step forward.

        Raises:
            StoreUnavailable
        """
        for runtime in self._runtimes():
            discovery, backfills = self._finders_of(runtime)
            if discovery is not None:
                discovery.step()
            while not self._ended.is_set() and backfills.step():
                pass

    def keep(self) -> None:
        """Compact sealed streams and make them searchable, some at a time.

        Raises:
            StoreUnavailable
        """
        runtime = next(iter(self._runtimes()), None)
        if runtime is None:
            return
        compaction = Compaction(runtime.engine)
        due = compaction.due(STREAMS_PER_TURN)
        random.shuffle(due)  # several processes begin at different ends
        for stream_id in due:
            if self._ended.is_set():
                return
            try:
                done = compaction.compact(stream_id)
                if done is not None:
                    pieces = compaction.index(stream_id)
                    counts = {"before": done.segments_before, "after": done.segments_after, "pieces": pieces}
                    log.debug("stream_compacted", stream=stream_id, **counts)
            except KeepFailed as error:
                log.warning("stream_not_compacted", reason=str(error))

    def prune(self) -> None:
        """Drop the days that retention no longer keeps.

        Raises:
            StoreUnavailable
        """
        for runtime in self._runtimes():
            days = runtime.settings.retention_days
            if days is None:
                return
            for day in Retention(runtime.engine).prune(days):
                if day.fate is DayFate.DROPPED:
                    log.info("day_dropped", day=day.day.isoformat(), streams=day.streams)
                else:
                    log.warning("day_not_dropped", day=day.day.isoformat(), reason=day.fate.value)
            return  # the settings and the archive are everybody's

    def _finders_of(self, runtime: Runtime) -> tuple[Discovery | None, Backfills]:
        known = self._finders.get(id(runtime))
        if known is None or known[0] is not runtime:
            known = self._finders[id(runtime)] = (runtime, discovery_of(runtime), backfills_of(runtime))
        return known[1], known[2]

    def _loop(self, name: str, turn: Callable[[], None], every_s: float) -> None:
        failing = ""
        while True:
            try:
                turn()
                failing = ""
            except Exception as error:  # the thread must live: nobody else does its work here
                kind = type(error).__name__
                if kind != failing:
                    log.warning(f"{name}_failed", error=str(error), exc_info=not isinstance(error, WorkerError))
                failing = kind
            if self._ended.wait(every_s * random.uniform(0.5, 1.5)):
                return


def discovery_of(runtime: Runtime) -> Discovery | None:
    """Make the discovery that the settings ask for; None when they ask for none."""
    settings = runtime.settings
    if settings.discover is None:
        return None
    return Discovery(
        runtime.many_runs,
        runtime.upstream,
        settings.discover,
        look_s=settings.discover_seconds,
        scan_s=settings.discover_scan_seconds,
        overlap_s=settings.discover_overlap_seconds,
        rate_share=settings.backfill_rate_share,
        halt=runtime.halt,
    )


def backfills_of(runtime: Runtime) -> Backfills:
    """Make what takes the backfills of a runtime's environment forward."""
    settings = runtime.settings
    policy = BackfillPolicy(settings.backfill_rate_share, settings.backfill_open_runs)
    return Backfills(runtime.many_runs, runtime.upstream, policy, runtime.halt)
