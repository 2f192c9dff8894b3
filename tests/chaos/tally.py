"""What all schedules together did and found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.oracle import Difference, Kind


@dataclass
class Tally:
    """Counts and times; threads may add to it.

    ``recoveries``: by fault, from its first moment until all is stored that was written in its first second.
    """

    schedules: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    upstream: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    wrong: Counter[Kind] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)
    recoveries: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    sealed_after: list[float] = field(default_factory=list)

    def note(self, differences: Sequence[Difference]) -> None:
        for each in differences:
            self.wrong[each.kind] += each.count

    def figures(self) -> dict[str, object]:
        """Return all of it, for JSON. Times are seconds."""
        return {
            "schedules": self.schedules,
            "faults": dict(sorted(self.faults.items())),
            "upstream": dict(sorted(self.upstream.items())),
            "chunks_checked": self.chunks,
            **{kind.value: self.wrong[kind] for kind in Kind},
            "violations": len(self.violations),
            "takeovers": len(self.takeovers),
            "takeover_s": spread(self.takeovers),
            "recovery_s": {fault: spread(times) for fault, times in sorted(self.recoveries.items())},
            "sealed_after_s": spread(self.sealed_after),
        }


def spread(times: Sequence[float]) -> dict[str, float] | None:
    """Give median, 99th percentile and maximum; None of nothing."""
    if not times:
        return None
    ordered = sorted(times)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 2) for name, share in at.items()} | {
        "count": len(ordered)
    }
