"""`tailrace status`: how far runs and their streams are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.archives import open_archive, the_run
from tailrace.cli.arguments import AsJson, Environment, checked_name
from tailrace.cli.exits import GOOD_KEY
from tailrace.cli.output import ago, say, shown, size, stderr, table, write_json

if TYPE_CHECKING:
    from tailrace.store.queries import Archive, Halted, RunStatus

RIGHT = frozenset({"streams", "chunks", "bytes", "gaps", "quarantined", "lag", "attempt", "checkpoint"})


def status(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_ID]", help="A run, to see its streams; without it the newest runs.", callback=checked_name
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many runs to show.")] = 50,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest runs, or one run's streams: state, what is stored, what was lost, the last error.

    Environments whose key upstream refuses are shown first.
    """
    archive = open_archive()
    halted = archive.halted(environment)
    if run_id is None:
        runs = archive.newest_runs(limit, environment)
        if as_json:
            write_json({"halted": halted, "runs": runs})
        else:
            _alarm(halted)
            _show_runs(runs)
        return
    run = the_run(archive, run_id, environment)
    if as_json:
        write_json({"halted": halted, "run": run, "streams": archive.streams(run.id)})
    else:
        _alarm([each for each in halted if each.environment == run.environment])
        _show_run(archive, run)


def _alarm(halted: list[Halted]) -> None:
    from rich.panel import Panel
    from rich.text import Text

    for each in halted:
        text = Text(
            f"Nothing of environment {shown(each.environment)} is read since {each.since:%Y-%m-%d %H:%M:%S %Z}.\n"
            f"{shown(each.reason)}\n"
            f"Give the workers {GOOD_KEY}; they go on where they were."
        )
        stderr().print(Panel(text, title="HALTED", border_style="bold red", expand=False))


def _show_runs(runs: list[RunStatus]) -> None:
    if not runs:
        say("tailrace: no runs yet; `tailrace ingest RUN_ID` asks for one")
        return
    now = datetime.now(UTC)
    several = len({run.environment for run in runs}) > 1
    headings = [
        "run",
        "state",
        "status",
        "streams",
        "chunks",
        "bytes",
        "gaps",
        "quarantined",
        "asked for",
        "last error",
    ]
    rows = []
    for run in runs:
        streams = f"{run.sealed_streams}/{run.streams} sealed"
        if run.failed_streams:
            streams += f", {run.failed_streams} failed"
        counts = (run.chunks, size(run.bytes), run.gaps, run.quarantined)
        row = [run.run_id, run.state, run.status, streams, *counts, ago(run.requested_at, now), run.last_error]
        rows.append([run.environment, *row] if several else row)
    table(["environment", *headings] if several else headings, rows, right=RIGHT)


def _show_run(archive: Archive, run: RunStatus) -> None:
    from rich.text import Text

    from tailrace.cli.output import stdout

    now = datetime.now(UTC)
    facts = [f"run {shown(run.run_id)}", run.state, f"upstream says {run.status or 'nothing yet'}"]
    if run.task_identifier:
        facts.append(f"task {shown(run.task_identifier)}")
    facts += [f"environment {shown(run.environment)}", f"asked for {ago(run.requested_at, now)}"]
    if run.selection is not None:
        facts.append(f"only {', '.join(shown(key) for key in run.selection)}")
    stdout().print(Text(" · ".join(facts)))
    if run.last_error:
        stdout().print(Text(f"last error: {shown(run.last_error)}"))
    streams = archive.streams(run.id)
    if not streams:
        say("tailrace: no stream of it is known yet")
        return
    headings = ["stream", "state", "verdict", "chunks", "bytes", "gaps", "quarantined", "lag", "checkpoint", "read by"]
    headings += ["attempt", "next attempt", "last error"]
    rows = []
    for each in streams:
        closed = each.state in ("sealed", "failed", "cancelled")
        later = None if closed or each.worker else f"in {each.next_attempt_s:.0f} s"
        counts = (each.chunks, size(each.bytes), each.gaps, each.quarantined, each.lag, each.checkpoint)
        rows.append(
            [each.stream_key, each.state, each.verdict, *counts, each.worker, each.attempt, later, each.last_error]
        )
    table(headings, rows, right=RIGHT)
