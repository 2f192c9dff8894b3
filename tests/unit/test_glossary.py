"""What docs/glossary.md says carries a word is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "worker" / "tailrace"
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| .+ \| ?([^|]*) ?\|$", re.MULTILINE)

TABLE = re.compile(r"^CREATE TABLE tailrace\.(\w+) \((.*?)^\)", re.MULTILINE | re.DOTALL)
TABLES = {
    name: set(re.findall(r"^    (\w+)", columns, re.MULTILINE))
    for path in (ROOT / "migrations" / "schema").glob("*.sql")
    for name, columns in TABLE.findall(path.read_text(encoding="utf-8"))
}


def rows() -> list[tuple[str, list[str]]]:
    """Word, and what carries it."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    return [(word, re.findall(r"`([^`]+)`", carried)) for word, carried in ROW.findall(text)]


def names() -> set[str]:
    """Every class, function, field and constant of the package, its modules, and the functions and views in SQL."""
    found = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    found.add(node.name)
                case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                    found.add(name)
    for path in (ROOT / "migrations").rglob("*.sql"):
        found |= set(re.findall(r"(?:FUNCTION|VIEW) tailrace\.(\w+)", path.read_text(encoding="utf-8")))
    return found


def test_what_carries_a_word_is_there() -> None:
    assert {"streams", "runs", "segments", "holes"} <= TABLES.keys()
    known = names()
    for word, carried in rows():
        for name in carried:
            first, _, rest = name.partition(".")
            if first in TABLES:
                assert not rest or rest in TABLES[first], f"{word}: {name}"
            else:
                assert {first, rest or first} <= known, f"{word}: {name}"


def test_a_word_has_one_meaning() -> None:
    words = [word for word, _ in rows()]
    assert len(words) > 60
    assert len(words) == len(set(words))
