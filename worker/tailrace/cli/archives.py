"""The archive that reading commands ask, and the run that was named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tailrace.cli import servers
from tailrace.errors import TerminalError

if TYPE_CHECKING:
    from tailrace.store.overview import Overview
    from tailrace.store.queries import Archive, RunStatus, StreamStatus


class NotInArchive(TerminalError):
    """The archive has nothing of that name."""


def open_archive() -> Archive:
    """Return the archive of this command's database. Connects when it is first asked.

    Raises:
        BadSettings: there is no database.
    """
    from tailrace.store.engine import create_engine
    from tailrace.store.queries import Archive

    return Archive(create_engine(servers.database(), pool_size=2, application_name="tailrace command"))


def open_overview() -> Overview:
    """The same, of one that is looked at as a whole."""
    from tailrace.store.engine import create_engine
    from tailrace.store.overview import Overview

    return Overview(create_engine(servers.database(), pool_size=2, application_name="tailrace command"))


def the_run(archive: Archive, run_id: str, environment: str | None) -> RunStatus:
    """Return the one run of this id.

    Raises:
        NotInArchive: nobody asked for it.
    """
    found = archive.runs_named(run_id, environment)
    if not found:
        where = f" of environment {environment}" if environment else ""
        raise NotInArchive(f"Run {run_id} is not in the archive{where}. `tailrace ingest {run_id}` asks for it.")
    if len(found) > 1:
        names = ", ".join(run.environment for run in found)
        raise typer.BadParameter(f"run {run_id} is in several environments ({names}): say --environment")
    return found[0]


def chosen_streams(archive: Archive, run: RunStatus, key: str | None) -> list[StreamStatus]:
    """Return the streams of a run, or the one of this key.

    Raises:
        NotInArchive: it has no such stream.
    """
    streams = archive.streams(run.id)
    if key is None:
        return streams
    chosen = [stream for stream in streams if stream.stream_key == key]
    if not chosen:
        known = ", ".join(stream.stream_key for stream in streams) or "none yet"
        raise NotInArchive(f"Run {run.run_id} has no stream {key!r} in the archive. It has: {known}.")
    return chosen
