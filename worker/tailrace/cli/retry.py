"""`tailrace retry`: take up again what failed or was cancelled."""

from __future__ import annotations

import typer

from tailrace.cli.arguments import AsJson, Environment, RunId
from tailrace.cli.output import say, shown, write_json
from tailrace.cli.runs import changing, runs_of


def retry(run_id: RunId, environment: Environment = None, as_json: AsJson = False) -> None:
    """Take the failed and cancelled streams of a run up again, from where they were.

    Needs the database only; a running worker goes on within seconds. Streams that are sealed stay sealed.
    """
    runs, name = runs_of(environment)
    with changing():
        revived = runs.retry(run_id)
    if revived is None:
        raise typer.BadParameter(f"run {shown(run_id)} is not in the archive (environment {name})")
    if as_json:
        write_json({"run_id": run_id, "environment": name, "streams_revived": revived})
    say(f"{shown(run_id)}: {revived} streams are read again; `tailrace status {shown(run_id)}` shows how far they are.")
