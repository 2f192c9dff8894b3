"""`tailrace sql`: run a query in a read-only transaction."""

from __future__ import annotations

import csv
import io
import itertools
import sys
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from tailrace.cli.archives import open_archive
from tailrace.cli.arguments import AsJson
from tailrace.cli.output import end_with_reader, say, to_json, write

if TYPE_CHECKING:
    from tailrace.store.ad_hoc import Rows

ROWS_SHOWN = 1_000
"""A table needs all its rows in memory to know its widths."""


def sql(
    statement: Annotated[str, typer.Argument(metavar="STATEMENT", help="One statement; - reads it from stdin.")],
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Give up after this long; 0: never.")
    ] = 60.0,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a heading.")] = False,
    expanded: Annotated[
        bool | None,
        typer.Option(
            "--expanded/--no-expanded",
            "-x/-X",
            help="Print a line for each column instead of a table.",
            show_default="when a row is wider than the terminal",
        ),
    ] = None,
) -> None:
    """Run a query on the archive, in a read-only transaction.

    Views: tailrace.chunks, stream_text, stream_stats, run_overview, message_parts, gaps, quarantined. --json prints one
    object a line, with JSON columns as they are stored. A table shows the first 1 000 rows; --json and --csv have no
    limit. On a terminal, more than fits goes through PAGER (less, unless it is set).
    """
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    if expanded is not None and (as_json or as_csv):
        raise typer.BadParameter("--expanded is for people, --json and --csv are for programs")
    end_with_reader()
    if statement == "-":
        statement = sys.stdin.read()
    page = None
    with open_archive().query(statement, timeout) as answer:
        if as_json:
            _print_json(answer)
        elif as_csv:
            _print_csv(answer)
        else:
            page = _page(answer, expanded)
    if page is not None:  # only now: somebody may look at it for an hour, and the transaction is over
        page.show()
    sys.stdout.flush()


def _print_json(answer: Rows) -> None:
    names = [to_json(name) for name in _distinct(answer.columns)]
    for row in answer.rows:
        fields = (
            f"{name}: {_one_line(value) if json and value is not None else to_json(_finite(value))}"
            for name, json, value in zip(names, answer.json, row, strict=True)
        )
        write(f"{{{', '.join(fields)}}}")


def _print_csv(answer: Rows) -> None:
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="")
    for row in itertools.chain([answer.columns], answer.rows):
        writer.writerow(["" if value is None else _plain(value) for value in row])
        write(line.getvalue())
        line.seek(0)
        line.truncate()


class _Page(NamedTuple):
    """Rows as they are shown to a person, and whether there were more."""

    text: str
    cut: bool

    def show(self) -> None:
        from tailrace.cli.pager import page

        page(self.text)
        if self.cut:
            say(f"tailrace: only the first {ROWS_SHOWN} rows are shown; --json or --csv prints all")


def _page(answer: Rows, expanded: bool | None) -> _Page:
    """Take rows for a person. ``expanded`` None: as they fit."""
    from tailrace.cli.rows import as_records, as_table, is_too_wide

    rows = [[_plain(value) for value in row] for row in itertools.islice(answer.rows, ROWS_SHOWN)]
    if expanded is None:
        expanded = is_too_wide(answer.columns, rows)
    text = (as_records if expanded else as_table)(answer.columns, rows)
    return _Page(text, next(answer.rows, None) is not None)


def _distinct(names: list[str]) -> list[str]:
    """Column names as keys of an object: a second ``count`` becomes ``count_2``."""
    seen: dict[str, int] = {}
    keys = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        keys.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return keys


def _one_line(json_text: str) -> str:
    """JSON text on one line: line ends can stand between its tokens only, where a blank means the same."""
    return json_text.replace("\r", " ").replace("\n", " ")


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become strings."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value


def _plain(value: Any) -> Any:
    """A value as one cell: as in --json, without the quotes around a string."""
    if value is None or (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return value
    encoded = to_json(_finite(value))
    return encoded[1:-1] if encoded.startswith('"') else encoded
