"""``python -m benchmarks``: measure everything, print the table, write results/latest.json (see README.md)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.scenarios import Row, Size, cold, first, growth, idle, live, reading, space, speed, two
from benchmarks.stage import ROOT, Stage, stage
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
}
ONCE = frozenset({"P3", "P4", "P5", "P6", "P8"})
"""Long scenarios whose figures are made of many observations; ``--repeat-all`` runs them several times too."""


def main(arguments: Sequence[str]) -> int:
    """Measure. Exit code 0 when every target was reached, 1 when one was not, 2 when something went wrong."""
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
    rows: list[Row] = []
    began = time.monotonic()
    with stage() as ready:
        for name in chosen:
            times = given.runs if given.repeat_all or name not in ONCE else 1
            if name in ("P3", "P4") and given.runs >= 3 and given.scale >= 1:
                times = given.runs
            print(f"{name} ... (load {load():.1f})", file=sys.stderr, flush=True)
            rows.append(_merged([SCENARIOS[name](ready, size) for _ in range(times)]))
            print(_shown(rows[-1]), flush=True)
        result = {
            "schema": SCHEMA,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "took_s": round(time.monotonic() - began),
            "scale": given.scale,
            "machine": _machine(ready),
            "rows": {row.id: row.as_json() for row in rows},
        }
    if given.output.exists() and given.only:  # a part measured again takes its place in what was measured before
        before = json.loads(given.output.read_text())
        result["rows"] = {
            name: row
            for name, row in ((each, {**before["rows"], **result["rows"]}.get(each)) for each in SCENARIOS)
            if row is not None
        }
    given.output.parent.mkdir(exist_ok=True)
    given.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    missed = [f"{row.id} {check.figure}" for row in rows for check in row.checks if not check.met]
    print(f"Not reached: {', '.join(missed)}." if missed else "Every target was reached.")
    return 1 if missed else 0


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
