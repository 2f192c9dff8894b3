"""`tailrace cancel`: stop the ingestion of a run."""

from __future__ import annotations

import typer

from tailrace.cli.arguments import AsJson, Environment, RunId
from tailrace.cli.output import say, shown, write_json
from tailrace.cli.runs import changing, runs_of


def cancel(run_id: RunId, environment: Environment = None, as_json: AsJson = False) -> None:
    """Stop a run: its readers leave within 3 s, what is stored stays. `tailrace retry` takes it up again.

    Needs the database only. Cancelling what is over is harmless.
    """
    runs, name = runs_of(environment)
    with changing():
        stopped = runs.cancel(run_id)
    if stopped is None:
        raise typer.BadParameter(f"run {shown(run_id)} is not in the archive (environment {name})")
    if as_json:
        write_json({"run_id": run_id, "environment": name, "streams_stopped": stopped})
    say(f"Cancelled {shown(run_id)}: {stopped} streams stopped; what is stored stays.")
