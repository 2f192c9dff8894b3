"""How much of the work is this process's: about its share of what is open, by its slots. Pure.

Whoever asks first would take all that its slots allow: of three workers one had 200 streams, one 100 and one none. So a
process chooses no more than its share, gives up what is above it a little at a time, and takes what nobody else takes.
"""

from __future__ import annotations

import math

from tailrace.store.choosing import Balance

SPARE_STREAMS = 5
"""So many streams a process takes beyond its share: one that has just come is read at once, by whoever sees it."""
SPARE = 0.1
"""By so much of its share, and by those, it may be above it before it gives anything up: streams come and go."""
PART = 8
"""A process gives up this part of what is above its share at each turn, so that a worker that comes has its share
within a minute, and not all streams change hands at one moment."""
REST_TURNS = 15
"""So many turns nothing is given up after what was given up has been taken by nobody; each time twice as many."""
MOST_REST_TURNS = 240


class Sharing:
    """The share of one process. Not thread-safe."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._gave = 0  # and it is not known yet whether others have taken it
        self._rests = 0
        self._rest_turns = REST_TURNS

    def _share(self, balance: Balance) -> int:
        """Return how many of the open streams are this process's."""
        return math.ceil((balance.reading + balance.due) * self._slots / max(balance.slots, self._slots))

    def may_take(self, free: int, balance: Balance) -> int:
        """Return how many streams to choose. ``free``: how many more the process could read."""
        if self._alone(balance):
            return free
        mine = self._slots - free
        return max(0, min(free, max(self._share(balance) + SPARE_STREAMS - mine, balance.overdue)))

    def gives_up(self, free: int, balance: Balance) -> int:
        """Return how many readers are to leave for others, once a turn."""
        if not self._may_give_up(balance):
            return 0
        share, mine = self._share(balance), self._slots - free
        if self._alone(balance) or mine <= share + SPARE_STREAMS + share * SPARE:
            return 0
        self._gave = math.ceil((mine - share) / PART)
        return self._gave

    def _may_give_up(self, balance: Balance) -> bool:
        if self._rests:
            self._rests -= 1
            return False
        if self._gave and balance.overdue:  # nobody wants it
            self._gave, self._rests = 0, self._rest_turns
            self._rest_turns = min(MOST_REST_TURNS, 2 * self._rest_turns)
            return False
        if 2 * balance.due > self._gave:  # it has not been taken yet
            return self._gave == 0
        if self._gave:
            self._gave, self._rest_turns = 0, REST_TURNS
        return True

    def _alone(self, balance: Balance) -> bool:
        return balance.slots <= self._slots
