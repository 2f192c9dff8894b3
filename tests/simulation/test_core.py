"""The core in virtual time: whatever befalls workers, Postgres and upstream, all is stored once, in order, and sealed."""

from __future__ import annotations

import pytest

from tests.schedules import schedules
from tests.simulation.core import play, wrong
from tests.simulation.mutants import MUTANTS, caught

ALL = 1_000
SCHEDULES = schedules(ALL)
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_every_schedule_ends_with_everything_stored_and_sealed(part: int) -> None:
    each = SCHEDULES // PARTS
    assert wrong(range(part * each, (part + 1) * each)) == []


def test_the_schedules_are_not_harmless() -> None:
    worlds = [play(seed) for seed in range(100)]
    assert sum(world.kills for world in worlds) > 50
    assert sum(world.stops for world in worlds) > 50
    assert sum(world.outages for world in worlds) > 50
    assert sum(world.restores for world in worlds) > 20
    assert sum(world.told_lies for world in worlds) > 300


@pytest.mark.parametrize("mutant", list(MUTANTS))
def test_a_deliberate_fault_is_found(mutant: str) -> None:
    assert caught(mutant) is not None
