"""Watch the runs of one environment: whether each goes on, which streams it has, when it can be sealed.

One process watches an environment; another takes over when it dies. It keeps in memory what it knows, and the rows tell
it only of runs that somebody has asked for or that are in trouble. Many are looked at with one call of the feed of many
runs; what that does not tell of is looked at alone. Nothing is written where nothing has changed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import structlog

from tailrace.config.settings import Settings
from tailrace.errors import StoreUnavailable, WorkerError
from tailrace.model import RunView
from tailrace.service.bad_rows import BadRows
from tailrace.service.key_check import KeyCheck
from tailrace.service.reach import Reach
from tailrace.service.rounds import Rounds
from tailrace.service.trouble import Trouble
from tailrace.service.watch_list import ALONE_PER_S, Kept, WatchList
from tailrace.source.client import Upstream
from tailrace.source.listing import ManyRunsFeed
from tailrace.store.runs import Runs, Seen, WatchedRun
from tailrace.telemetry import Failing

log = structlog.get_logger("tailrace")

DUE_AT_ONCE = 10_000
"""How many runs that are due are taken from the rows at once: the feed may tell of all of them."""
NOTED_AT_ONCE = 1_000
"""Of how many runs one statement notes what upstream says."""
WORTH_A_CALL = 3
"""So many runs that may be in the feed are asked for together; fewer one by one, whose answers are small."""
AGAIN_S = 1.0
"""New runs, however many come, have the feed asked no more often than this."""
FEED = "the feed of many runs"
FEED_REACH_S = 86_400.0
RECONCILE_S = 60.0
"""How often it is looked which known runs the rows leave to us: what another process noted and does not watch."""
KNOWN_PLACES = 0.3
"""Of the looks alone, those that known runs get beside any number of new ones."""
CLOCK_S = 60.0
"""How long a look at Postgres' clock serves: it can be set, and ours runs a little faster or slower."""
SCAN_S = 0.25
"""How often known runs are looked through for one that is due, if few are."""
SLOW_S = 1.0
"""After a look that took so long, what was seen is noted before the next."""
SEALED_TOGETHER = 100
"""More runs than this that wait for their streams are not tried with every turn."""


