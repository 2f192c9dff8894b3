"""Abort what is being read, from anywhere: another thread, greenlet or task, or a signal handler.

The names and their meaning are those of the web platform, which Trigger.dev's own SDK uses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from tailrace.streams.errors import StreamAborted

__all__ = ["AbortController", "AbortSignal"]


class AbortSignal:
    """Tells reads to stop. Made by `AbortController`, `timeout` or `any`; one can serve many reads. Thread-safe."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may abort while the thread it interrupts is in here.
        self._lock = threading.RLock()
        self._reason: object = None
        self._aborted = False
        self._deadline: float | None = None
        self._sources: tuple[AbortSignal, ...] = ()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._numbers = 0

    @classmethod
    def timeout(cls, seconds: float) -> AbortSignal:
        """Return a signal that aborts by itself after ``seconds`` from now. It needs neither thread nor timer."""
        signal = cls()
        signal._deadline = time.monotonic() + seconds
        return signal

    @classmethod
    def any(cls, signals: Iterable[AbortSignal]) -> AbortSignal:
        """Return a signal that is aborted as soon as one of ``signals`` is."""
        signal = cls()
        signal._sources = tuple(signals)
        return signal

    @property
    def aborted(self) -> bool:
        """Whether it was aborted."""
        if self._aborted or any(source.aborted for source in self._sources):
            return True
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def reason(self) -> object:
        """What was given to `AbortController.abort`; a TimeoutError when the time is over; None while not aborted."""
        if self._aborted:
            return self._reason
        for source in self._sources:
            if source.aborted:
                return source.reason
        return TimeoutError("the time of the signal is over") if self.aborted else None

    def throw_if_aborted(self) -> None:
        """Raise StreamAborted when it was aborted."""
        if self.aborted:
            reason = self.reason
            said = "" if reason is None else f": {reason}"
            raise StreamAborted(f"The read was aborted{said}", reason=reason)

    def remaining_s(self) -> float | None:
        """Return how long until it aborts by itself; None when it never will."""
        times = [each for source in self._sources if (each := source.remaining_s()) is not None]
        if self._deadline is not None:
            times.append(max(0.0, self._deadline - time.monotonic()))
        return min(times, default=None)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called when somebody aborts, in whatever thread does; give a function that ends that.

        It is not called when the time of `timeout` is over: whoever waits, waits no longer than `remaining_s`.
        """
        endings = [source.listen(callback) for source in self._sources]
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._listeners[number] = callback

        def end() -> None:
            with self._lock:
                self._listeners.pop(number, None)
            for ending in endings:
                ending()

        return end

    def _abort(self, reason: object) -> None:
        with self._lock:
            if self._aborted:
                return
            self._reason = reason
            self._aborted = True
            listeners = list(self._listeners.values())
        for callback in listeners:
            callback()


class AbortController:
    """Has a signal to hand out, and aborts it."""

    def __init__(self) -> None:
        self._signal = AbortSignal()

    @property
    def signal(self) -> AbortSignal:
        """What reads are given as ``signal=``."""
        return self._signal

    def abort(self, reason: object = None) -> None:
        """Abort: reads that wait raise StreamAborted now, the others at their next step. Again changes nothing."""
        self._signal._abort(reason)
