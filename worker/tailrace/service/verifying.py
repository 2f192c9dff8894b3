"""Verify a whole archive: day by day, some steps at a time, and on from where an earlier one was cut off.

How far it has come is a row of the archive (table verifications), written every two seconds and when it is interrupted.
A database that takes no writes, a standby say, is verified all the same; then nothing is kept of it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial

from tailrace.errors import TransientError, WorkerError
from tailrace.store.keeping.mismatches import Mismatches
from tailrace.store.keeping.progress import Place, Progress
from tailrace.store.keeping.verification import ArchiveDay, Step, Verification
from tailrace.store.verify import Violation

__all__ = ["ArchiveVerified", "Shown", "Verifying", "VerifyingElsewhere"]

NAME = "all"
TERM_S = 10.0
"""So long after it died nobody else goes on with it."""
KEEP_S = 2.0
WAIT_S = 0.5
LAST_ID = (1 << 63) - 1


class VerifyingElsewhere(TransientError):
    """Somebody else is verifying this archive at the moment."""


@dataclass(frozen=True, slots=True)
class Shown:
    """How far it is. ``day``: the one at work, the ``nth`` of ``days``; ``day_streams`` of its ``day_total`` are done.

    ``streams`` and ``violations`` count over all days.
    """

    nth: int
    days: int
    day: date
    day_streams: int
    day_total: int
    streams: int
    violations: int


@dataclass(frozen=True, slots=True)
class ArchiveVerified:
    """What came of it: also of what was looked at before it was resumed."""

    begun_at: datetime
    resumed: bool
    days: int
    streams: int
    violations: list[Violation]


class Verifying:
    """Verifies an archive once."""

    def __init__(
        self,
        verification: Verification,
        mismatches: Mismatches,
        progress: Progress | None,
        *,
        connections: int = 2,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """``progress``: None where nothing can be written. ``connections``: how many steps are taken at a time; the
        engine needs one more."""
        self._verification = verification
        self._mismatches = mismatches
        self._progress = progress
        self._connections = connections
        self._clock = clock
        self._wait = wait
        self._kept_at = -math.inf

    def run(
        self, since: date | None, *, anew: bool = False, show: Callable[[Shown], None] = lambda _: None
    ) -> ArchiveVerified:
        """Verify the days from ``since`` on (UTC; None: all); go on with one of the same days that was cut off, unless
        ``anew``.

        Raises:
            VerifyingElsewhere
            StoreUnavailable: Postgres did not answer. It can be resumed.
        """
        place, resumed = self._begin(since, anew)
        days = [day for day in self._verification.days() if since is None or day.day >= since]
        todo = [(nth, day) for nth, day in enumerate(days, 1) if _begins(place, day)]
        total = _Total(place.streams, self._found_before(place, days, todo) if resumed else [])
        try:
            for nth, day in todo:
                self._verify_day(day, place, total, partial(_show, show, nth, len(days)))
        except BaseException:
            with suppress(WorkerError):
                if self._progress is not None:
                    self._progress.release()
            raise
        if self._progress is not None:
            self._progress.end()
        return ArchiveVerified(place.begun_at, resumed, len(days), total.streams, total.violations)

    def _begin(self, since: date | None, anew: bool) -> tuple[Place, bool]:
        """Return where to begin, and whether that is in the middle."""
        if self._progress is None:
            return Place(self._verification.now(), since, 0, None, 0, None), False
        until = self._clock() + TERM_S + WAIT_S
        while (place := self._progress.take(TERM_S)) is None:
            if self._clock() >= until:
                raise VerifyingElsewhere
            self._wait(WAIT_S)  # for one that was killed
        if place.day is not None and place.since == since and not anew:
            return place, True
        begun = self._progress.begin(since)
        self._held(begun is not None)
        assert begun is not None
        return begun, False

    def _found_before(
        self, place: Place, days: list[ArchiveDay], todo: list[tuple[int, ArchiveDay]]
    ) -> list[Violation]:
        """Look again at what was found to be wrong before it was cut off."""
        end = todo[0][1].first_id if todo else LAST_ID
        if place.reached is not None:
            end = place.reached
        seen = self._mismatches.seen_since(place.begun_at, days[0].first_id, end) if days else []
        return self._verification.check_streams(seen).violations

    def _verify_day(
        self, day: ArchiveDay, place: Place, total: _Total, show: Callable[[date, int, int, _Total], None]
    ) -> None:
        first, done = day.first_id, 0
        if place.day == day.day and place.reached is not None:
            first, done = place.reached, place.day_streams
        else:
            self._held(self._progress is None or self._progress.enter(day))
        of_day = done + self._verification.streams_from(first, day.end_id)
        with closing(self._steps(first, day.end_id)) as steps:
            for step in steps:
                done += step.checked.streams
                total.violations += step.checked.violations
                show(day.day, done, of_day, total)
        total.streams += done
        self._held(self._progress is None or self._progress.finish_day())

    def _steps(self, first: int, end: int) -> Generator[Step, None, None]:
        """Take the steps of a range, some at a time; each is noted, and comes when all before it are done."""
        kept, unkept = first, 0
        under_way: deque[Future[Step]] = deque()
        with ThreadPoolExecutor(self._connections, thread_name_prefix="tailrace-verify") as pool:
            try:
                while first < end or under_way:
                    while first < end and len(under_way) < 2 * self._connections:
                        step_end = self._verification.step_end(first, end)
                        under_way.append(pool.submit(self._verification.check, first, step_end))
                        first = step_end
                    step = self._result(under_way[0])
                    under_way.popleft()
                    if self._progress is not None:
                        self._mismatches.note(step)
                    kept, unkept = step.end, unkept + step.checked.streams
                    if self._clock() - self._kept_at >= KEEP_S:
                        self._keep(kept, unkept)
                        unkept = 0
                    yield step
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                with suppress(WorkerError):
                    self._keep(kept, unkept)
                raise
            self._keep(kept, unkept)

    def _result(self, step: Future[Step]) -> Step:
        """Wait for a step, which can be long, and go on holding the verification meanwhile."""
        while not wait([step], KEEP_S).done:
            self._held(self._progress is None or self._progress.take(TERM_S) is not None)
        return step.result()

    def _keep(self, reached: int, more: int) -> None:
        """Note how far it is."""
        self._kept_at = self._clock()
        self._held(self._progress is None or self._progress.reach(reached, more, TERM_S))

    def _held(self, held: bool) -> None:
        if not held:
            raise VerifyingElsewhere


@dataclass(slots=True)
class _Total:
    """Of all days so far."""

    streams: int
    violations: list[Violation]


def _show(show: Callable[[Shown], None], nth: int, days: int, day: date, done: int, of_day: int, total: _Total) -> None:
    show(Shown(nth, days, day, done, of_day, total.streams + done, len(total.violations)))


def _begins(place: Place, day: ArchiveDay) -> bool:
    """Whether something of this day is still to be looked at."""
    if place.day is None or day.day > place.day:
        return True
    return day.day == place.day and place.reached is not None
