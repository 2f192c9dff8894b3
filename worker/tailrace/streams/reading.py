"""Several streams of one run, and the run itself, read together. Pure; the clock is an argument.

`Reading` hands requests out under numbers and takes events in under the same; whoever does the waiting needs to know
nothing else::

    while (given := reading.take(now)) is None and not reading.finished:
        for number, key, request in reading.requests(now): start it
        wait for an event, until reading.wake_at(now) at most
        reading.handle(number, event, now)  or  reading.tick(now)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tailrace.model import RunView
from tailrace.streams.errors import StreamError
from tailrace.streams.follow import Follow
from tailrace.streams.steps import Chunk, Close, Ended, Event, Failed, Look, Looked, Page, Request, Retry
from tailrace.streams.watch import Watch

RUN = ""
"""Stands for the run where otherwise a stream key stands: no stream has an empty key."""


class GivenChunk(NamedTuple):
    """A chunk of one of the streams."""

    key: str
    chunk: Chunk


class GivenRun(NamedTuple):
    """The run has changed (or is seen for the first time)."""

    view: RunView


Given = GivenChunk | GivenRun


class Reading:
    """The streams of one run.

    ``discover`` makes the follower of a stream whose key upstream names; None: only those that are added are read.
    """

    def __init__(self, watch: Watch, discover: Callable[[str, float], Follow] | None = None) -> None:
        self.follows: dict[str, Follow] = {}
        self.watch = watch
        self.retries: deque[Retry] = deque()
        self._discover = discover
        self._given: deque[Given] = deque()
        self._numbers = 0
        self._under_way: dict[int, str] = {}  # number → stream key, or RUN
        self._number_of: dict[str, int] = {}
        self._shown: RunView | None = None
        self._complete = False  # the run was looked at after all its streams were drained

    def add(self, key: str, follow: Follow) -> None:
        """Read one more stream."""
        self.follows[key] = follow
        if self.watch.over:
            follow.seen(over=True, terminal=True, asked_at=0.0, now=0.0)

    # --- outcome

    @property
    def finished(self) -> bool:
        """Nothing more will come."""
        if self.watch.error is not None and self.watch.subscribed:
            return True
        if not self._drained():
            return False
        return not self.watch.subscribed or (self.watch.over and (self._complete or self._discover is None))

    @property
    def errors(self) -> dict[str, StreamError]:
        """What went wrong, by stream key; `RUN` for the run itself."""
        errors = {key: follow.error for key, follow in self.follows.items() if follow.error is not None}
        if self.watch.error is not None and self.watch.subscribed:
            errors[RUN] = self.watch.error
        return errors

    def take(self) -> Given | None:
        """Return the next of what has come, None when that is all for now."""
        return self._given.popleft() if self._given else None

    def fail(self, key: str, error: StreamError) -> None:
        """End one of the streams with this error; what has come of it is forgotten. The others go on."""
        self.follows[key].fail(error)
        self._given = deque(given for given in self._given if isinstance(given, GivenRun) or given.key != key)
        self._finish_up()

    # --- doing

    def requests(self, now: float) -> Iterator[tuple[int, str, Request]]:
        """Return what to start now: number, stream key and request. To be called when `take` gives None."""
        for key, follow in self.follows.items():
            while (request := follow.wants(now)) is not None:
                if isinstance(request, Close):
                    number = self._number_of.pop(key)
                    del self._under_way[number]
                    yield number, key, request
                else:
                    yield self._start(key), key, request
        if self.watch.wants(self._wanted_at(), now):
            yield self._start(RUN), RUN, Look(live=self.watch.subscribed and not self.watch.over)

    def close(self) -> list[tuple[int, str]]:
        """Forget everything; give number and stream key of what is under way."""
        under_way = list(self._under_way.items())
        self._under_way, self._number_of = {}, {}
        self._given.clear()
        return under_way

    def wake_at(self) -> float | None:
        """Return when to call `tick` at the latest, if nothing happens before."""
        times = [at for follow in self.follows.values() if (at := follow.wake_at()) is not None]
        if (at := self.watch.wake_at(self._wanted_at())) is not None:
            times.append(at)
        return min(times, default=None)

    def rested(self, for_s: float) -> None:
        """Do not count a time during which nobody wanted chunks as silence."""
        for follow in self.follows.values():
            follow.rested(for_s)

    def tick(self, now: float) -> None:
        """Do what is due. To be called only when no event is waiting to be handled."""
        self.watch.tick(now)
        if self.watch.over:
            self._tell(now, now)
        for key, follow in self.follows.items():
            follow.tick(now)
            self._answer(follow, now)
            self._collect(key, follow)
        self._finish_up()

    def handle(self, number: int, event: Event, now: float) -> None:
        """Take in what came of a request; what comes of one that was closed is ignored."""
        key = self._under_way.get(number)
        if key is None:
            return
        if key == RUN:
            self._done(number)
            self._on_run(event, now)
        else:
            follow = self.follows[key]
            if isinstance(event, Ended | Failed | Page):
                self._done(number)
            follow.handle(event, now)
            self._answer(follow, now)
            self._collect(key, follow)
        self._finish_up()

    # --- within

    def _start(self, key: str) -> int:
        self._numbers += 1
        self._under_way[self._numbers] = key
        self._number_of[key] = self._numbers
        return self._numbers

    def _done(self, number: int) -> None:
        key = self._under_way.pop(number)
        del self._number_of[key]

    def _wanted_at(self) -> float | None:
        times = [at for follow in self.follows.values() if (at := follow.look_at()) is not None]
        return min(times, default=None)

    def _answer(self, follow: Follow, now: float) -> None:
        """Of a run whose feed is followed anyway, what it said last is what there is to know."""
        watch, at = self.watch, follow.look_at()
        if watch.subscribed and watch.view is not None and at is not None and at <= now:
            follow.seen(over=watch.over, terminal=watch.terminal, asked_at=now, now=now)

    def _collect(self, key: str, follow: Follow) -> None:
        while follow.items:
            self._given.append(GivenChunk(key, follow.items.popleft()))
        self.retries.extend(follow.retries)
        follow.retries.clear()

    def _on_run(self, event: Event, now: float) -> None:
        watch = self.watch
        if isinstance(event, Failed):
            watch.failed(event.error, now)
            if watch.retry is not None:
                self.retries.append(watch.retry)
                watch.retry = None
            for key, follow in self.follows.items():
                follow.unseen(event.error, now)
                self._collect(key, follow)
            return
        assert isinstance(event, Looked)
        settled = watch.over
        asked_at = watch.looked(event.view, now)
        if watch.subscribed and event.view != self._shown:
            self._shown = event.view
            self._given.append(GivenRun(event.view))
        if self._discover is not None:
            for key in event.view.stream_keys:
                if key not in self.follows:
                    self.add(key, self._discover(key, now))
        self._tell(asked_at, now)
        if settled and self._drained():
            self._complete = True

    def _tell(self, asked_at: float, now: float) -> None:
        for key, follow in self.follows.items():
            follow.seen(over=self.watch.over, terminal=self.watch.terminal, asked_at=asked_at, now=now)
            self._collect(key, follow)

    def _finish_up(self) -> None:
        """Look at the run once more when all its streams are drained: keys can appear until its very end."""
        watch = self.watch
        if self._discover is not None and watch.over and not watch.asking and not self._complete and self._drained():
            watch.look_once_more()

    def _drained(self) -> bool:
        return all(follow.finished for follow in self.follows.values())
