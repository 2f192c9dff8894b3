"""Writes known runs and owns the truth about them; compares the archive with it."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tailrace.model import HoleReason, Verdict, Wire
from tests.chaos.fleet import Archive
from tests.upstream import LiveStore
from tests.upstream.drafts import trim_draft

STYLES = ('{"r":"%s","l":%d,"n":%d}', '["%s",%d,%d,1.10,"\\u0000"]', '{"n":"%s/%d/%d","n":"\\ud83d","t":"é😀"}')
PAUSES_S = (*(0.002, 0.01, 0.03, 0.2) * 8, 1.0)
BURSTS = (1, 1, 2, 5, 40, 120)
MOST_LIVES = 3
"""Of one stream: from the third time on that it is made anew, it is left alone for longer than a schedule waits."""
TRIM_BEYOND = 150
"""Entries of a v1 stream before it is trimmed: upstream drops whole hundreds."""
SERVED_S = 0.5
"""So old is the newest entry when v1 is trimmed: what goes before an open connection has got it leaves no sign at all
(v1 numbers nothing; upstream keeps 1 000 entries, and Tailrace doubts from there on)."""


@dataclass(frozen=True, slots=True)
class Skip:
    """An index that is no chunk. ``of``: the index that a repeat repeats; when that is lost, the repeat is a chunk."""

    reason: HoleReason
    of: int | None = None


@dataclass
class Life:
    """What one stream got from its creation until it was deleted. ``gone``: upstream may lack what is before."""

    holds: list[str | Skip] = field(default_factory=list)
    gone: int = 0


@dataclass
class Truth:
    """What was written under one key. A v1 stream has one life."""

    run_id: str
    key: str
    wire: Wire
    lives: list[Life] = field(default_factory=lambda: [Life()])
    written_at: float = 0.0

    @property
    def life(self) -> Life:
        return self.lives[-1]


class Kind(StrEnum):
    """How the archive can differ from the truth."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    OUT_OF_ORDER = "out_of_order"
    WRONG = "wrong"  # not what was written
    UNEXPLAINED = "unexplained"  # missing by right, but no hole says so


@dataclass(frozen=True, slots=True)
class Difference:
    """``count`` chunks or indices of one stream that are not as they should be."""

    kind: Kind
    count: int
    what: str


