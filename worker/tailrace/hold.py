"""How long v1's last line is held back, because it may be half. Pure: the clock is an argument.

A server that closes gives out the unfinished line it has, so a line that comes together with the end of its response is
no proof that it is whole (protocol §1.3). It is believed when something follows it, or when this time has
passed and the end has not come.
"""

from __future__ import annotations

GRACE = 0.125
"""The last part of the hold time, which the process must have been seen to run through. One that was stopped (SIGSTOP,
a machine that is moved, an event loop that is busy) may have the end of the body in its socket without having had the
chance to see it."""


class Hold:
    """One line that is held since ``now``. Ask `certain` at `look_at`, and again until it is.

    ``hold_s``: for how long, in seconds. A look that comes late by more than the grace is one of a process that did not
    run: the grace then begins anew.
    """

    __slots__ = ("_began_at", "_grace_s", "look_at")

    def __init__(self, hold_s: float, now: float) -> None:
        self._grace_s = GRACE * hold_s
        self._began_at: float | None = None  # of the grace
        self.look_at = now + hold_s - self._grace_s

    def certain(self, now: float) -> bool:
        """Return whether the line can be believed; False before `look_at`."""
        if now < self.look_at:
            return False
        if self._began_at is not None and now <= self.look_at + self._grace_s:
            return True
        self._began_at = now
        self.look_at = now + self._grace_s
        return False
