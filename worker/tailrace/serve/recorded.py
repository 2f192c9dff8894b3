"""A store over recordings. A recorded run begins when it is first asked for, and then goes on at its own pace.

Nothing runs in the background: what is visible follows from the clock, and a reader that waits sleeps until the next
thing is due. Ids and times come from the recording, so a restarted server serves the very same stream again.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from tailrace.model import Wire
from tailrace.serve.entries import BEGINNING, Entry, V1Id
from tailrace.serve.logs import EntryLog, RecordLog
from tailrace.serve.recording import Recording
from tailrace.serve.records import Draft, Tail
from tailrace.serve.runs import FoundRuns, Run, RunQuery, find_runs
from tailrace.serve.store import INPUT_PREFIX, Page

Found = TypeVar("Found")


class RecordedStore:
    """Runs from recordings. ``speed`` 1 is their own pace, 2 twice as fast; 0 has everything there from the start."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        speed: float,
        clock_s: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``clock_s`` paces the runs; ``now`` dates those whose recording has no date."""
        self._recordings = {recording.run_id: recording for recording in recordings}
        self._speed = speed
        self._clock_s = clock_s
        self._now = now
        self._begun: dict[str, _RecordedRun] = {}

    async def run(self, run_id: str) -> Run | None:
        """Begins the run, if nobody asked before."""
        if run_id not in self._recordings:
            return None
        return self._playing(run_id).view()

    async def run_changed(self, run_id: str, since: datetime, block_s: float) -> Run | None:
        run = self._playing(run_id)

        def look() -> Run | None:
            view = run.view()
            return view if view.updated_at > since else None

        return await run.pace.until(look, run.changes_ms, block_s)

    async def runs(self, query: RunQuery) -> FoundRuns:
        """Begins every run: whoever lists them has asked for them."""
        return find_runs([self._playing(run_id).view() for run_id in self._recordings], query)

    async def runs_changed(self, since: datetime, block_s: float) -> Sequence[Run]:
        playing = [self._playing(run_id) for run_id in self._recordings]
        # Each run has times of its own: one that changes now can be dated before one that changed long ago.
        known = {view.run_id: view.updated_at for view in (run.view() for run in playing)}
        deadline_s = self._clock_s() + block_s
        while True:
            views = [run.view() for run in playing]
            changed = [view for view in views if view.updated_at > min(since, known[view.run_id])]
            left_s = deadline_s - self._clock_s()
            if changed or left_s <= 0:
                return changed
            await asyncio.sleep(min([left_s, *(run.pace.due_in_s(run.changes_ms) for run in playing)]))

    async def wire(self, run: Run, key: str) -> Wire:
        return run.wire

    async def v1_stream(self, run_id: str, key: str) -> _RecordedV1:
        run = self._playing(run_id)
        return _RecordedV1(run.pace, run.entries.get(key, EntryLog()), run.due_ms.get(key, []))

    async def v2_stream(self, run_id: str, key: str) -> _RecordedV2:
        """Every key exists: reading creates an empty stream, as self-hosted and per-organisation storage does."""
        run = self._playing(run_id)
        return _RecordedV2(run.pace, run.records.get(key, RecordLog()), run.due_ms.get(key, []))

    def _playing(self, run_id: str) -> _RecordedRun:
        run = self._begun.get(run_id)
        if run is None:
            pace = _Pace(self._speed, self._clock_s)
            run = self._begun[run_id] = _RecordedRun(self._recordings[run_id], pace, self._now())
        return run


class _Pace:
    """How far a run has come."""

    def __init__(self, speed: float, clock_s: Callable[[], float]) -> None:
        self._speed = speed
        self._clock_s = clock_s
        self._began_s = clock_s()

    def elapsed_ms(self) -> float:
        if not self._speed:
            return math.inf
        return (self._clock_s() - self._began_s) * 1000 * self._speed

    async def until(self, look: Callable[[], Found], due_ms: Sequence[int], timeout_s: float) -> Found:
        """What ``look`` returns once it is true, or after ``timeout_s``; looks again whenever something is due."""
        deadline_s = self._clock_s() + timeout_s
        while True:
            found = look()
            left_s = deadline_s - self._clock_s()
            if found or left_s <= 0:
                return found
            await asyncio.sleep(min(left_s, self.due_in_s(due_ms)))

    def due_in_s(self, due_ms: Sequence[int]) -> float:
        """How long it is until the next of these, in order; infinite when none is left."""
        elapsed_ms = self.elapsed_ms()
        following = bisect_right(due_ms, elapsed_ms)
        return (due_ms[following] - elapsed_ms) / 1000 / self._speed if following < len(due_ms) else math.inf


class _RecordedRun:
    """One recording with its contents laid out; ``due_ms`` says for each stream when its things come."""

    def __init__(self, recording: Recording, pace: _Pace, now: datetime) -> None:
        self.pace = pace
        self.entries: dict[str, EntryLog] = {}
        self.records: dict[str, RecordLog] = {}
        self.due_ms: dict[str, list[int]] = {}
        self.changes_ms: list[int] = []
        self._recording = recording
        self._created_at = _to_ms(recording.created_at or now)
        self._opened_ms: dict[str, int] = {}
        self._lay_out()

    def view(self) -> Run:
        """The run as it is now."""
        recording = self._recording
        elapsed_ms = self.pace.elapsed_ms()
        passed = [change for change in recording.statuses if change.at_ms <= elapsed_ms]
        changes = bisect_right(self.changes_ms, elapsed_ms)
        finals = [change.at_ms for change in passed if change.final]
        return Run(
            run_id=recording.run_id,
            wire=recording.wire,
            status=passed[-1].status if passed else "EXECUTING",
            task_identifier=recording.task_identifier,
            created_at=self._created_at,
            # One millisecond per change: two changes of the same moment still make the time grow.
            updated_at=self._at(self.changes_ms[changes - 1] if changes else 0) + timedelta(milliseconds=changes),
            started_at=self._created_at,
            finished_at=self._at(finals[-1]) if finals and passed[-1].final else None,
            tags=recording.tags,
            stream_keys=tuple(key for key, at_ms in self._opened_ms.items() if at_ms <= elapsed_ms),
            metadata=recording.metadata,
        )

    def _lay_out(self) -> None:
        base_ms = round(self._created_at.timestamp() * 1000)
        for arrival in self._recording.moments:
            key, content, at_ms = arrival.key, arrival.content, arrival.at_ms
            if not key.startswith(INPUT_PREFIX):
                self._opened_ms.setdefault(key, at_ms)
            if content is None:
                continue
            self.due_ms.setdefault(key, []).append(at_ms)
            if isinstance(content, Draft):
                self.records.setdefault(key, RecordLog()).append(content, base_ms + at_ms)
            else:
                log = self.entries.setdefault(key, EntryLog())
                log.append(Entry(log.next_id(base_ms + at_ms), content))
        changes = [*self._opened_ms.values(), *(change.at_ms for change in self._recording.statuses)]
        self.changes_ms = sorted(changes)

    def _at(self, at_ms: int) -> datetime:
        return self._created_at + timedelta(milliseconds=at_ms)


class _RecordedV1:
    def __init__(self, pace: _Pace, log: EntryLog, due_ms: list[int]) -> None:
        self._timing = pace
        self._log = log
        self._due_ms = due_ms

    async def last_id(self) -> V1Id:
        visible = self._visible()
        return self._log.entries[visible - 1].id if visible else BEGINNING

    async def after(self, cursor: V1Id, block_s: float) -> Sequence[Entry]:
        return await self._timing.until(lambda: self._log.after(cursor, self._visible()), self._due_ms, block_s)

    def _visible(self) -> int:
        return bisect_right(self._due_ms, self._timing.elapsed_ms())


class _RecordedV2:
    def __init__(self, pace: _Pace, log: RecordLog, due_ms: list[int]) -> None:
        self._timing = pace
        self._log = log
        self._due_ms = due_ms

    async def tail(self) -> Tail:
        return self._log.since(0, self._visible()).tail

    async def since(self, seq_num: int, block_s: float) -> Page:
        def look() -> Page | None:
            page = self._log.since(seq_num, self._visible())
            return page if page.records else None

        page = await self._timing.until(look, self._due_ms, block_s)
        return page or self._log.since(seq_num, self._visible())

    def _visible(self) -> int:
        return bisect_right(self._due_ms, self._timing.elapsed_ms())


def _to_ms(moment: datetime) -> datetime:
    """The moment without its microseconds, aware UTC: upstream's columns hold milliseconds."""
    moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
