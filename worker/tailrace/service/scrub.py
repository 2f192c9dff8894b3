"""Verify the archive in the background: at night a share of its days, those first that were verified longest ago.

One process of the fleet does it at a time; which, and how far it is, is a row of the archive (table verifications), so
another goes on after it dies. After each step, which takes about a tenth of a second, it pauses for so long that it
makes no more load than it may.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from tailrace.store.keeping.mismatches import Found, Mismatches
from tailrace.store.keeping.progress import Place, Progress
from tailrace.store.keeping.verification import ArchiveDay, Step, Verification

__all__ = ["Scrub", "night", "pause_s"]

log = structlog.get_logger("tailrace")

NAME = "scrub"
TERM_S = 600.0
"""Another goes on so long after one that was killed: longer than any step, and its pause, takes."""
LOOK_S = 300.0
"""How often it is looked whether there is something to do."""
ALARMS_A_STEP = 20


class Scrub:
    """The scrub of one process."""

    def __init__(
        self,
        verification: Verification,
        mismatches: Mismatches,
        progress: Progress,
        *,
        hours: tuple[int, int],
        within_days: int,
        load: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``hours``: in which hours of the day (UTC) it may work, see `night`. ``within_days``: a night's share is one
        part in so many. ``load``: which part of the time it may be at work, above 0 to 1."""
        self._verification = verification
        self._mismatches = mismatches
        self._progress = progress
        self._hours = hours
        self._within_days = within_days
        self._load = load
        self._clock = clock

    def turn(self) -> float:
        """Take one step, if it is time and nobody else does; return in how many seconds to come again.

        Raises:
            StoreUnavailable
        """
        began = self._clock()
        tonight = night(self._verification.now(), self._hours)
        if tonight is None:
            return LOOK_S
        place = self._progress.take(TERM_S)
        if place is None:
            return LOOK_S
        day, reached = self._day(place, tonight)
        if day is None:
            self._progress.release()
            return LOOK_S
        step = self._verification.check(reached, self._verification.step_end(reached, day.end_id))
        self._tell(step, self._mismatches.note(step))
        term_s = TERM_S + pause_s(self._clock() - began, self._load)
        if self._progress.reach(step.end, step.checked.streams, term_s) and step.end >= day.end_id:
            self._progress.finish_day()
        return pause_s(self._clock() - began, self._load)

    def _day(self, place: Place, tonight: datetime) -> tuple[ArchiveDay | None, int]:
        """Return the day at work, or the next one, and how far it is; None when tonight's share is done."""
        if place.day is not None and place.reached is not None:
            for day in self._verification.days():
                if day.day == place.day:
                    return day, place.reached
        chosen = self._verification.next_day(tonight, self._within_days)
        if chosen is None or not self._progress.enter(chosen):
            return None, 0
        return chosen, chosen.first_id

    def _tell(self, step: Step, found: Found) -> None:
        for each in self._mismatches.known(ALARMS_A_STEP, only=found.new) if found.new else []:
            log.error(
                "mismatch_found",
                environment=each.environment,
                run_id=each.run_id,
                stream_key=each.stream_key,
                stream_id=each.stream_id,
                violations=each.violations,
                detail=each.detail,
            )
        if len(found.new) > ALARMS_A_STEP:
            log.error("mismatches_found", more=len(found.new) - ALARMS_A_STEP)
        for stream in found.over:
            log.info("mismatch_over", stream_id=stream)


def night(now: datetime, hours: tuple[int, int]) -> datetime | None:
    """Return when the night began that ``now`` is in; None when it is in none.

    ``hours``: the first hour of it and the one that is no more in it (UTC). From 22 to 4 goes over midnight; from 0 to
    24 each day is a night.
    """
    first, end = hours
    began = now.replace(hour=first, minute=0, second=0, microsecond=0)
    if now < began:
        began -= timedelta(days=1)
    return began if now < began + timedelta(hours=(end - first) % 24 or 24) else None


def pause_s(took_s: float, load: float) -> float:
    """Return for how long to pause after a step, in seconds, to be at work for no more than ``load`` of the time."""
    return took_s * (1 - load) / load
