"""Watching in virtual time: whatever befalls those who watch, each run is sealed, after its end, with all of its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest

from tailrace.service.watch_list import Kept, WatchList
from tailrace.store.runs import Seen, Standing
from tests.schedules import schedules
from tests.simulation.watchers import Row, Store, first_wrong, play, wrong

SCHEDULES = schedules(2_000)
PARTS = 2
SEEDS = range(2_000)
"""How far each deliberate fault is looked for."""


@pytest.mark.parametrize("part", range(PARTS))
def test_every_run_is_sealed_after_its_end_with_all_of_its_keys(part: int) -> None:
    each = SCHEDULES // PARTS
    assert wrong(range(part * each, (part + 1) * each)) == []


def test_the_schedules_are_not_harmless() -> None:
    worlds = [play(seed) for seed in range(100)]
    assert sum(world.deaths for world in worlds) > 50
    assert sum(world.outages for world in worlds) > 20
    assert sum(world.restores for world in worlds) > 20
    assert sum(world.shared for world in worlds) > 300
    assert sum(world.listed for world in worlds) > 300


# --- deliberate faults

take, told_of, reconcile, observe = WatchList.take, WatchList.told_of, WatchList.reconcile, Store.observe


def look_knows_all(
    self: WatchList, standing: Standing, now: float, looked_at: float, heard_at: float | None = None
) -> None:
    self._unnoted.pop(standing.id, None)
    self._heard_at = -1e9
    take(self, standing, now, looked_at, heard_at)


def told_is_read(self: WatchList, run_ids: Any, at: float) -> None:
    self._unnoted.clear()
    told_of(self, run_ids, at)


def left_to_us_is_known(self: WatchList, standings: Sequence[Standing], now: float, before: Mapping[int, Kept]) -> None:
    reconcile(self, standings, now, before)
    self._unnoted.clear()


def read_when_left_to_us(
    self: WatchList, standings: Sequence[Standing], now: float, before: Mapping[int, Kept]
) -> None:
    reconcile(self, standings, now, before)
    for kept in self._kept.values():
        kept.read_at = kept.looked_at


def row_is_what_it_was(self: Store, seen: Mapping[int, Seen], quiet_s: float, worker: UUID) -> Any:
    for each in seen.values():
        row = next((row for row in self._world.rows.values() if f"run_{row.id}" == each.view.run_id), None)
        if row is not None and row.keys_read_at is not None and each.read_at is not None:
            row.keys_read_at = max(row.keys_read_at, each.read_at)
    return observe(self, seen, quiet_s, worker)


def all_is_noted(self: Store, seen: Mapping[int, Seen], quiet_s: float, worker: UUID) -> Any:
    standings, new = observe(self, seen, quiet_s, worker)
    return [each.__class__(*(getattr(each, name) for name in each.__slots__[:-1]), True) for each in standings], new


def dated_when_noted(self: Store, seen: Mapping[int, Seen], quiet_s: float, worker: UUID) -> Any:
    """How long ago is said, and on its way that becomes longer."""
    before = self._world.now
    self._world.talk(self._worker)
    late_s = self._world.now - before
    said = {
        run: replace(
            each, asked_at=each.asked_at + late_s, read_at=None if each.read_at is None else each.read_at + late_s
        )
        for run, each in seen.items()
    }
    return observe(self, said, quiet_s, worker)


FAULTS: dict[str, Callable[[], Any]] = {
    "what the feed says is not kept": lambda: patch.object(WatchList, "heard", lambda self, run_ids, at: None),
    "a look knows all that the feed said": lambda: patch.object(WatchList, "take", look_knows_all),
    "what was told of was read": lambda: patch.object(WatchList, "told_of", told_is_read),
    "what was left to us was known": lambda: patch.object(WatchList, "reconcile", left_to_us_is_known),
    "what was left to us was read then": lambda: patch.object(WatchList, "reconcile", read_when_left_to_us),
    "a row that went back is what it was": lambda: patch.object(Store, "observe", row_is_what_it_was),
    "what was locked is noted": lambda: patch.object(Store, "observe", all_is_noted),
    "dated when it is noted": lambda: patch.object(Store, "observe", dated_when_noted),
    "no quiet time": lambda: patch.object(Row, "settles_at", lambda self: self.terminal_at),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_deliberate_fault_is_found(fault: str) -> None:
    with FAULTS[fault]():
        assert first_wrong(SEEDS) is not None
