"""One stream as it is followed: what to ask for next, when to try again and when to give up. Pure.

The blocking and the async reader do what `Follow.wants` says, and tell it what comes of it; the clock is an argument.

A closed response never ends a read (protocol §3). It ends when the run is over and a connection that was opened after
that was known has brought all there is; from the archive, at the checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from tailrace.errors import (
    Contradiction,
    MalformedRecord,
    NotFound,
    RequestRefused,
    TransientError,
    Unauthorized,
    WorkerError,
)
from tailrace.ingest.ending import UNANCHORED_SWEEPS
from tailrace.model import Arrival, StreamRef
from tailrace.retry import PATIENCE, backoff
from tailrace.source.client import LATEST
from tailrace.streams.errors import (
    NotArchived,
    RetriesExhausted,
    StreamError,
    StreamRefused,
    StreamTimeout,
)
from tailrace.streams.intake import Intake
from tailrace.streams.steps import (
    PAGE_BYTES,
    ArchiveEnd,
    Close,
    Ended,
    Event,
    Failed,
    Fetch,
    Looked,
    Open,
    Opened,
    Page,
    Request,
    Retry,
    Source,
    Start,
)
from tailrace.streams.timing import Timing

FIRST_PAGE = 200
PAGE_MAX_CHUNKS = 2_000


class Limits(NamedTuple):
    """What the caller said about patience. None: no limit."""

    timeout_s: float | None
    max_retries: int | None


class Follow:
    """One stream. Give out ``items`` in order; when ``finished``, ``error`` says whether that is its end."""

    def __init__(
        self,
        ref: StreamRef,
        start: Start,
        limits: Limits,
        timing: Timing,
        *,
        source: Source,
        random: Callable[[], float],
        now: float,
    ) -> None:
        self._intake = Intake(start, timing.hold_s)
        self.items = self._intake.items
        self.gaps = self._intake.gaps
        self.retries: deque[Retry] = deque()
        self.error: StreamError | None = None
        self.finished = False
        self._ref = ref
        self._start = start
        self._limits = limits
        self._timing = timing
        self._source = source
        self._random = random

        self._archived = source != "upstream"  # still reading what the archive has
        self._next = (start.generation, start.index)  # in the archive
        self._latest = start.latest  # nobody has said yet where in the archive that is
        self._page_size = FIRST_PAGE

        self._busy = False  # something we asked for is under way
        self._leave = False
        self._drain = False  # the connection was opened when the run was known to be over
        self._opened_at = now
        self._heard_at = now
        self._brought = False
        self._caught_up = False
        self._unanchored = 0  # ends in a row, the run being over, that did not show where we are

        self._connect_at = now
        self._look_first_until = now
        self._attempt = 0
        self._doubts = 0  # connections in a row that contradicted what is held
        self._quiet_since = now
        self._last_look: float | None = None  # asked because the time is up
        self._over = False
        self._look_interval = timing.look_after_s
        self._look_at: float | None = None if self._archived else now + timing.look_after_s

    # --- what to do next

    def wants(self, now: float) -> Request | None:
        """Return what to start now, None for nothing. What is asked for counts as started; ask again until None."""
        if self._leave or self.finished:
            self._leave = False
            if self._busy:
                self._busy = False
                return Close()
        if self.finished or self._busy or now < self._connect_at or now < self._look_first_until:
            return None
        self._busy = True
        if self._archived:
            return Fetch(*self._next, self._page_size, recent=self._source == "auto", latest=self._latest)
        self._drain = self._over
        self._opened_at = self._heard_at = now
        self._brought = self._caught_up = False
        wait_s = self._timing.drain_wait_s if self._drain else self._timing.wait_s
        return Open(self._intake.connect(), wait_s, LATEST if self._intake.seeking else None)

    def look_at(self) -> float | None:
        """Say from when on it matters whether the run is over; None when that is known."""
        return None if self._over or self.finished else self._look_at

    def wake_at(self) -> float | None:
        """Return when to call `tick` at the latest, if nothing happens before."""
        if self.finished:
            return None
        times: list[float] = []
        if not self._busy:
            times.append(max(self._connect_at, self._look_first_until))
        if self._intake.held_until is not None:
            times.append(self._intake.held_until)
        if self._outdated:
            times.append(self._settled_at)
        if self._limits.timeout_s is not None and not self._over:
            if self._last_look is None:
                times.append(self._silence_ends_at(self._limits.timeout_s))
            else:
                times.append(self._last_look + self._timing.answer_s)
        return min(times, default=None)

    def rested(self, for_s: float) -> None:
        """Do not count a time during which nobody wanted chunks as silence."""
        self._quiet_since += for_s
        self._intake.rested(for_s)
        if self._last_look is not None:
            self._last_look += for_s

    def tick(self, now: float) -> None:
        """Do what is due because nothing happened. To be called only when nothing is waiting to be handled."""
        if self.finished:
            return
        self._intake.tick(now)
        self._note_news(now)
        if self._outdated and now >= self._settled_at:
            self._drop(now)
        self._check_silence(now)

    # --- what happened

    def handle(self, event: Event, now: float) -> None:
        """Take in what came of a request."""
        if self.finished:
            return
        match event:
            case Opened():
                self._on_opened(event, now)
            case Arrival():
                self._on_arrival(event, now)
            case Page():
                self._on_page(event, now)
            case Ended():
                self._on_end(now)
            case Failed():
                self._on_failure(event.error, now)
            case Looked():
                raise AssertionError("what is known of the run comes through `seen`")

    def seen(self, *, over: bool, terminal: bool, asked_at: float, now: float) -> None:
        """Learn whether the run is over. ``terminal``: its status is final, but its end is not confirmed."""
        if self.finished or self._over:
            return
        self._look_first_until = now
        if not over and self._last_look is not None and asked_at >= self._last_look:
            if not terminal:
                self._time_out()
                return
            over = True
        if over:
            self._over = True
            self._look_at = None
            return
        self._look_interval = min(2 * self._look_interval, self._timing.look_every_s)
        self._look_at = None if self._archived else now + self._look_interval

    def unseen(self, error: WorkerError, now: float) -> None:
        """Learn that the run could not be looked at. Only a refusal ends the read: the stream itself may do well."""
        if self.finished or self._over:
            return
        if isinstance(error, Unauthorized | RequestRefused):
            self.fail(StreamRefused(str(error), status=error.status), error)
            return
        self._look_first_until = now
        self._look_at = None if self._archived else now + self._timing.look_every_s

    def fail(self, error: StreamError, cause: BaseException | None = None) -> None:
        """End, with this error."""
        if cause is not None:
            error.__cause__ = cause
        self.error = error
        self._finish()

    # --- the archive

    def _on_page(self, page: Page, now: float) -> None:
        self._busy = False
        self._progress(now, now)
        if not page.known:
            if self._source == "archive":
                self.fail(NotArchived(f"The archive does not know run {self._ref.run_id}"))
            else:
                self._go_live(now)
            return
        has = self._start.has
        chunks = [chunk for chunk in page.chunks if has(chunk.generation, chunk.chunk_index)]
        self.items.extend(chunks)
        self.gaps.extend(page.gaps)
        self._next = (page.next_generation, page.next_index)
        self._latest = False
        size = sum(len(chunk.text) for chunk in page.chunks)
        if size > PAGE_BYTES:
            self._page_size = max(1, self._page_size // 2)
        elif size < PAGE_BYTES // 4:
            self._page_size = min(PAGE_MAX_CHUNKS, 2 * self._page_size)
        if page.end is None:
            return
        if self._source == "archive" or page.end.sealed:
            self._finish()
        else:
            self._go_live(now, page.end)

    def _go_live(self, now: float, end: ArchiveEnd | None = None) -> None:
        """Go on upstream: after the archive's checkpoint, or from the start when the archive has nothing."""
        self._archived = False
        self._look_at = now + self._timing.look_after_s
        if end is not None:
            self._intake.go_on_after(end)

    # --- upstream

    def _on_opened(self, opened: Opened, now: float) -> None:
        self._heard_at = now
        try:
            self._intake.opened(opened, now)
        except MalformedRecord as error:
            self.fail(StreamError(str(error)), error)
            return
        self._note_news(now)

    def _on_arrival(self, arrival: Arrival, now: float) -> None:
        intake = self._intake
        self._heard_at = now
        intake.arrive(arrival, now)
        self._note_news(now)
        if intake.held_until is not None:
            self._last_look = None  # it is not silent, though what came may not be given out yet
        if arrival.tail is not None and intake.caught_up and not intake.stale:
            if self._drain:
                self._finish()
            elif not self._caught_up:
                self._caught_up = True
                self._look_soon(now)

    def _on_end(self, now: float) -> None:
        """A clean end: nothing new for a while."""
        self._busy = False
        whole = self._intake.ended(now, final=self._drain)
        self._note_news(now)
        if self._brought:
            self._unanchored = 0
        if self._drain and whole:
            if self._intake.anchored or self._unanchored >= UNANCHORED_SWEEPS:
                self._finish()
                return
            self._unanchored += 1
        if not self._brought:
            # Upstream keeps a silent stream open for the whole wait. One that closes at once must not make us spin.
            self._connect_at = self._opened_at + self._timing.reconnect_s
        if not self._over:
            self._look_first_until = now + self._timing.reconnect_s
            self._look_at = now

    def _on_failure(self, error: WorkerError, now: float) -> None:
        self._busy = False
        self._intake.left()
        if isinstance(error, Unauthorized | RequestRefused):
            self.fail(StreamRefused(str(error), status=error.status), error)
        elif isinstance(error, StreamError):
            self.fail(error)
        elif isinstance(error, TransientError | NotFound):
            self._again(error, now)
        else:
            self.fail(StreamError(str(error)), error)

    def _again(self, error: TransientError | NotFound | Contradiction, now: float) -> None:
        self._attempt += 1
        most = self._limits.max_retries
        if most is not None and self._attempt > most:
            status = 404 if isinstance(error, NotFound) else getattr(error, "status", None)
            tries = "once" if self._attempt == 1 else f"{self._attempt} times"
            self.fail(RetriesExhausted(f"Tried {tries}: {error}", attempts=self._attempt, status=status), error)
            return
        delay_s = backoff(self._attempt - 1, self._timing.retry_base_s, self._timing.retry_cap_s, self._random)
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        self._connect_at = now + delay_s
        self.retries.append(Retry(self._ref.stream_key, self._attempt, delay_s, error))

    # --- within

    def _note_news(self, now: float) -> None:
        """See what came of something that was handed to the intake."""
        news_at = self._intake.take_news()
        if news_at is not None:
            self._brought = True
            self._progress(news_at, now)
        if self._intake.stale and self._busy and not self._leave:
            self._drop(now)

    def _progress(self, news_at: float, now: float) -> None:
        self._attempt = self._doubts = 0
        self._quiet_since = news_at
        self._last_look = None
        self._look_interval = self._timing.look_after_s
        if not self._over and not self._archived:
            self._look_at = now + self._look_interval

    def _look_soon(self, now: float) -> None:
        if not self._over:
            self._look_at = now

    @property
    def _outdated(self) -> bool:
        """The connection was opened before the run was known to be over: its end would prove nothing."""
        return self._over and self._busy and not self._drain and not self._archived

    @property
    def _settled_at(self) -> float:
        """When to leave such a connection: not while it brings something."""
        return self._heard_at if self._intake.caught_up else self._heard_at + self._timing.settle_s

    def _drop(self, now: float) -> None:
        """Leave the connection and open another."""
        intake = self._intake
        doubt = intake.doubt
        intake.left()
        self._leave = True
        self._connect_at = now + intake.wait_s if intake.stale else now
        if doubt is not None:
            self._doubts += 1
            if self._doubts > 1:  # the first is settled at once
                self._again(Contradiction(doubt), now)
            if PATIENCE.is_over(self._doubts, now - self._quiet_since):
                intake.believe()

    def _check_silence(self, now: float) -> None:
        timeout_s = self._limits.timeout_s
        if timeout_s is None or self._over:
            return
        if self._last_look is not None:
            if now >= self._last_look + self._timing.answer_s:
                self._time_out()
        elif now >= self._silence_ends_at(timeout_s):
            if self._archived:
                self._time_out()
            else:
                self._last_look = self._look_at = now

    def _silence_ends_at(self, timeout_s: float) -> float:
        """Return when it has been silent for too long; not while a line is held that still may be given out."""
        return max(self._quiet_since + timeout_s, self._intake.held_until or 0.0)

    def _time_out(self) -> None:
        seconds = self._limits.timeout_s or 0.0
        self.fail(
            StreamTimeout(
                f"Nothing came on stream {self._ref.stream_key!r} of run {self._ref.run_id} for {seconds:g} s, "
                "and the run is not over",
                timeout_in_seconds=seconds,
            )
        )

    def _finish(self) -> None:
        if self.error is None:
            self._intake.begin()
        self.finished = True
        self._look_at = None
