"""Reads in memory: however entries are cut, connections break and archives end, no chunk is lost, doubled or broken.

Live from upstream, and with the archive before it: the seam is wherever a worker has died.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tailrace.ingest.assembly import Assembly
from tailrace.ingest.v1_order import V1Order
from tailrace.streams.follow import Follow
from tailrace.streams.steps import Chunk, Source, Start
from tests.simulation.streams import World, read_all
from tests.simulation.v1 import V1Upstream, entries_of
from tests.simulation.v2 import Record, V2Upstream, life_of

SCHEDULES = int(os.environ.get("STREAM_SCHEDULES", "400"))


# --- v1


def play_v1(seed: int, source: Source, start: Start | None = None) -> tuple[list[bytes], list[Chunk]]:
    dice = random.Random(seed)
    lines = [
        dice.choice(('{"n":%d}', "%d", '"w%d"', '{"type":"text-delta","delta":"%d "}', "broken%d"))
        % dice.choice((n, 1))
        for n in range(dice.randint(1, 12))
    ]
    world = World(dice)
    upstream = V1Upstream(entries_of(lines, dice), world, dice)
    if source != "upstream":
        for _ in range(dice.randint(0, 3)):
            world.ingest(upstream)
    found, follow = read_all(upstream, world, start=start, source=source)
    lost = [Chunk(gap.generation, gap.first_index, b"", "lost") for gap in follow.gaps]
    return [line.encode() for line in lines], found + lost


def wrong_v1(seeds: range, source: Source) -> list[int]:
    found = []
    for seed in seeds:
        lines, chunks = play_v1(seed, source)
        as_expected = [(chunk.generation, chunk.chunk_index, chunk.text) for chunk in chunks] == [
            (0, at, line) for at, line in enumerate(lines)
        ]
        if not as_expected or any(bool(chunk.invalid) != chunk.text.startswith(b"broken") for chunk in chunks):
            found.append(seed)
    return found


@pytest.mark.parametrize("source", ["upstream", "auto"])
def test_every_v1_schedule_gives_exactly_what_was_written(source: Source) -> None:
    assert wrong_v1(range(SCHEDULES), source) == []


def test_a_v1_read_can_start_at_any_index() -> None:
    for seed in range(100):
        for source in ("upstream", "auto"):
            index = seed % 14
            lines, chunks = play_v1(seed, source, Start(index=index))
            assert [chunk.text for chunk in chunks] == lines[index:], (seed, source)


def test_a_v1_read_can_be_resumed_after_any_chunk() -> None:
    """Also after lines that share an id, and when nothing but the id and its count are known."""
    for seed in range(100):
        lines, chunks = play_v1(seed, "upstream")
        at = seed % len(chunks)
        _, rest = play_v1(seed, "upstream", Start.after(chunks[at].token))
        assert [chunk.text for chunk in rest] == lines[at + 1 :], seed
        assert [chunk.chunk_index for chunk in rest] == list(range(at + 1, len(lines)))


def believe_what_is_held(assembly: Assembly) -> None:
    assembly._held = None
    assembly._output.confirm()


def test_believing_the_last_line_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is flushed as a normal event at an idle close."""
    monkeypatch.setattr(Assembly, "left", believe_what_is_held)
    assert wrong_v1(range(400), "upstream")


def test_resuming_one_id_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def resume(self: V1Order) -> str | None:
        two_back(self)
        return "{}-{}".format(*self._ids[-2]) if len(self._ids) >= 2 else None

    two_back = V1Order.resume
    monkeypatch.setattr(V1Order, "resume", resume)
    assert wrong_v1(range(400), "upstream")


def test_a_seam_one_chunk_too_early_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property above does see a seam: going on from the start after the archive doubles chunks."""

    def from_the_start(self: Follow, now: float, end: object = None) -> None:
        go_live(self, now)

    go_live = Follow._go_live
    monkeypatch.setattr(Follow, "_go_live", from_the_start)
    assert wrong_v1(range(100), "auto")


# --- v2


def play_v2(seed: int, source: Source, *, trim: bool) -> tuple[list[list[Record]], list[Chunk], Follow, int]:
    dice = random.Random(seed)
    lives = [life_of(dice, number) for number in range(1 if trim else dice.choice((1, 1, 1, 2)))]
    for number, life in enumerate(lives):
        for record in life:  # two records that are alike in number, time and body are one to any reader
            record.fields["timestamp"] = 1_795_000_000_000 + 1_000 * number + record.seq_num
    world = World(dice)
    upstream = V2Upstream(lives, world, dice, trim)
    if source != "upstream":
        for _ in range(dice.randint(0, 3)):
            world.ingest(upstream)
    found, follow = read_all(upstream, world, source=source)
    last = (
        follow._intake._assembly.checkpoint.generation if follow._intake._assembly.wire else world.checkpoint.generation
    )
    return lives, found, follow, last


def faults_v2(seed: int, source: Source, *, trim: bool) -> Iterator[str]:
    lives, found, follow, last = play_v2(seed, source, trim=trim)
    given = {chunk[:2]: chunk for chunk in found}
    if len(given) != len(found):
        yield "a chunk is given twice"
    if [chunk[:2] for chunk in found] != sorted(given):
        yield "not in order"
    lost = {
        (gap.generation, index)
        for gap in follow.gaps
        if gap.last_index is not None
        for index in range(gap.first_index, gap.last_index + 1)
    }
    for record in lives[-1]:
        key = (last, record.seq_num)
        chunk = given.get(key)
        if key in lost:
            if chunk is not None:
                yield f"{key} is both given and lost"
        elif record.chunk is not None:
            if chunk is None or chunk.text != record.chunk or chunk.invalid:
                yield f"{key} should be {record.chunk!r}, not {chunk}"
        elif chunk is not None and not chunk.invalid and (last, record.repeats) not in lost:
            yield f"{key} is no chunk"
    if not trim and any(gap.reason == "trimmed" for gap in follow.gaps):
        yield "a loss is told where nothing was lost"


def wrong_v2(seeds: range, source: Source, *, trim: bool = False) -> list[tuple[int, list[str]]]:
    return [(seed, found) for seed in seeds if (found := list(faults_v2(seed, source, trim=trim)))]


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("source", ["upstream", "auto"])
def test_every_v2_schedule_gives_exactly_what_was_written(source: Source, trim: bool) -> None:
    assert wrong_v2(range(SCHEDULES), source, trim=trim) == []


def test_forgetting_what_the_archive_knows_of_repeats_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "recent", lambda self, generation: [])
    assert wrong_v2(range(60), "auto")


def test_ending_when_a_connection_does_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean close is no end (protocol §3)."""
    monkeypatch.setattr(Follow, "_on_end", lambda self, now: self._finish())
    assert wrong_v2(range(200), "upstream")
