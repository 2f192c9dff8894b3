"""How long to wait before another attempt, and how many it takes to give up. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How much it takes to believe what ends a stream, a run or a backfill: a refusal, or nonsense.

    A firewall, a proxy or a deployment can answer so too, and is over after minutes. Both are needed: twenty attempts
    can fall into one bad minute, two lie far apart.
    """

    attempts: int = 20
    over_s: float = 600.0

    def is_over(self, attempts: int, for_s: float) -> bool:
        """Return whether it is over after so many attempts in a row, the first of them ``for_s`` seconds ago."""
        return attempts >= self.attempts and for_s >= self.over_s


PATIENCE = Patience()

_DOUBLINGS = 1_000
"""More change nothing: the product is above any cap, and still a float (2.0 ** 1024 would raise)."""


def backoff(attempt: int, base_s: float, cap_s: float, random: Callable[[], float]) -> float:
    """Return the wait in seconds before retry ``attempt``: exponential with full jitter.

    Args:
        attempt: 0 for the first retry. Start again at 0 after progress.
        base_s: the upper bound of the first wait; it doubles with each attempt.
        cap_s: the bound grows no further than this.
        random: gives numbers from 0 to 1.

    Full jitter, anything from 0 to the bound, because after an outage thousands of readers come back at once.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random() * min(cap_s, base_s * 2.0 ** min(attempt, _DOUBLINGS))
