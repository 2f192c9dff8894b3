"""v1 end to end in memory: however entries are cut, connections break and workers die, nothing is lost or doubled."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tailrace.ingest import completeness, reader
from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.ingest.v1_order import V1Order
from tailrace.model import Outcome, StreamState, Verdict
from tests.schedules import schedules
from tests.simulation.archive import Archive, read_until_settled
from tests.simulation.v1 import STYLES, V1Upstream, entries_of

SCHEDULES = schedules(20_000)
POLICY = Timing(quiet_s=1.0, park_after_s=1e9, retry_base_s=0.0, reconnect_s=0.0, slice_s=1e9)


def play(
    seed: int, *, most: int = 12, keep: int | None = None, styles: tuple[str, ...] = STYLES
) -> tuple[list[bytes], list[bytes], Archive, Outcome]:
    """Run one schedule; return what was written and what is archived."""
    dice = random.Random(seed)
    lines = [
        dice.choice(('{"n":%d}', "%d", '"w%d"', '{"type":"text-delta","delta":"%d "}')) % dice.choice((n, n, 1))
        for n in range(dice.randint(1, most))
    ]
    archive = Archive(dice)
    upstream = V1Upstream(entries_of(lines, dice, styles), archive, dice, keep=keep)

    def read(archive: Archive) -> Outcome:
        reader = Reader(
            *(archive.lease(), upstream, archive, archive, POLICY, Signal()),
            clock=lambda: upstream.now_ms / 1000,
            random=lambda: 0.0,
            pause=lambda: None,
        )
        return reader.run()

    outcome = read_until_settled(archive, read)
    return [line.encode() for line in lines], [text for _, _, text in sorted(archive.texts)], archive, outcome


def wrong(seeds: range) -> Iterator[int]:
    """Play schedules; give those that end otherwise than they should."""
    for seed in seeds:
        written, archived, archive, outcome = play(seed)
        numbered = [index for _, index, _ in archive.texts] == list(range(len(written)))
        if archived != written or not numbered or archive.holes or outcome.verdict is not Verdict.COMPLETE:
            yield seed


def goes_wrong(most: int) -> bool:
    """Whether a schedule goes wrong; plays no more than it needs to know."""
    return next(wrong(range(most)), None) is not None


@pytest.mark.parametrize("part", range(4))
def test_every_schedule_ends_with_exactly_what_was_written(part: int) -> None:
    each = SCHEDULES // 4
    assert list(wrong(range(part * each, (part + 1) * each))) == []


def test_one_id_back_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of two ids back is needed: with one, the schedules above find lost or broken chunks."""

    def resume(self: V1Order) -> str | None:
        two_back(self)
        return "{}-{}".format(*self._ids[-2]) if len(self._ids) >= 2 else None

    two_back = V1Order.resume
    monkeypatch.setattr(V1Order, "resume", resume)
    assert goes_wrong(3_000)


def test_committing_the_last_event_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule of the provisional last event is needed: half a line is flushed as a normal event at an idle close."""
    monkeypatch.setattr(Archive, "withdraw", lambda self: self.confirm())
    assert goes_wrong(1_000)


def test_skipping_by_id_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ordinal is needed: several lines can share an id."""

    def seen_before(self: V1Order, this: tuple[int, int], *_: object) -> bool:
        return this <= self._ids[-1]

    monkeypatch.setattr(V1Order, "_seen_before", seen_before)
    assert goes_wrong(1_000)


def test_a_sealed_state_needs_two_sweeps() -> None:
    _, _, archive, outcome = play(1)
    assert outcome.state is StreamState.SEALED
    assert archive.swept_at == archive.checkpoint.last_index
    assert reader.DRAIN_WAIT_S == 1


def falsely_complete(seeds: range) -> tuple[list[int], int, int]:
    """Play schedules in which upstream keeps eight entries: which claim too much, how many lost, how many claim."""
    false, lost, complete = [], 0, 0
    for seed in seeds:
        written, archived, _, outcome = play(seed, most=40, keep=8, styles=("line", "lumps"))
        claims = outcome.verdict is Verdict.COMPLETE
        lost += archived != written
        complete += claims
        if claims and archived != written:
            false.append(seed)
    return false, lost, complete


@pytest.mark.trap(21)
def test_what_was_trimmed_is_never_called_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two visits, before the first, and under a reader that falls behind."""
    monkeypatch.setattr(completeness, "KEPT_ENTRIES", 6)
    monkeypatch.setattr(completeness, "PIECE_BYTES", 20)  # the least that `lumps` puts into an entry
    monkeypatch.setattr(completeness, "SPAN_ENTRIES", 1)
    false, lost, complete = falsely_complete(range(3_000))
    assert false == []
    assert lost > 300
    assert complete > 300
