"""One stream as it is followed: what to ask for next, what to give out, when to try again and when to give up. Pure.

The blocking and the async reader do what `Follow.wants` says, and tell it what comes of it; the clock is an argument.

A closed response never ends a read (PROTOCOL §3). It ends when the run is over and a connection that was opened after
that was known has brought all there is; from the archive, at the checkpoint.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, NamedTuple

from worker.errors import NotFound, RequestRefused, TransientError, Unauthorized, WorkerError
from worker.ingest.sequence import Sequence, V1Sequence, V2Sequence, sequence_for
from worker.model import Checkpoint, Delivery, StreamRef, Take, V1Record, Wire
from worker.retry import backoff
from worker.streams.errors import (
    NotArchived,
    RetriesExhausted,
    StreamError,
    StreamRefused,
    StreamTimeout,
)
from worker.streams.pace import Pace
from worker.streams.steps import (
    PAGE_BYTES,
    ArchiveEnd,
    Chunk,
    Close,
    Ended,
    Event,
    Failed,
    Fetch,
    Gap,
    Looked,
    Open,
    Opened,
    Page,
    Request,
    Retry,
    Source,
    Start,
)

LOOKBACK = 1_000
"""v2: a read that begins in the middle reads so many records before it, to know a writer's retry when it sees one. A
retry repeats what one append held: 1 000 records at most."""
NO_LINE = (-1, -1, 0)
FIRST_PAGE = 200
PAGE_MAX_CHUNKS = 2_000
NO_CHUNKS = frozenset({"repeat", "unterminated"})
"""What is in quarantine besides being accounted for elsewhere: a chunk's second copy, a chunk's doubt."""


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
        pace: Pace,
        *,
        source: Source,
        random: Callable[[], float],
        now: float,
    ) -> None:
        self.items: deque[Chunk] = deque()
        self.gaps: list[Gap] = []
        self.retries: deque[Retry] = deque()
        self.error: StreamError | None = None
        self.finished = False
        self._ref = ref
        self._start = start
        self._limits = limits
        self._pace = pace
        self._source = source
        self._random = random

        self._archived = source != "upstream"  # still reading what the archive has
        self._next = (start.generation, start.index)  # in the archive
        self._page_size = FIRST_PAGE

        self._wire: Wire | None = None
        self._sequence: Sequence | None = None
        self._checkpoint = Checkpoint()
        self._line = NO_LINE  # v1: the last that was taken
        self._reaching = False  # v2: the read begins at a number that upstream may not have reached yet
        self._proven = not start.resumed  # v2: we have seen that upstream still has the place we resume after

        self._busy = False  # something we asked for is under way
        self._leave = False
        self._drain = False  # the connection was opened when the run was known to be over
        self._opened_at = now
        self._heard_at = now
        self._brought = False
        self._caught_up = False
        self._tail: int | None = None
        self._held: _Held | None = None
        self._loose: Any = None

        self._connect_at = now
        self._look_first_until = now
        self._attempt = 0
        self._quiet_since = now
        self._last_look: float | None = None  # asked because the time is up
        self._over = False
        self._look_interval = pace.look_after_s
        self._look_at: float | None = None if self._archived else now + pace.look_after_s

    # --- what to do next

    def wants(self, now: float) -> Request | None:
        """Say what to start now, None for nothing. What is asked for counts as started; ask again until None."""
        if self._leave or self.finished:
            self._leave = False
            if self._busy:
                self._busy = False
                return Close()
        if self.finished or self._busy or now < self._connect_at or now < self._look_first_until:
            return None
        self._busy = True
        if self._archived:
            return Fetch(*self._next, self._page_size, recent=self._source == "auto")
        self._drain = self._over
        self._opened_at = self._heard_at = now
        self._brought = self._caught_up = False
        self._tail = self._loose = None
        return Open(self._resume(), self._pace.drain_wait_s if self._drain else self._pace.wait_s)

    def look_at(self) -> float | None:
        """Say from when on it matters whether the run is over; None when that is known."""
        return None if self._over or self.finished else self._look_at

    def wake_at(self) -> float | None:
        """Say when to call `tick` at the latest, if nothing happens before."""
        if self.finished:
            return None
        times: list[float] = []
        if not self._busy:
            times.append(max(self._connect_at, self._look_first_until))
        if self._held is not None:
            times.append(self._held.until)
        if self._outdated:
            times.append(self._settled_at)
        if self._limits.timeout_s is not None and not self._over:
            if self._last_look is None:
                times.append(self._silence_ends_at(self._limits.timeout_s))
            else:
                times.append(self._last_look + self._pace.answer_s)
        return min(times, default=None)

    def rested(self, for_s: float) -> None:
        """Do not count a time during which nobody wanted chunks as silence."""
        self._quiet_since += for_s
        if self._last_look is not None:
            self._last_look += for_s

    def tick(self, now: float) -> None:
        """Do what is due because nothing happened. To be called only when nothing is waiting to be handled."""
        if self.finished:
            return
        if self._held is not None and now >= self._held.until:
            self._release()
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
            case Delivery():
                self._on_delivery(event, now)
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
        self._look_interval = min(2 * self._look_interval, self._pace.look_every_s)
        self._look_at = None if self._archived else now + self._look_interval

    def unseen(self, error: WorkerError, now: float) -> None:
        """Learn that the run could not be looked at. Only a refusal ends the read: the stream itself may do well."""
        if self.finished or self._over:
            return
        if isinstance(error, Unauthorized | RequestRefused):
            self.fail(StreamRefused(str(error), status=error.status), error)
            return
        self._look_first_until = now
        self._look_at = None if self._archived else now + self._pace.look_every_s

    def fail(self, error: StreamError, cause: BaseException | None = None) -> None:
        """End, with this error."""
        if cause is not None:
            error.__cause__ = cause
        self.error = error
        self._finish()

    # --- the archive

    def _on_page(self, page: Page, now: float) -> None:
        self._busy = False
        self._progress(now)
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
        self._look_at = now + self._pace.look_after_s
        if end is not None and end.wire is not None:
            self._wire = end.wire
            self._checkpoint = end.checkpoint
            self._sequence = sequence_for(end.wire, end.checkpoint, end.recent)
            self._line = _last_line(end.checkpoint)
            self._proven = True

    # --- upstream

    def _resume(self) -> str | None:
        """Say which place to ask for. While the wire is unknown: the one that is right if it is v2.

        On v1 a number that small is older than every entry, so everything comes (PROTOCOL §1.6), as it has to: only
        whoever counts all lines knows which is the n-th.
        """
        if self._sequence is not None:
            return self._sequence.resume()
        first = self._first_number()
        return None if first == 0 else str(first - 1)

    def _first_number(self) -> int:
        """v2: the first record to ask for."""
        return 0 if self._start.line is not None else max(0, self._start.index - LOOKBACK)

    def _on_opened(self, opened: Opened, now: float) -> None:
        self._heard_at = now
        if self._wire is not None and self._wire is not opened.wire:
            # A cursor does not carry over: v2 would clamp to the tail and skip all, v1 replay all.
            self._take(sequence_for(self._wire, self._checkpoint, []).begin_generation(), now)
            self._wire, self._line = opened.wire, NO_LINE
            self._sequence = sequence_for(opened.wire, self._checkpoint, [])
            self._drop(now)
            return
        self._wire = opened.wire
        if self._sequence is None:
            self._sequence = self._begin(opened.wire)
            self._sequence.resume()
        self._sequence.opened(opened.date_ms)

    def _begin(self, wire: Wire) -> Sequence:
        start = self._start
        if wire is Wire.V1:
            self._proven = True
            if start.line is None:
                self._checkpoint = Checkpoint(start.generation)
            else:
                ms, seq, count = start.line
                cursor = {"ids": [[ms, seq]], "count": count}
                self._checkpoint = Checkpoint(start.generation, start.index - 1, cursor)
                self._line = start.line
            return V1Sequence(self._checkpoint)
        first = self._first_number()
        self._reaching = first > 0
        self._checkpoint = Checkpoint(start.generation, first - 1)
        return V2Sequence(self._checkpoint, [])

    def _on_delivery(self, delivery: Delivery, now: float) -> None:
        sequence = self._sequence
        assert sequence is not None, "nothing comes before the connection is open"
        self._heard_at = now
        records = delivery.records
        certain = len(records) - (bool(records) and not delivery.alive_after)
        if records or delivery.alive_after:
            self._release()
        if certain:
            self._admit(records[:certain], now)
        if certain < len(records):
            self._hold(records[-1], now)
        if delivery.oversized is not None:
            self._take(sequence.admit_oversized(*delivery.oversized), now)
        if delivery.tail is not None:
            self._on_tail(delivery.tail, now)
        if sequence.recreated:
            self._on_recreated(now)

    def _on_tail(self, tail: int, now: float) -> None:
        sequence = self._sequence
        assert sequence is not None
        self._tail = tail
        sequence.see_tail(tail)
        if sequence.recreated:
            return
        if not self._proven:
            if tail < self._start.index:  # what we resume after is not there any more
                self._on_recreated(now)
                return
            self._proven = True
        if tail == self._checkpoint.last_index + 1:
            if self._drain:
                self._finish()
            elif not self._caught_up:
                self._caught_up = True
                self._look_soon(now)

    def _on_recreated(self, now: float) -> None:
        """Upstream has begun a new stream under the key; or it has never reached the number that we asked for."""
        sequence = self._sequence
        assert sequence is not None
        if self._reaching and not self._start.resumed:
            self._checkpoint = Checkpoint(self._start.generation)
            self._sequence = V2Sequence(self._checkpoint, [])
            self._reaching = False
        elif not self._proven:
            # What came so far may be records of the new stream: the next sequence must not know them already.
            resumed = V2Sequence(Checkpoint(self._start.generation, self._start.index - 1), [])
            self._take(resumed.begin_generation(), now)
            self._sequence = V2Sequence(self._checkpoint, [])
            self._proven = True
        else:
            self._take(sequence.begin_generation(), now)
        self._drop(now)

    def _on_end(self, now: float) -> None:
        """A clean end: nothing new for a while."""
        self._busy = False
        self._withdraw()
        sequence = self._sequence
        assert sequence is not None
        if self._tail is not None and self._tail > self._checkpoint.last_index + 1:
            # Upstream ends a response only after it has sent all that it has.
            self._take(sequence.admit_missing(self._tail), now)
        if self._drain:
            if self._loose is None:
                self._finish()
                return
            # The line may be half. If the next read ends with the very same, that is all there will ever be of it.
            before = self._checkpoint.last_index
            take = sequence.loose_end(self._loose)
            self._take(take, now, [self._loose])
            if self._checkpoint.last_index != before:
                self._finish()
            return
        if not self._brought:
            # Upstream keeps a silent stream open for the whole wait. One that closes at once must not make us spin.
            self._connect_at = self._opened_at + self._pace.reconnect_s
        self._look_first_until = now + self._pace.reconnect_s
        self._look_soon(now)

    def _on_failure(self, error: WorkerError, now: float) -> None:
        self._busy = False
        self._withdraw()
        if isinstance(error, Unauthorized | RequestRefused):
            self.fail(StreamRefused(str(error), status=error.status), error)
        elif isinstance(error, StreamError):
            self.fail(error)
        elif isinstance(error, TransientError | NotFound):
            self._again(error, now)
        else:
            self.fail(StreamError(str(error)), error)

    def _again(self, error: TransientError | NotFound, now: float) -> None:
        self._attempt += 1
        most = self._limits.max_retries
        if most is not None and self._attempt > most:
            status = 404 if isinstance(error, NotFound) else getattr(error, "status", None)
            tries = "once" if self._attempt == 1 else f"{self._attempt} times"
            self.fail(RetriesExhausted(f"Tried {tries}: {error}", attempts=self._attempt, status=status), error)
            return
        delay_s = backoff(self._attempt - 1, self._pace.retry_base_s, self._pace.retry_cap_s, self._random)
        delay_s = max(delay_s, getattr(error, "retry_after_s", None) or 0.0)
        self._connect_at = now + delay_s
        self.retries.append(Retry(self._ref.stream_key, self._attempt, delay_s, error))

    # --- chunks

    def _admit(self, records: Seq[Any], now: float) -> None:
        assert self._sequence is not None
        take = self._sequence.admit(records)
        self._take(take, now, records if self._wire is Wire.V1 else None)

    def _hold(self, record: V1Record, now: float) -> None:
        """v1: keep the last line back, because the server may have sent it unfinished since it is closing."""
        assert self._sequence is not None
        before = _Held(
            until=now + self._pace.hold_s,
            record=record,
            chunks=[],
            mark=self._sequence.mark(),
            line=self._line,
            checkpoint=self._checkpoint,
            gaps=len(self.gaps),
            brought=self._brought,
            attempt=self._attempt,
            quiet_since=self._quiet_since,
        )
        waiting, self.items = self.items, deque()
        self._admit([record], now)
        held, self.items = list(self.items), waiting
        if self._checkpoint is not before.checkpoint:
            self._held = before._replace(chunks=held)

    def _release(self) -> None:
        """What was held is certain."""
        held, self._held = self._held, None
        if held is not None:
            self.items.extend(held.chunks)

    def _withdraw(self) -> None:
        """What was held came together with the end: the next read brings it back whole."""
        held, self._held = self._held, None
        if held is not None:
            assert self._sequence is not None
            self._sequence.restore(held.mark)
            self._checkpoint = held.checkpoint
            self._line = held.line
            del self.gaps[held.gaps :]
            self._brought = held.brought
            self._attempt = held.attempt
            self._quiet_since = held.quiet_since
            self._loose = held.record

    def _take(self, take: Take, now: float, lines: Seq[V1Record] | None = None) -> None:
        """Give out what the sequence made of some records; ``lines`` are those of v1."""
        generation, has = take.checkpoint.generation, self._start.has
        if take.indices or take.quarantined:
            places = self._places(take, lines) if lines else {}
            found = [
                Chunk(generation, index, text, "", places.get(index))
                for index, text in zip(take.indices, take.texts, strict=True)
                if has(generation, index)
            ]
            if take.quarantined:
                found += [
                    Chunk(generation, bad.chunk_index, bad.raw, bad.reason, places.get(bad.chunk_index))
                    for bad in take.quarantined
                    if bad.reason not in NO_CHUNKS and has(generation, bad.chunk_index)
                ]
                found.sort(key=lambda chunk: chunk.chunk_index)
            self.items.extend(found)
        for hole in take.holes:
            last = hole.last_index
            if hole.reason.lost and (last is None or self._start.has(hole.generation, last)):
                self.gaps.append(Gap(hole.generation, hole.first_index, last, hole.reason))
        if take.indices or take.holes or take.quarantined:
            self._checkpoint = take.checkpoint
            self._reaching = False
            self._brought = True
            self._progress(now)

    def _places(self, take: Take, lines: Seq[V1Record]) -> dict[int, tuple[int, int, int]]:
        """v1: say where each of the lines stood that are new: the last ones, since what is known is skipped first."""
        last, first = take.checkpoint.last_index, self._checkpoint.last_index + 1
        ms, seq, count = self._line
        places = {}
        for index, record in enumerate(lines[len(lines) - (last - first + 1) :], first):
            count = count + 1 if (record.ms, record.seq) == (ms, seq) else 1
            ms, seq = record.ms, record.seq
            places[index] = (ms, seq, count)
        self._line = (ms, seq, count)
        return places

    # --- within

    def _progress(self, now: float) -> None:
        self._attempt = 0
        self._quiet_since = now
        self._last_look = None
        self._look_interval = self._pace.look_after_s
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
        caught_up = self._tail is not None and self._tail == self._checkpoint.last_index + 1
        return self._heard_at if caught_up else self._heard_at + self._pace.settle_s

    def _drop(self, now: float) -> None:
        """Leave the connection and open another."""
        self._withdraw()
        self._leave = True
        self._connect_at = now

    def _check_silence(self, now: float) -> None:
        timeout_s = self._limits.timeout_s
        if timeout_s is None or self._over:
            return
        if self._last_look is not None:
            if now >= self._last_look + self._pace.answer_s:
                self._time_out()
        elif now >= self._silence_ends_at(timeout_s):
            if self._archived:
                self._time_out()
            else:
                self._last_look = self._look_at = now

    def _silence_ends_at(self, timeout_s: float) -> float:
        """Say when it has been silent for too long; not while a line is held that still may be given out."""
        return max(self._quiet_since + timeout_s, self._held.until if self._held is not None else 0.0)

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
        self.finished = True
        self._look_at = None


class _Held(NamedTuple):
    """A line that is held back until ``until``, what it gives out, and how things stood before it."""

    until: float
    record: V1Record
    chunks: list[Chunk]
    mark: object
    line: tuple[int, int, int]
    checkpoint: Checkpoint
    gaps: int
    brought: bool
    attempt: int
    quiet_since: float


def _last_line(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """v1: say where the last line that is held stood."""
    cursor = checkpoint.cursor or {}
    if not cursor.get("ids"):
        return NO_LINE
    ms, seq = cursor["ids"][-1]
    return ms, seq, cursor.get("count", 0)
