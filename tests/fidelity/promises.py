"""What README and docs/guarantees.md promise, sentence by sentence, and the list of what proves each (`promises.toml`)."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_suffix(".toml")

README = "README.md"
GUARANTEES = "docs/guarantees.md"
SECTIONS = {README: {"What it guarantees", "What it does not promise"}, GUARANTEES: None}
"""Document → the headings whose text promises something; None is all of it."""

FIGURES = {"Struck", "Load"}
"""A column of a table that has nothing but figures."""

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*(]|v\d )")
_PROOF = re.compile(r"\s*\(tests?: [^)]*\)|(?<=\.)\s*Tests?: .*$|^Tests?: .*$")

Proof = list[str] | str
"""Tests as path below tests/ and name, `a/test_b.py::test_c`; or why nothing needs to be proved."""


def listed() -> dict[str, dict[str, Proof]]:
    """Return for each document its excerpts and what proves them."""
    with LIST.open("rb") as file:
        return tomllib.load(file)


def sentences(document: str) -> list[str]:
    """Return what the document says, without the names of tests: each sentence, and each row of a table.

    A row is its cells but the last measured and the tests, joined by `` | ``.
    """
    return in_text((ROOT / document).read_text(encoding="utf-8"), SECTIONS[document])


def in_text(text: str, headings: set[str] | None = None) -> list[str]:
    """Return what is said under these headings; None: under all."""
    return list(_sentences(text, headings))


def of(proof: Proof) -> list[str]:
    """Return the tests of a proof; none where there is only a reason."""
    return [] if isinstance(proof, str) else proof


def tests() -> set[str]:
    """Return every test of the tree, as the list names them."""
    folder = ROOT / "tests"
    return {
        f"{path.relative_to(folder).as_posix()}::{node.name}"
        for path in folder.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def _sentences(text: str, headings: set[str] | None) -> Iterator[str]:
    heading = ""
    for block in _blocks(text):
        if block[0].startswith("#"):
            heading = block[0].lstrip("# ")
        elif headings is None or heading in headings:
            yield from _of_table(block) if block[0].startswith("|") else _of_prose(" ".join(block))


def _blocks(text: str) -> Iterator[list[str]]:
    """A heading, a table, a paragraph or a point of a list."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        begins = line.startswith(("#", "- ")) or (line.startswith("|") and not (block and block[0].startswith("|")))
        if block and (begins or not line.strip() or block[0].startswith("#")):
            yield block
            block = []
        if line.strip():
            block.append(line.strip().removeprefix("- "))


def _of_prose(text: str) -> Iterator[str]:
    for sentence in _SENTENCE_END.split(_PROOF.sub("", text)):
        if sentence := _PROOF.sub("", sentence).strip():
            yield sentence


def _of_table(rows: list[str]) -> Iterator[str]:
    header, _, *body = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    if FIGURES & set(header):
        return
    for row in body:
        if header == ["", "Promise"]:
            yield from _of_prose(row[1])
        else:
            said = [cell for name, cell in zip(header, row, strict=False) if name not in {"Test", "Last measured"}]
            yield _PROOF.sub("", " | ".join(said))
