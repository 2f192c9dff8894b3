"""Tables whose rows are one line each, whatever is in them, and no wider than the terminal. Pure.

What does not fit is cut, names in the middle, sentences at their end; the caller learns which rows were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

GAP = "  "
MORE = "…"


class Cut(Enum):
    """Where a cell is cut that does not fit."""

    NEVER = auto()
    MIDDLE = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Column:
    """``least``: it is not made narrower than so many columns of the terminal."""

    heading: str
    cut: Cut = Cut.NEVER
    right: bool = False
    least: int = 12


@dataclass(frozen=True, slots=True)
class Fitted:
    """The heading first, then a line for each row. ``cut``: under which headings something was cut, by row."""

    lines: list[str]
    cut: dict[int, list[str]]


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> Fitted:
    """Set the rows in columns of their own width, cut to ``width``: sentences first, then names.

    Wider only where what may not be cut does not fit. Names that are different stay different.
    """
    widths = [
        max(cells(text) for text in (column.heading, *(row[at] for row in rows))) for at, column in _each(columns)
    ]
    for kind in (Cut.END, Cut.MIDDLE):
        for at, column in reversed(list(_each(columns))):
            over = sum(widths) + len(GAP) * (len(columns) - 1) - width
            if column.cut is kind and over > 0:
                widths[at] = max(min(widths[at], column.least), cells(column.heading), widths[at] - over)
    shown = [[row[at] for row in rows] for at, _ in _each(columns)]
    for at, column in _each(columns):
        if column.cut is Cut.END:
            shown[at] = [cut_end(text, widths[at]) for text in shown[at]]
        elif column.cut is Cut.MIDDLE:
            shown[at] = _cut_names(shown[at], widths[at])
    cut = {
        number: [column.heading for at, column in _each(columns) if shown[at][number] != row[at]]
        for number, row in enumerate(rows)
    }
    lines = [
        GAP.join(_padded(text, widths[at], columns[at].right) for at, text in enumerate(line)).rstrip()
        for line in ([column.heading for column in columns], *zip(*shown, strict=True))
    ]
    return Fitted(lines, {number: headings for number, headings in cut.items() if headings})


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut_end(text: str, width: int) -> str:
    """Return as much of a text as fits."""
    if cells(text) <= width:
        return text
    return _first(text, width - 1) + MORE if width > 0 else ""


def cut_middle(text: str, width: int) -> str:
    """Return the beginning and the end of a text, as much as fits."""
    if cells(text) <= width:
        return text
    end = _first(text[::-1], max(0, width - 1) // 2)[::-1]
    return cut_end(text[: len(text) - len(end)], width - cells(end)) + end


def _cut_names(names: list[str], width: int) -> list[str]:
    meant: dict[str, str] = {}
    for name in names:
        cut, number = cut_middle(name, width), 1
        while meant.setdefault(cut, name) != name:
            number += 1
            cut = f"{cut_middle(name, width - cells(f'~{number}'))}~{number}"
    by_name = {name: cut for cut, name in meant.items()}
    return [by_name[name] for name in names]


def _first(text: str, width: int) -> str:
    """Return the longest beginning that takes no more than so many columns."""
    taken = 0
    for at, char in enumerate(text):
        taken += cells(char)
        if taken > width:
            return text[:at]
    return text


def _padded(text: str, width: int, right: bool) -> str:
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def _each(columns: Sequence[Column]) -> list[tuple[int, Column]]:
    return list(enumerate(columns))
