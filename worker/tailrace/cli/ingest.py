"""`tailrace ingest`: ask for a run, and see it through if wanted."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Never

import typer

from tailrace.cli import servers
from tailrace.cli.archives import open_archive
from tailrace.cli.arguments import AsJson, Environment, RunId, checked_names
from tailrace.cli.exits import GOOD_KEY, Exit
from tailrace.cli.output import say, shown, write_json
from tailrace.cli.progress import progress_view
from tailrace.cli.waiting import Before, End, Waited, Wanted, wait_settled

if TYPE_CHECKING:
    from tailrace.config.settings import Settings

CODES = {End.SEALED: Exit.OK, End.FAILED: Exit.INGEST_FAILED, End.REFUSED: Exit.KEY_REFUSED}


def ingest(
    run_id: RunId,
    stream: Annotated[
        list[str] | None,
        typer.Option(
            "--stream",
            "-s",
            metavar="KEY",
            callback=checked_names,
            help="Only this stream; can be given several times.",
            show_default="every stream of the run",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until the run is sealed or has failed.")] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Ingest in this process, without broker or worker; implies --wait.")
    ] = False,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Ask for a run to be archived: every stream it has or will have, until each is sealed.

    The request goes to the workers through the broker. Asking twice is harmless. Progress goes to stderr; with --wait
    (or --local) Ctrl-C ends the waiting (or the reading), and the same command goes on where it was.
    """
    from tailrace.config.keys import named
    from tailrace.config.settings import load

    settings = load(os.environ)
    keys = list(dict.fromkeys(stream)) if stream else None
    name = named(settings, environment)
    wanted = Wanted(run_id, name, keys, settings.seal_quiet_seconds, settings.unknown_run_seconds)
    if local:
        outcome = _ingest_here(settings, wanted)
    else:
        # Where nothing here says which environment, the workers know theirs.
        told = name if environment or settings.keys_file is not None else None
        before = _ask(wanted, told, wait=wait)
        if not wait:
            if as_json:
                write_json({"run_id": run_id, "streams": keys, "state": "enqueued"})
            say(f"Asked for {shown(run_id)}. `tailrace status {shown(run_id)}` shows how far it is.")
            return
        outcome = _wait_for_workers(replace(wanted, before=before))
    _report(run_id, outcome, as_json)


def _ask(wanted: Wanted, environment: str | None, *, wait: bool) -> Before | None:
    """Send the request; return the run as it was before, if anybody will want to know."""
    from tailrace.cli.broker import check_broker, sending

    url = servers.broker()
    before = None
    if wait:
        found = open_archive().runs_named(wanted.run_id, wanted.environment)
        before = Before(found[0].state, found[0].requested_at) if found else None
    check_broker(url)
    with sending():
        from tailrace.tasks import ingest_run

        which = {"environment": environment} if environment else {}
        ingest_run.delay(wanted.run_id, streams=wanted.keys, **which)
    return before


def _wait_for_workers(wanted: Wanted) -> Waited:
    try:
        with progress_view() as view:
            return wait_settled(open_archive(), wanted, view)
    except KeyboardInterrupt:
        say(f"No longer waiting. The workers go on; `tailrace status {shown(wanted.run_id)}` shows how far they are.")
        raise typer.Exit(Exit.INTERRUPTED) from None


def _ingest_here(settings: Settings, wanted: Wanted) -> Waited:
    """Ingest in this process until the run is settled or somebody interrupts."""
    from tailrace.service.local import LocalIngestion
    from tailrace.telemetry import configure

    # What is going on is shown as progress; what goes wrong is logged all the same.
    configure(settings.log_format, settings.log_level if os.environ.get("TAILRACE_LOG_LEVEL") else "warning")
    run_id = wanted.run_id
    ingestion = LocalIngestion(settings, servers.database(), wanted.environment)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        ingestion.check_upstream(run_id)
        ingestion.begin(run_id, wanted.keys)
        if settings.seal_quiet_seconds > 2:
            say(
                "Reading here. A stream is sealed when its run is over and nothing new came for "
                f"{settings.seal_quiet_seconds:g} s (TAILRACE_SEAL_QUIET_SECONDS). "
                "Ctrl-C stops and keeps what is there."
            )
        with progress_view() as view:
            return wait_settled(open_archive(), wanted, view)
    except KeyboardInterrupt:
        say("Stopping: committing what was read ...")
        ingestion.stop()
        say(f"Stopped. The same command goes on from there; `tailrace status {shown(run_id)}` shows what is stored.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        ingestion.stop()


def _interrupt(*_: object) -> Never:
    raise KeyboardInterrupt


def _report(run_id: str, outcome: Waited, as_json: bool) -> None:
    if as_json:
        write_json(
            {
                "run_id": run_id,
                "state": outcome.end.value,
                "reason": outcome.reason or None,
                "run": outcome.run,
                "streams": outcome.streams,
            }
        )
    name = shown(run_id)
    if outcome.end is End.SEALED:
        chunks = sum(each.chunks for each in outcome.streams)
        gaps = sum(each.gaps for each in outcome.streams)
        lost = f" Upstream had dropped something before it was read: {gaps} gaps, see tailrace.gaps." if gaps else ""
        say(f"Sealed: {name}, {len(outcome.streams)} streams, {chunks} chunks.{lost}")
    elif outcome.end is End.REFUSED:
        say(f"tailrace: upstream refuses the key, so nothing more is read: {shown(outcome.reason)}")
        say(f"tailrace: give the workers {GOOD_KEY}; they go on where they were.")
    else:
        say(f"tailrace: {name} failed: {shown(outcome.reason)}")
    raise typer.Exit(CODES[outcome.end])
