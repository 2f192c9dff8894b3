"""`tailrace verify`: check the accounts of the archive, and the contents of what is sealed."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from datetime import UTC
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.archives import the_run
from tailrace.cli.arguments import AsJson, Environment, checked_name
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, table, write_json
from tailrace.cli.progress import DayBar, on_terminal

if TYPE_CHECKING:
    from datetime import date

    import sqlalchemy as sa

    from tailrace.service.verifying import ArchiveVerified
    from tailrace.store.keeping.verification import Verification
    from tailrace.store.queries import Archive
    from tailrace.store.verify import Violation

RIGHT = frozenset({"generation", "first", "last"})
COLUMNS = ("run_id", "stream_key", "violation", "generation", "first_index", "last_index", "detail")


def verify(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[RUN_ID]", help="Only this run; without it everything.", callback=checked_name),
    ] = None,
    environment: Environment = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="Days (UTC) archived since then: 7d, or 2026-11-01.", show_default=False
        ),
    ] = None,
    connections: Annotated[
        int, typer.Option("--connections", "-c", min=1, max=64, help="How many steps are taken at a time.")
    ] = 2,
    anew: Annotated[bool, typer.Option("--anew", help="Do not go on with one that was interrupted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check that every index up to each checkpoint is a chunk or in a hole with its reason, once, and all counts; and
    that what is sealed holds the very texts of which its digest was taken.

    Exit code 1 when something is wrong, each with a line. It can run at any time. The archive is looked at day by day,
    in steps of up to 1 000 streams; interrupted, the same command goes on where it was. What is wrong is kept in
    tailrace.mismatches until it is found to be mended.
    """
    from tailrace.store.engine import create_engine
    from tailrace.store.queries import Archive

    if run_id is not None and since is not None:
        raise typer.BadParameter("a run or --since, not both")
    engine = create_engine(
        servers.database(), pool_size=connections + 2, max_overflow=0, application_name="tailrace verify"
    )
    archive = Archive(engine)
    if run_id is not None:
        streams, violations = _verify_run(engine, archive, run_id, environment)
        found = {"streams": streams, "violations": violations}
    else:
        verified = _verify_all(engine, archive, _day(since), connections, anew)
        streams, violations = verified.streams, verified.violations
        found = {"streams": streams, "days": verified.days, "begun_at": verified.begun_at, "violations": violations}
    if as_json:
        write_json(found)
    elif violations:
        headings = ["run", "stream", "violation", "generation", "first", "last", "detail"]
        table(headings, [[getattr(each, name) for name in COLUMNS] for each in violations], right=RIGHT)
    if violations:
        say(f"tailrace: {len(violations)} violations in {streams} streams")
        raise typer.Exit(Exit.FAILED)
    say(f"All is well: {streams} streams checked.")


def _day(since: str | None) -> date | None:
    from tailrace.service.when import moment

    return moment(since).astimezone(UTC).date() if since else None


def _verify_run(
    engine: sa.Engine, archive: Archive, run_id: str, environment: str | None
) -> tuple[int, list[Violation]]:
    from tailrace.store.keeping.mismatches import Mismatches
    from tailrace.store.keeping.verification import Verification

    streams = [stream.id for stream in archive.streams(the_run(archive, run_id, environment).id)]
    verification = Verification(engine)
    checked = verification.check_streams(streams)
    if _obstacle(engine, verification) is None:
        Mismatches(engine).note_streams(streams, checked)
    return checked.streams, checked.violations


def _verify_all(
    engine: sa.Engine, archive: Archive, since: date | None, connections: int, anew: bool
) -> ArchiveVerified:
    from tailrace.service.verifying import NAME, Verifying
    from tailrace.store.keeping.mismatches import Mismatches
    from tailrace.store.keeping.progress import Progress
    from tailrace.store.keeping.verification import Verification

    verification, progress = Verification(engine), None
    if obstacle := _obstacle(engine, verification):
        say(f"tailrace: nothing is kept of this, and an interruption begins anew: {obstacle}.")
    else:
        progress = Progress(engine, NAME, uuid.uuid4())
    verifying = Verifying(verification, Mismatches(engine), progress, connections=connections)
    try:
        with DayBar() if on_terminal() else nullcontext() as bar:
            verified = verifying.run(since, anew=anew, show=bar.show if bar else lambda _: None)
    except KeyboardInterrupt:
        if progress is not None:
            say("Interrupted: the same command goes on from here.")
        raise
    if verified.resumed:
        say(f"It went on with the verification that was begun at {verified.begun_at:%Y-%m-%d %H:%M} UTC.")
    return verified


def _obstacle(engine: sa.Engine, verification: Verification) -> str | None:
    """Return why nothing can be written of what is found; None: it can."""
    from tailrace.store.diagnosis import Diagnosis

    return Diagnosis(engine).server().refuses_writes or (
        None if verification.may_note() else "this account may only read"
    )
