"""``python -m benchmarks``: measure everything, print the table, write results/latest.json (see README.md)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.scenarios import (
    Row,
    Size,
    cold,
    first,
    growth,
    idle,
    late,
    live,
    many,
    outage,
    reading,
    shares,
    snapshot,
    space,
    speed,
    two,
    unasked,
)
from benchmarks.stage import ROOT, Failed, Stage, stage
from benchmarks.usage import load

SCHEMA = 1
RESULTS = Path(__file__).parent / "results" / "latest.json"
SCENARIOS: dict[str, Callable[[Stage, Size], Row]] = {
    "P1": lambda stage, size: speed.run(stage, size, "v1"),
    "P2": lambda stage, size: speed.run(stage, size, "v2"),
    "P3": live.run,
    "P4": idle.run,
    "P5": first.run,
    "P6": space.run,
    "P7": reading.run,
    "P8": growth.run,
    "P9": two.run,
    "P10": cold.run,
    "P11": many.run,
    "P12": snapshot.run,
    "P13": outage.run,
    "P14": shares.run,
    "P15": unasked.run,
    "P16": late.run,
}
ONCE = frozenset({"P3", "P4", "P5", "P6", "P8", "P11", "P12", "P13", "P14", "P15", "P16"})
"""Scenarios that measure each figure once, or of many observations. The others repeat it themselves."""
REPEATED = frozenset({"P3", "P4", "P5"})
"""Those of them that are run several times all the same; ``--repeat-all`` does so with all."""


SCENARIO_S = 900
"""A scenario that takes longer is given up; the others are measured all the same."""
BUDGET_S = 15 * 60
"""After this, nothing is repeated that has been measured once."""


def main(arguments: Sequence[str]) -> int:
    """Measure. Exit code 0 when every target was reached, 1 when one was not, 2 when a scenario failed.

    What has been measured is written after each scenario, so an end in the middle loses nothing.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Tailrace and its rivals.")
    parser.add_argument("--only", help="scenarios, as P1,P2")
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="less than 1: smaller, to try things out")
    parser.add_argument("--no-rivals", action="store_true", help="only Tailrace, the limit and the counting client")
    parser.add_argument("--repeat-all", action="store_true", help="also repeat the long scenarios")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    chosen = given.only.split(",") if given.only else list(SCENARIOS)
    size = Size(given.runs, given.scale, not given.no_rivals)
    before: dict[str, Any] = {}
    if given.output.exists() and given.only:  # a part measured again takes its place in what was measured before
        before = json.loads(given.output.read_text())["rows"]
    rows: list[Row] = []
    failed: dict[str, str] = {}
    measured: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    with stage() as ready:
        for name in chosen:
            print(f"{name} ... (load {load():.1f}, {time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
            try:
                rows.append(_measured(name, ready, size, began, repeat_all=given.repeat_all))
                print(_shown(rows[-1]), flush=True)
            except Exception as error:  # noqa: BLE001  the next scenario may work
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {error}"[:500]
            now = datetime.now(UTC).isoformat(timespec="seconds")
            measured |= {row.id: row.as_json() | {"measured_at": now} for row in rows if row.id not in measured}
            result = {
                "schema": SCHEMA,
                "measured_at": now,
                "took_s": round(time.monotonic() - began),
                "scale": given.scale,
                "machine": _machine(ready),
                "failed": failed,
                "rows": {each: row for each in SCENARIOS if (row := measured.get(each) or before.get(each))},
            }
            given.output.parent.mkdir(exist_ok=True)
            given.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    missed = [f"{row.id} {check.figure}" for row in rows for check in row.checks if not check.met]
    print(f"Not reached: {', '.join(missed)}." if missed else "Every target that was measured was reached.")
    if failed:
        print(f"Failed, not measured: {', '.join(failed)}.")
    return 2 if failed else 1 if missed else 0


def _measured(name: str, ready: Stage, size: Size, began: float, *, repeat_all: bool) -> Row:
    """Run a scenario as often as it has to be, and no more often than there is time for."""
    once = name in ONCE and not repeat_all and not (name in REPEATED and size.scale >= 1)
    runs: list[Row] = []
    with _at_most(SCENARIO_S):
        for _ in range(1 if once or name not in ONCE else size.repeats):
            if runs and time.monotonic() - began > BUDGET_S:
                runs[0].notes.append(f"Measured {len(runs)} times only: there was no time for more.")
                break
            runs.append(SCENARIOS[name](ready, size))
    return _merged(runs)


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raise Failed in the block when it takes longer."""

    def late(*_: object) -> None:
        raise Failed(f"not within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _merged(runs: list[Row]) -> Row:
    """One row of several runs of the same scenario: each figure has the values of all."""
    row = runs[0]
    for other in runs[1:]:
        for name, figure in other.figures.items():
            row.figures[name].values.extend(figure.values)
        row.load = max(row.load, other.load)
    checks, row.checks = row.checks, []
    for check in checks:
        (row.at_least if check.at_least else row.at_most)(check.figure, check.target)
    return row


def _shown(row: Row) -> str:
    targets = {check.figure: check for check in row.checks}
    lines = [f"{row.id}  {row.title}  (load {row.load:.1f})"]
    for name, figure in row.figures.items():
        check = targets.get(name)
        mark = ""
        if check is not None:
            sign = ">=" if check.at_least else "<="
            mark = f"   target {sign} {check.target:g}: {'reached' if check.met else 'NOT reached'}"
        lines.append(f"    {name:48s} {figure}{mark}")
    for name, used in row.used.items():
        lines.append(f"    uses: {name:42s} {used['cpu_s']:.2f} CPU s, peak {used['peak_mb']:.0f} MB")
    return "\n".join([*lines, *(f"    {note}" for note in row.notes)])


def _machine(ready: Stage) -> dict[str, Any]:
    """The machine in general terms."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "memory_gb": round(memory_kb / 1024 / 1024),
        "system": platform.system(),
        "python": platform.python_version(),
        "postgres": ready.database.value("SHOW server_version"),
        "packages": {
            name: version(name) for name in ("celery", "gevent", "httpx-sse", "msgspec", "psycopg", "sqlalchemy")
        },
        "load_at_end": round(load(), 2),
    }


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
