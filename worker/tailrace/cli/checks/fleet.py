"""Who works: the workers that run, their slots, the beat, the environments that are halted. From Postgres alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailrace.cli.checks.finding import Finding, fine, note, problem
from tailrace.cli.exits import GOOD_KEY, Exit

if TYPE_CHECKING:
    from tailrace.store.diagnosis import Diagnosis, Fleet, Schedule
    from tailrace.store.queries import Archive

OVERDUE_S = 30.0
"""A worker chooses what is due within two seconds, and a killed one's streams are taken over within 15."""
MISSED = 3
"""So many times an entry of a schedule has not come: one can be late."""
FORGOTTEN_S = 30 * 86_400.0
"""A schedule that has not come for so long was given up on purpose."""

HALTED = problem(
    "environment-halted",
    "key",
    "environment {environment} is halted since {since:%Y-%m-%d %H:%M:%S %Z}: {reason}",
    "Upstream refused the key, asked twice for different things. Nothing of this environment is read.",
    f"Give the workers {GOOD_KEY}.",
    Exit.KEY_REFUSED,
)
NONE_NEEDED = note(
    "workers-none",
    "workers",
    "none runs",
    "Nothing waits. What is asked for from now on waits for a worker.",
    "Start one with `tailrace worker`; requests wait for it.",
)
NONE_RUNS = problem(
    "workers-none-and-waiting",
    "workers",
    "none runs, and {waiting} wait",
    "Nothing is archived. Upstream forgets v1 streams after a day, and keeps their last 1 000 entries only.",
    "Start one with `tailrace worker`.",
)
SLOTS_TAKEN = problem(
    "slots-taken",
    "workers",
    "all {slots} slots are taken, and {overdue} streams wait for one",
    "They are read in turns. A v1 stream that waits for too long loses what upstream trims.",
    "Run more workers, or raise TAILRACE_SLOTS.",
)
NO_BEAT = problem(
    "beat-gone",
    "beat",
    "the schedule's {name} last came {ago} ago, and should come every {every}",
    "No beat runs any more, or it sends to another Redis than the workers listen to. Workers go on by themselves but "
    "for the nightly backfill, the net under everything that was missed.",
    "Start one `celery -A tailrace.celery beat` (or your own). If none is wanted any more, "
    "DELETE FROM tailrace.schedules.",
)
RUNNING = fine("workers-running", "workers", "{workers} running, {reading} of {slots} slots taken")


def halted(archive: Archive) -> Iterator[Finding]:
    """Look for environments whose key upstream refused a worker."""
    for each in archive.halted():
        yield HALTED.found(environment=each.environment, since=each.since, reason=each.reason)


def workers(fleet: Fleet) -> Iterator[Finding]:
    """Compare the workers with what waits for them."""
    waiting = [
        f"{count} {what}" for count, what in ((fleet.asked, "runs"), (fleet.overdue, "streams")) if count
    ]  # up to 10 000 of each
    if not fleet.workers:
        yield NONE_RUNS.found(waiting=" and ".join(waiting)) if waiting else NONE_NEEDED.found()
        return
    yield RUNNING.found(workers=fleet.workers, reading=fleet.reading, slots=fleet.slots)
    if fleet.reading >= fleet.slots and fleet.overdue:
        yield SLOTS_TAKEN.found(slots=fleet.slots, overdue=fleet.overdue)


def beat(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Look for a schedule that has come before and comes no more; one that never came can't be missed.

    Only the entry that should come most often is told: they come from one beat.
    """
    missed = [each for each in diagnosis.schedules() if MISSED * each.every_s < each.ago_s < FORGOTTEN_S]
    for each in sorted(missed, key=_often)[:1]:
        yield NO_BEAT.found(name=each.name, ago=_length(each.ago_s), every=_length(each.every_s))


def _often(schedule: Schedule) -> float:
    return schedule.every_s


def _length(seconds: float) -> str:
    for limit, length, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"
