"""Shapes of what is drawn, to scale, in units of the picture: templates only write them down. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tailrace.store.viewing import Arrivals, ShownHole

__all__ = ["WIDTH", "Bar", "bars", "coverage", "stalls"]

WIDTH = 1_000
"""A picture is so wide, however wide it is shown."""
HEIGHT = 100


class Bar(NamedTuple):
    """A rectangle. ``kind`` becomes its class, ``said`` what is told of it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    said: str


def coverage(checkpoint: int, lag: int | None, holes: Sequence[ShownHole]) -> list[Bar]:
    """Draw a generation from index 0 to upstream's tail: what is held, what is lost, what is skipped, what is still to
    be read. A hole keeps its true place and width, however thin that is."""
    length = checkpoint + 1 + (lag or 0)
    if length <= 0:
        return []

    def bar(first: int, last: int, kind: str, said: str) -> Bar:
        return Bar(_round(first / length * WIDTH), 0, _round((last + 1 - first) / length * WIDTH), HEIGHT, kind, said)

    drawn = [bar(0, checkpoint, "held", f"0 to {checkpoint}: held")] if checkpoint >= 0 else []
    for hole in holes:
        kind = "lost" if hole.lost else "skipped"
        if hole.last_index is None:
            at = min(hole.first_index, length)
            drawn.append(
                Bar(_round(at / length * WIDTH), 0, 0, HEIGHT, kind, f"before {at}: {hole.reason}, size unknown")
            )
            continue
        last = min(hole.last_index, length - 1)
        drawn.append(bar(hole.first_index, last, kind, f"{hole.first_index} to {hole.last_index}: {hole.reason}"))
    if lag:
        drawn.append(bar(checkpoint + 1, length - 1, "unread", f"from {checkpoint + 1}: {lag} not read yet"))
    return drawn


def bars(counts: Sequence[int | None], said: Sequence[str]) -> list[Bar]:
    """Draw a bar for each count, side by side, the largest as high as the picture; None: nothing is known there."""
    most = max((count for count in counts if count), default=0)
    width = WIDTH / max(1, len(counts))
    drawn = []
    for place, (count, words) in enumerate(zip(counts, said, strict=True)):
        height = HEIGHT if count is None else max(2.0, count / most * HEIGHT) if count else 0.0
        if height:
            kind = "unknown" if count is None else "count"
            drawn.append(
                Bar(_round(place * width), _round(HEIGHT - height), _round(width * 0.8), _round(height), kind, words)
            )
    return drawn


def stalls(arrivals: Arrivals) -> list[Bar]:
    """Draw the pauses behind the bars of the arrivals, to the same scale."""
    length = max(1, arrivals.last_ms - arrivals.first_ms + 1)
    return [
        Bar(
            _round((each.from_ms - arrivals.first_ms) / length * WIDTH),
            0,
            _round((each.to_ms - each.from_ms) / length * WIDTH),
            HEIGHT,
            "stall",
            f"{(each.to_ms - each.from_ms) / 1000:.1f} s before chunk {each.before_index}",
        )
        for each in arrivals.stalls
    ]


def _round(value: float) -> float:
    return round(value, 3)