class Oracle:
    """A thread that writes to runs of both wires: bursts, pauses, trims, repeats, re-created streams."""

    def __init__(self, store: LiveStore, dice: random.Random, runs: int, keys: int, *, calm: bool = False) -> None:
        """``calm``: nothing is trimmed, repeated or re-created, so nothing may be missing."""
        self.store = store
        self.acts: Counter[str] = Counter()
        self._dice = dice
        self._calm = calm
        self.truths: list[Truth] = []
        for number in range(runs):
            wire = Wire.V2 if number % 2 else Wire.V1
            store.create_run(f"run_{number}", wire)
            for key in range(keys):
                self.truths.append(Truth(f"run_{number}", f"k{key}", wire))
                store.open_stream(f"run_{number}", f"k{key}")
        self.runs = [f"run_{number}" for number in range(runs)]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Write no more; the runs are over."""
        self._stopped.set()
        self._thread.join(10)
        for run_id in self.runs:
            self.store.finish_run(run_id)

    @property
    def chunks(self) -> int:
        return sum(isinstance(each, str) for truth in self.truths for life in truth.lives for each in life.holds)

    def write(self, truth: Truth, count: int) -> None:
        """Write so many chunks at once."""
        life = truth.life
        style = self._dice.choice(STYLES)
        first = len(life.holds)
        texts = [style % (truth.key, len(truth.lives) - 1, number) for number in range(first, first + count)]
        life.holds += texts
        self.store.append_chunks(truth.run_id, truth.key, texts)
        truth.written_at = time.monotonic()

    # --- how far it is

    def places(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return how many lives each v2 stream has had, and how far it is written in the last of them."""
        return {
            (truth.run_id, truth.key): (len(truth.lives), len(truth.life.holds))
            for truth in self.truths
            if truth.wire is Wire.V2
        }

    def behind(self, archive: Archive, places: dict[tuple[str, str], tuple[int, int]]) -> list[str]:
        """Name the streams whose checkpoints are before ``places``.

        Those that were re-created since do not count, nor those that were for the second time: they wait for a minute.
        """
        now = self.places()
        checkpoints = {
            (run_id, key): last
            for run_id, key, last in archive.rows(
                "SELECT r.run_id, s.stream_key, s.last_chunk_index FROM tailrace.streams_now s"
                " JOIN tailrace.runs r ON r.id = s.run"
            )
        }
        return [
            "/".join(name)
            for name, (lives, size) in places.items()
            if now[name][0] == lives < MOST_LIVES and checkpoints.get(name, -1) < size - 1
        ]

    # --- within

    def _write(self) -> None:
        dice = self._dice
        while not self._stopped.wait(dice.choice(PAUSES_S)):
            truth = dice.choice(self.truths)
            what = 1.0 if self._calm else dice.random()
            if truth.wire is Wire.V1:
                self._disturb_v1(truth, what)
            self.write(truth, dice.choice(BURSTS))
            if truth.wire is Wire.V2:
                self._disturb_v2(truth, what)

    def _disturb_v1(self, truth: Truth, what: float) -> None:
        store, life = self.store, truth.life
        served = time.monotonic() - truth.written_at > SERVED_S
        if what < 0.08 and served and len(life.holds) > TRIM_BEYOND:
            store.trim_entries(truth.run_id, truth.key, 100)
            life.gone = len(life.holds) - len(store.entries(truth.run_id, truth.key))
            self.acts["trim"] += 1

    def _disturb_v2(self, truth: Truth, what: float) -> None:
        store, life = self.store, truth.life
        if what < 0.03:
            last = len(life.holds) - 1
            if isinstance(life.holds[last], str):
                store.repeat_record(truth.run_id, truth.key, last)
                life.holds.append(Skip(HoleReason.REPEAT, last))
                self.acts["repeat"] += 1
        elif what < 0.05:
            first_kept = self._dice.randint(life.gone, len(life.holds))
            store.append_records(truth.run_id, truth.key, [trim_draft(first_kept)])
            store.trim_records(truth.run_id, truth.key, first_kept)
            life.holds.append(Skip(HoleReason.COMMAND))
            life.gone = first_kept
            self.acts["trim"] += 1
        elif what < 0.06 and len(truth.lives) < MOST_LIVES:
            store.recreate_stream(truth.run_id, truth.key)
            life.gone = len(life.holds)
            truth.lives.append(Life())
            self.acts["recreate"] += 1

    # --- the comparison

    def differences(self, archive: Archive) -> Iterator[Difference]:
        """Everything in the archive that is not the truth."""
        for truth in self.truths:
            compare = _v1_differences if truth.wire is Wire.V1 else _v2_differences
            for each in compare(truth, Stored(archive, truth)):
                yield Difference(each.kind, each.count, f"{truth.run_id}/{truth.key}: {each.what}")


class Stored:
    """What the archive has of one stream."""

    def __init__(self, archive: Archive, truth: Truth) -> None:
        self.chunks: list[tuple[int, int, str]] = archive.rows(  # type: ignore[assignment]
            "SELECT generation, chunk_index, data_text FROM tailrace.chunks WHERE run_id = %s AND stream_key = %s"
            " ORDER BY generation, chunk_index",
            truth.run_id,
            truth.key,
        )
        ((self.generation, self.verdict),) = archive.rows(
            "SELECT s.generation, s.verdict FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = %s AND s.stream_key = %s",
            truth.run_id,
            truth.key,
        )
        self.holes: list[tuple[int, int, int | None, str]] = archive.rows(
            "SELECT h.generation, h.first_index, h.last_index, h.reason FROM tailrace.holes h"
            " JOIN tailrace.streams s ON s.id = h.stream_id JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = %s AND s.stream_key = %s",
            truth.run_id,
            truth.key,
        )


