"""`tailrace demo`: see it work, from nothing, in less than a minute."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Never

import typer

from tailrace.cli import servers
from tailrace.cli.exits import Exit
from tailrace.cli.output import table, write, write_json
from tailrace.cli.progress import progress_view
from tailrace.cli.serve import DEFAULT_PORT, HOST
from tailrace.cli.waiting import SETTLED_STREAM, Line, View, words

if TYPE_CHECKING:
    from tailrace.store.queries import RunStatus, StreamStatus

QUIET_S = 2.0
TEXT_COLUMNS = 90


def demo() -> None:
    """Show Tailrace at work on two recorded runs: ingest, kill the worker, resume, seal, query, compare.

    Needs no account and no servers: starts an embedded Postgres and Valkey in .tailrace (TAILRACE_HOME), which stay up
    for `tailrace sql`; `tailrace down` stops them. The last line of output is one JSON object; exit code 1 if a chunk
    is lost, doubled or out of order.
    """
    from tailrace.devtools.demo.script import tell

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    home = servers.home()
    terminal = _Terminal()
    try:
        result = tell(home, os.environ, _ask, terminal)
    finally:
        terminal.paused()
    write("")
    write(
        "Everything that was sent is there, once and in order." if result.good else "THE ARCHIVE IS NOT WHAT WAS SENT."
    )
    command = _command()
    write(f'Try it: {command} sql "SELECT type, count(*) FROM tailrace.chunks GROUP BY type ORDER BY 2 DESC"')
    write(
        f"Look at it: http://{HOST}:{DEFAULT_PORT}/ while `{command} serve` runs, "
        f"with a key of `{command} key add NAME --environment {result.environment}`"
    )
    write(f"The servers of {home} stay up for that; `{command} down` stops them.")
    if os.environ.get("TAILRACE_DATABASE_URL") or os.environ.get("DATABASE_URL"):
        write("DATABASE_URL is set here, and `tailrace sql` asks that database: unset it to see the demo's archive.")
    write_json(
        {
            "runs": result.runs,
            "streams": result.streams,
            "chunks": result.chunks,
            "lost": result.lost,
            "duplicated": result.duplicated,
            "out_of_order": result.out_of_order,
            "resumed_at": result.resumed_at,
            "sealed": result.sealed,
        }
    )
    sys.stdout.flush()
    raise typer.Exit(Exit.OK if result.good else Exit.FAILED)


def _ask(redis_url: str, run_id: str) -> None:
    """Ask for a run as an application does."""
    os.environ["TAILRACE_REDIS_URL"] = redis_url
    from tailrace.tasks import ingest_run

    ingest_run.delay(run_id)


def _command() -> str:
    """Return how this command was called, for the person to call it again."""
    return "tailrace" if shutil.which("tailrace") else os.path.relpath(sys.argv[0])


def _interrupt(*_: object) -> Never:
    raise KeyboardInterrupt


class _Terminal:
    """Prints the script: steps on stdout, progress on stderr."""

    def __init__(self) -> None:
        self._steps = 0
        self._view: View | None = None

    def step(self, text: str) -> None:
        self._steps += 1
        self._write(f"\n{self._steps}. {text}")

    def fact(self, text: str) -> None:
        self._write(f"   {text}")

    def progress(self, streams: list[tuple[RunStatus, StreamStatus, int]]) -> None:
        if self._view is None:
            self._view = progress_view()
            self._view.__enter__()
        self._view.show(
            [
                Line(
                    key=f"   {run.run_id} {each.stream_key}",
                    chunks=each.chunks,
                    lag=max(0, sent - each.chunks),
                    words=words(run, each, QUIET_S),
                    settled=each.state in SETTLED_STREAM,
                )
                for run, each, sent in streams
            ],
            "",
        )

    def paused(self) -> None:
        if self._view is not None:
            self._view.__exit__(None, None, None)
            self._view = None

    def query(self, statement: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
        """Each value of a single row on lines of its own: one of them is a text."""
        self._write("\n" + "\n".join(f"   {line}" for line in statement.splitlines()))
        if len(rows) > 1:
            table(columns, rows)
            return
        for column, value in zip(columns, rows[0] if rows else (), strict=False):
            paragraphs = str(value).splitlines()
            wrapped = [line for each in paragraphs for line in textwrap.wrap(each, TEXT_COLUMNS) or [""]]
            self._write(f"   → {column}: " + ("\n" + " " * 5).join(["", *wrapped] if len(wrapped) > 1 else wrapped))

    @staticmethod
    def _write(text: str) -> None:
        write(text)
        sys.stdout.flush()
