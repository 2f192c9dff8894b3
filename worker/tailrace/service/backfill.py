"""Take a backfill forward, one page at a time. Progress is a row: whoever dies, another goes on from its cursor."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from tailrace.errors import RequestRefused, SourceUnavailable, StoreUnavailable, Unauthorized, WorkerError
from tailrace.model import RunView
from tailrace.retry import PATIENCE, backoff
from tailrace.service.bad_rows import BadRows
from tailrace.service.rate import PAUSE_S, wait_s
from tailrace.source.client import Upstream
from tailrace.source.listing import ListFilter, list_runs
from tailrace.store.backfills import ListedRuns, OwnedBackfill

log = structlog.get_logger("tailrace")

LEASE_S = 60.0
"""How long a step may take; then another process takes it. Reading one page takes less than a second."""
YIELD_S = 0.5
"""How often a backfill that waits for its runs to be read looks again."""
RETRY_CAP_S = 300.0
CURSOR_REFUSALS = 3
"""A cursor that is refused so often in a row is given up: to begin again costs a call for each page."""


@dataclass(frozen=True, slots=True)
class BackfillPolicy:
    """``rate_share`` of the rate limit may be used; no page is asked for while ``open_runs`` are being read."""

    rate_share: float = 0.25
    open_runs: int = 1_000


class Backfills:
    """Steps of the backfills of one environment. ``halt`` is told when upstream refuses the key."""

    def __init__(
        self,
        store: ListedRuns,
        upstream: Upstream,
        bad_rows: BadRows,
        policy: BackfillPolicy,
        refused: Callable[[Unauthorized], object],
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._bad_rows = bad_rows
        self._policy = policy
        self._refused_key = refused

    def step(self, backfill: int | None = None) -> float | None:
        """Take one step of a backfill that is due, of any or of this one; return in how many seconds its next is due.

        None when there is none.

        Raises:
            StoreUnavailable
        """
        owned = self._store.claim_backfill(LEASE_S, backfill)
        if owned is None:
            return None
        later_s = YIELD_S
        most = self._policy.open_runs
        if self._store.being_read(most) >= most:
            self._store.postpone_backfill(owned, YIELD_S, None)
            return YIELD_S
        try:
            page = list_runs(self._upstream, filter_of(owned.since, owned.until, owned.filters), owned.cursor)
        except StoreUnavailable:
            raise
        except Unauthorized as error:
            self._refused_key(error)
            self._store.postpone_backfill(owned, RETRY_CAP_S, str(error))
        except RequestRefused as error:
            self._refused(owned, error)
        except SourceUnavailable as error:
            pause_s = error.retry_after_s if error.retry_after_s is not None else self._backoff(owned)
            if error.status == 429:  # no failure: everybody together has used the limit up
                self._store.postpone_backfill(owned, error.retry_after_s or PAUSE_S, None)
            else:
                self._store.postpone_backfill(owned, pause_s, str(error))
        except WorkerError as error:
            self._store.postpone_backfill(owned, self._backoff(owned), str(error))
        else:
            self._bad_rows.note("list", page.malformed)
            later_s = wait_s(page.rate, self._policy.rate_share)
            new = self._store.note_page(owned, page.runs, page.next, later_s)
            if new is not None and page.next is None:
                log.info("backfill_listed", environment=self._store.environment, backfill=owned.id)
        return later_s

    def _refused(self, owned: OwnedBackfill, error: RequestRefused) -> None:
        """The cursor may be too old: begin again, what is known costs nothing. In the end the filters are wrong."""
        refusals = owned.refusals + 1
        if not PATIENCE.is_over(refusals, owned.refused_s):
            cursor = owned.cursor if refusals < CURSOR_REFUSALS else None
            self._store.refused_backfill(owned, cursor, str(error), self._backoff(owned))
            return
        self._store.fail_backfill(owned, str(error))
        log.warning("backfill_failed", environment=self._store.environment, backfill=owned.id, error=str(error))

    def _backoff(self, owned: OwnedBackfill) -> float:
        return max(1.0, backoff(owned.attempt, 1.0, RETRY_CAP_S, random.random))


def filter_of(since: datetime, until: datetime | None, filters: dict[str, Any]) -> ListFilter:
    """Make what is asked of upstream from a backfill's row."""

    def words(name: str) -> tuple[str, ...] | None:
        return tuple(filters[name]) if filters.get(name) else None

    return ListFilter(since, until, words("tasks"), words("tags"), words("statuses"))


def check_filters(upstream: Upstream, wanted: ListFilter) -> None:
    """Ask for one page, so that whoever has mistyped a filter learns it at once.

    Raises:
        RequestRefused: upstream does not take the filters. Whatever else is wrong is for the backfill to meet.
    """
    try:
        list_runs(upstream, wanted, None)
    except RequestRefused:
        raise
    except WorkerError:
        return


def preview(store: ListedRuns, upstream: Upstream, wanted: ListFilter) -> tuple[int, list[RunView]]:
    """Walk through the list without asking for anything: how many runs there are, and those that would be new.

    Raises:
        WorkerError: upstream or the database.
    """
    seen, new, cursor = 0, [], None
    while True:
        page = list_runs(upstream, wanted, cursor)
        seen += len(page.runs)
        unknown = set(store.unknown(page.runs))
        new += [view for view in page.runs if view.run_id in unknown]
        cursor = page.next
        if cursor is None:
            return seen, new
