"""Answers to those who may not read. What may have been a guess is answered late, for so many at once and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from starlette.responses import Response
from starlette.types import Receive

from tailrace.serve import answers
from tailrace.serve.admission import NotAdmitted
from tailrace.serve.body import unless_left

__all__ = ["LateAnswers"]

log = structlog.get_logger("tailrace")

LATE_S = 1.0
"""A guess costs so long."""
MOST_AT_ONCE = 100
"""So many are kept waiting: some megabytes of connections. Any more are answered at once, and their connection ends."""
TOLD_EVERY_S = 60.0


class LateAnswers:
    """Of one application. One event loop."""

    def __init__(
        self,
        late_s: float = LATE_S,
        most_at_once: int = MOST_AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._late_s = late_s
        self._most_at_once = most_at_once
        self._clock = clock
        self._waiting = 0
        self._count = 0
        self._told_at: float | None = None

    @property
    def waiting(self) -> int:
        """How many are kept waiting now."""
        return self._waiting

    async def answer(self, refused: NotAdmitted, receive: Receive) -> Response:
        """Return the 401, late if it was a guess; whoever leaves before is not waited for."""
        self._tell(refused)
        response = answers.unauthorized(refused.said)
        if not refused.guessed or not self._late_s:
            return response
        if self._waiting >= self._most_at_once:
            response.headers["connection"] = "close"
            return response
        self._waiting += 1
        try:
            await unless_left(receive, asyncio.sleep(self._late_s))
        finally:
            self._waiting -= 1
        return response

    def _tell(self, refused: NotAdmitted) -> None:
        """One line a minute: whoever guesses must not fill the log."""
        self._count += 1
        now = self._clock()
        if self._told_at is None or now - self._told_at >= TOLD_EVERY_S:
            log.warning("access_refused", count=self._count, reason=refused.said, subject=refused.subject)
            self._count, self._told_at = 0, now
