"""What docs/guarantees.md says of `make chaos` itself: its seeds, its verdict, its numbers."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos import schedule
from tests.chaos.faults import FAULTS
from tests.chaos.schedule import Schedule
from tests.chaos.tally import Tally
from tests.simulation import many, test_core

DOCUMENT = Path(__file__).parents[2] / "docs" / "guarantees.md"
DRAWN = 200

Patch = pytest.MonkeyPatch


class Enough(Exception):
    pass


def drawn(seed: int, patch: Patch) -> list[tuple[int, float]]:
    """Return the faults that a seed draws, each with what it draws for itself; none is carried out."""
    faults: list[tuple[int, float]] = []

    def noting(number: int) -> Callable[[Schedule], str]:
        def note(self: Schedule) -> str:
            faults.append((number, self.dice.random()))
            if len(faults) == DRAWN:
                raise Enough
            return str(number)

        return note

    patch.setattr(schedule, "FAULTS", [noting(number) for number in range(len(FAULTS))])
    patch.setattr(schedule, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None))
    with pytest.raises(Enough):
        Schedule(seed, None, "", Path(), Tally())._befall(math.inf, apart=False)  # type: ignore[arg-type]
    return faults


def test_a_seed_draws_the_same_faults_again(monkeypatch: Patch) -> None:
    assert drawn(7, monkeypatch) == drawn(7, monkeypatch)
    assert drawn(7, monkeypatch) != drawn(8, monkeypatch)


@pytest.mark.parametrize(("violations", "code"), [([], 0), (["seed 7: lost: 3 of k0"], 1)])
def test_any_violation_is_exit_code_1_and_the_last_line_is_one_json_object(
    violations: list[str], code: int, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chaos, "schedules", lambda tally, *_: tally.violations.extend(violations))
    monkeypatch.setattr(sys, "argv", ["chaos", "--seed", "7"])
    assert chaos.main() == code
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["violations"] == len(violations)


@pytest.mark.parametrize(
    "simulated", [many.Simulated(wrong=[(7, ["lost"])]), many.Simulated(mutants_not_found=["no fence"])]
)
def test_so_is_one_in_virtual_time_and_a_deliberate_fault_that_is_not_found(
    simulated: many.Simulated, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(chaos, "schedules", lambda *_: None)
    monkeypatch.setattr(chaos, "Simulations", lambda *_: SimpleNamespace(result=lambda: simulated))
    monkeypatch.setattr(sys, "argv", ["chaos", "--seconds", "0"])
    assert chaos.main() == 1


@pytest.mark.parametrize(
    "said",
    [
        f"For {chaos.FAULTS_S:g} s faults strike",
        f"sealed within\n{schedule.SEAL_S:g} s",
        {0.5: "In half of the schedules each fault waits"}.get(schedule.APART, "?"),
        f"`make test` plays {test_core.ALL // 4} schedules, `make soak` {test_core.ALL:,}",
        f"`make chaos` {chaos.SIMULATED:,} (",
    ],
)
def test_the_document_has_the_numbers_of_the_code(said: str) -> None:
    text = re.sub(r"\s+", " ", DOCUMENT.read_text(encoding="utf-8"))
    assert re.sub(r"[\s,]+", " ", said) in text.replace(",", " ").replace("  ", " ")
