"""`tailrace forget`: delete runs for privacy, everywhere and for good."""

from __future__ import annotations

from typing import Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import AsJson, checked_name, checked_names
from tailrace.cli.output import say, shown, write_json


def forget(
    run_id: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN_ID]...", callback=checked_names, show_default=False, help="Runs to forget."),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(
            "--tag", metavar="TAG", callback=checked_name, help="Every archived run with this tag.", show_default=False
        ),
    ] = None,
    environment: Annotated[
        str, typer.Option("--environment", "-e", metavar="NAME", envvar="TAILRACE_ENVIRONMENT")
    ] = "default",
    allow_again: Annotated[
        bool, typer.Option("--allow-again", help="Lift the tombstone: the run may be archived again.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete runs from the archive: chunks, text, search, quarantine, tags. It cannot be undone.

    A tombstone (a hash of the run id) keeps them from being archived again. Exports that hold a run are listed, not
    changed; backups of the database are not touched either.
    """
    from tailrace.store.engine import create_engine
    from tailrace.store.keeping.forget import Forgetting

    forgetting = Forgetting(create_engine(servers.database(), pool_size=2, application_name="tailrace forget"))
    chosen = list(dict.fromkeys(run_id or []))
    if tag is not None:
        chosen += [each for each in forgetting.runs_with_tag(environment, tag) if each not in chosen]
    elif not chosen:
        raise typer.BadParameter("name runs, or say --tag")
    if allow_again:
        for each in chosen:
            lifted = forgetting.allow_again(environment, each)
            say(f"{shown(each)}: {'may be archived again' if lifted else 'was not forgotten'}.")
        return
    if not yes:
        typer.confirm(f"Delete {len(chosen)} runs of environment {shown(environment)} for good?", abort=True, err=True)
    for each in chosen:
        done = forgetting.forget(environment, each)
        if as_json:
            write_json(done)
            continue
        what = f"{done.streams} streams deleted, nothing is left" if done.archived else "was not archived"
        say(f"{shown(each)}: {what}. It will not be archived again.")
        for path in done.exports:
            say(f"  an export still holds it: {shown(path)}")
