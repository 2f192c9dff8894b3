"""`tailrace prune`: drop the days of the archive that retention no longer keeps."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import AsJson
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, table, write_json


def prune(
    days: Annotated[
        int | None,
        typer.Option(
            "--days", metavar="DAYS", min=1, help="Keep this many days.", show_default="TAILRACE_RETENTION_DAYS"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and drop nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop whole days of the archive, counted from when their streams were archived.

    A day with a stream that is still open stays. What was cut off is finished the next time.
    """
    from tailrace.config.settings import load
    from tailrace.store.engine import create_engine
    from tailrace.store.keeping.retention import DayFate, Retention

    keep = days or load(os.environ).retention_days
    if keep is None:
        raise typer.BadParameter("say --days, or set TAILRACE_RETENTION_DAYS: without it everything is kept")
    retention = Retention(create_engine(servers.database(), pool_size=2, application_name="tailrace prune"))
    done = retention.preview(keep) if dry_run else retention.prune(keep)
    if as_json:
        write_json([{"day": each.day, "streams": each.streams, "fate": each.fate.value} for each in done])
    elif done:
        table(["day", "streams", "fate"], [[each.day, each.streams, each.fate.value] for each in done])
    else:
        say(f"Nothing is older than {keep} days.")
    if any(each.fate is DayFate.BUSY for each in done):
        raise typer.Exit(Exit.FAILED)
