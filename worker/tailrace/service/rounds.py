"""Notice by the list of runs which have changed that no feed tells of.

The feed of many runs reaches a day back, and on one of upstream's backends to the newest thousand runs. What it leaves
out can be looked at alone only so many times a second. The list has no stream keys, but it says of a hundred runs at
once when each was last changed, and to give a run a stream changes it (protocol §4).

What it says proves nothing: a run that has changed is looked at alone, sooner than its turn would come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from tailrace.errors import RequestRefused, WorkerError
from tailrace.service.rate import wait_s
from tailrace.source.client import Upstream
from tailrace.source.listing import ListFilter, list_runs
from tailrace.telemetry import Failing
from tailrace.wire.statuses import RUNNING

PAGES_PER_S = 5.0
"""A fifth of what upstream lets the environment ask for, 25 a second: 10 000 runs in 20 s."""
PAGES_AT_ONCE = 5
LOOKS_PER_S = 25.0
"""How many looks alone are asked for, whatever changes."""
RETRY_S = 30.0
REFUSED_S = 3_600.0
"""After a question that upstream calls wrong."""

OLD_S = 60.0
"""After such a pause a round begins anew: upstream may not know the cursor any more."""

EVER = datetime.fromtimestamp(1, UTC)
"""Upstream takes 0 for no time at all, and gives the last seven days (protocol §4)."""


class Rounds:
    """Goes through the list of running runs again and again, a page at a time. Not thread-safe."""

    def __init__(
        self,
        upstream: Upstream,
        environment: str,
        watched: Callable[[str], bool],
        share: float,
        every_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``watched`` says of a run by its id whether a change of it is of interest. ``share``: of the rate limit, as
        `service.rate.wait_s` takes it. ``every_s``: a round begins no sooner than this after the last one began."""
        self._upstream = upstream
        self._listing = Failing("listing", {"environment": environment}, clock=clock_s)
        self._watched = watched
        self._share = share
        self._every_s = every_s
        self._clock_s = clock_s
        self._before: dict[str, str] | None = None  # run id → when it was changed, as the last round found it
        self._found: dict[str, str] = {}
        self._cursor: str | None = None
        self._began_at = self._next_at = self._taken_at = self._asked_at = clock_s()
        self._changed: dict[str, None] = {}  # in the order in which it was noticed

    def step(self) -> None:
        """Ask for the pages that are due, `PAGES_AT_ONCE` at most; what fails is for the next step."""
        for _ in range(PAGES_AT_ONCE):
            if self._clock_s() < self._next_at:
                return
            due_at = max(self._next_at, self._clock_s() - PAGES_AT_ONCE / PAGES_PER_S)
            self._next_at = due_at + self._page_s()

    def _page_s(self) -> float:
        """Ask for a page; return after how long the next is due."""
        now, before = self._clock_s(), self._asked_at
        self._asked_at = now
        if now - before > OLD_S:
            self._cursor = None
        if self._cursor is None:
            self._began_at, self._found = now, {}
        wanted = ListFilter(EVER, statuses=tuple(sorted(RUNNING)))
        try:
            page = list_runs(self._upstream, wanted, self._cursor)
        except RequestRefused as error:
            self._listing.failed(error)
            first, self._cursor = self._cursor is None, None
            return REFUSED_S if first else RETRY_S  # it may have been the cursor
        except WorkerError as error:
            self._listing.failed(error)
            self._cursor = None
            return getattr(error, "retry_after_s", None) or RETRY_S
        self._listing.succeeded()
        for run_id, changed_at in page.changed_at.items():
            if self._watched(run_id):
                self._found[run_id] = changed_at
                if self._before is not None and self._before.get(run_id) != changed_at:
                    self._changed[run_id] = None
        self._cursor = page.next
        pause_s = max(1 / PAGES_PER_S, wait_s(page.rate, self._share))
        return pause_s if self._cursor is not None else max(pause_s, self._round_ends())

    def _round_ends(self) -> float:
        """Note what is not listed any more; return after how long the next round begins."""
        if self._before is not None:
            self._changed |= dict.fromkeys(self._before.keys() - self._found.keys())
        self._before, self._found = self._found, {}
        return self._began_at + self._every_s - self._clock_s()

    def changed(self) -> list[str]:
        """Return runs that have changed, those first of which it was noticed first; `LOOKS_PER_S` of them."""
        now = self._clock_s()
        most = int(min(now - self._taken_at, 1.0) * LOOKS_PER_S)
        if most == 0:
            return []
        self._taken_at = now
        chosen: list[str] = []
        while self._changed and len(chosen) < most:
            run_id = next(iter(self._changed))
            del self._changed[run_id]
            if self._watched(run_id):  # still: the feed may tell of it now
                chosen.append(run_id)
        return chosen
