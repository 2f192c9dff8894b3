"""How long upstream waits, as one value, so that all of it can be shrunk at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

_LENGTHS = (
    "second_s",
    "block_s",
    "ping_s",
    "idle_s",
    "s2_ping_min_s",
    "s2_ping_max_s",
    "s2_wait_s",
    "live_poll_s",
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Upstream's real waits by default.

    ``second_s`` is the length of one second of the request header ``Timeout-Seconds``, which takes whole numbers only:
    without it nothing could be faster than a second.
    """

    second_s: float = 1.0
    block_s: float = 5.0  # v1: XREAD BLOCK; pings and the idle close are looked at once per block
    ping_s: float = 10.0  # v1: a comment when nothing was sent for so long
    idle_s: float = 60.0  # v1: clean close without data for so long, when the request does not say
    error_waits_s: tuple[float, ...] = (1.0, 2.0)  # v1: between the three tries of a failing read
    s2_ping_min_s: float = 5.0  # v2: pings at random distances between these two
    s2_ping_max_s: float = 15.0
    s2_wait_s: float = 60.0  # v2: [DONE] without records for so long, when the request does not say
    live_poll_s: float = 20.0  # run feed: how long live=true is held
    live_poll_jitter: float = 0.15

    def scaled(self, factor: float) -> Timing:
        """The same proportions, ``factor`` times as long."""
        lengths = {name: getattr(self, name) * factor for name in _LENGTHS}
        return replace(self, error_waits_s=tuple(wait * factor for wait in self.error_waits_s), **lengths)
