"""Every mutant is caught by the test it names, and no test fails without one."""

from __future__ import annotations

import pytest

from tests.mutants.rules import MUTANTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.test(*mutant.arguments)
    mutant.apply(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):  # any other error would be the mutant's own
        mutant.test(*mutant.arguments)
