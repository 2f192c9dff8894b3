"""What becomes of a run that could not be looked at: it is looked at later, or it has failed."""

from __future__ import annotations

import random

import structlog

from tailrace.config.settings import Settings
from tailrace.errors import (
    MalformedRecord,
    NotFound,
    RequestRefused,
    SourceUnavailable,
    Unauthorized,
    WorkerError,
)
from tailrace.model import NOT_KNOWN_YET
from tailrace.retry import PATIENCE, backoff
from tailrace.service.bad_rows import BadRows
from tailrace.service.key_check import KeyCheck
from tailrace.store.runs import Runs, WatchedRun
from tailrace.wire.run_fields import BadRow

log = structlog.get_logger("tailrace")

TRANSIENT = frozenset({408, 429})
"""Statuses of the 4xx that say "later", not "never"."""


class Trouble:
    """The trouble of an environment's runs. Each is then known by its row, which says when it is due."""

    def __init__(self, store: Runs, key: KeyCheck, bad_rows: BadRows, settings: Settings) -> None:
        self._store = store
        self._key = key
        self._bad_rows = bad_rows
        self._settings = settings

    def met(self, run: WatchedRun, error: WorkerError) -> bool:
        """Have the row of a run that could not be looked at say when it is looked at again; False: it has failed.

        Raises:
            StoreUnavailable
        """
        if isinstance(error, NotFound):
            return self._not_found(run, error)
        if isinstance(error, Unauthorized):
            self._key.refused(error)
            return self._postpone(run, str(error), self._settings.watch_seconds)
        if isinstance(error, MalformedRecord):
            self._bad_rows.note("run", [BadRow(run.run_id, error.field, str(error))])
        if not refuses(error):
            return self._postpone(run, str(error), self._wait_s(run))
        if PATIENCE.is_over(run.refusals + 1, run.refused_s):
            return self._fail(run, f"{error} (refused {run.refusals + 1} times in {run.refused_s:.0f} s)")
        return self._postpone(run, str(error), self._wait_s(run), refused=True)

    def _not_found(self, run: WatchedRun, error: NotFound) -> bool:
        """Go on without upstream's word: it does not know the run yet, or no longer, or this answer is a mistake."""
        enough_s = self._settings.unknown_run_seconds
        if not run.known and run.asked_for_s >= enough_s:
            return self._fail(run, f"upstream did not know the run for {enough_s:g} s: {error}")
        if not (run.known and run.over):
            return self._postpone(run, f"{NOT_KNOWN_YET}: {error}", self._wait_s(run))
        if run.refused_s < enough_s:
            reason = f"upstream does not know the run any more: {error}"
            return self._postpone(run, reason, self._wait_s(run), refused=True)
        reason = f"upstream has not known the run any more for {run.refused_s:.0f} s: {error}"
        self._store.unserved(run, reason, self._wait_s(run))
        self._store.seal([run.id], self._settings.seal_quiet_seconds, self._settings.late_check_seconds)
        return True

    def _postpone(self, run: WatchedRun, reason: str, delay_s: float, *, refused: bool = False) -> bool:
        self._store.postpone(run, reason, delay_s, refused=refused)
        return True

    def _fail(self, run: WatchedRun, reason: str) -> bool:
        self._store.fail(run, reason)
        log.warning("run_failed", environment=self._store.environment, run_id=run.run_id, reason=reason)
        return False

    def _wait_s(self, run: WatchedRun) -> float:
        """Return how long a run is not looked at after an attempt that brought nothing."""
        watch_s = self._settings.watch_seconds
        return max(watch_s, backoff(run.attempt, watch_s, self._settings.retry_cap_s, random.random))


def refuses(error: WorkerError) -> bool:
    """Return whether upstream calls our question wrong: a 4xx that has no meaning of its own. Pure."""
    status = error.status if isinstance(error, RequestRefused | SourceUnavailable) else None
    return status is not None and 400 <= status < 500 and status not in TRANSIENT
