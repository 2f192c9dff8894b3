"""Plays the core in virtual time on every core of the machine, at the lowest priority, while something else runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.core import play
from tests.simulation.mutants import MUTANTS, caught

AT_ONCE = 100


@dataclass
class Simulated:
    """What came of it. ``wrong``: seeds, each with what it shows."""

    count: int = 0
    seconds: float = 0.0
    wrong: list[tuple[int, list[str]]] = field(default_factory=list)
    mutants_not_found: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        """Return all of it, for JSON."""
        return {
            "simulated": self.count,
            "simulated_s": round(self.seconds),
            "simulation_violations": len(self.wrong),
            "mutants": len(MUTANTS),
            "mutants_not_found": self.mutants_not_found,
        }


class Simulations:
    """Begins at once; one process a core, each with seeds of its own."""

    def __init__(self, first: int, seconds: float, least: int, most: int) -> None:
        """Play ``least`` schedules however long they take, and up to ``most`` while ``seconds`` last."""
        self._began = time.monotonic()
        until = self._began + seconds
        # Spawned: a fork of a process with threads may hang.
        self._pool = multiprocessing.get_context("spawn").Pool(initializer=_give_way)
        self._mutants = self._pool.map_async(_got_away, list(MUTANTS))
        jobs = ((first + at, until, at < least) for at in range(0, most, AT_ONCE))
        self._parts = [self._pool.apply_async(_play, job) for job in jobs]

    def result(self) -> Simulated:
        """Wait until all is done."""
        done = Simulated(mutants_not_found=[name for name in self._mutants.get() if name])
        for part in self._parts:
            count, wrong = part.get()
            done.count += count
            done.wrong += wrong
        done.seconds = time.monotonic() - self._began
        self._pool.close()
        self._pool.join()
        return done


def _give_way() -> None:
    """Run only when nobody else wants to. Linux gives each session its share first, so this must be one of its own."""
    os.nice(19)
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def _got_away(mutant: str) -> str | None:
    return mutant if caught(mutant) is None else None


def _play(first: int, until: float, anyway: bool) -> tuple[int, list[tuple[int, list[str]]]]:
    """Play `AT_ONCE` schedules; none when it is late. ``until`` is a time of the clock that all processes share."""
    if time.monotonic() >= until and not anyway:
        return 0, []
    return AT_ONCE, list(_wrong(range(first, first + AT_ONCE)))


def _wrong(seeds: range) -> Iterator[tuple[int, list[str]]]:
    for seed in seeds:
        if found := list(play(seed).violations()):
            yield seed, found
