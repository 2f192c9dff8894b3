"""Rows for people: as a table, or, where a row is wider than the screen, one line for each column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tailrace.cli.output import WIDE, made_table, shown, stdout

__all__ = ["as_records", "as_table", "is_too_wide"]

NAME_MAX = 40
"""Columns that a name may take before its value: one that is longer stands further out, and no other with it."""


def is_too_wide(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bool:
    """Return whether a table of these would be wider than the terminal; False when there is no terminal."""
    console = stdout()
    if not console.is_terminal:
        return False
    needed = console.measure(made_table(columns, rows), options=console.options.update(width=WIDE)).maximum
    return needed > console.width


def as_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as the lines of a table."""
    console = stdout()
    with console.capture() as captured:
        console.print(made_table(columns, rows))
    return captured.get()


def as_records(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return each row under a heading with its number, a line for each column and for each further line of a text."""
    width = min(NAME_MAX, max((len(shown(name)) for name in columns), default=0))
    lines: list[str] = []
    for number, row in enumerate(rows, 1):
        lines.append(f"-[ {number} ]{'-' * max(1, width - len(str(number)) - 3)}")
        for name, cell in zip(columns, row, strict=True):
            lines += _record_lines(f"{shown(name):<{width}}", cell)
    return "".join(f"{line}\n" for line in lines)


def _record_lines(name: str, cell: object) -> Iterator[str]:
    text = "" if cell is None else str(cell)
    for number, line in enumerate(text.split("\n")):
        yield f"{name if number == 0 else ' ' * len(name)} | {shown(line)}".rstrip()
