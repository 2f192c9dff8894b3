"""The streams that this process reads, and how to reach their readers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from tailrace.ingest.signal import Signal


class Readers:
    """Which streams are being read in this process: each by one reader, however many messages ask for it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Condition()
        self._signals: dict[int, Signal] = {}
        self._since: dict[int, float] = {}  # those that read longest first
        self._leased: dict[int, str] = {}  # to the environment
        self._seen_over: set[int] = set()
        self.leaving = False

    def begin(self, stream_id: int) -> Signal | None:
        """Note that a reader starts; None when the stream is read already or the process is leaving."""
        with self._lock:
            if self.leaving or stream_id in self._signals:
                return None
            signal = self._signals[stream_id] = Signal()
            self._since[stream_id] = self._clock()
            return signal

    def end(self, stream_id: int) -> None:
        with self._lock:
            self._signals.pop(stream_id, None)
            self._since.pop(stream_id, None)
            self._leased.pop(stream_id, None)
            self._seen_over.discard(stream_id)
            self._lock.notify_all()

    def __len__(self) -> int:
        return len(self._signals)

    def leased(self, stream_id: int, environment: str, over: bool = False) -> None:
        """Note that the reader has its lease: from now on, losing it is a reason to stop.

        ``over``: it knows that its run is.
        """
        with self._lock:
            self._leased[stream_id] = environment
            if over:
                self._seen_over.add(stream_id)

    def begun_ids(self) -> list[int]:
        """Return all streams whose reader has begun, with its lease or about to get it."""
        with self._lock:
            return list(self._signals)

    def leased_ids(self) -> list[int]:
        with self._lock:
            return list(self._leased)

    def by_environment(self) -> dict[str, int]:
        """Count the streams with a lease."""
        with self._lock:
            return dict(Counter(self._leased.values()))

    def leave_environments(self, names: Collection[str]) -> None:
        """Make the readers of these environments stop: their key is good no more."""
        with self._lock:
            streams = [stream_id for stream_id, name in self._leased.items() if name in names]
        self.leave(streams)

    def look_again(self, stream_ids: Iterable[int]) -> None:
        """Tell readers, once each, that their run is over: they need not wait for upstream to close."""
        with self._lock:
            signals = [
                self._signals[each] for each in stream_ids if each in self._signals and each not in self._seen_over
            ]
            self._seen_over.update(stream_ids)
        for signal in signals:
            signal.look_again()

    def leave(self, stream_ids: Iterable[int]) -> None:
        """Make readers stop: their lease is gone, or somebody cancelled the run."""
        with self._lock:
            signals = [self._signals[each] for each in stream_ids if each in self._signals]
        for signal in signals:
            signal.leave()

    def shed(self, places: int) -> None:
        """Make ``places`` readers stop, those that read longest first."""
        with self._lock:
            longest = [each for each in self._since if each in self._leased][:places]
        self.leave(longest)

    def give_turns(self, places: int, turn_s: float) -> int:
        """Make up to ``places`` readers that have had their turn stop, longest readers first; return how many."""
        now = self._clock()
        with self._lock:
            done = [each for each, since in self._since.items() if now - since >= turn_s][: max(0, places)]
        self.leave(done)
        return len(done)

    def drain(self) -> None:
        """Make all readers stop, and let no new one start. Does not wait."""
        with self._lock:
            self.leaving = True
            signals = list(self._signals.values())
        for signal in signals:
            signal.leave()

    def wait_empty(self, timeout_s: float) -> bool:
        """Wait until no stream is read any more; False when that takes longer than ``timeout_s``."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._signals, timeout_s)
