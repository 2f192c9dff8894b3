"""Runs that are being written while they are read: what the stand-in for Trigger.dev has to tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tailrace.model import Wire
from tailrace.serve.recording import body_id
from tailrace.serve.records import BATCH_MAX_RECORDS, EMPTY, Record, Tail, data_draft
from tailrace.serve.runs import FoundRuns, Run, RunQuery, find_runs
from tailrace.serve.store import NoSuchStream, Page, V1Stream, V2Stream

KEY = "ai"
SLOW_S, SLOW_RECORDS = 1.0, 5
"""A slow upstream gives so many records of a stream in so long a time."""
NO_ENVELOPE = b"no envelope"


@dataclass
class WrittenRun:
    """A run with one stream, of which a record is written every ``every_s``; ``records`` None: for ever.

    ``first_kept``: what is before it was trimmed. ``spoiled``: records from, up to: those can't be chunks.
    """

    run_id: str
    every_s: float
    records: int | None = None
    first_kept: int = 0
    spoiled: list[tuple[int, int | None]] = field(default_factory=list)
    began_s: float = field(default_factory=lambda: int(time.time() * 1000) / 1000)

    @property
    def count(self) -> int:
        """How many records have been written."""
        written = int((time.time() - self.began_s) / self.every_s) + 1
        return written if self.records is None else min(written, self.records)

    @property
    def tail(self) -> Tail:
        count = self.count
        return Tail(count, self._at_ms(count - 1)) if count else EMPTY

    def trim(self) -> None:
        """Drop all that has been written."""
        self.first_kept = self.count

    def spoil(self) -> None:
        """Write what is no chunk from now on."""
        self.spoiled.append((self.count, None))

    def write_well(self) -> None:
        """Write chunks again."""
        self.spoiled = [(first, self.count if end is None else end) for first, end in self.spoiled]

    def record(self, number: int) -> Record:
        spoiled = any(first <= number and (end is None or number < end) for first, end in self.spoiled)
        body = NO_ENVELOPE if spoiled else data_draft(f'{{"token":{number}}}', body_id(number)).body
        return Record(number, self._at_ms(number), body)

    def view(self) -> Run:
        """The run as it is now."""
        created = _moment(self.began_s)
        over = self.records is not None and self.count >= self.records
        ended = created + timedelta(seconds=self.every_s * (self.records or 0))
        return Run(
            run_id=self.run_id,
            wire=Wire.V2,
            status="COMPLETED_SUCCESSFULLY" if over else "EXECUTING",
            task_identifier="drill",
            created_at=created,
            updated_at=(ended if over else created) + timedelta(milliseconds=1),
            started_at=created,
            finished_at=ended if over else None,
            tags=("drill",),
            stream_keys=(KEY,),
        )

    def _at_ms(self, number: int) -> int:
        return round((self.began_s + number * self.every_s) * 1000)


class WrittenStore:
    """A `tailrace.serve.store.Store` of such runs. ``slow``: it gives less than is written."""

    def __init__(self, runs: Sequence[WrittenRun]) -> None:
        self.written = {run.run_id: run for run in runs}
        self.slow = False

    async def run(self, run_id: str) -> Run | None:
        found = self.written.get(run_id)
        return None if found is None else found.view()

    async def run_changed(self, run_id: str, since: datetime, block_s: float) -> Run | None:
        deadline_s = time.monotonic() + block_s
        while (view := self.written[run_id].view()).updated_at <= since:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            await asyncio.sleep(min(left_s, 0.5))
        return view

    async def runs(self, query: RunQuery) -> FoundRuns:
        return find_runs([run.view() for run in self.written.values()], query)

    async def runs_changed(self, since: datetime, block_s: float) -> Sequence[Run]:
        deadline_s = time.monotonic() + block_s
        while not (changed := [view for run in self.written.values() if (view := run.view()).updated_at > since]):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            await asyncio.sleep(min(left_s, 0.5))
        return changed

    async def wire(self, run: Run, key: str) -> Wire:
        return run.wire

    async def v1_stream(self, run_id: str, key: str) -> V1Stream:
        raise NoSuchStream  # all are v2

    async def v2_stream(self, run_id: str, key: str) -> V2Stream:
        if key != KEY:
            raise NoSuchStream
        return _WrittenStream(self, self.written[run_id])


class _WrittenStream:
    def __init__(self, store: WrittenStore, run: WrittenRun) -> None:
        self._store = store
        self._run = run

    async def tail(self) -> Tail:
        return self._run.tail

    async def since(self, seq_num: int, block_s: float) -> Page:
        deadline_s = time.monotonic() + block_s
        while True:
            tail, first = self._run.tail, max(seq_num, self._run.first_kept)
            left_s = deadline_s - time.monotonic()
            if first < tail.seq_num or left_s <= 0:
                break
            await asyncio.sleep(min(left_s, self._run.every_s))
        most = BATCH_MAX_RECORDS
        if self._store.slow:
            most = SLOW_RECORDS
            await asyncio.sleep(SLOW_S)
        end = min(tail.seq_num, first + most)
        return Page([self._run.record(number) for number in range(first, end)], tail, end < tail.seq_num)


def _moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)
