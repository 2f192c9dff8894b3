"""The page of the fleet: workers, what is open, how fast it goes, what upstream forgets next, and alarms."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from tailrace.amounts import span
from tailrace.serve.console import drawing
from tailrace.serve.console.alarms import Known, alarms
from tailrace.serve.console.archive import ConsoleArchive
from tailrace.store.overview import FAILED_COUNTED

__all__ = ["fleet_values"]

SPAN_S: Final = 30
SPANS: Final = 60
"""The chart of chunks shows half an hour."""
BEHIND_SHOWN: Final = 10
FORGOTTEN_SHOWN: Final = 10


def fleet_values(archive: ConsoleArchive, environment: str | None) -> dict[str, Any]:
    """Read what the page of the fleet shows. ``environment``: the only one that may be seen; None: all. Blocks."""

    def seen(name: str | None) -> bool:
        return environment is None or name is None or name == environment

    figures = archive.figures
    everywhere = figures.open()
    known = Known(
        fleet=figures.fleet(),
        leased=sum(each.leased for each in everywhere),
        open=[each for each in everywhere if seen(each.environment)],
        open_runs=sum(number for name, _, number in figures.runs() if seen(name)),
        environments=[each for each in figures.environments() if seen(each.environment)],
        lag_s={name: lag_s for name, lag_s in figures.lag_seconds().items() if seen(name)},
        backfills=[each for each in figures.backfills() if seen(each.environment)],
        chores=figures.chores(),
        coverage=figures.coverage(),
    )
    held = [each for each in figures.held() if seen(each.environment)]
    committed = archive.fleet.committed(environment, SPAN_S, SPANS)
    said = [
        f"{number / SPAN_S:.1f} chunks/s, {span((SPANS - place) * SPAN_S)} ago"
        if number is not None
        else "not looked at"
        for place, number in enumerate(committed.counts)
    ]
    behind = archive.fleet.behind(environment, BEHIND_SHOWN)
    recent = [number for number in committed.counts[-3:-1] if number is not None]
    return {
        "at": datetime.now(UTC),
        "fleet": known.fleet,
        "workers": archive.fleet.workers(),
        "open": [asdict(each) for each in known.open],
        "open_streams": sum(each.streams for each in known.open),
        "leased": known.leased,
        "open_runs": known.open_runs,
        "held_streams": sum(each.streams for each in held),
        "held_chunks": sum(each.chunks for each in held) + sum(each.chunks for each in known.open),
        "held_bytes": sum(each.bytes for each in held) + sum(each.bytes for each in known.open),
        "failed_streams": min(FAILED_COUNTED, sum(each.streams for each in held if each.state == "failed")),
        "environments": known.environments,
        "halted": archive.overview.halted(environment),
        "alarms": alarms(known),
        "committed": drawing.bars(committed.counts, said),
        "rate_now": sum(recent) / (SPAN_S * len(recent)) if recent else None,
        "rate_most": max((number for number in committed.counts if number is not None), default=0) / SPAN_S,
        "chart_s": SPAN_S * SPANS,
        "behind": behind,
        "most_behind": max((each.lag for each in behind), default=1),
        "forgotten": figures.forgotten_next(FORGOTTEN_SHOWN, environment),
        "chores": known.chores,
        "coverage": known.coverage,
        "width": drawing.WIDTH,
    }
