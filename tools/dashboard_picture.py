"""Draw the dashboard with the figures of a Prometheus, as SVG: what a reader of the documentation sees of it.

    python tools/dashboard_picture.py http://127.0.0.1:9090 --minutes 60 > dashboard.svg

`python -m tests.chaos.watch` (`make watch`) draws docs/img/dashboard.svg with those of a run of chaos.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

try:
    from tools.dashboard import WATCHED, Panel, Query
except ImportError:  # run as a program
    from dashboard import WATCHED, Panel, Query  # type: ignore[no-redef]

WIDTH: Final = 1200
GAP: Final = 10
HEIGHTS: Final = {True: 78, False: 168}
"""Of a panel with one number, and of one with curves."""
POINTS: Final = 120
MOST_SERIES: Final = 6
COLORS: Final = ("#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#f2cc0c")
FILLS: Final = {"green": "#3d8b40", "orange": "#d9822b", "red": "#c4323f"}


@dataclass(frozen=True)
class Series:
    """One curve: its legend, and its points as seconds and value."""

    legend: str
    points: tuple[tuple[float, float], ...]


def ask(url: str, query: str, start: float, end: float) -> list[dict[str, Any]]:
    """Return Prometheus' answer to a query over a time: its series. Raises RuntimeError with what it refuses."""
    step = max(1.0, (end - start) / POINTS)
    asked = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": step})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query_range?{asked}", timeout=60) as answer:
            return list(json.load(answer)["data"]["result"])
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{query}: {error.read().decode()}") from error


def curves(url: str, query: Query, start: float, end: float) -> list[Series]:
    """Return a panel's query as curves. A value that is no number (nothing to divide by) is left out."""
    found = []
    for series in ask(url, query.expr, start, end):
        legend = re.sub(r"\{\{(\w+)\}\}", "{\\1}", query.legend).format_map(defaultdict(str, series["metric"]))
        points = tuple((float(at), float(value)) for at, value in series["values"] if value not in {"NaN", "+Inf"})
        if points:
            found.append(Series(legend, points))
    return found


def shown(value: float, unit: str) -> str:
    """Return a value for people."""
    if unit == "s":
        for size, name in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value:.3g} s" if abs(value) >= 1 or value == 0 else f"{value * 1000:.3g} ms"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    per = {"Bps": "B/s", "bytes": "B", "cps": "/s", "ops": "/s", "reqps": "/s"}.get(unit, "")
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {name}{per}"
    return f"{value:.3g} {per}".strip()


def picture(answers: Sequence[tuple[Panel, list[Series]]], start: float, end: float, says: str) -> str:
    """Return the dashboard as SVG. ``answers``: every panel with its curves; ``says``: whose figures they are."""
    by_title = {id(panel): series for panel, series in answers}
    parts: list[str] = []
    top = 34.0
    for row in WATCHED:
        parts.append(_text(0, top + 16, row.title, 15, weight="bold"))
        top += 26
        width = (WIDTH - GAP * (row.columns - 1)) / row.columns
        for index, panel in enumerate(row.panels):
            line, column = divmod(index, row.columns)
            x, y = column * (width + GAP), top + line * (HEIGHTS[panel.stat] + GAP)
            draw = _number if panel.stat else _curves
            parts.append(
                f'<g transform="translate({x:.0f} {y:.0f})"><title>{escape(panel.description)}</title>'
                + draw(panel, by_title[id(panel)], width, start, end)
                + "</g>"
            )
        height = HEIGHTS[row.panels[0].stat] + GAP
        top += height * -(-len(row.panels) // row.columns) + 8
    height = top + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -4 {WIDTH + 24} {height:.0f}"'
        f' font-family="system-ui, sans-serif" role="img"><title>Dashboard</title>'
        f'<rect x="-12" y="-4" width="{WIDTH + 24}" height="{height:.0f}" fill="#f4f5f7"/>\n'
        + "\n".join([_text(0, 18, says, 13), *parts])
        + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, size: int, *, fill: str = "#24292e", anchor: str = "start", weight: str = ""
) -> str:
    style = f'font-size="{size}" fill="{fill}" text-anchor="{anchor}"' + (f' font-weight="{weight}"' if weight else "")
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(text)}</text>'


