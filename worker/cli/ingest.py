"""`tailrace ingest`: ask for a run, and see it through if wanted."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated, Never

import typer

from worker.cli import places
from worker.cli.archives import open_archive
from worker.cli.arguments import AsJson, RunId, checked_names
from worker.cli.exits import Exit
from worker.cli.output import say, shown, write_json
from worker.cli.progress import progress_view
from worker.cli.waiting import Before, End, Outcome, Wanted, wait_settled

if TYPE_CHECKING:
    from worker.settings import Settings

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
    as_json: AsJson = False,
) -> None:
    """Ask for a run to be archived: every stream it has or will have, until each is sealed.

    The request goes to the workers through the broker. Asking twice is harmless. Progress goes to stderr; with --wait
    (or --local) Ctrl-C ends the waiting (or the reading), and the same command goes on where it was.
    """
    from worker.settings import load

    settings = load(os.environ)
    keys = list(dict.fromkeys(stream)) if stream else None
    if local:
        outcome = _ingest_here(settings, run_id, keys)
    else:
        before = _ask(settings, run_id, keys, wait=wait)
        if not wait:
            if as_json:
                write_json({"run_id": run_id, "streams": keys, "state": "enqueued"})
            say(f"Asked for {shown(run_id)}. `tailrace status {shown(run_id)}` shows how far it is.")
            return
        outcome = _wait_for_workers(settings, run_id, keys, before)
    _report(run_id, outcome, as_json)


def _ask(settings: Settings, run_id: str, keys: list[str] | None, *, wait: bool) -> Before | None:
    """Send the request; give the run as it was before, if anybody will want to know."""
    from worker.cli.broker import check_broker, sending

    places.broker()
    before = None
    if wait:
        found = open_archive().runs_named(run_id, settings.environment)
        before = Before(found[0].state, found[0].requested_at) if found else None
    check_broker()
    with sending():
        from worker.tasks import ingest_run

        ingest_run.delay(run_id, streams=keys)
    return before


def _wait_for_workers(settings: Settings, run_id: str, keys: list[str] | None, before: Before | None) -> Outcome:
    try:
        with progress_view() as view:
            return wait_settled(open_archive(), _wanted(settings, run_id, keys, before), view)
    except KeyboardInterrupt:
        say(f"No longer waiting. The workers go on; `tailrace status {shown(run_id)}` shows how far they are.")
        raise typer.Exit(Exit.INTERRUPTED) from None


def _ingest_here(settings: Settings, run_id: str, keys: list[str] | None) -> Outcome:
    """Ingest in this process until the run is settled or somebody interrupts."""
    from worker.local import LocalIngestion
    from worker.telemetry import configure

    settings.key()
    # What is going on is shown as progress; what goes wrong is logged all the same.
    configure(settings.log_format, settings.log_level if os.environ.get("TAILRACE_LOG_LEVEL") else "warning")
    ingestion = LocalIngestion(settings, places.database())
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        ingestion.check_upstream(run_id)
        ingestion.begin(run_id, keys)
        if settings.seal_quiet_seconds > 2:
            say(
                "Reading here. A stream is sealed when its run is over and nothing new came for "
                f"{settings.seal_quiet_seconds:g} s (TAILRACE_SEAL_QUIET_SECONDS). "
                "Ctrl-C stops and keeps what is there."
            )
        with progress_view() as view:
            return wait_settled(open_archive(), _wanted(settings, run_id, keys, None), view)
    except KeyboardInterrupt:
        say("Stopping: committing what was read ...")
        ingestion.stop()
        say(f"Stopped. The same command goes on from there; `tailrace status {shown(run_id)}` shows what is stored.")
        raise typer.Exit(Exit.INTERRUPTED) from None
    finally:
        ingestion.stop()


def _wanted(settings: Settings, run_id: str, keys: list[str] | None, before: Before | None) -> Wanted:
    return Wanted(run_id, settings.environment, keys, settings.seal_quiet_seconds, settings.unknown_run_seconds, before)


def _interrupt(*_: object) -> Never:
    raise KeyboardInterrupt


def _report(run_id: str, outcome: Outcome, as_json: bool) -> None:
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
        say("tailrace: give the workers a good TRIGGER_SECRET_KEY and restart them; they go on where they were.")
    else:
        say(f"tailrace: {name} failed: {shown(outcome.reason)}")
    raise typer.Exit(CODES[outcome.end])
