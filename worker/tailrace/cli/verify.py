"""`tailrace verify`: check the accounts of the archive, and the contents of what is sealed."""

from __future__ import annotations

from typing import Annotated

import typer

from tailrace.cli.archives import open_archive, the_run
from tailrace.cli.arguments import AsJson, Environment, checked_name
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, table, write_json

RIGHT = frozenset({"generation", "first", "last"})


def verify(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[RUN_ID]", help="Only this run; without it everything.", callback=checked_name),
    ] = None,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Check that every index up to each checkpoint is a chunk or in a hole with its reason, once, and all counts; and
    that what is sealed holds the very texts of which its digest was taken.

    Exit code 1 when something is wrong, each with a line. It reads one snapshot, so it can run at any time; it unpacks
    every chunk that it checks (the functions tailrace.verify_accounts and stream_digest).
    """
    archive = open_archive()
    run = the_run(archive, run_id, environment) if run_id is not None else None
    checked, violations = archive.violations(run)
    if as_json:
        write_json({"streams": checked, "violations": violations})
    elif violations:
        rows = [
            (
                each.run_id,
                each.stream_key,
                each.violation,
                each.generation,
                each.first_index,
                each.last_index,
                each.detail,
            )
            for each in violations
        ]
        table(["run", "stream", "violation", "generation", "first", "last", "detail"], rows, right=RIGHT)
    if violations:
        say(f"tailrace: {len(violations)} violations in {checked} streams")
        raise typer.Exit(Exit.FAILED)
    say(f"All is well: {checked} streams checked.")
