"""What a worker does besides reading: find runs, take backfills forward, compact what is sealed, drop what is old,
verify what is kept.

A few threads in every worker process, like the control loop, one of them for each environment: no slot of the pool, no
beat and no broker is needed. Every step is claimed in the database, so any number of processes does the work of one.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from datetime import date

import structlog

from tailrace.service.backfill import BackfillPolicy, Backfills
from tailrace.service.discovery import Discovery
from tailrace.service.environments import Environment
from tailrace.service.loops import Loop
from tailrace.service.runtime import Runtime
from tailrace.service.scrub import LOOK_S, NAME, Scrub
from tailrace.store.keeping.compaction import Compaction, KeepFailed
from tailrace.store.keeping.mismatches import Mismatches
from tailrace.store.keeping.progress import Progress
from tailrace.store.keeping.retention import DayFate, Retention
from tailrace.store.keeping.tallies import Tallies
from tailrace.store.keeping.verification import Verification

log = structlog.get_logger("tailrace")

FIND_S = 1.0
KEEP_S = 5.0
PRUNE_S = 3_600.0
TALLY_S = 15.0
"""How old the figures of what was closed today and yesterday may become: between, such streams count nowhere."""
TALLY_SHARE = 50.0
"""So many times as long as a count took, the next one is away."""
STREAMS_PER_TURN = 50


class Finder:
    """Finds the runs of one environment: new ones, where a rule asks for them, and those of its backfills."""

    def __init__(self, environment: Environment, goes_on: Callable[[], bool] = lambda: True) -> None:
        """``goes_on`` says whether another step of a backfill may begin."""
        self._discovery = discovery_of(environment)
        self._backfills = backfills_of(environment)
        self._goes_on = goes_on

    def find(self) -> float:
        """Look for new runs if it is time, and take each backfill that is due forward; return when to look again, in
        seconds.

        Raises:
            StoreUnavailable
        """
        if self._discovery is not None:
            self._discovery.step()
        later_s = FIND_S
        while self._goes_on() and (step_s := self._backfills.step()) is not None:
            later_s = min(later_s, step_s)
        return later_s


class Maintenance:
    """The background work of one process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ended = threading.Event()
        self._loops: list[Loop] = []
        self._undropped: dict[date, DayFate] = {}  # as told

    def start(self) -> None:
        self._begin("keep", self.keep, KEEP_S, self._going, what="keeping")
        self._begin("tally", self.tally, TALLY_S, self._going, what="tallying")
        self._begin("prune", self.prune, PRUNE_S, self._going, what="pruning")
        if self._runtime.settings.scrub_load > 0:
            self._begin("scrub", scrub_of(self._runtime).turn, LOOK_S, self._going, what="scrubbing")
        self._runtime.environments.follow(self._find_for)

    def stop(self) -> None:
        """End it; a step at work is finished or taken up by others."""
        self._ended.set()
        for loop in list(self._loops):
            loop.wake()

    def _find_for(self, environment: Environment) -> None:
        """Find the runs of one environment until it is retired, in a thread of its own: none waits for another."""

        def serves() -> bool:
            return self._going() and not environment.retired.is_set()

        find = Finder(environment, serves).find
        self._begin("find", find, FIND_S, serves, what="finding", environment=environment.name)

    def _going(self) -> bool:
        return not self._ended.is_set()

    def keep(self) -> None:
        """Compact sealed streams and make them searchable, some at a time.

        Raises:
            StoreUnavailable
        """
        compaction = Compaction(self._runtime.background_engine)
        due = compaction.due(STREAMS_PER_TURN)
        random.shuffle(due)  # several processes begin at different ends
        for stream_id in due:
            if self._ended.is_set():
                return
            try:
                done = compaction.compact(stream_id)
                if done is not None:
                    pieces = compaction.index(stream_id)
                    log.debug(
                        "stream_compacted",
                        stream_id=stream_id,
                        before=done.segments_before,
                        after=done.segments_after,
                        pieces=pieces,
                    )
            except KeepFailed as error:
                log.warning("stream_not_compacted", stream_id=stream_id, error=str(error))

    def tally(self) -> float:
        """Count what the archive holds of the day that is most due; return when to look again, in seconds.

        Raises:
            StoreUnavailable
        """
        began = time.monotonic()
        counted = Tallies(self._runtime.background_engine).count(TALLY_S)
        # A fiftieth of a connection's time, however many streams a day has.
        return max(1.0 if counted else TALLY_S, TALLY_SHARE * (time.monotonic() - began))

    def prune(self) -> None:
        """Drop the days that retention no longer keeps.

        Raises:
            StoreUnavailable
        """
        days = self._runtime.settings.retention_days
        if days is None:
            return
        for day in Retention(self._runtime.background_engine).prune(days):
            if day.fate is DayFate.DROPPED:
                self._undropped.pop(day.day, None)
                log.info("day_dropped", day=day.day.isoformat(), streams=day.streams)
            elif self._undropped.get(day.day) is not day.fate:  # it is looked at each hour
                self._undropped[day.day] = day.fate
                log.warning("day_not_dropped", day=day.day.isoformat(), reason=day.fate.value)

    def _begin(
        self,
        name: str,
        turn: Callable[[], float | None],
        every_s: float,
        goes_on: Callable[[], bool],
        *,
        what: str,
        **whose: str,
    ) -> None:
        """Take turns in a thread of its own, every ``every_s`` or so, or when a turn says in how many seconds."""

        def pause_s() -> float:
            return every_s * random.uniform(0.5, 1.5)

        def once() -> float:
            next_s = turn()
            return pause_s() if next_s is None else next_s

        loop = Loop(name, once, what=what, retry_s=pause_s, goes_on=goes_on, **whose)
        self._loops.append(loop)
        loop.start()


def scrub_of(runtime: Runtime) -> Scrub:
    """Make what verifies the archive in the background."""
    settings, engine = runtime.settings, runtime.background_engine
    return Scrub(
        Verification(engine),
        Mismatches(engine),
        Progress(engine, NAME, uuid.uuid4()),
        hours=settings.scrub_window,
        within_days=settings.scrub_days,
        load=settings.scrub_load,
    )


def discovery_of(environment: Environment) -> Discovery | None:
    """Make the discovery that is asked for in an environment; None when none is."""
    settings, rule = environment.settings, environment.access.discover
    if rule is None:
        return None
    return Discovery(
        environment.listed_runs,
        environment.upstream,
        environment.bad_rows,
        rule,
        look_s=settings.discover_seconds,
        scan_s=settings.discover_scan_seconds,
        overlap_s=settings.discover_overlap_seconds,
        rate_share=settings.backfill_rate_share,
        refused=environment.key.refused,
    )


def backfills_of(environment: Environment) -> Backfills:
    """Make what takes the backfills of an environment forward."""
    settings = environment.settings
    policy = BackfillPolicy(settings.backfill_rate_share, settings.backfill_open_runs)
    return Backfills(
        environment.listed_runs, environment.upstream, environment.bad_rows, policy, environment.key.refused
    )
