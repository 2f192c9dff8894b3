"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

LONGEST_BYTES = 1_000
"""Of a run id or stream key: they stand in an index, whose entries Postgres limits to 2 704 bytes."""


def checked_name(value: str | None) -> str | None:
    """Refuse what can be neither sent nor stored; everything else is a name, ``../x`` and ``a b`` too."""
    if value is None:
        return None
    if not value:
        raise typer.BadParameter("must not be empty")
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not UTF-8") from None
    if b"\0" in encoded or len(encoded) > LONGEST_BYTES:
        raise typer.BadParameter(f"must be shorter than {LONGEST_BYTES} bytes and hold no NUL")
    return value


def checked_names(values: list[str] | None) -> list[str] | None:
    """The same for each of a list."""
    for value in values or []:
        checked_name(value)
    return values


RunId = Annotated[
    str,
    typer.Argument(metavar="RUN_ID", help="The run's id upstream, run_...", callback=checked_name, show_default=False),
]
OneStream = Annotated[
    str | None,
    typer.Option("--stream", "-s", metavar="KEY", help="Only this stream.", callback=checked_name, show_default=False),
]
Environment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        "-e",
        metavar="NAME",
        envvar="TAILRACE_ENVIRONMENT",
        help="Only this environment of the archive. Needed when a run id is in several.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
