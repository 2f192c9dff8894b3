"""docs/fidelity.md and the tests say the same about the 45 traps of protocol §14."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.mutants.rules import MUTANTS

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "fidelity.md"
TRAPS = range(1, 46)
ROW = re.compile(r"^\| (\d+) \| [^|]+ \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`([a-z0-9_/]+\.py)::(test_\w+)`")


def marked() -> dict[int, set[tuple[str, str]]]:
    """Trap → the tests that are marked with it, as path below tests/ and name."""
    found: dict[int, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for trap in filter(None, map(trap_of, node.decorator_list)):
                    found[trap].add((path.relative_to(ROOT / "tests").as_posix(), node.name))
    return found


def trap_of(decorator: ast.expr) -> int | None:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.trap":
        (argument,) = decorator.args
        return ast.literal_eval(argument)  # type: ignore[no-any-return]
    return None


def documented() -> dict[int, set[tuple[str, str]]]:
    """Trap → the tests that the document names for it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return {int(number): set(TEST.findall(tests)) for number, tests in ROW.findall(text)}


def test_every_trap_has_a_test() -> None:
    assert sorted(marked()) == list(TRAPS)


def test_the_document_has_every_trap_and_a_test_that_is_marked_with_it() -> None:
    tests, rows = marked(), documented()
    assert sorted(rows) == list(TRAPS)
    wrong = {trap: sorted(named - tests[trap]) for trap, named in rows.items() if not named or named - tests[trap]}
    assert wrong == {}


def test_the_document_counts_the_mutants() -> None:
    assert f"{len(MUTANTS)} mutants" in DOCUMENT.read_text(encoding="utf-8")


def test_the_marker_takes_the_number_of_a_trap(pytestconfig: pytest.Config) -> None:
    assert any(line.startswith("trap(n):") for line in pytestconfig.getini("markers"))
    assert all(trap in TRAPS for trap in marked())
