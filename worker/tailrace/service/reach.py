"""Whether upstream can be reached at all, as far as one process sees it in one environment.

While it can't, a thousand streams need not find that out one by one, and none has to wait for its own backoff when it
is back: one request about every second looks for all of them, and the first answer wakes the others. The trouble of one
stream is not upstream's: what fails for fewer than `MANY` at a time backs off alone.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

from tailrace import metrics
from tailrace.errors import NotFound, SourceUnavailable, StreamStalled, TransientError
from tailrace.ingest.signal import Signal
from tailrace.telemetry import Failing

MANY = 3
"""So many streams or runs that can't be asked for, one after the other and no answer between: upstream is away."""
LOOK_S = 1.0
"""How often somebody looks whether it is back."""
SPREAD_S = 2.5
WOKEN_PER_S = 100.0
"""When it is back, readers connect again so many a second, or all of them over `SPREAD_S`, whichever is sooner."""
FOLLOWING_S = 60.0
"""How long one waits that is not the first; it is told when it is, and when upstream is back."""
AWAY = frozenset({502, 503, 504})
"""Answers of what stands before an upstream that is away. A 500 is none: v2 gives it for a stream that is not there."""


class Reach:
    """Thread-safe. What opens a connection says how that went, and waits here before it does while upstream is away."""

    def __init__(
        self,
        clock_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        environment: str = "default",
    ) -> None:
        self._environment = environment
        self._clock_s = clock_s
        self._chance = chance
        self._lock = threading.Lock()
        self._failed: set[Hashable] = set()  # since the last answer
        self._trouble = Failing("upstream", {"environment": environment}, clock=clock_s)
        self._troubled = False  # and not over, as far as was told
        self._look_at = 0.0
        self._waiting: dict[Signal, None] = {}  # the first looks when it is time
        self._spread_s = 0.0

    @property
    def away(self) -> bool:
        return len(self._failed) >= MANY

    @contextmanager
    def asking(self, whose: Hashable) -> Iterator[None]:
        """Wrap what opens a connection or asks a question: note whether upstream answered."""
        try:
            yield
        except TransientError as error:
            self._count(_status_of(error))
            if _is_away(error):
                self.failed(whose, error)
            else:
                self.answered()
            raise
        except Exception as error:
            self._count(_status_of(error))
            self.answered()  # whatever it said, it is there
            raise
        else:
            self._count(200)
            self.answered()

    def _count(self, status: int | None) -> None:
        metrics.upstream_answers.labels(self._environment, metrics.answer_code(status)).inc()

    def failed(self, whose: Hashable, error: TransientError) -> None:
        """Note that upstream could not be asked for this."""
        with self._lock:
            if not self.away:
                self._failed.add(whose)
                self._look_at = self._clock_s() + self._pause_s()
            if self.away:
                self._troubled = True
                self._trouble.failed(error)

    def answered(self) -> None:
        """Note that upstream answered: whoever waits goes on."""
        if not (self._failed or self._troubled):
            return
        with self._lock:
            if self._troubled:
                self._troubled = not self._trouble.succeeded()
            self._failed.clear()
            waiting, self._waiting = self._waiting, {}
            self._spread_s = min(SPREAD_S, len(waiting) / WOKEN_PER_S)
        for signal in waiting:
            signal.poke()

    def may_look(self) -> bool:
        """Return whether to ask now, for who does not wait: upstream is there, or it is time to look whether it is."""
        with self._lock:
            return not self.away or self._takes_turn()

    def wait(self, signal: Signal) -> None:
        """Wait while upstream is away, until it is for this reader to look, or somebody calls it."""
        waited = False
        while not signal.called and (timeout_s := self._queue(signal)) is not None:
            waited = True
            signal.rest(timeout_s)
        self._leave_queue(signal)
        if waited and not self.away:
            signal.rest(self._chance() * self._spread_s)

    def _queue(self, signal: Signal) -> float | None:
        """Stand in the queue; return for how long, None: go on."""
        with self._lock:
            if not self.away:
                return None
            self._waiting.setdefault(signal)
            if next(iter(self._waiting)) is not signal:
                return FOLLOWING_S
            return None if self._takes_turn() else max(0.0, self._look_at - self._clock_s())

    def _leave_queue(self, signal: Signal) -> None:
        with self._lock:
            if self._waiting.pop(signal, signal) is signal:
                return
            first = next(iter(self._waiting), None)
        if first is not None:
            first.poke()  # it has to know when it is time

    def _takes_turn(self) -> bool:
        now = self._clock_s()
        if now < self._look_at:
            return False
        self._look_at = now + self._pause_s()
        return True

    def _pause_s(self) -> float:
        return LOOK_S * (0.75 + self._chance() / 2)


def _is_away(error: TransientError) -> bool:
    if isinstance(error, SourceUnavailable):
        return error.status is None or error.status in AWAY
    return isinstance(error, StreamStalled)


def _status_of(error: Exception) -> int | None:
    """Return the status that an error tells of; None: there was no answer, or one that could not be read."""
    if isinstance(error, NotFound):
        return 404
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None
