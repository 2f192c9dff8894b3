"""Watch many runs with few calls, and find new ones.

Watching: one call of the feed of many runs answers for up to a thousand runs of the last day; what it does not name is
looked at alone. Finding: that feed every few seconds, and now and then the list, over windows that overlap, for what
the feed leaves out (it shows a thousand runs and does not say when there are more).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import structlog

from tailrace.errors import SourceUnavailable, StoreUnavailable, Unauthorized, WorkerError
from tailrace.model import RunView
from tailrace.service.backfill import filter_of
from tailrace.service.bad_rows import BadRows
from tailrace.service.rate import wait_s
from tailrace.source.client import Upstream
from tailrace.source.listing import ManyRunsFeed, list_runs
from tailrace.store.backfills import Discovered, ListedRuns
from tailrace.store.runs import Runs, WatchedRun

log = structlog.get_logger("tailrace")

TOGETHER_RUNS = 1_000
"""The most that one answer of the feed names."""
WORTH_A_CALL = 3
"""So many runs that may be in the feed are asked for together; fewer one by one, whose answers are small."""
ALONE_S = 60.0
"""A run that the feed did not name is looked at alone for this long."""
FEED_REACH_S = 86_400.0
LONG_GAP_S = 3_600.0
"""Not covered for longer than this (no worker ran): a backfill takes it, which can be interrupted."""


class WatchTogether:
    """Looks at many due runs with one call. Thread-safe: while one thread does so, others look at runs alone."""

    def __init__(
        self,
        store: Runs,
        upstream: Upstream,
        bad_rows: BadRows,
        *,
        watch_s: float,
        quiet_s: float,
        late_check_s: float,
    ) -> None:
        self._store = store
        self._bad_rows = bad_rows
        self._feed = ManyRunsFeed(upstream)
        self._watch_s = watch_s
        self._quiet_s = quiet_s
        self._late_check_s = late_check_s
        self._busy = threading.Lock()
        self._alone: dict[int, float] = {}
        self._asked_at = -math.inf

    @property
    def free(self) -> bool:
        """Nobody is looking at many runs at this moment."""
        return not self._busy.locked()

    def look(self, due: Sequence[WatchedRun]) -> tuple[list[WatchedRun], int]:
        """Look at the runs that the feed names; give those that it does not, and the number of new streams.

        Those that were looked for in vain are looked at as soon as the feed names them, due or not.

        Raises:
            StoreUnavailable
        """
        if not self._busy.acquire(blocking=False):
            return list(due), 0
        try:
            now = time.monotonic()
            self._alone = {run: until for run, until in self._alone.items() if until > now}
            asked = [run for run in due if run.id not in self._alone]
            sought = sum(run.sought for run in due) if now - self._asked_at >= self._watch_s else 0
            if max(len(asked), sought) < WORTH_A_CALL:
                return list(due), 0
            self._asked_at = now
            views = self._ask()
            if views is None:
                return list(due), 0
            named = {run.id: views[run.run_id] for run in due if run.run_id in views}
            named |= {run: views[run_id] for run, run_id in self._store.sought_among(views).items()}
            unnamed = [run for run in due if run.id not in named]
            self._alone |= {run.id: now + ALONE_S for run in unnamed}
            self._store.unseen(run.id for run in unnamed if not (run.known or run.sought))
            found = self._store.observe(named, self._watch_s) if named else 0
            over = [run for run, view in named.items() if view.terminal]
            sealed = self._store.seal(over, self._quiet_s, self._late_check_s)
            if found:
                log.info("streams_found", runs=len(named), streams=found)
            if sealed:
                log.info("runs_sealed", runs=sealed)
            return unnamed, found
        finally:
            self._busy.release()

    def _ask(self) -> dict[str, RunView] | None:
        try:
            views, malformed = self._feed.runs(FEED_REACH_S)
        except StoreUnavailable:
            raise
        except WorkerError as error:
            # Each run is then looked at alone, where errors are counted and waited for.
            log.info("runs_feed_failed", error=str(error))
            return None
        self._bad_rows.note("feed", malformed)
        return {view.run_id: view for view in views}


def turns(alone: Sequence[WatchedRun], limit: int) -> list[WatchedRun]:
    """Choose which of these runs, those that have been due longest first, are looked at now, at most ``limit``. Pure.

    Runs that are new or known go first: in turn the one that has been due longest and the one that was asked for last,
    so that a new one does not wait behind thousands that came at once. A fifth of the places is for those that were
    looked for in vain, or they would never be found beside many others.
    """
    sought = [run for run in alone if run.sought]
    waiting = [run for run in alone if not run.sought]
    chosen: list[WatchedRun] = []
    for place in range(min(len(waiting), limit - min(len(sought), limit // 5))):
        run = min(waiting, key=lambda run: run.asked_for_s) if place % 2 else waiting[0]
        waiting.remove(run)
        chosen.append(run)
    return chosen + sought[: limit - len(chosen)]


class Discovery:
    """Finds the new runs of one environment that a rule wants: ``all``, ``tags=a,b`` or ``tasks=a,b``."""

    def __init__(
        self,
        store: ListedRuns,
        upstream: Upstream,
        bad_rows: BadRows,
        rule: str,
        *,
        look_s: float,
        scan_s: float,
        overlap_s: float,
        rate_share: float,
        refused: Callable[[Unauthorized], object],
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._bad_rows = bad_rows
        self._feed = ManyRunsFeed(upstream)
        self._rule = rule
        self._kind, _, names = rule.partition("=")
        self._names = frozenset(names.split(","))
        self._look_s = look_s
        self._scan_s = scan_s
        self._overlap = timedelta(seconds=overlap_s)
        self._rate_share = rate_share
        self._refused_key = refused
        self._sleep = sleep

    def step(self) -> int | None:
        """Look for new runs if it is time, and ask for them; return their number, None when it is not time.

        Doubled or late steps do no harm: each takes up where the last one that succeeded ended.

        Raises:
            StoreUnavailable
        """
        turn = self._store.discovery(self._rule, self._look_s, self._scan_s)
        if turn is None:
            return None
        found, error = self._attempt(self._look)
        covered_to = None
        late = (turn.now - turn.covered_to).total_seconds() > 2 * self._scan_s
        if (turn.scan_due or late) and not isinstance(
            error, Unauthorized
        ):  # a feed that fails keeps the list from nothing
            listed, refusal = self._attempt(lambda: self._scan(turn))
            found, error = found + listed, error or refusal
            covered_to = turn.now if refusal is None else None
        self._store.discovered(self._rule, found, covered_to, str(error) if error else None)
        if found:
            log.info("runs_found", rule=self._rule, runs=found)
        return found

    def _attempt(self, ask: Callable[[], int]) -> tuple[int, WorkerError | None]:
        """Ask upstream; return the number of new runs and what went wrong, if something did."""
        try:
            return ask(), None
        except StoreUnavailable:
            raise
        except Unauthorized as error:
            self._refused_key(error)
            return 0, error
        except WorkerError as error:
            return 0, error

    def _look(self) -> int:
        """Ask the feed, which shows the newest runs within seconds."""
        views, malformed = self._feed.runs(3_600.0)
        self._bad_rows.note("feed", malformed)
        return len(self._store.request_listed([view for view in views if self.wants(view)], 0))

    def wants(self, view: RunView) -> bool:
        """Return whether the rule wants this run."""
        if self._kind == "tags":
            return not self._names.isdisjoint(view.tags)
        return self._kind == "all" or view.task_identifier in self._names

    def _scan(self, turn: Discovered) -> int:
        """Read the list from before the last reading's end to now."""
        since = turn.covered_to - self._overlap
        filters = {} if self._kind == "all" else {self._kind: sorted(self._names)}
        if (turn.now - turn.covered_to).total_seconds() > LONG_GAP_S:
            self._store.begin_backfill(since, turn.now, filters)
            return 0
        found, cursor = 0, None
        while True:
            page = list_runs(self._upstream, filter_of(since, None, filters), cursor)
            self._bad_rows.note("list", page.malformed)
            found += len(self._store.request_listed([view for view in page.runs if self.wants(view)], 0))
            cursor = page.next
            if cursor is None:
                return found
            if page.rate is not None and page.rate.remaining == 0:
                raise SourceUnavailable("the rate limit is used up", status=429)
            self._sleep(min(wait_s(page.rate, self._rate_share), 10.0))
