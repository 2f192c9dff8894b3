"""How rows are shown to people."""

from __future__ import annotations

import io
import sys

import pytest

from tailrace.cli import pager
from tailrace.cli.rows import as_records, as_table, is_too_wide

COLUMNS = ["id", "text", "nothing"]
ROWS = [[1, "one\ntwo\x1b[31m", None], [22, "", None]]


def test_a_record_has_a_line_for_each_column_and_for_each_line_of_a_text() -> None:
    assert as_records(COLUMNS, ROWS).splitlines() == [
        "-[ 1 ]---",
        "id      | 1",
        "text    | one",
        "        | two\\x1b[31m",
        "nothing |",
        "-[ 2 ]---",
        "id      | 22",
        "text    |",
        "nothing |",
    ]
    assert as_records(COLUMNS, []) == ""
    assert as_records([], [[]]) == "-[ 1 ]-\n"


def test_a_long_name_moves_no_other() -> None:
    lines = as_records(["n" * 50, "b"], [[1, 2]]).splitlines()
    assert lines[1] == f"{'n' * 50} | 1"
    assert lines[2].index("|") == 41


def test_a_table_is_as_it_was() -> None:
    heading, _, first, second = as_table(COLUMNS, ROWS).splitlines()
    assert heading.split() == COLUMNS
    assert first.split() == ["1", "one\\ntwo\\x1b[31m"]
    assert second.split() == ["22"]


def test_nothing_is_too_wide_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not is_too_wide(["a"], [["x" * 100_000]])


def test_without_a_terminal_nothing_is_paged(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pager.page("ä\n" * 1_000)
    sys.stdout.flush()
    assert capfdbinary.readouterr().out == "ä\n".encode() * 1_000
