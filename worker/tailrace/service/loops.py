"""A thread that must not die, and that says once what keeps it from its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tailrace.telemetry import Failing


class Loop:
    """Takes turns in a daemon thread of its own until it is stopped, whatever a turn raises."""

    def __init__(
        self,
        name: str,
        turn: Callable[[], float],
        *,
        what: str,
        retry_s: Callable[[], float],
        goes_on: Callable[[], bool] = lambda: True,
        **whose: str,
    ) -> None:
        """Make a loop; nothing runs yet.

        Args:
            turn: returns how long to wait before the next one, in seconds.
            what: the work, as the log names it; see `Failing`.
            retry_s: how long to wait after a turn that failed.
            goes_on: asked before each turn; the thread ends when it says no.
        """
        self.name = name
        self._turn = turn
        self._retry_s = retry_s
        self._goes_on = goes_on
        self._failing = Failing(what, whose)
        self._called = threading.Event()
        self._turn_since: float | None = None  # monotonic, while a turn is under way
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"tailrace-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Take the next turn now."""
        self._called.set()

    def moves(self, turn_max_s: float) -> bool:
        """Return whether it takes turns, none of them longer than ``turn_max_s``. One that has ended need not."""
        since = self._turn_since
        if since is not None and time.monotonic() - since > turn_max_s:
            return False
        return self._ended or not self._goes_on() or self._thread.is_alive()

    def stop(self, timeout_s: float = 0.0) -> None:
        """Take no further turn; wait so long for the one at work. Safe to repeat, and before the start."""
        self._ended = True
        self._called.set()
        if timeout_s and self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._ended and self._goes_on():
            wait_s = None
            self._turn_since = time.monotonic()
            with self._failing:
                wait_s = self._turn()
            self._turn_since = None
            self._called.wait(self._retry_s() if wait_s is None else wait_s)
            self._called.clear()
