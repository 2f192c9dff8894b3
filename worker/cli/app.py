"""The command `tailrace`: its verbs, and what every command ends with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from worker.cli.backfill import backfill
from worker.cli.cancel import cancel
from worker.cli.chunks import chunks
from worker.cli.compact import compact
from worker.cli.demo import demo
from worker.cli.doctor import doctor
from worker.cli.down import down
from worker.cli.exits import MEANINGS
from worker.cli.export import export
from worker.cli.forget import forget
from worker.cli.ingest import ingest
from worker.cli.migrate import migrate
from worker.cli.prune import prune
from worker.cli.replay import replay
from worker.cli.retry import retry
from worker.cli.roles import roles
from worker.cli.sql import sql
from worker.cli.status import status
from worker.cli.text import text
from worker.cli.up import up
from worker.cli.verify import verify
from worker.cli.worker import worker

SERVERS, READING, RUNNING, KEEPING = "Start here", "Look at the archive", "Ingest", "Keep"

# A blank line between two lines keeps them apart in the help.
EPILOG = "Exit codes:\n\n" + "\n\n".join(f"{code:d}  {meaning}" for code, meaning in MEANINGS.items())

app = typer.Typer(
    name="tailrace",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    SERVERS: (demo, up, down, migrate, roles, doctor),
    RUNNING: (ingest, cancel, retry, backfill, worker, replay),
    READING: (status, chunks, text, sql, verify),
    KEEPING: (export, prune, forget, compact),
}

for panel, verbs in PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)


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
