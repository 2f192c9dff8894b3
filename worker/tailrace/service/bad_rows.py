"""Rows about runs that can't be read: each is counted, and each kind told once an hour."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tailrace import metrics
from tailrace.wire.run_fields import BadRow

log = structlog.get_logger("tailrace")

TOLD_AGAIN_S = 3_600.0


class BadRows:
    """Tells of the rows of one environment that can't be read. Thread-safe."""

    def __init__(self, environment: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._environment = environment
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}

    def note(self, where: str, rows: Sequence[BadRow]) -> None:
        """Count rows that could not be read. ``where`` names what they were in: a word of ours."""
        kinds: dict[str, BadRow] = {}
        for row in rows:
            kind = f"{where}: {row.field}"
            metrics.malformed_rows.labels(kind).inc()
            kinds.setdefault(kind, row)
        for kind, row in kinds.items():
            if self._is_news(kind):
                log.warning(
                    "rows_refused", environment=self._environment, kind=kind, run_id=row.run_id, reason=row.reason
                )

    def _is_news(self, kind: str) -> bool:
        now = self._clock()
        with self._lock:
            if now - self._told.get(kind, -TOLD_AGAIN_S) < TOLD_AGAIN_S:
                return False
            self._told[kind] = now
            return True
