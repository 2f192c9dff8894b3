"""How patient a read is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of a read. Seconds; each has the reason for its number beside it."""

    wait_s: int = 60  # asked of upstream as Timeout-Seconds: its own default
    drain_wait_s: int = 1  # the same once the run is over: the shortest that it takes everywhere
    hold_s: float = 2.0  # v1's last event may be half a line until something follows it or this has passed
    look_after_s: float = 1.0  # a pause this long is a reason to look whether the run is over...
    look_every_s: float = 5.0  # ...and then again, less and less often, down to this
    settle_s: float = 0.25  # the run is over, and nothing has come for this long: time for the last read
    reconnect_s: float = 1.0  # between the starts of two connections that bring nothing
    retry_base_s: float = 0.5  # most of a broken connection is mended at once...
    retry_cap_s: float = 5.0  # ...and a person may be waiting
    answer_s: float = 5.0  # how long a timeout is put off for an answer to "is the run over?"
    over_after_s: float = 600.0  # a terminal status without a time of its end is believed after this (protocol §3)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 45.0  # upstream pings every 5-15 s
