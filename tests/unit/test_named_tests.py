"""What README and docs/guarantees.md call a proof is there, and is run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
NOT_COLLECTED = {"chaos"}
"""`norecursedirs` of pyproject.toml; what is there is run by a `make` of its own."""


def collected() -> list[Path]:
    return [
        path.relative_to(ROOT)
        for path in TESTS.rglob("test_*.py")
        if not NOT_COLLECTED & set(path.relative_to(TESTS).parts)
    ]


def in_backticks(document: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", (ROOT / document).read_text())


def test_every_promise_of_the_readme_names_tests_that_are_run() -> None:
    promises = [line for line in (ROOT / "README.md").read_text().splitlines() if re.match(r"\| G\d ", line)]
    assert [line.split("|")[1].strip() for line in promises] == [f"G{number}" for number in range(1, 10)]
    for line in promises:
        named = re.findall(r"`(tests/[^`]+)`", line)
        assert named, f"nothing proves {line}"
        assert set(named) <= {str(path) for path in collected()}, line


def test_every_fault_names_a_proof_that_is_run() -> None:
    known = [path.name for path in collected()]
    named = [name for name in in_backticks("docs/guarantees.md") if re.fullmatch(r"test_\w+\.py", name)]
    assert len(named) > 20
    for name in named:
        assert known.count(name) == 1, f"{name}: collected {known.count(name)} times"
    for name in in_backticks("docs/guarantees.md"):
        if name.startswith("tests/"):
            assert (ROOT / name).exists(), name
        if name.startswith("make "):
            assert re.search(rf"^{name.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), name


def test_no_row_of_the_matrix_is_without_proof() -> None:
    proofs, in_matrix = [], False
    for line in (ROOT / "docs/guarantees.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
        if len(cells) == 4 and in_matrix:
            proofs.append(cells[2])
        in_matrix = cells[2:3] == ["Test"] or (in_matrix and line.startswith("|"))
    assert len(proofs) > 10
    for proof in proofs:
        assert re.search(r"`test_\w+\.py`|`make \w+`|`tests/|simulation", proof), proof
