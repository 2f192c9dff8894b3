"""Runs the pure part of a read against the models of upstream and archive. No clock, no network, no database.

The models in `tests.simulation.v1` and `v2` were made for the ingestion loop: they tell an archive when time passes and
when the run is over. `World` is that archive to them, and the reader's surroundings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

from tailrace.errors import SourceUnavailable
from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.model import Arrival, Checkpoint, RunView, StreamRef
from tailrace.retry import Patience
from tailrace.streams.follow import Follow, Limits
from tailrace.streams.reading import GivenChunk, Reading
from tailrace.streams.steps import (
    ArchiveEnd,
    Chunk,
    Close,
    Ended,
    Failed,
    Fetch,
    Gap,
    Look,
    Looked,
    Open,
    Opened,
    Page,
    Source,
    Start,
)
from tailrace.streams.timing import Timing as ReadTiming
from tailrace.streams.watch import Watch
from tests.simulation.archive import Archive, Killed
from tests.simulation.v1 import V1Upstream
from tests.simulation.v2 import V2Upstream

REF = StreamRef("run_1", "ai")
POLICY = Timing(quiet_s=1.0, park_after_s=1e9, retry_base_s=0.0, reconnect_s=0.0, slice_s=1e9, patience=Patience(99))


class World(Archive):
    """The archive as it is when the read begins, and the reader's clock."""

    def __init__(self, dice: random.Random, kill: float = 0.1) -> None:
        super().__init__(dice, kill)
        self.dice = dice
        self.now = 0.0
        self.reading: Reading | None = None

    def time_passes(self) -> None:
        """To whoever ingests, and to whoever reads."""
        super().time_passes()
        if self.reading is not None:
            for _ in range(22):  # by and by, as it passes for a process that runs
                self.now += 0.1
                self.reading.tick(self.now)

    def ingest(self, upstream: V1Upstream | V2Upstream) -> None:
        """Have a worker archive something; it dies somewhere, or not."""
        reading, self.reading = self.reading, None
        try:
            reader = Reader(
                self.lease(), upstream, self, self, POLICY, Signal(), random=lambda: 0.0, pause=lambda: None
            )
            self.settle(reader.run())
        except Killed:
            self.lease()  # forgets what was not committed
        finally:
            self.reading = reading

    def page(self, fetch: Fetch) -> Page:
        """What `streams.archive` would read, in parts of any size."""
        checkpoint, place = self.checkpoint, (fetch.generation, fetch.first_index)
        if self.wire is None:
            return Page([], [], *place, ArchiveEnd(None, Checkpoint(), False, []))
        if place > (checkpoint.generation, checkpoint.last_index):
            sealed = self.outcome is not None and self.outcome.state == "sealed"
            recent = self.recent(checkpoint.generation) if fetch.recent else []
            return Page([], [], *place, ArchiveEnd(self.wire, checkpoint, sealed, recent))
        there = [Chunk(gen, at, text) for gen, at, text in self.texts]
        there += [
            Chunk(bad.generation, bad.chunk_index, bad.raw, bad.reason)
            for bad in self.quarantined
            if bad.reason not in ("repeat", "unterminated")
        ]
        rest = sorted(chunk for chunk in there if chunk[:2] >= place)
        size = self.dice.randint(1, 3)
        chunks, more = rest[:size], rest[size:]
        following = (chunks[-1].generation, chunks[-1].chunk_index + 1) if more else _after(checkpoint)
        gaps = [
            Gap(hole.generation, hole.first_index, hole.last_index, hole.reason)
            for hole in self.holes
            if hole.reason.lost and place <= (hole.generation, hole.first_index) < following
        ]
        return Page(chunks, gaps, *following, None)


def _after(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.generation, checkpoint.last_index + 1


def read_all(
    upstream: V1Upstream | V2Upstream,
    world: World,
    *,
    start: Start | None = None,
    source: Source = "upstream",
    max_steps: int = 20_000,
) -> tuple[list[Chunk], Follow]:
    """Read a stream to its end; return its chunks, and the follower for what else it knows.

    In a read from the archive, workers go on archiving while it is read.
    """
    timing = ReadTiming()
    watch = Watch(timing, subscribed=False, max_retries=None, random=lambda: 0.0, now=0.0)
    reading = world.reading = Reading(watch)
    follow = Follow(REF, start or Start(), Limits(None, None), timing, source=source, random=lambda: 0.0, now=0.0)
    reading.add("ai", follow)
    found: list[Chunk] = []
    open_now: tuple[int, Iterator[Arrival]] | None = None
    with ExitStack() as stack:
        for _ in range(max_steps):
            while (given := reading.take()) is not None:
                assert isinstance(given, GivenChunk)
                found.append(given.chunk)
            if reading.finished:
                world.reading = None
                return found, follow
            for number, _key, request in reading.requests(world.now):
                match request:
                    case Close():
                        open_now = None
                        stack.close()
                    case Fetch():
                        if world.dice.random() < 0.3:
                            world.ingest(upstream)
                        reading.handle(number, world.page(request), world.now)
                    case Look():
                        reading.handle(number, Looked(_view(world.over)), world.now)
                    case Open():
                        open_now = _connect(upstream, request, stack, reading, number, world)
            if open_now is None:
                at = reading.wake_at()
                world.now = max(world.now + 0.01, at if at is not None else 0.0)
                reading.tick(world.now)
                continue
            number, arrivals = open_now
            if world.dice.random() < 0.2:
                # Little: a body ends soon after its last event. `World.time_passes` knows when more may pass.
                world.now += 0.01
                reading.tick(world.now)
                continue
            if world.dice.random() < 0.1:
                # The process was stopped, or its event loop busy: what came meanwhile it sees only after this look.
                world.now += 10.0
                reading.tick(world.now)
            try:
                arrival = next(arrivals, None)
            except SourceUnavailable as error:
                open_now = None
                stack.close()
                reading.handle(number, Failed(error), world.now)
                continue
            if arrival is not None:
                reading.handle(number, arrival, world.now)
            else:
                open_now = None
                stack.close()
                reading.handle(number, Ended(), world.now)
    raise AssertionError("the read did not end")


def _connect(
    upstream: V1Upstream | V2Upstream,
    request: Open,
    stack: ExitStack,
    reading: Reading,
    number: int,
    world: World,
) -> tuple[int, Iterator[Arrival]] | None:
    try:
        connection = stack.enter_context(upstream.connect(request.last_event_id, request.wait_s))
    except SourceUnavailable as error:
        reading.handle(number, Failed(error), world.now)
        return None
    reading.handle(number, Opened(connection.wire, connection.date_ms), world.now)
    return number, connection.arrivals


def _view(over: bool) -> RunView:
    finished_at = datetime(2026, 11, 22, tzinfo=UTC) if over else None
    return RunView("run_1", "COMPLETED" if over else "EXECUTING", over, ("ai",), finished_at=finished_at)
