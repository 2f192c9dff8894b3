"""The command `tailrace`: its verbs, and what every command ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from tailrace.cli.backfill import backfill
from tailrace.cli.cancel import cancel
from tailrace.cli.chunks import chunks
from tailrace.cli.compact import compact
from tailrace.cli.demo import demo
from tailrace.cli.doctor import doctor
from tailrace.cli.down import down
from tailrace.cli.examples import epilog
from tailrace.cli.exits import MEANINGS
from tailrace.cli.export import export
from tailrace.cli.exporter import exporter
from tailrace.cli.forget import forget
from tailrace.cli.health import health
from tailrace.cli.ingest import ingest
from tailrace.cli.key import key
from tailrace.cli.migrate import migrate
from tailrace.cli.prune import prune
from tailrace.cli.replay import replay
from tailrace.cli.retry import retry
from tailrace.cli.roles import roles
from tailrace.cli.serve import serve
from tailrace.cli.sql import sql
from tailrace.cli.status import status
from tailrace.cli.text import text
from tailrace.cli.up import up
from tailrace.cli.verify import verify
from tailrace.cli.worker import worker

SERVERS, READING, RUNNING, KEEPING = "Start here", "Look at the archive", "Ingest", "Keep"

# A blank line between two lines keeps them apart in the help.
EPILOG = "Exit codes:\n\n" + "\n\n".join(f"{code:d}  {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    name="tailrace",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    SERVERS: (demo, up, down, migrate, roles, doctor),
    RUNNING: (ingest, cancel, retry, backfill, worker, exporter, health, replay, serve),
    READING: (status, chunks, text, sql, verify),
    KEEPING: (export, prune, forget, compact),
}

GROUPS: dict[str, tuple[typer.Typer, ...]] = {KEEPING: (key,)}
"""Verbs that have verbs of their own."""

for panel, verbs in PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel, epilog=epilog(verb.__name__))(verb)
for panel, groups in GROUPS.items():
    for group in groups:
        app.add_typer(group, rich_help_panel=panel, epilog=epilog(group.info.name or ""))


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tailrace {version('tailrace')}")
        raise typer.Exit


@app.callback()
def tailrace(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Keep every chunk of Trigger.dev's run streams in your own Postgres: exactly once, in order, byte for byte."""
