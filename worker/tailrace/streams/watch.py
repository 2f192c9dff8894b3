"""What is known of a run, and when to look again. Pure."""

from __future__ import annotations

from collections.abc import Callable

from tailrace.errors import NotFound, RequestRefused, TransientError, Unauthorized, WorkerError
from tailrace.model import RunView
from tailrace.retry import backoff
from tailrace.streams.errors import RetriesExhausted, StreamError, StreamRefused
from tailrace.streams.steps import Retry
from tailrace.streams.timing import Timing


class Watch:
    """The run of a read.

    As an *observer* it looks only when a stream wants to know whether the run is over. As a *subscriber* it follows the
    run feed by itself, and its failures are failures of the subscription.
    """

    def __init__(
        self, timing: Timing, *, subscribed: bool, max_retries: int | None, random: Callable[[], float], now: float
    ) -> None:
        self.view: RunView | None = None
        self.over = False
        self.error: StreamError | None = None
        self.retry: Retry | None = None
        self.subscribed = subscribed
        self._timing = timing
        self._max_retries = max_retries
        self._random = random
        self._asked_at: float | None = None
        self._not_before = now
        self._terminal_since: float | None = None
        self._attempt = 0
        self._once_more = False

    @property
    def asking(self) -> bool:
        return self._asked_at is not None

    @property
    def terminal(self) -> bool:
        """The run's status is final; `over`: and its end is confirmed."""
        return self.view is not None and self.view.terminal

    def wake_at(self, wanted_at: float | None) -> float | None:
        """Return when there is something to ask or to decide; ``wanted_at``: from when on a stream wants to know."""
        times: list[float] = []
        if not self.asking and self.error is None:
            if self._due() or self._once_more:
                times.append(self._not_before)
            elif wanted_at is not None:
                times.append(max(wanted_at, self._not_before))
        if self._terminal_since is not None and not self.over:
            times.append(self._terminal_since + self._timing.over_after_s)
        return min(times, default=None)

    def wants(self, wanted_at: float | None, now: float) -> bool:
        """Return whether to ask now; if so, it counts as asked."""
        at = self.wake_at(wanted_at)
        if self.asking or self.error is not None or at is None or now < max(at, self._not_before):
            return False
        self._asked_at = now
        self._once_more = False
        return True

    def look_once_more(self) -> None:
        """Have the run looked at again although it is over: keys can appear until its very end."""
        self._once_more = True

    def tick(self, now: float) -> None:
        """Believe a terminal status that has stood for long without a time of its end."""
        if self._terminal_since is not None and now >= self._terminal_since + self._timing.over_after_s:
            self.over = True

    def looked(self, view: RunView, now: float) -> float:
        """Take in what upstream says; give when that was asked."""
        asked_at = self._asked_at if self._asked_at is not None else now
        self._asked_at = None
        self._attempt = 0
        unchanged = view == self.view
        self.view = view
        if not view.terminal:
            self._terminal_since = None
        elif self._terminal_since is None:
            self._terminal_since = now
        self.over = self.over or (view.terminal and view.finished_at is not None)
        self.tick(now)
        # A question that upstream should have held was answered at once and brought nothing: do not ask in a circle.
        pause = self.subscribed and unchanged
        self._not_before = max(now, asked_at + self._timing.reconnect_s) if pause else now
        return asked_at

    def failed(self, error: WorkerError, now: float) -> None:
        """Take in that upstream could not be asked."""
        self._asked_at = None
        if isinstance(error, Unauthorized | RequestRefused):
            self._give_up(StreamRefused(str(error), status=error.status), error)
            return
        self._attempt += 1
        delay_s = backoff(self._attempt - 1, self._timing.retry_base_s, self._timing.retry_cap_s, self._random)
        self._not_before = now + delay_s
        if not self.subscribed:
            return
        if not isinstance(error, TransientError | NotFound):
            self._give_up(StreamError(str(error)), error)
        elif self._max_retries is not None and self._attempt > self._max_retries:
            status = 404 if isinstance(error, NotFound) else getattr(error, "status", None)
            gave_up = RetriesExhausted(f"Tried {self._attempt} times: {error}", attempts=self._attempt, status=status)
            self._give_up(gave_up, error)
        else:
            self.retry = Retry("", self._attempt, delay_s, error)

    def _due(self) -> bool:
        return self.subscribed and not self.over

    def _give_up(self, error: StreamError, cause: WorkerError) -> None:
        error.__cause__ = cause
        self.error = error