class Watching:
    """Watches the runs of one environment. Thread-safe: several threads take turns, each with runs of its own."""

    def __init__(
        self,
        store: Runs,
        upstream: Upstream,
        reach: Reach,
        key: KeyCheck,
        bad_rows: BadRows,
        settings: Settings,
        worker: UUID,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._reach = reach
        self._trouble = Trouble(store, key, bad_rows, settings)
        self._bad_rows = bad_rows
        self._settings = settings
        self._worker = worker
        self._clock_s = clock_s
        self._lock = threading.Lock()  # of what follows
        self._list = WatchList(settings.watch_seconds)
        self._busy: set[int] = set()
        self._told_of: frozenset[str] = frozenset()
        self._asked_of = False  # since runs were last chosen
        self._holds = False
        self._dated = -math.inf, -math.inf  # a moment by Postgres' clock, and by ours: not before
        self._held_at = self._read_at = self._asked_at = self._reconciled_at = self._sealed_at = (
            self._scan_at
        ) = -math.inf
        self._together = threading.Lock()  # of the feed
        self._listing = threading.Lock()  # of the list, which must not keep anybody from the feed
        self._hearing = Failing("runs_feed", {"environment": store.environment}, clock=clock_s)
        self._feed = ManyRunsFeed(upstream, FEED_REACH_S, self._is_watched, clock_s)
        self._rounds = Rounds(
            upstream, store.environment, self._is_alone, settings.backfill_rate_share, settings.watch_seconds, clock_s
        )

    def turn(self, limit: int, run: int | None = None, at_once: int = 1) -> tuple[int, int]:
        """Look at runs that are due: many with one call, up to ``limit`` alone, one after the other. ``run``: at this
        one only, whoever watches the others. ``at_once``: so many times as many alone, side by side, if so many wait.

        Return how many were looked at alone, and how many streams are new.

        Raises:
            StoreUnavailable
        """
        if run is None and not self._watches():
            return 0, 0
        self._look_at_the_clock()
        self._read_rows(limit, run)
        found = 0
        if self._reach.away:
            # One question in a while, so that it is seen when upstream is back even if nobody reads.
            limit, at_once = int(self._reach.may_look()), 1
        else:
            found = self._look_together()
            self._go_round()
        chosen = self._choose(limit, at_once)
        try:
            found += self._look_at_all(chosen, limit)
        finally:
            self._are_not_busy([each.id for each in chosen])
        self._seal()
        return len(chosen), found

    def look_soon(self, run: int, run_id: str) -> int:
        """Look at a run that was just asked for; return how many streams are new. What fails is for a turn to meet.

        Raises:
            StoreUnavailable
        """
        with self._lock:
            if run in self._busy or self._reach.away:
                return 0
            self._busy.add(run)
        try:
            self._look_at_the_clock()
            asked_at = self._clock_s()
            with self._reach.asking(run_id):
                view = self._upstream.run(run_id)
            return self._note({run: (view, asked_at)}, keep=self._holds)
        except StoreUnavailable:
            raise
        except WorkerError:
            return 0
        finally:
            self._are_not_busy([run])

    def _are_not_busy(self, runs: Iterable[int]) -> None:
        with self._lock:
            self._busy.difference_update(runs)

    # --- when

    def _look_at_the_clock(self) -> None:
        """Note what time it is by Postgres' clock. Not when something is noted: a process that was suspended, or waited
        for Postgres, would take what it read before for read just now."""
        if self._clock_s() - self._dated[1] >= CLOCK_S:
            at = self._store.now()
            self._dated = at, self._clock_s()

    def _by_postgres(self, moment: float) -> float:
        """Return a moment of ours by Postgres' clock, not later than it was."""
        at, ours = self._dated
        return at + (moment - ours)

    # --- what is watched

    def _watches(self) -> bool:
        """Return whether this process watches the environment. Who begins to, or ceases to, forgets what it knew."""
        now = self._clock_s()
        with self._lock:
            if now - self._held_at < self._settings.control_seconds / 2:
                return self._holds
            self._held_at = now
        holds = self._store.hold_watch(self._worker)
        with self._lock:
            if holds is not self._holds:
                self._holds = holds
                self._list = WatchList(self._settings.watch_seconds)
                self._reconciled_at = -math.inf
        return holds

    def _read_rows(self, sought: int, run: int | None) -> None:
        """Take up what the rows say: which runs are due, and now and then which are left to us."""
        now = self._clock_s()
        with self._lock:
            watched = self._list
            if now - self._read_at < self._settings.control_seconds and watched.count_new():
                return
            self._read_at = now
            reconciles = now - self._reconciled_at >= RECONCILE_S
            known, before = [*self._busy, *watched.waiting], watched.snapshot() if reconciles else {}
        standing = self._store.standing(self._settings.seal_quiet_seconds, run) if reconciles else None
        due = self._store.due(DUE_AT_ONCE, sought, run, known)
        with self._lock:
            if standing is not None:
                watched.reconcile(standing, now, before)
                if watched is self._list:
                    self._reconciled_at = now  # not before: the rows may not have answered
            watched.wait(each for each in due if each.id not in self._busy)

    def _is_watched(self, run_id: str) -> bool:
        return self._list.row_of(run_id) is not None

    def _is_alone(self, run_id: str) -> bool:
        return self._is_watched(run_id) and run_id not in self._told_of

    # --- looking

    def _look_together(self) -> int:
        """Ask the feed if that is worth it and time; return how many streams are new."""
        if not self._together.acquire(blocking=False):
            return 0
        try:
            now = self._clock_s()
            return self._ask_the_feed(now) if self._is_worth_a_call(now) else 0
        finally:
            self._together.release()

    def _is_worth_a_call(self, now: float) -> bool:
        with self._lock:
            if len(self._list) < WORTH_A_CALL:
                self._told_of = frozenset()  # what it told of when last asked, it tells of no more
                return False
            since_s = now - self._asked_at
            new = self._list.count_new() if since_s >= AGAIN_S else 0
            if since_s < self._settings.watch_seconds and new < WORTH_A_CALL:
                return False
            self._asked_at = now
            return True

    def _go_round(self) -> None:
        """Have the list say what has changed of the runs that the feed does not tell of, if they are many."""
        with self._lock:
            if self._list.alone <= ALONE_PER_S * self._settings.watch_seconds:
                return
        if not self._listing.acquire(blocking=False):
            return
        try:
            self._rounds.step()
            changed = self._rounds.changed()
        finally:
            self._listing.release()
        with self._lock:
            self._list.changed(changed, self._clock_s())

    def _ask_the_feed(self, now: float) -> int:
        try:
            with self._reach.asking(FEED):
                changed, malformed = self._feed.changes()
        except StoreUnavailable:
            raise
        except WorkerError as error:
            # Each run is then looked at alone, where errors are counted and waited for.
            self._hearing.failed(error)
            changed, malformed = [], []
        else:
            self._hearing.succeeded()
        self._bad_rows.note("feed", malformed)
        heard_at = self._clock_s()
        told_of = frozenset(self._feed.told_of)
        with self._lock:
            self._told_of = told_of
            self._list.heard((view.run_id for view in changed), heard_at)
            rows = {run_id: self._list.row_of(run_id) for run_id in self._list.from_the_feed(now, told_of)}
            free = {run_id: row for run_id, row in rows.items() if row is not None and row not in self._busy}
            seen = {row: (self._feed.view(run_id), now) for run_id, row in free.items()}
        found, listed = 0, list(seen.items())
        for at in range(0, len(listed), NOTED_AT_ONCE):
            found += self._note(dict(listed[at : at + NOTED_AT_ONCE]), heard_at=heard_at)
        with self._lock:
            self._list.told_of(told_of, now)
            self._asked_of = True
        return found

    def _choose(self, limit: int, at_once: int) -> list[WatchedRun | Kept]:
        """Choose runs that this turn looks at alone, new ones and known ones: see `turn`."""
        now = self._clock_s()
        limit *= at_once
        with self._lock:
            known: list[Kept] = []
            if now >= self._scan_at:
                known = self._list.due(now, self._told_of, limit, self._busy)
                self._scan_at = now if len(known) == limit else now + SCAN_S
            new = self._list.turns(limit - min(len(known), int(limit * KNOWN_PLACES)), self._busy)
            known = known[: limit - len(new)]
            if self._asked_of:
                self._asked_of = False
                self._list.not_told_of(self._told_of)
            self._busy.update(each.id for each in new)
            self._busy.update(each.id for each in known)
        return [*new, *known]

    def _look_at_all(self, runs: Sequence[WatchedRun | Kept], limit: int) -> int:
        """Look at runs alone, at up to ``limit`` in each of as many threads as that takes."""
        parts = [runs[at : at + limit] for at in range(0, len(runs), limit)] if limit else []
        if len(parts) < 2:
            return sum(map(self._look_alone, parts))
        with ThreadPoolExecutor(len(parts), "tailrace-look") as threads:
            return sum(threads.map(self._look_alone, parts))

    def _look_alone(self, runs: Sequence[WatchedRun | Kept]) -> int:
        found = 0
        seen: dict[int, tuple[RunView, float]] = {}
        for run in runs:
            asked_at = self._clock_s()
            try:
                with self._reach.asking(run.run_id):
                    seen[run.id] = (self._upstream.run(run.run_id), asked_at)
            except StoreUnavailable:
                raise
            except WorkerError as error:
                self._let_go(_in_trouble(run), error)
            if self._clock_s() - asked_at >= SLOW_S:
                found += self._note(seen)
                seen = {}
        return found + self._note(seen)

    def _let_go(self, run: WatchedRun, error: WorkerError) -> None:
        """Leave a run that could not be looked at to its row."""
        goes_on = self._trouble.met(run, error)
        with self._lock:
            if goes_on and not run.known:
                self._list.sought(run.id)
            else:
                self._list.drop([run.id])

    def _note(
        self, seen: Mapping[int, tuple[RunView, float]], *, keep: bool = True, heard_at: float | None = None
    ) -> int:
        """Note what upstream said of runs, and when it was asked; return how many streams are new.

        ``keep``: watch them from now on. ``heard_at``: it was the feed that said so, and this was its answer.
        """
        if not seen:
            return 0
        with self._lock:
            watched = self._list
            known = {run: watched.kept(run) for run in seen}
        said = {
            run: Seen(
                view,
                self._by_postgres(asked_at),
                None if (kept := known[run]) is None or kept.read_at is None else self._by_postgres(kept.read_at),
                None if kept is None else kept.row_read_at,
            )
            for run, (view, asked_at) in seen.items()
        }
        try:
            standings, found = self._store.observe(said, self._settings.seal_quiet_seconds, self._worker)
        except StoreUnavailable:
            with self._lock:
                self._reconciled_at = -math.inf  # it may be noted, and left to us
            raise
        now = self._clock_s()
        with self._lock:
            for standing in standings if keep else ():
                watched.take(standing, now, seen[standing.id][1], heard_at)
            if not keep:
                self._reconciled_at = -math.inf  # it may be for us to watch by now, and left to us
        if found:
            environment = self._store.environment
            if len(seen) == 1:
                ((view, _),) = seen.values()
                log.info("streams_found", environment=environment, run_id=view.run_id, streams=found)
            else:
                log.info("streams_found", environment=environment, runs=len(seen), streams=found)
        return found

    def _seal(self) -> None:
        """Seal what can be sealed of the runs that wait for their streams."""
        now = self._clock_s()
        with self._lock:
            settled = list(self._list.settled)
            if not settled or (
                len(settled) > SEALED_TOGETHER and now - self._sealed_at < self._settings.control_seconds
            ):
                return
            self._sealed_at = now
        settings = self._settings
        sealed = self._store.seal(settled, settings.seal_quiet_seconds, settings.late_check_seconds)
        with self._lock:
            self._list.drop(sealed)
        if sealed:
            log.info("runs_sealed", environment=self._store.environment, runs=len(sealed))


def _in_trouble(run: WatchedRun | Kept) -> WatchedRun:
    """Return what is known of a run that could not be looked at."""
    if isinstance(run, WatchedRun):
        return run
    return WatchedRun(run.id, run.run_id, True, run.last_at is not None, 0.0, 0, 0, 0.0, 0.0)
