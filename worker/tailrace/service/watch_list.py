"""Which runs of an environment are looked at, and when. Pure; the time is given with every question.

A run that does nothing costs nothing: once it is known it is kept here, not in its row, and what the feed of many runs
tells of is not looked at by itself. The others are, each as often as `ALONE_PER_S` for all of them allows. A run that
is over is looked at once more, when no further keys can come, and then not again until it is sealed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tailrace.store.runs import Standing, WatchedRun

ALONE_PER_S = 25.0
"""How many looks a second known runs get at most that the feed does not tell of, as long as none of them is over."""


@dataclass(slots=True)
class Kept:
    """A known run. Moments are seconds of the clock whose time is given.

    ``read_at``: when its keys were read last, as far as we saw it; None: only its row knows. ``row_read_at``: what that
    said then. ``last_at``: from when on its keys are read for the last time; None: it is not over. ``settled``: they
    have been. ``changed_at``: when upstream last said that something of it has changed, and not what.
    """

    id: int
    run_id: str
    looked_at: float
    read_at: float | None
    row_read_at: datetime | None
    last_at: float | None
    settled: bool
    changed_at: float = -math.inf

    def due_at(self, every_s: float) -> float:
        again = self.looked_at + (0.0 if self.changed_at > self.looked_at else every_s)
        return again if self.last_at is None else min(again, self.last_at)

    def is_last(self, now: float) -> bool:
        """Return whether its keys are to be read for the last time."""
        return self.last_at is not None and not self.settled and self.last_at <= now


class WatchList:
    """The runs of one environment that are watched. Not thread-safe."""

    def __init__(self, watch_s: float) -> None:
        """``watch_s``: how often a known run is looked at where there are few."""
        self._watch_s = watch_s
        self._kept: dict[int, Kept] = {}
        self._settled: set[int] = set()
        self._unnoted: dict[int, float] = {}  # when the feed last said what their rows may not say; it says it once
        self._heard_at = -math.inf  # when the feed spoke last
        self.alone = 0  # how many known runs were to be looked at alone, when some were last chosen
        self._waiting: dict[int, WatchedRun] = {}
        self._ids: dict[int, str] = {}  # upstream's, of all of these and of those that upstream did not know
        self._rows: dict[str, int] = {}  # the other way round

    def __len__(self) -> int:
        return len(self._kept) + len(self._waiting)

    def row_of(self, run_id: str) -> int | None:
        """Return the id of the row of a run that is watched or sought, by upstream's id."""
        return self._rows.get(run_id)

    def drop(self, runs: Iterable[int]) -> None:
        """Let go of runs: whatever comes of them is known otherwise."""
        for run in runs:
            self._kept.pop(run, None)
            self._settled.discard(run)
            self._unnoted.pop(run, None)
            self._waiting.pop(run, None)
            run_id = self._ids.pop(run, None)
            if run_id is not None:
                self._rows.pop(run_id, None)

    def _know(self, run: int, run_id: str) -> None:
        self._ids[run] = run_id
        self._rows[run_id] = run

    # --- runs whose rows say when they are due

    @property
    def waiting(self) -> Collection[int]:
        return self._waiting.keys()

    def wait(self, runs: Iterable[WatchedRun]) -> None:
        """Take up runs that are due, to be looked at in this order."""
        for run in runs:
            self.drop([run.id])
            self._know(run.id, run.run_id)
            self._waiting[run.id] = run

    def count_new(self) -> int:
        """Count those that wait and were not looked for in vain."""
        return sum(not run.sought for run in self._waiting.values())

    def not_told_of(self, told_of: Collection[str]) -> None:
        """Have the runs that wait, and that the feed does not tell of, wait behind what comes now."""
        for run in list(self._waiting.values()):
            if run.run_id not in told_of and not run.known and not run.sought:
                self._waiting[run.id] = replace(run, attempt=1)

    def sought(self, run: int) -> None:
        """Note that upstream does not know a run: its row says when it is looked for again, if the feed does not."""
        self._waiting.pop(run, None)

    # --- runs that are known

    def kept(self, run: int) -> Kept | None:
        return self._kept.get(run)

    @property
    def settled(self) -> Collection[int]:
        """The runs that wait for their streams, to be sealed."""
        return self._settled

    def take(self, standing: Standing, now: float, looked_at: float, heard_at: float | None = None) -> None:
        """Keep a run as it stands after a look, at which its keys were read; let go of it when it needs no watching.

        ``heard_at``: it was the feed that told of it, until this moment. What the feed said after a look was asked for
        is not in what the look brought.
        """
        until = looked_at if heard_at is None else heard_at
        missed = standing.id not in self._ids  # what the feed said meanwhile was not heard
        unnoted_at = self._unnoted.get(standing.id, self._heard_at if missed else until)
        before = self._kept.get(standing.id)
        self.drop([standing.id])
        if not standing.open:
            return
        last_at = None if standing.settles_in_s is None else now + standing.settles_in_s
        self._know(standing.id, standing.run_id)
        read_at = looked_at if standing.noted else None
        self._kept[standing.id] = Kept(
            standing.id, standing.run_id, looked_at, read_at, standing.row_read_at, last_at, standing.settled,
            -math.inf if before is None else before.changed_at,
        )  # fmt: skip
        if standing.settled:
            self._settled.add(standing.id)
        if unnoted_at > until or not standing.noted:
            self._unnoted[standing.id] = max(unnoted_at, until)

    def snapshot(self) -> Mapping[int, Kept]:
        """Return what is kept at this moment, for `reconcile`."""
        return dict(self._kept)

    def reconcile(self, standings: Sequence[Standing], now: float, before: Mapping[int, Kept]) -> None:
        """Keep what the rows said was known and left to us, and nothing else.

        ``before``: what was kept when the rows were asked. What has become of a run since is newer than their answer.
        """
        for standing in standings:
            kept = self._kept.get(standing.id)
            if kept is before.get(standing.id) and standing.id not in self._waiting:
                self.take(standing, now, now if kept is None else kept.looked_at)
                as_before = kept is not None and kept.row_read_at == standing.row_read_at
                self._kept_as_read(standing.id, kept.read_at if kept is not None and as_before else None)
                if not as_before:  # the feed may have spoken of it before it was left to us, or the row has lost it
                    self._unnoted[standing.id] = now
        gone = before.keys() - {standing.id for standing in standings}
        self.drop([run for run in gone if self._kept.get(run) is before[run]])

    def _kept_as_read(self, run: int, read_at: float | None) -> None:
        if (kept := self._kept.get(run)) is not None:
            kept.read_at = read_at

    def heard(self, run_ids: Iterable[str], at: float) -> None:
        """Note that the feed has said something new of these runs, until it is noted in the rows of those we watch."""
        self._heard_at = at
        self._unnoted.update((self._rows[run_id], at) for run_id in run_ids if run_id in self._rows)

    def told_of(self, run_ids: Iterable[str], at: float) -> None:
        """Note that the feed, asked at this time, tells of these runs: what it did not say has not changed."""
        for run_id in run_ids:
            kept = self._kept.get(self._rows.get(run_id, -1))
            if kept is not None and kept.id not in self._unnoted:
                kept.looked_at = kept.read_at = at

    def changed(self, run_ids: Iterable[str], at: float) -> None:
        """Note that something of these runs has changed, as upstream said until this time."""
        for run_id in run_ids:
            if (kept := self._kept.get(self._rows.get(run_id, -1))) is not None:
                kept.changed_at = at

    # --- choosing

    def from_the_feed(self, now: float, told_of: Collection[str]) -> set[str]:
        """Return, of the runs that the feed tells of, those of which its word is to be noted: all that is new, and of
        what waits, and of what is to be looked at for the last time, also what is not."""
        rows = {run for run, kept in self._kept.items() if kept.is_last(now)}
        rows |= self._unnoted | self._waiting.keys()
        return {run_id for run in rows if (run_id := self._ids[run]) in told_of}

    def due(self, now: float, told_of: Collection[str], limit: int, busy: Collection[int]) -> list[Kept]:
        """Choose up to ``limit`` known runs to be looked at alone, those that have waited longest first.

        ``told_of``: those that the feed tells of. ``busy``: the rows of those that are being looked at.
        """
        alone = [kept for kept in self._kept.values() if not kept.settled and kept.run_id not in told_of]
        self.alone = len(alone)
        every_s = max(self._watch_s, len(alone) / ALONE_PER_S)
        due = [(due_at, kept.id) for kept in alone if kept.id not in busy and (due_at := kept.due_at(every_s)) <= now]
        return [self._kept[run] for _, run in sorted(due)[:limit]]

    def turns(self, limit: int, busy: Collection[int]) -> list[WatchedRun]:
        """Choose up to ``limit`` of the runs that wait to be looked at alone; see `turns`."""
        return turns([run for run in self._waiting.values() if run.id not in busy], limit)


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
