"""Writes known runs and owns the truth about them; compares the archive with it."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.chaos.fleet import Archive
from worker.model import Wire
from worker.replay import LiveStore
from worker.replay.records import trim_draft

STYLES = ('{"r":"%s","l":%d,"n":%d}', '["%s",%d,%d,1.10,"\\u0000"]', '{"n":"%s/%d/%d","n":"\\ud83d","t":"é😀"}')


@dataclass
class Truth:
    """What was written to one stream. ``lives``: for each life, what each index holds; None is no chunk."""

    run_id: str
    key: str
    wire: Wire
    lives: list[dict[int, str | None]] = field(default_factory=lambda: [{}])
    may_miss: list[set[int]] = field(default_factory=lambda: [set()])  # trimmed upstream, perhaps before it was read


class Oracle:
    """A thread that writes to runs of both wires: bursts, pauses, trims, repeats, re-created streams."""

    def __init__(self, store: LiveStore, dice: random.Random, runs: int, keys: int, *, calm: bool = False) -> None:
        self.store = store
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
        return sum(text is not None for truth in self.truths for life in truth.lives for text in life.values())

    def _write(self) -> None:
        dice = self._dice
        while not self._stopped.wait(dice.choice((0.002, 0.01, 0.03, 0.2))):
            truth = dice.choice(self.truths)
            self._append(truth, dice.choice((1, 1, 2, 5, 40)))
            if not self._calm:
                self._disturb(truth, dice.random())

    def _append(self, truth: Truth, count: int) -> None:
        life = truth.lives[-1]
        style = self._dice.choice(STYLES)
        texts = []
        for _ in range(count):
            number = len(life)
            texts.append(style % (truth.key, len(truth.lives) - 1, number))
            life[number] = texts[-1]
        self.store.append_chunks(truth.run_id, truth.key, texts)

    def _disturb(self, truth: Truth, what: float) -> None:
        store, life = self.store, truth.lives[-1]
        if truth.wire is Wire.V1:
            if what < 0.01 and len(life) > 300:
                before = len(store.entries(truth.run_id, truth.key))
                store.trim_entries(truth.run_id, truth.key, 100)
                kept = len(store.entries(truth.run_id, truth.key))
                if kept < before:
                    truth.may_miss[-1] |= set(range(len(life) - kept))
            return
        if what < 0.02:
            last = len(life) - 1
            if life[last] is not None:
                store.repeat_record(truth.run_id, truth.key, last)
                life[len(life)] = None
        elif what < 0.03:
            first_kept = self._dice.randint(0, len(life))
            store.append_records(truth.run_id, truth.key, [trim_draft(first_kept)])
            store.trim_records(truth.run_id, truth.key, first_kept)
            life[len(life)] = None
            truth.may_miss[-1] |= set(range(first_kept))
        elif what < 0.034:
            store.recreate_stream(truth.run_id, truth.key)
            truth.may_miss[-1] |= set(life)
            truth.lives.append({})
            truth.may_miss.append(set())

    # --- the comparison

    def differences(self, archive: Archive) -> Iterator[str]:
        """Everything in the archive that is not the truth."""
        for truth in self.truths:
            name = f"{truth.run_id}/{truth.key}"
            rows = archive.rows(
                "SELECT generation, chunk_index, data_text FROM tailrace.chunks WHERE run_id = %s AND stream_key = %s"
                " ORDER BY generation, chunk_index",
                truth.run_id,
                truth.key,
            )
            check = self._v1_differences if truth.wire is Wire.V1 else self._v2_differences
            for difference in check(truth, archive, rows):
                yield f"{name}: {difference}"

    def _v1_differences(self, truth: Truth, archive: Archive, rows: list[tuple[int, int, str]]) -> Iterator[str]:
        written = {text: number for number, text in truth.lives[0].items()}
        numbers = []
        for _, index, text in rows:
            if text not in written:
                yield f"chunk {index} was never written: {text!r}"
                return
            numbers.append(written[text])
        if sorted(set(numbers)) != numbers:
            yield "a chunk is doubled or out of order"
        missing = set(written.values()) - set(numbers)
        if not missing <= truth.may_miss[0]:
            yield f"{len(missing - truth.may_miss[0])} chunks are missing, the first is {min(missing - truth.may_miss[0])}"
        # What was gone before the first read leaves no sign upstream; what is missing in the middle is a hole.
        if any(number > numbers[0] for number in missing if numbers) and not self._holes(truth, archive, "trimmed"):
            yield "chunks are missing without a hole"

    def _v2_differences(self, truth: Truth, archive: Archive, rows: list[tuple[int, int, str]]) -> Iterator[str]:
        by_generation: dict[int, dict[int, str]] = {}
        for generation, index, text in rows:
            by_generation.setdefault(generation, {})[index] = text
        # A life of which nothing was read leaves no generation; the last generation is the last life.
        last = archive.value(
            "SELECT s.generation FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = %s AND s.stream_key = %s",
            truth.run_id,
            truth.key,
        )
        lives = {last: len(truth.lives) - 1}
        for generation, chunks in by_generation.items():
            if generation == last:
                continue
            fitting = [
                number
                for number, life in enumerate(truth.lives)
                if all(life.get(index) == text for index, text in chunks.items())
            ]
            if not fitting:
                yield f"generation {generation} is no life of the stream"
                return
            lives[generation] = fitting[0]
        for generation, number in lives.items():
            life, chunks = truth.lives[number], by_generation.get(generation, {})
            for index, text in chunks.items():
                if life.get(index) != text and (
                    life.get(index, "") is not None or index - 1 not in truth.may_miss[number]
                ):
                    yield f"generation {generation}, chunk {index}: {text!r} instead of {life.get(index)!r}"
            missing = {index for index, text in life.items() if text is not None} - set(chunks)
            if not missing <= truth.may_miss[number]:
                yield f"generation {generation}: {sorted(missing - truth.may_miss[number])[:5]} are missing"

    def _holes(self, truth: Truth, archive: Archive, reason: str) -> int:
        return int(
            archive.value(
                "SELECT count(*) FROM tailrace.holes h JOIN tailrace.streams s ON s.id = h.stream_id"
                " JOIN tailrace.runs r ON r.id = s.run WHERE r.run_id = %s AND s.stream_key = %s AND h.reason = %s",
                truth.run_id,
                truth.key,
                reason,
            )
        )
