"""How commands print: results to stdout, everything said about them to stderr."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""The control characters but for the tab and the end of a line."""
WIDE = 10_000
"""Columns of a table that no person looks at: nothing is cut."""


def say(text: str) -> None:
    """Print a message for the person at the terminal, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Write a line of the result, in UTF-8 whatever the locale says."""
    write_bytes(text.encode("utf-8", "surrogateescape"))


def write_bytes(line: bytes) -> None:
    """Write a line of the result as it is; on a terminal, what that would obey is escaped: chunks are others' texts."""
    if sys.stdout.isatty():
        line = _OBEYED.sub(lambda found: _escaped(found[0]), line.decode("utf-8", "replace")).encode()
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.write(b"\n")


def write_json(value: object) -> None:
    """Write one JSON text on one line."""
    write(to_json(value))


def to_json(value: object) -> str:
    """Encode on one line; dataclasses become objects, times ISO 8601."""
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "), default=_plain, allow_nan=False)


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    return str(value)


def end_with_reader() -> None:
    """End quietly when the reader of our output ends first (``| head``), as other commands do."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def shown(text: object) -> str:
    """Text from outside on one line of a terminal: what a terminal would obey or not show is escaped."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: frozenset[str] = frozenset()) -> None:
    """Print a table to stdout; columns named in ``right`` are set to the right. None is shown as nothing."""
    stdout().print(made_table(headings, rows, right=right))


def made_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: frozenset[str] = frozenset()
) -> Table:
    """Return what `table` prints."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        made.add_column(Text(heading), justify="right" if heading in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text("" if cell is None else shown(cell)) for cell in row))
    return made


def stdout() -> Console:
    """A console on stdout; as wide as needed when that is no terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, highlight=False, markup=False, width=None if terminal else WIDE)


def stderr() -> Console:
    """A console on stderr."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, width=None if sys.stderr.isatty() else WIDE)


def size(count: int) -> str:
    """A number of bytes for people: ``1.3 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def ago(moment: datetime | None, now: datetime) -> str:
    """A time for people: how long ago it was."""
    if moment is None:
        return ""
    seconds = max(0.0, (now - moment).total_seconds())
    for limit, length, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"
