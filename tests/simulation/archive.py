"""A model of the archive for one stream: what is committed, and what a crash forgets. No clock, no database."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from worker.model import Checkpoint, Hole, LeasedStream, Quarantined, Settlement, Standing, StreamRef, Take, Wire
from worker.wire.v2 import mark_of_body

BEGAN_MS = 1_795_000_000_000
"""When the stream's run began, by upstream's clock: nothing is older."""


class Killed(BaseException):
    """The process died here. Nothing in the code under test may catch it."""


class Archive:
    """Committed chunks of one stream. Implements `ingest.loop.Sink` and `Surroundings` for the present reader.

    ``dice`` decides when the Writer commits and when the process dies. As in the real Writer, what is held is committed
    only when something follows it or when time passes (`time_passes`).
    """

    def __init__(self, dice: random.Random, kill: float = 0.02) -> None:
        self._dice = dice
        self._kill = kill
        self.texts: list[tuple[int, int, bytes]] = []
        self.holes: list[Hole] = []
        self.quarantined: list[Quarantined] = []
        self.marks: list[tuple[int, int, bytes]] = []
        self.checkpoint = Checkpoint()
        self.wire: Wire | None = None
        self.over = False
        self.swept_at: int | None = None
        self.settlement: Settlement | None = None
        self.failed: list[str] = []
        self._pending: list[Take] = []
        self._held: Take | None = None

    # --- a worker takes the stream over

    def lease(self) -> LeasedStream:
        """Forget what was not committed; give the stream as the next reader gets it."""
        self._pending, self._held = [], None
        checkpoint = self.checkpoint
        cursor = json.loads(json.dumps(checkpoint.cursor))  # it goes through the database
        return LeasedStream(
            id=1,
            ref=StreamRef("run_1", "ai"),
            token=1,
            rev=1,
            wire=self.wire,
            checkpoint=Checkpoint(checkpoint.generation, checkpoint.last_index, cursor),
            attempt=self.settlement.attempt if self.settlement else 0,
            chunk_count=len(self.texts),
            lost_count=sum(hole.reason.lost for hole in self.holes),
            silent_s=0.0,
            standing=self.standing(),
            options={},
            not_before_ms=BEGAN_MS,
        )

    # --- Surroundings

    def standing(self) -> Standing:
        swept = self.swept_at == self.checkpoint.last_index
        return Standing(over=self.over, over_for_s=1.0, swept_for_s=1e6 if swept else None)

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        marks = [(index, mark) for of, index, mark in self.marks if of == generation]
        repeats = [item for item in self.quarantined if item.generation == generation and item.reason == "repeat"]
        return sorted(marks + [(item.chunk_index, mark_of_body(item.raw) or b"") for item in repeats])

    # --- Sink

    def put(self, take: Take, wire: Wire) -> None:
        self._maybe_die()
        self.confirm()
        self._wire = wire
        self._pending.append(take)
        self._maybe_commit()

    def hold(self, take: Take, wire: Wire) -> None:
        self._maybe_die()
        self.confirm()
        self._wire = wire
        self._held = take

    def confirm(self) -> None:
        if self._held is not None:
            self._pending.append(self._held)
            self._held = None
            self._maybe_commit()

    def withdraw(self) -> bool:
        held, self._held = self._held, None
        return held is not None

    def flush(self) -> None:
        self._commit()

    def lag(self, records: int) -> None:
        pass

    def trouble(self, error: str | None, attempt: int) -> None:
        pass

    def settle(self, settlement: Settlement) -> None:
        self.confirm()
        self._commit()
        self._maybe_die()
        self.settlement = settlement
        if settlement.swept:
            self.swept_at = self.checkpoint.last_index

    # --- the world

    def time_passes(self) -> None:
        """Two seconds without anything: what is held is believed."""
        self.confirm()

    def _maybe_die(self) -> None:
        if self._dice.random() < self._kill:
            raise Killed

    def _maybe_commit(self) -> None:
        if self._dice.random() < 0.3:
            self._commit()
        self._maybe_die()

    def _commit(self) -> None:
        for take in self._pending:
            generation = take.checkpoint.generation
            self.texts += [(generation, at, text) for at, text in zip(take.indices, take.texts, strict=True)]
            if take.marks:
                self.marks += [(generation, at, mark) for at, mark in zip(take.indices, take.marks, strict=True)]
            self.holes += take.holes
            self.quarantined += take.quarantined
            self.checkpoint = take.checkpoint
            self.wire = self._wire
        self._pending = []


def read_until_settled(archive: Archive, read: Callable[[Archive], Settlement], times: int = 10_000) -> Settlement:
    """Start readers one after another until the stream is sealed or failed, whatever kills them."""
    for _ in range(times):
        try:
            settlement = read(archive)
            archive.settle(settlement)
        except Killed:
            continue
        if settlement.state in ("sealed", "failed"):
            return settlement
    raise AssertionError("the stream was never settled")
