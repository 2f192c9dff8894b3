"""`tailrace backfill`: archive what ran before anybody asked for it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import AsJson, Environment
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, shown, write_json

if TYPE_CHECKING:
    from tailrace.store.backfills import Backfill


def backfill(
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="7d, 12h, or 2026-11-01T12:00:00Z.")],
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="The same.", show_default="now")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Only this task; can be repeated.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only runs with this tag; can be repeated.")] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only runs of this status (COMPLETED, FAILED, ...).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what is missing; ask for nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it to the workers at once.")] = False,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Find the runs of a time that are not archived, and have the workers archive them.

    Keeps within TAILRACE_BACKFILL_RATE_SHARE of the rate limit, and to TAILRACE_BACKFILL_OPEN_RUNS runs at a time. What
    is archived costs nothing, so repeating it is safe. Ctrl-C leaves the rest to the workers.
    """
    from datetime import UTC, datetime

    from tailrace.config.keys import access_to, named
    from tailrace.config.settings import load
    from tailrace.service.backfill import BackfillPolicy, Backfills, check_filters, filter_of, preview
    from tailrace.service.bad_rows import BadRows
    from tailrace.service.environments import upstream_of
    from tailrace.service.key_check import KeyCheck
    from tailrace.service.when import moment
    from tailrace.store.backfills import ListedRuns
    from tailrace.store.engine import create_engine
    from tailrace.store.runs import Runs
    from tailrace.telemetry import configure

    settings = load(os.environ)
    configure(settings.log_format, settings.log_level if os.environ.get("TAILRACE_LOG_LEVEL") else "warning")
    engine = create_engine(servers.database(), pool_size=2, application_name="tailrace backfill")
    access = access_to(settings, named(settings, environment))
    upstream = upstream_of(access, settings)
    store, runs = ListedRuns(engine, access.name), Runs(engine, access.name)
    begin, end = moment(since), moment(until) if until else datetime.now(UTC)
    if begin >= end:
        raise typer.BadParameter("--since must be before --until")
    words = {"tasks": task, "tags": tag, "statuses": status}
    filters = {name: sorted(set(given)) for name, given in words.items() if given}
    if dry_run:
        seen, new = preview(store, upstream, filter_of(begin, end, filters))
        if as_json:
            write_json({"runs": seen, "missing": len(new), "run_ids": [view.run_id for view in new]})
        say(f"{seen} runs, of which {len(new)} are not archived.")
        return
    check_filters(upstream, filter_of(begin, end, filters))
    runs.enrol(access.api_url)
    backfill_id = store.begin_backfill(begin, end, filters)
    say(f"Backfill {backfill_id} has begun; workers take it forward too.")
    policy = BackfillPolicy(settings.backfill_rate_share, settings.backfill_open_runs)
    steps = Backfills(store, upstream, BadRows(access.name), policy, KeyCheck(upstream, runs).refused)
    try:
        while not detach and store.backfill(backfill_id).state == "running":
            if not steps.step(backfill_id):
                time.sleep(0.2)
            _show(store.backfill(backfill_id))
            if reason := runs.halted():
                say(f"\ntailrace: upstream refuses the key: {shown(reason)}")
                raise typer.Exit(Exit.KEY_REFUSED)
    except KeyboardInterrupt:
        say("\nNo longer watching. The workers go on with it.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    done = store.backfill(backfill_id)
    if as_json:
        write_json(done)
    if not detach:
        say(f"\n{done.seen} runs listed, {done.requested} of them asked for. `tailrace status` shows how far they are.")
    if done.state == "failed":
        say(f"tailrace: it failed: {shown(done.last_error)}")
        raise typer.Exit(Exit.INGEST_FAILED)


def _show(now: Backfill) -> None:
    import sys

    if sys.stderr.isatty():
        waiting = f", {now.open_runs} not settled yet" if now.open_runs else ""
        sys.stderr.write(f"\r{now.pages} pages, {now.seen} runs, {now.requested} asked for{waiting}   ")
        sys.stderr.flush()
