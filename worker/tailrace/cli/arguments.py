"""Arguments and options that several verbs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tailrace import arguments
from tailrace.errors import BadArgument


def checked_name(value: str | None) -> str | None:
    """Refuse what can be neither sent nor stored."""
    if value is None:
        return None
    try:
        return arguments.checked_name("the name", value)
    except BadArgument as error:
        raise typer.BadParameter(str(error)) from None


def checked_names(values: list[str] | None) -> list[str] | None:
    """The same for each of a list."""
    for value in values or []:
        checked_name(value)
    return values


def port_option(name: str, help_text: str, default: str) -> Any:
    """Return the option for a port of this machine; ``default``: what counts when it is not given, as help says it."""
    return typer.Option(name, min=1, max=65_535, metavar="N", help=help_text, show_default=default)


def metrics_host_option(name: str) -> Any:
    """Return the option for the address whose port answers `/metrics`."""
    return typer.Option(
        name, metavar="ADDRESS", help="Of which address.", show_default="TAILRACE_METRICS_HOST, else 127.0.0.1"
    )


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
