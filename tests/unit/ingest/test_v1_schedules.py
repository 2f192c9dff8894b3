"""v1 end to end in memory: however entries are cut, connections break and workers die, nothing is lost or doubled."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tailrace.ingest import completeness, reader
from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.ingest.v1_order import V1Order
from tailrace.model import Checkpoint, Outcome, StreamState, V1Record, Verdict
from tailrace.serve.entries import Entry, LineJoiner
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tests.schedules import schedules
from tests.simulation.archive import BEGAN_MS, Archive, read_until_settled
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


LINES = ('{"n":%d}', "[%d]", "%d", '"w%d"', '"\\"%d"', "true", '{"a":{"n":%d}}')


def read_on_after_a_trim(seed: int) -> tuple[list[bytes], list[bytes], bool, bool, bool]:
    """Read a part; all of it, and perhaps more, is trimmed; read on.

    Returns what was written and what is archived, whether a gap was told, whether there is a doubt, and whether the
    first entry that was left is the next by its number, and begins with a whole line.
    """
    dice = random.Random(seed)
    lines = [dice.choice(LINES).replace("%d", str(n)) for n in range(dice.randint(2, 12))]
    entries = entries_of(lines, dice)
    at = dice.randint(1, max(1, len(entries) - 1))
    records = records_of(entries[:at])
    held = visit(Checkpoint()).admit(records[: dice.choice((len(records), dice.randint(0, len(records))))])
    order = visit(held.checkpoint)
    left = entries[at + dice.choice((0, 0, 0, 1, 2)) :]
    rest = order.admit(records_of(left))
    gap = not held.texts or any(hole.reason.lost for hole in rest.holes)
    newest = V1Order(held.checkpoint)._ids[-1:]
    follows = bool(left) and [(left[0].id.ms, left[0].id.seq - 1)] == [*newest]
    return (
        [line.encode() for line in lines],
        held.texts + rest.texts,
        gap,
        order.unsure is not None,
        follows and bool(rest.texts) and left[0].data.startswith(rest.texts[0] + b"\n"),
    )


def visit(checkpoint: Checkpoint) -> V1Order:
    order = V1Order(checkpoint, BEGAN_MS)
    order.resume()
    order.opened(BEGAN_MS + 60_000)
    return order


def records_of(entries: list[Entry]) -> list[V1Record]:
    """Return what a response shows of entries, as long as it does not end."""
    events = Framer(1 << 20).feed(LineJoiner().add(entries).decode())
    return [record for arrival in V1Decoder().decode(events) for record in arrival.records]


@pytest.mark.trap(21)
def test_no_gap_is_told_before_what_follows_and_nothing_is_lost_in_silence() -> None:
    """However lines were cut into entries, and wherever a read broke off."""
    lost = following = 0
    for seed in range(SCHEDULES // 4):
        written, archived, gap, doubt, follows = read_on_after_a_trim(seed)
        if archived != written[: len(archived)]:
            lost += 1
            assert gap or doubt, seed
        if follows:
            following += 1
            assert (gap, doubt) == (False, True), seed
    assert min(lost, following) > 50
