"""What the stand-in upstream serves: runs and the contents of their streams.

A store is anything that fits `Store`: recordings, a store that is written to while it is read, an archive. Reading
follows the way upstream reads: *give me what comes after this position; if there is nothing, wait so long for it*. A
reader wakes as soon as something is there, it never polls.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from tailrace.model import Wire
from tailrace.serve.entries import Entry, V1Id
from tailrace.serve.records import Record, Tail
from tailrace.serve.runs import FoundRuns, Run, RunQuery

INPUT_PREFIX = "$trigger.input:"
"""Begins the stored key of an input stream. Such streams are never listed in the run feed."""


class NoSuchStream(Exception):
    """The stream does not exist and reading does not create it (v2 only; upstream shows a 500)."""


class StreamRemoved(Exception):
    """The stream was deleted while it was being read (v2 only; upstream sends an error event)."""


class Page(NamedTuple):
    """Consecutive kept v2 records, possibly none, and the tail at the moment of reading.

    At most what one batch may hold. ``more`` says that further records were there already.
    """

    records: Sequence[Record]
    tail: Tail
    more: bool


class V1Stream(Protocol):
    """The entries of one v1 stream. One that was never written, and one that expired, is empty."""

    async def last_id(self) -> V1Id:
        """The newest id; `entries.BEGINNING` when there is no entry."""
        ...

    async def after(self, cursor: V1Id, block_s: float) -> Sequence[Entry]:
        """Kept entries strictly after ``cursor``, oldest first, a bounded number of them.

        When there are none, waits up to ``block_s`` for some. Empty when that time is over.
        """
        ...


class V2Stream(Protocol):
    """The records of one v2 stream."""

    async def tail(self) -> Tail:
        """Raises StreamRemoved when the stream is gone."""
        ...

    async def since(self, seq_num: int, block_s: float) -> Page:
        """Kept records from ``seq_num`` on; from the first kept one when that is later.

        When there are none, waits up to ``block_s`` for some.

        Raises:
            StreamRemoved: the stream is gone, also when that happens during the wait.
        """
        ...


class Store(Protocol):
    """Runs and their streams."""

    async def run(self, run_id: str) -> Run | None:
        """None when upstream does not know the run."""
        ...

    async def run_changed(self, run_id: str, since: datetime, block_s: float) -> Run | None:
        """The run once it was updated after ``since``; waits up to ``block_s`` for that, then None."""
        ...

    async def runs(self, query: RunQuery) -> FoundRuns:
        """The runs that are asked for, by the rule of `runs.find_runs`."""
        ...

    async def runs_changed(self, since: datetime, block_s: float) -> Sequence[Run]:
        """The runs that were updated after ``since``, in no order, new ones among them.

        When there are none, waits up to ``block_s`` for some to change, and returns those whatever their time. Empty
        when that time is over. A change can be left out whose time is before ``since`` and that became visible between
        two calls.
        """
        ...

    async def wire(self, run: Run, key: str) -> Wire:
        """The wire that a stream of a run speaks. It may take a moment where the run does not tell."""
        ...

    async def v1_stream(self, run_id: str, key: str) -> V1Stream:
        """The stream of a known v1 run; an empty one when the key was never written."""
        ...

    async def v2_stream(self, run_id: str, key: str) -> V2Stream:
        """The stream of a known v2 run.

        Raises:
            NoSuchStream: it does not exist, and reading does not create it.
        """
        ...
