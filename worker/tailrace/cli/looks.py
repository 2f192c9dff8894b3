"""How fast something grows, from what was seen of it at several looks. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime

OVER_S = 10.0
"""A rate is that of the last ten seconds: chunks are committed in batches, and from look to look it would jump."""


class Looks:
    """Remembers the looks of the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, Mapping[int, int]]] = deque()

    def rates(self, at: datetime, counts: Mapping[int, int]) -> dict[int, float]:
        """Return how many a second were added to each that was seen before, by id. ``at``: by the database's clock."""
        while len(self._seen) > 1 and (at - self._seen[1][0]).total_seconds() >= OVER_S:
            self._seen.popleft()
        rates = {}
        for key, number in counts.items():
            before = next(((then, seen[key]) for then, seen in self._seen if key in seen), None)
            if before is not None and (passed_s := (at - before[0]).total_seconds()) > 0:
                rates[key] = max(0.0, (number - before[1]) / passed_s)
        self._seen.append((at, counts))
        return rates
