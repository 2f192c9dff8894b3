"""How fast a backfill may ask: within its share of the environment's rate limit. Pure."""

from __future__ import annotations

from tailrace.source.listing import Rate

WITHOUT_HEADERS_S = 1.0
"""Between two pages when upstream does not say how much is left: 60 a minute of 1 500."""
PAUSE_S = 10.0
"""After a 429 that does not say when there is more: upstream refills every 10 s."""


def wait_s(rate: Rate | None, share: float) -> float:
    """Return how long to wait before the next page.

    The bucket is everybody's: as long as more than ``1 - share`` of it is left, the next page can be asked for at
    once. Else it waits until upstream puts more in, and then asks for one page again: so it goes on, slowly, even when
    others use all of the limit.
    """
    if rate is None:
        return WITHOUT_HEADERS_S
    if rate.remaining > rate.limit * (1 - share):
        return 0.0
    return rate.reset_s
