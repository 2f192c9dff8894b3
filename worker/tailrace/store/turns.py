"""A bound on how many do something at once, in which everybody's turn comes: who has waited longest is next."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Turns"]


class Turns:
    """So many places. Thread-safe.

    A place that is given back goes to whoever waits longest. `threading.Semaphore` and SQLAlchemy's queue only wake
    that one, and whoever asks in that moment is faster: among a thousand readers some would wait for ever.
    """

    def __init__(self, places: int) -> None:
        self._free = places  # while somebody waits there are none
        self._lock = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    def take(self, timeout_s: float) -> bool:
        """Wait for a place; False when none came in time. `give_back` ends what is taken."""
        mine = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.append(mine)
        try:
            mine.wait(timeout_s)
        except BaseException:  # such as gevent's, which ends a greenlet where it waits
            if not self._leaves(mine):
                self.give_back()
            raise
        return not self._leaves(mine)

    def give_back(self) -> None:
        """Let somebody else have the place."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1

    def _leaves(self, mine: threading.Event) -> bool:
        """Wait no more; False when a place came after all."""
        with self._lock:
            if mine.is_set():
                return False
            self._waiting.remove(mine)
            return True
