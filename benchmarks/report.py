"""The table of docs/performance.md from results/latest.json: ``python -m benchmarks.report``.

It replaces what stands between the two marks in that file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.__main__ import SCENARIOS
from benchmarks.stage import ROOT

RESULTS = Path(__file__).parent / "results" / "latest.json"
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def table(results: dict[str, Any]) -> str:
    """Every figure of every row, as Markdown."""
    machine = results["machine"]
    lines = [
        f"Measured {results['measured_at'][:10]}: {machine['cores']} cores, {machine['cpu']}, {machine['memory_gb']} GB, "
        f"{machine['system']}, Python {machine['python']}, PostgreSQL {machine['postgres'].split()[0]} embedded (`fsync` on). "
        "The last column is the machine's load average, ours included.",
        "",
        "| # | Figure | Median | Least | Largest | Runs | Target | | Load |",
        "|---|---|---:|---:|---:|---:|---|---|---:|",
    ]
    for name, row in results["rows"].items():
        targets = {check["figure"]: check for check in row["checks"]}
        lines.append(f"| **{name}** | **{row['title']}** | | | | | | | {row['load']:.1f} |")
        for figure, value in row["figures"].items():
            check = targets.get(figure)
            target = check["target"].replace(">=", "≥").replace("<=", "≤") if check else ""
            met = ("reached" if check["met"] else "**missed**") if check else ""
            lines.append(
                f"| | {figure} | {_shown(value['median'])} {value['unit']} | {_shown(value['min'])} | "
                f"{_shown(value['max'])} | {value['runs']} | {target} | {met} | |"
            )
    used = [
        f"| {name} | {process} | {value['cpu_s']:.2f} | {value['peak_mb']:.0f} |"
        for name, row in results["rows"].items()
        for process, value in row["used"].items()
    ]
    lines += ["", *_missing(results)]
    lines += ["", "What processes used while the figures above were taken (P1, P2 and P10: in all runs together):"]
    lines += ["", "| # | Process | CPU s | Peak MB |", "|---|---|---:|---:|", *used, ""]
    lines += [f"- {name}: {note}" for name, row in results["rows"].items() for note in row["notes"]]
    return "\n".join(lines)


def _missing(results: dict[str, Any]) -> list[str]:
    """Return what the table does not have, or has from another time."""
    rows, failed = results["rows"], results.get("failed", {})
    said = [f"**{name} was given up**: {why}" for name, why in failed.items()]
    lacking = [name for name in SCENARIOS if name not in rows and name not in failed]
    if lacking:
        said.append(f"**Not measured yet: {', '.join(lacking)}.**")
    days: dict[str, list[str]] = {}
    for name, row in rows.items():
        days.setdefault(row.get("measured_at", results["measured_at"])[:10], []).append(name)
    if len(days) > 1:
        said += [f"{', '.join(names)}: measured {day}." for day, names in days.items()]
    if results["scale"] != 1:
        said.append(f"Everything is {results['scale']:g} of its size.")
    return said


def main() -> None:
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(json.loads(RESULTS.read_text()))}\n\n{END}{tail}")


def _shown(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 10_000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
