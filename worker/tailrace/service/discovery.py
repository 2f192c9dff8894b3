"""Find new runs that nobody named.

The feed of many runs is asked every few seconds, and now and then the list, over windows that overlap, for what the
feed leaves out (it shows a thousand runs and does not say when there are more).
"""

from __future__ import annotations

import time
from collections.abc import Callable
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

log = structlog.get_logger("tailrace")

LOOK_REACH_S = 3_600.0
"""How far back a look at the feed reaches; what is older is found by the list."""
LONG_GAP_S = 3_600.0
"""Not covered for longer than this (no worker ran): a backfill takes it, which can be interrupted."""


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
        self._feed = ManyRunsFeed(upstream, LOOK_REACH_S)
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
            log.info("runs_found", environment=self._store.environment, rule=self._rule, runs=found)
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
        views, malformed = self._feed.changes()
        self._bad_rows.note("feed", malformed)
        try:
            return len(self._store.request_listed([view for view in views if self.wants(view)], 0))
        except BaseException:
            self._feed.begin_anew()
            raise

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
