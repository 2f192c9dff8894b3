"""How long to wait before another attempt, and how many it takes to give up. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BELIEVED_ATTEMPTS = 20
BELIEVED_AFTER_S = 600.0
"""What ends a stream or a run for good is believed when it came so many times in a row, over so long a time: a
firewall, a bad deployment or a proxy answers wrongly for minutes."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How much it takes to believe what ends a stream or a run."""

    attempts: int = BELIEVED_ATTEMPTS
    over_s: float = BELIEVED_AFTER_S

    def is_over(self, attempts: int, for_s: float) -> bool:
        """Return whether so many attempts in a row, over so long, are enough."""
        return attempts >= self.attempts and for_s >= self.over_s


PATIENCE = Patience()

_DOUBLINGS = 1_000
"""More change nothing: the product is above any cap, and still a float (2.0 ** 1024 would raise)."""

BELIEVED_ATTEMPTS = 20
BELIEVED_AFTER_S = 600.0
"""A refusal is believed when upstream has refused so many times, over so long: a firewall or a deployment can answer
400 too, and is over after minutes. Both are needed: twenty attempts can fall into one bad minute, two lie far apart."""


def believed(refusals: int, over_s: float) -> bool:
    """Return whether so many refusals, the first of them ``over_s`` seconds ago, are upstream's last word."""
    return refusals >= BELIEVED_ATTEMPTS and over_s >= BELIEVED_AFTER_S


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