def _box(width: float, height: float, fill: str) -> str:
    return f'<rect width="{width:.0f}" height="{height:.0f}" rx="3" fill="{fill}" stroke="#d0d4d9" stroke-width="0.5"/>'


def _number(panel: Panel, series: list[Series], width: float, _start: float, end: float) -> str:
    """Return one number as it is at the end, in the color of its step."""
    last = [points[-1] for points in (each.points for each in series) if end - points[-1][0] < 30]
    value = last[0][1] if last else None
    color = panel.steps[0][1]
    for at, name in panel.steps:
        if value is not None and at is not None and value >= at:
            color = name
    said = panel.none if value is None else shown(value, panel.unit)
    return (
        _box(width, HEIGHTS[True], FILLS[color])
        + _text(8, 18, panel.title, 11, fill="#ffffff")
        + _text(width / 2, 56, said, 22 if len(said) < 10 else 12, fill="#ffffff", anchor="middle")
    )


def _curves(panel: Panel, series: list[Series], width: float, start: float, end: float) -> str:
    left, up, right, down = 58.0, 28.0, width - 10, 118.0
    drawn = [_box(width, HEIGHTS[False], "#ffffff"), _text(8, 18, panel.title, 12, weight="bold")]
    if not series:
        return "".join(drawn) + _text(width / 2, 78, panel.none, 12, fill="#6a737d", anchor="middle")
    most = max(value for each in series for _, value in each.points) or 1.0
    for share in (0.0, 0.5, 1.0):
        y = down - share * (down - up)
        drawn.append(f'<path d="M{left:.0f} {y:.0f}H{right:.0f}" stroke="#e1e4e8" stroke-width="1"/>')
        drawn.append(_text(left - 5, y + 4, shown(most * share, panel.unit), 10, fill="#6a737d", anchor="end"))
    for at, anchor in ((start, "start"), (end, "end")):
        x = left if anchor == "start" else right
        drawn.append(_text(x, down + 13, time.strftime("%H:%M:%S", time.gmtime(at)), 9, fill="#6a737d", anchor=anchor))
    step = (end - start) / POINTS
    ranked = sorted(series, key=lambda each: -max(value for _, value in each.points))
    for each, color in zip(ranked, COLORS, strict=False):
        path, before = [], float("-inf")
        for at, value in each.points:
            x = left + (right - left) * (at - start) / (end - start)
            y = down - (down - up) * max(0.0, value) / most
            path.append(f"{'L' if at - before < 3 * max(step, 1.0) else 'M'}{x:.1f} {y:.1f}")
            before = at
        drawn.append(f'<path d="{"".join(path)}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    x, y = 8.0, 146.0
    for each, color in zip(ranked, COLORS, strict=False):
        name = f"{each.legend}: {shown(each.points[-1][1], panel.unit)}"
        room = 16 + 5.6 * len(name)
        if x + room > width and x > 8:
            x, y = 8.0, y + 13
        if y > HEIGHTS[False]:
            break
        drawn.append(f'<rect x="{x:.0f}" y="{y - 3:.0f}" width="10" height="3" fill="{color}"/>')
        drawn.append(_text(x + 13, y + 2, name, 10))
        x += room
    if len(series) > MOST_SERIES:
        drawn.append(_text(width - 8, 18, f"{MOST_SERIES} of {len(series)}", 10, fill="#6a737d", anchor="end"))
    return "".join(drawn)


def asked(url: str, start: float, end: float) -> list[tuple[Panel, list[Series]]]:
    """Return every panel with what Prometheus answers to it."""
    return [
        (panel, [series for query in panel.queries for series in curves(url, query, start, end)])
        for row in WATCHED
        for panel in row.panels
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the dashboard with a Prometheus' figures, as SVG.")
    parser.add_argument("prometheus", help="its URL")
    parser.add_argument("--minutes", type=float, default=60.0, help="how far back")
    given = parser.parse_args()
    end = time.time()
    start = end - 60 * given.minutes
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(end))
    sys.stdout.write(
        picture(asked(given.prometheus, start, end), start, end, f"The {given.minutes:g} minutes to {when}")
    )


if __name__ == "__main__":
    main()
