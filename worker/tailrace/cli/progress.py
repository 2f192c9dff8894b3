"""Show progress on stderr: bars on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tailrace.cli.output import say, shown, stderr
from tailrace.cli.waiting import Line, View

if TYPE_CHECKING:
    from rich.progress import TaskID

    from tailrace.service.verifying import Shown

LINE_EVERY_S = 2.0


def on_terminal() -> bool:
    """Whether somebody may be looking at stderr."""
    return sys.stderr.isatty()


def progress_view() -> View:
    """Return the view that suits stderr."""
    return Bars() if on_terminal() else Lines()


class Bars(View):
    """One bar for each stream. The end of a live stream is not known: what upstream has by now counts as its length."""

    def __init__(self) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
        from rich.text import Text

        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}", markup=False),
        )
        self._note = ""
        self._live = Live(
            get_renderable=lambda: Group(self._progress, Text(self._note)) if self._note else self._progress,
            console=stderr(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._note = ""
        self._live.stop()

    def show(self, lines: Sequence[Line], note: str) -> None:
        for each in lines:
            if each.key not in self._tasks:
                self._tasks[each.key] = self._progress.add_task(shown(each.key), words="", total=None)
            known = each.settled or each.lag is not None
            self._progress.update(
                self._tasks[each.key],
                completed=each.chunks,
                total=max(1, each.chunks + (each.lag or 0)) if known else None,
                words=shown(each.words),
            )
        self._note = shown(note)


class Lines(View):
    """A line when a stream's state changes, and now and then while it grows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] = say) -> None:
        self._clock = clock
        self._write = write
        self._said: dict[str, tuple[str, int, float]] = {}
        self._note = ("", -LINE_EVERY_S)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def show(self, lines: Sequence[Line], note: str) -> None:
        now = self._clock()
        for each in lines:
            before = self._said.get(each.key)
            kind = each.words.partition(" ")[0]
            if before is not None:
                same_kind, same_count, due = (
                    before[0] == kind,
                    before[1] == each.chunks,
                    now - before[2] >= LINE_EVERY_S,
                )
                if same_kind and (same_count or not due):
                    continue
            lag = f" of {each.chunks + each.lag}" if each.lag and not each.settled else ""
            self._write(f"{shown(each.key)}: {each.chunks}{lag} chunks, {shown(each.words)}")
            self._said[each.key] = (kind, each.chunks, now)
        said, at = self._note
        if note and note != said and (now - at >= LINE_EVERY_S or note[:20] != said[:20]):
            self._write(shown(note))
            self._note = (note, now)


class DayBar:
    """A bar for the day of the archive that is at work, with how much was done on all, and how fast."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(),
            console=stderr(),
        )
        self._task: TaskID | None = None
        self._day: object = None
        self._began = (time.monotonic(), 0)

    def __enter__(self) -> DayBar:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, shown: Shown) -> None:
        now = time.monotonic()
        if self._task is None:
            self._task = self._progress.add_task("", words="", total=None)
            self._began = (now, shown.streams)
        if self._day != shown.day:
            self._day = shown.day
            self._progress.reset(self._task, description=f"{shown.day} ({shown.nth} of {shown.days} days)")
        began, before = self._began
        rate = f", {(shown.streams - before) / (now - began):,.0f}/s" if now - began > 1 else ""
        wrong = f", {shown.violations} violations" if shown.violations else ""
        self._progress.update(
            self._task,
            completed=shown.day_streams,
            total=max(1, shown.day_total),
            words=f"{shown.streams:,} streams{rate}{wrong}",
        )