def _v1_differences(truth: Truth, stored: Stored) -> Iterator[Difference]:
    life = truth.life
    written = {text: number for number, text in enumerate(life.holds)}
    numbers = []
    for _, index, text in stored.chunks:
        if text not in written:
            yield Difference(Kind.WRONG, 1, f"chunk {index} was never written: {text!r}")
            return
        numbers.append(written[text])
    if doubled := len(numbers) - len(set(numbers)):
        yield Difference(Kind.DUPLICATED, doubled, f"{doubled} chunks are stored twice")
    if numbers != sorted(numbers):
        yield Difference(Kind.OUT_OF_ORDER, 1, "chunks are out of order")
    if lost := sorted(set(range(life.gone, len(life.holds))) - set(numbers)):
        yield Difference(Kind.LOST, len(lost), f"{len(lost)} chunks are missing, the first is {lost[0]}")
    # What was gone before the first read leaves no sign upstream; what is missing between two chunks is a hole.
    holes = {first for _, first, last, reason in stored.holes if last is None and reason == HoleReason.TRIMMED}
    for at in range(1, len(numbers)):
        index = stored.chunks[at][1]
        if numbers[at] > numbers[at - 1] + 1 and index not in holes:
            yield Difference(Kind.UNEXPLAINED, 1, f"chunks are missing before {index}, and no hole says so")


def _v2_differences(truth: Truth, stored: Stored) -> Iterator[Difference]:
    by_generation: dict[int, dict[int, str]] = {stored.generation: {}}
    for generation, index, text in stored.chunks:
        chunks = by_generation.setdefault(generation, {})
        if index in chunks:
            yield Difference(Kind.DUPLICATED, 1, f"generation {generation}, chunk {index} is stored twice")
        chunks[index] = text
    shown = len(truth.life.holds) > truth.life.gone
    for generation, chunks in by_generation.items():
        # A life of which nothing was read leaves no generation; nor one that has nothing to show, which would prove it.
        fitting = [life for life in truth.lives if all(_may_be(life, at, text) for at, text in chunks.items())]
        last = generation == stored.generation and (shown or truth.life in fitting)
        life = truth.life if last else next(iter(fitting), None)
        if life is None or life not in fitting:
            what = f"generation {generation} is no life of the stream: it has {len(chunks)} chunks, they fit life "
            what += f"{[truth.lives.index(life) for life in fitting]} of {[len(life.holds) for life in truth.lives]}"
            yield Difference(Kind.WRONG, len(chunks), what)
            continue
        holes = [hole[1:] for hole in stored.holes if hole[0] == generation]
        missing = {at: each for at, each in enumerate(life.holds) if at not in chunks}
        lost = [at for at, each in missing.items() if isinstance(each, str) and at >= life.gone]
        if lost:
            yield Difference(Kind.LOST, len(lost), f"generation {generation}: {lost[:5]} are missing")
        if not shown and generation == stored.generation and stored.verdict == Verdict.POSSIBLY_TRUNCATED:
            continue  # what was lost with a life, and followed by nothing that would prove it, leaves the doubt
        unexplained = [at for at, each in missing.items() if not _reasons(at, each, life) & _said(at, holes)]
        if unexplained:
            what = f"generation {generation}: no hole with the right reason for {unexplained[:5]}"
            yield Difference(Kind.UNEXPLAINED, len(unexplained), what)


def _may_be(life: Life, index: int, text: str) -> bool:
    """Whether ``text`` can stand at ``index`` of the archive. A repeat is a chunk if what it repeats was not seen."""
    if index >= len(life.holds):
        return False
    held = life.holds[index]
    if isinstance(held, Skip) and held.of is not None and held.of < life.gone:
        held = life.holds[held.of]
    return held == text


def _reasons(index: int, held: str | Skip, life: Life) -> set[str]:
    """Return the reasons for which an index can be without a chunk."""
    gone = {HoleReason.TRIMMED.value, HoleReason.RECREATED.value} if index < life.gone else set()
    return gone | ({held.reason.value} if isinstance(held, Skip) else set())


def _said(index: int, holes: list[tuple[int, int | None, str]]) -> set[str]:
    """Return the reasons that the archive has for an index. A hole without an end goes on for ever."""
    return {reason for first, last, reason in holes if first <= index and (last is None or index <= last)}
