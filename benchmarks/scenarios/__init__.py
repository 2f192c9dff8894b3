"""One file for each scenario; each has ``run(stage, size) -> Row``."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure. ``scale`` 1 is the table of docs/performance.md; smaller is for trying things out."""

    repeats: int = 3
    scale: float = 1.0
    rivals: bool = True

    def of(self, count: int, least: int = 1) -> int:
        return max(least, round(count * self.scale))


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: the median of several runs, and the extremes."""

    values: list[float]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def as_json(self) -> dict[str, Any]:
        return {
            "median": _short(self.median),
            "min": _short(min(self.values)),
            "max": _short(max(self.values)),
            "runs": len(self.values),
            "unit": self.unit,
        }

    def __str__(self) -> str:
        spread = "" if len(self.values) == 1 else f" ({_shown(min(self.values))}-{_shown(max(self.values))})"
        return f"{_shown(self.median)}{spread} {self.unit}"


@dataclass(frozen=True, slots=True)
class Check:
    """A target: the figure that has to reach it, and whether it did."""

    figure: str
    target: float
    at_least: bool
    reached: float

    @property
    def met(self) -> bool:
        return self.reached >= self.target if self.at_least else self.reached <= self.target

    def as_json(self) -> dict[str, Any]:
        sign = ">=" if self.at_least else "<="
        return {
            "figure": self.figure,
            "target": f"{sign} {self.target:g}",
            "reached": _short(self.reached),
            "met": self.met,
        }


@dataclass(slots=True)
class Row:
    """What one scenario found."""

    id: str
    title: str
    figures: dict[str, Figure] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    used: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    load: float = 0.0

    def figure(self, name: str, values: Iterable[float] | float, unit: str) -> Figure:
        found = Figure([values] if isinstance(values, int | float) else list(values), unit)
        self.figures[name] = found
        return found

    def at_least(self, name: str, target: float) -> None:
        self.checks.append(Check(name, target, True, self.figures[name].median))

    def at_most(self, name: str, target: float) -> None:
        self.checks.append(Check(name, target, False, self.figures[name].median))

    def ratio(self, name: str, of: str, to: str) -> None:
        """Note the ratio of two figures, run by run where they were measured in turn."""
        above, below = self.figures[of].values, self.figures[to].values
        if len(above) == len(below):
            values = [a / b for a, b in zip(above, below, strict=True)]
        else:
            values = [self.figures[of].median / self.figures[to].median]
        self.figure(name, values, "x")

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "figures": {name: figure.as_json() for name, figure in self.figures.items()},
            "checks": [check.as_json() for check in self.checks],
            "used": self.used,
            "notes": self.notes,
            "load": round(self.load, 2),
        }


def percentile(values: list[float], share: float) -> float:
    """The value below which that share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _shown(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"
