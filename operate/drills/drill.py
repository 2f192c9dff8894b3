"""What an incident to practise is, and how it is practised."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drills.figures import Figures
from drills.fleet import RUNS, Fleet

PATIENCE_S = 150.0
"""Of one step, where nobody is waited for."""
PAGES = Path(__file__).parents[2] / "docs" / "runbooks"
ROWS_SHOWN = 3


def healthy(figures: Figures) -> bool:
    """Return whether every run is read, and none has trouble."""
    return figures.get("archive_leased_streams", 0) >= RUNS and figures.get("archive_troubled_streams", 1) == 0


@dataclass(frozen=True, slots=True)
class Drill:
    """One incident.

    ``alerts``: what Prometheus would tell, after the time that it gives it; after the first those that tell of the same
    incident when it has lasted for less or more time, or is worse. ``page``: their runbook in docs/runbooks; None: it
    has the name of the drill. ``strike`` makes it; ``shown`` are the figures to look at, and ``seen`` says whether it
    is to be seen in them. ``todo``: what a person can do, a command or a sentence each; ``mend`` does it. ``over``:
    whether it is over. ``theirs``: nobody on this side can mend it. ``settings`` and ``every_s`` are those of its
    `Fleet`, ``slots`` of its worker. ``idle``: nobody asks for a run. ``ready``: whether all is as it should be before.
    """

    says: str
    alerts: tuple[str, ...]
    strike: Callable[[Fleet], object]
    shown: tuple[str, ...]
    seen: Callable[[Figures], bool]
    todo: tuple[str, ...]
    mend: Callable[[Fleet], object]
    over: Callable[[Figures], bool]
    page: str | None = None
    theirs: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    every_s: float = 0.25
    slots: int = 50
    idle: bool = False
    ready: Callable[[Figures], bool] = healthy


def question_of(page: str) -> tuple[str, ...] | None:
    """Return the first `tailrace sql` of what a runbook has one type; None: it has none."""
    text = (PAGES / f"{page}.md").read_text()
    found = re.search(r"^tailrace sql .*$", text.partition("## What to type")[2].partition("\n## ")[0], re.MULTILINE)
    return tuple(shlex.split(found[0])[1:]) if found else None


def practise(name: str, drill: Drill, fleet: Fleet, *, show: bool) -> bool:
    """Make the incident, and wait until it is mended; return whether it was seen and is over."""
    try:
        return _practise(name, drill, fleet, show)
    except TimeoutError as error:
        say(f"{error}\n{fleet.said()}")
        return False
    finally:
        fleet.calm()


def _practise(name: str, drill: Drill, fleet: Fleet, show: bool) -> bool:
    page = drill.page or name
    if not drill.idle:
        fleet.request()
    fleet.start_worker(drill.slots)
    what = "all is read as it should be" if drill.ready is healthy else "the worker is at work"
    if not _until(fleet, drill, drill.ready, what, True):
        return False
    say(f"\n{drill.says}")
    drill.strike(fleet)
    told = " or ".join(drill.alerts)
    if not _until(fleet, drill, drill.seen, f"it is seen; Prometheus would tell of it as {told}", True):
        return False
    if not _answered(fleet, question_of(page)):
        return False
    say(f"\nWhat to do is in docs/runbooks/{page}.md. In another terminal:\n")
    say(f"  . {fleet.terminal()}")
    for line in drill.todo:
        say(f"  {line.format(exporter=fleet.exporter_port)}")
    say("")
    if show:
        say("It is mended now by itself.")
        drill.mend(fleet)
    elif drill.theirs:
        say("It is not yours to mend: press Enter when you have found out what is wrong.")
        sys.stdin.readline()
        drill.mend(fleet)
    over = _until(fleet, drill, drill.over, "it is over", show or drill.theirs)
    if over and not show:
        say("Look at it as long as you like: at Enter everything ends.")
        sys.stdin.readline()
    return over


def _answered(fleet: Fleet, question: tuple[str, ...] | None) -> bool:
    """Ask what the runbook asks first, until it has an answer; return whether it came."""
    if question is None:
        return True
    until = time.monotonic() + PATIENCE_S
    while True:
        done = fleet.tailrace(*question, "--json")
        rows = done.stdout.splitlines()
        if done.returncode == 0 and rows:
            break
        if done.returncode != 0 or time.monotonic() > until:
            say(f"the runbook's first question has no answer\n{done.stderr}{fleet.said()}")
            return False
        time.sleep(1)
    say("\nThe runbook's first question is answered:\n")
    for row in rows[:ROWS_SHOWN]:
        say(f"  {row}")
    if len(rows) > ROWS_SHOWN:
        say(f"  … {len(rows)} rows")
    return True


def _until(fleet: Fleet, drill: Drill, happened: Callable[[Figures], bool], what: str, hurried: bool) -> bool:
    """Wait for something in the figures, and show them whenever they change; return whether it came."""
    began, before = time.monotonic(), ""
    while True:
        figures = fleet.figures()
        line = "  ".join(f"{name} {figures[name]:.0f}" for name in drill.shown if name in figures)
        if line != before and line:
            say(f"{time.monotonic() - began:6.0f} s  {line}  ")
            before = line
        if happened(figures):
            say(f"{time.monotonic() - began:6.0f} s  {what}")
            return True
        if hurried and time.monotonic() - began > PATIENCE_S:
            say(f"not within {PATIENCE_S:.0f} s: {what}\n{fleet.said()}")
            return False
        time.sleep(1)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
