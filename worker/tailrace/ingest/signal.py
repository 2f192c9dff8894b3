"""How others reach a reader that waits: its process drains, its run was cancelled, its run is over."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Signal:
    """How others reach a reader: leave (drain, cancel), or look around again (its run is over)."""

    def __init__(self) -> None:
        self._changed = threading.Event()
        self._looking = False
        self.leaving = False
        self.interrupt: Callable[[], None] = lambda: None

    @property
    def called(self) -> bool:
        """Somebody wants the reader to drop its connection."""
        return self.leaving or self._looking

    def leave(self) -> None:
        self.leaving = True
        self._wake()

    def look_again(self) -> None:
        self._looking = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self.interrupt()  # after the flags: a body that is shut down can look cleanly ended

    def looked(self) -> None:
        """Note that the reader is about to look around."""
        self._looking = False
        if not self.leaving:
            self._changed.clear()

    def poke(self) -> None:
        """Wake a reader that rests, and nothing else."""
        self._changed.set()

    def rest(self, timeout_s: float) -> None:
        """Wait until somebody calls or pokes, at most so long; the next time a new poke is needed."""
        if timeout_s > 0:
            self._changed.wait(timeout_s)
        if not self.called:
            self._changed.clear()
            if self.called:  # since it was asked: whoever calls sets the flag first
                self._changed.set()

    def wait(self, timeout_s: float) -> None:
        """Wait, but not longer than until somebody calls."""
        if timeout_s > 0:
            self._changed.wait(timeout_s)
