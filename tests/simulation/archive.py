"""A model of the archive for one stream: what is committed, and what a crash forgets. No clock, no database."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from tailrace.model import Batch, Checkpoint, Hole, LeasedStream, Outcome, Quarantined, RunEnd, StreamRef, Wire
from tailrace.wire.v2 import fingerprint_of_body

BEGAN_MS = 1_795_000_000_000
"""When the stream's run began, by upstream's clock: nothing is older."""


class Killed(BaseException):
    """The process died here. Nothing in the code under test may catch it."""


class Archive:
    """Committed chunks of one stream. Implements `ingest.reader.Sink` and `StreamFacts` for the present reader.

    ``dice`` decides when the Writer commits and when the process dies. As in the real Writer, what is held is committed
    only when something follows it or when time passes (`time_passes`).
    """

    def __init__(self, dice: random.Random, kill: float = 0.02) -> None:
        self._dice = dice
        self._kill = kill
        self.texts: list[tuple[int, int, bytes]] = []
        self.holes: list[Hole] = []
        self.quarantined: list[Quarantined] = []
        self.fingerprints: list[tuple[int, int, bytes]] = []
        self.checkpoint = Checkpoint()
        self.wire: Wire | None = None
        self.over = False
        self.swept_at: int | None = None
        self.outcome: Outcome | None = None
        self.failed: list[str] = []
        self._pending: list[Batch] = []
        self._held: Batch | None = None

    # --- a worker takes the stream over

    def lease(self) -> LeasedStream:
        """Forget what was not committed; return the stream as the next reader gets it."""
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
            attempt=self.outcome.attempt if self.outcome else 0,
            chunk_count=len(self.texts),
            lost_count=sum(hole.reason.lost for hole in self.holes),
            silent_s=0.0,
            run_end=self.run_end(),
            options={},
            not_before_ms=BEGAN_MS,
        )

    # --- Surroundings

    def run_end(self) -> RunEnd:
        swept = self.swept_at == self.checkpoint.last_index
        return RunEnd(over=self.over, over_for_s=1.0, swept_for_s=1e6 if swept else None)

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        fingerprints = [(index, snapshot) for of, index, snapshot in self.fingerprints if of == generation]
        repeats = [item for item in self.quarantined if item.generation == generation and item.reason == "repeat"]
        return sorted(fingerprints + [(item.chunk_index, fingerprint_of_body(item.raw) or b"") for item in repeats])

    # --- Sink

    def put(self, batch: Batch, wire: Wire) -> None:
        self._maybe_die()
        self.confirm()
        self._wire = wire
        self._pending.append(batch)
        self._maybe_commit()

    def hold(self, batch: Batch, wire: Wire) -> None:
        self._maybe_die()
        self.confirm()
        self._wire = wire
        self._held = batch

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

    def stuck(self, reason: str | None) -> None:
        pass

    def settle(self, outcome: Outcome) -> None:
        self.confirm()
        self._commit()
        self._maybe_die()
        self.outcome = outcome
        if outcome.swept:
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
        for batch in self._pending:
            generation = batch.checkpoint.generation
            self.texts += [(generation, at, text) for at, text in zip(batch.indices, batch.texts, strict=True)]
            if batch.fingerprints:
                self.fingerprints += [
                    (generation, at, snapshot) for at, snapshot in zip(batch.indices, batch.fingerprints, strict=True)
                ]
            self.holes += batch.holes
            self.quarantined += batch.quarantined
            self.checkpoint = batch.checkpoint
            self.wire = self._wire
        self._pending = []


def read_until_settled(archive: Archive, read: Callable[[Archive], Outcome], times: int = 10_000) -> Outcome:
    """Start readers one after another until the stream is sealed or failed, whatever kills them."""
    for _ in range(times):
        try:
            outcome = read(archive)
            archive.settle(outcome)
        except Killed:
            continue
        if outcome.state in ("sealed", "failed"):
            return outcome
    raise AssertionError("the stream was never settled")
