"""`tailrace export`: sealed streams as files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import Environment
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, shown

if TYPE_CHECKING:
    from datetime import datetime


def export(
    to: Annotated[str, typer.Option("--to", metavar="PATH|URI", help="A directory, or s3://bucket/prefix.")],
    form: Annotated[str, typer.Option("--format", metavar="parquet|jsonl")] = "parquet",
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Archived since then: 7d, or 2026-11-01.", show_default=False),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Archived before then.", show_default=False)
    ] = None,
    environment: Environment = None,
    then_prune: Annotated[
        bool,
        typer.Option(
            "--then-prune", help="Drop the days that retention no longer keeps and that the export holds whole."
        ),
    ] = False,
) -> None:
    """Write sealed streams that were not written to this place before, then read them back and compare.

    Safe to interrupt and to repeat: nothing is written twice.
    """
    from tailrace.config.settings import load
    from tailrace.service.when import moment
    from tailrace.store.engine import create_engine
    from tailrace.store.keeping.export import Export, ExportFormat
    from tailrace.store.keeping.retention import Retention

    if form not in list(ExportFormat):
        raise typer.BadParameter("--format must be parquet or jsonl")
    keep_days = load(os.environ).retention_days if then_prune else None
    if then_prune and keep_days is None:
        raise typer.BadParameter("--then-prune needs TAILRACE_RETENTION_DAYS")

    def time_of(text: str | None) -> datetime | None:
        return moment(text) if text else None

    engine = create_engine(servers.database(), pool_size=3, application_name="tailrace export")
    target = to if "://" in to else os.path.abspath(to)  # noqa: PTH100 - a URI is no path
    work = Export(engine, target, ExportFormat(form))
    chunks = 0
    for written in work.run(time_of(since), time_of(until), environment):
        chunks += written.chunks
        say(f"{shown(written.path)}: {written.streams} streams, {written.chunks} chunks")
    wrong = 0
    for verified in work.verify():
        wrong += len(verified.wrong)
        for stream in verified.wrong:
            say(f"tailrace: {shown(verified.path)}: stream {stream} is not what the archive holds")
    say(f"Exported {chunks} chunks." + ("" if wrong else " Read back and equal."))
    if changed := work.changed():
        say(f"tailrace: {changed} streams were opened again since they were exported; export them to a new place.")
    if wrong:
        raise typer.Exit(Exit.FAILED)
    if keep_days is not None:
        for day in Retention(engine).prune(keep_days, exported_to=target.rstrip("/")):
            say(f"{day.day}: {day.streams} streams, {day.fate.value}")
