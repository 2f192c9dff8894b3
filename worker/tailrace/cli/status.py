"""`tailrace status`: how the fleet is, and how far runs and their streams are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.archives import open_overview, the_run
from tailrace.cli.arguments import AsJson, Environment, checked_name
from tailrace.cli.exits import GOOD_KEY
from tailrace.cli.output import ago, say, shown, stderr, stdout, write_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.panel import Panel

    from tailrace.cli.columns import Fitted
    from tailrace.cli.looks import Looks
    from tailrace.store.overview import Fleet, Overview, RunProgress, StreamProgress
    from tailrace.store.queries import Halted

AROUND = 4
"""Lines of a terminal that are for other things than runs: the fleet, a blank, the heading, the cursor."""


def status(
    run_id: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN_ID]", help="A run, to see its streams; without it the newest runs.", callback=checked_name
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many runs to show.")] = 50,
    environment: Environment = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it anew each second, until Ctrl-C. On a terminal only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how the fleet is, and the newest runs or one run's streams: rate, lag, verdict, worker, the last error.

    Environments whose key upstream refuses are shown first.
    """
    if watch and (as_json or not sys.stdout.isatty()):
        raise typer.BadParameter("--watch needs a terminal; without it, everything is shown once")
    archive = open_overview()
    if watch:
        from tailrace.cli.looks import Looks
        from tailrace.cli.watch import watched

        looks = Looks()

        def draw(width: int, height: int) -> list[RenderableType]:
            seen = _look(archive, run_id, environment, max(1, min(limit, height - AROUND)))
            alarms: list[RenderableType] = [_alarm(each) for each in seen.halted]
            return [*alarms, *_drawn(_paced(seen, looks), width)]

        watched(draw)
        return
    seen = _look(archive, run_id, environment, limit)
    if as_json:
        write_json(seen.for_programs())
        return
    for each in seen.halted:
        stderr().print(_alarm(each))
    for part in _drawn(seen, stdout().width):
        stdout().print(part)
    if seen.run is None and not seen.runs:
        say("tailrace: no runs yet; `tailrace ingest RUN_ID` asks for one")
    elif seen.run is not None and not seen.streams:
        say("tailrace: no stream of it is known yet")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look at an archive has shown: of a run its streams, else the newest runs."""

    fleet: Fleet
    halted: list[Halted]
    runs: list[RunProgress]
    run: RunProgress | None
    streams: list[StreamProgress]

    def for_programs(self) -> dict[str, object]:
        shared = {"fleet": self.fleet, "halted": self.halted}
        if self.run is None:
            return {**shared, "runs": self.runs}
        return {**shared, "run": self.run, "streams": self.streams}


def _look(archive: Overview, run_id: str | None, environment: str | None, limit: int) -> _Seen:
    fleet, halted = archive.fleet(), archive.halted(environment)
    if run_id is None:
        return _Seen(fleet, halted, archive.newest_progress(limit, environment), None, [])
    run = archive.progress(the_run(archive, run_id, environment))
    halted = [each for each in halted if each.environment == run.environment]
    return _Seen(fleet, halted, [], run, archive.streams_progress(run.id))


def _paced(seen: _Seen, looks: Looks) -> _Seen:
    """The same, with the rates since the looks before."""
    runs = [*seen.runs, *([seen.run] if seen.run else [])]
    counts = {run.id: run.chunks for run in runs} | {stream.id: stream.chunks for stream in seen.streams}
    rates = looks.rates(seen.fleet.at, counts)

    def of_run(run: RunProgress) -> RunProgress:
        known = run.id in rates and run.chunks_per_s is not None
        return replace(run, chunks_per_s=rates[run.id]) if known else run

    def of_stream(stream: StreamProgress) -> StreamProgress:
        known = stream.id in rates and stream.chunks_per_s is not None
        return replace(stream, chunks_per_s=rates[stream.id]) if known else stream

    return replace(
        seen,
        runs=[of_run(run) for run in seen.runs],
        run=seen.run and of_run(seen.run),
        streams=[of_stream(stream) for stream in seen.streams],
    )


def _drawn(seen: _Seen, width: int) -> Iterator[RenderableType]:
    from rich.text import Text

    from tailrace.cli.status_lines import ENVIRONMENT, fleet_lines, runs_lines, stream_note, streams_lines
    from tailrace.store.overview import FAILED_COUNTED

    for line in fleet_lines(seen.fleet, width, FAILED_COUNTED):
        yield Text(line, style="bold")
    if seen.run is None:
        if seen.runs:
            # A cut error is shown whole by `status RUN_ID`, and names are what one asks with.
            table = runs_lines(seen.runs, width)
            yield from _table(table, [(shown(run.run_id), "", bool(run.stuck_s)) for run in seen.runs])
            if any(ENVIRONMENT.heading in headings for headings in table.cut.values()):
                yield Text(f"environments: {', '.join(sorted({shown(run.environment) for run in seen.runs}))}")
        return
    yield Text(_facts_of(seen.run, seen.fleet))
    if seen.run.last_error and all(seen.run.last_error != each.last_error for each in seen.streams):
        yield Text(f"last error: {shown(seen.run.last_error)}")
    if seen.streams:
        names = [(shown(each.stream_key), stream_note(each), bool(each.stuck_s)) for each in seen.streams]
        yield from _table(streams_lines(seen.streams, width), names)


def _table(table: Fitted, rows: list[tuple[str, str, bool]]) -> Iterator[RenderableType]:
    """Draw a table, and below it in full what was cut. ``rows``: name, note (none: it is not shown in full), stuck."""
    from rich.padding import Padding
    from rich.text import Text

    from tailrace.cli.status_lines import NAMES

    yield Text("")
    yield Text(table.lines[0], style="dim", no_wrap=True)
    for line, (_, _, stuck) in zip(table.lines[1:], rows, strict=True):
        yield Text(line, style="red" if stuck else "", no_wrap=True)
    below = [number for number, cut in table.cut.items() if rows[number][1] or NAMES.intersection(cut)]
    if below:
        yield Text("")
    for name, note, _ in (rows[number] for number in below):
        yield Text(name, overflow="fold")
        if note:
            yield Padding(Text(note, overflow="fold"), (0, 0, 0, 4))


def _facts_of(run: RunProgress, fleet: Fleet) -> str:
    facts = [f"run {shown(run.run_id)}", run.state, f"upstream says {run.status or 'nothing yet'}"]
    if run.task_identifier:
        facts.append(f"task {shown(run.task_identifier)}")
    facts += [f"environment {shown(run.environment)}", f"asked for {ago(run.requested_at, fleet.at)}"]
    if run.selection is not None:
        facts.append(f"only {', '.join(shown(key) for key in run.selection)}")
    return " · ".join(facts)


def _alarm(halted: Halted) -> Panel:
    from rich.panel import Panel
    from rich.text import Text

    text = Text(
        f"Nothing of environment {shown(halted.environment)} is read since {halted.since:%Y-%m-%d %H:%M:%S %Z}.\n"
        f"{shown(halted.reason)}\n"
        f"Give the workers {GOOD_KEY}; they go on where they were."
    )
    return Panel(text, title="HALTED", border_style="bold red", expand=False)
