"""v2 end to end in memory: numbers, repeats, trims and re-created streams, with cuts and kills anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from httpx_sse import ServerSentEvent

from tailrace.ingest import v2_order
from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Arrival, HoleReason, Outcome, Verdict
from tailrace.retry import Patience
from tailrace.wire.v2 import V2Decoder
from tests.schedules import schedules
from tests.simulation.archive import Archive, read_until_settled
from tests.simulation.v2 import Record, V2Upstream, life_of

SCHEDULES = schedules(10_000)
POLICY = Timing(quiet_s=1.0, park_after_s=1e9, retry_base_s=0.0, reconnect_s=0.0, slice_s=1e9, patience=Patience(99))


def play(seed: int, *, trim: bool, lie: float = 0.0) -> tuple[list[list[Record]], Archive, Outcome]:
    dice = random.Random(seed)
    # A stream that is both created anew and trimmed past our place leaves no sign that any reader could see.
    lives = [life_of(dice, number) for number in range(1 if trim else dice.choice((1, 1, 1, 2)))]
    archive = Archive(dice)
    upstream = V2Upstream(lives, archive, dice, trim, lie)

    def read(archive: Archive) -> Outcome:
        reader = Reader(
            archive.lease(), upstream, archive, archive, POLICY, Signal(), random=lambda: 0.0, pause=lambda: None
        )
        return reader.run()

    return lives, archive, read_until_settled(archive, read)


def faults(seed: int, *, trim: bool = False, lie: float = 0.0) -> Iterator[str]:
    lives, archive, outcome = play(seed, trim=trim, lie=lie)
    held = {(generation, index): text for generation, index, text in archive.texts}
    if len(held) != len(archive.texts):
        yield "a chunk is stored twice"
    covered = {
        (hole.generation, index)
        for hole in archive.holes
        if hole.last_index is not None
        for index in range(hole.first_index, hole.last_index + 1)
    }
    lost = {
        (hole.generation, index)
        for hole in archive.holes
        if hole.reason.lost and hole.last_index is not None
        for index in range(hole.first_index, hole.last_index + 1)
    }
    last = archive.checkpoint.generation
    # A stream that was re-created before anything of it was read leaves no generation behind.
    final = lives[-1]
    for record in final:
        key = (last, record.seq_num)
        if (key in held) == (key in covered):
            yield f"{key} is not exactly one of chunk and hole"
        if record.chunk is not None and key not in lost and held.get(key) != record.chunk:
            yield f"{key} should be {record.chunk!r}, not {held.get(key)!r}"
        if record.chunk is None and key in held and (last, record.repeats) not in lost:
            yield f"{key} is no chunk"
    if archive.checkpoint.last_index != len(final) - 1:
        yield "the checkpoint is not at the end"
    if b"eyJsecret" in b"".join(item.raw for item in archive.quarantined):
        yield "a credential was archived"
    if not trim and any(hole.reason is HoleReason.TRIMMED for hole in archive.holes):
        yield "a loss is noted where nothing was lost"
    whole = not any(hole.reason.lost for hole in archive.holes)
    if (outcome.verdict is Verdict.COMPLETE) != whole:
        yield f"the verdict is {outcome.verdict}"


def _without_tails(decode: Callable[..., Iterator[Arrival]]) -> Callable[..., Iterator[Arrival]]:
    def decoded(self: V2Decoder, events: list[ServerSentEvent]) -> Iterator[Arrival]:
        for arrival in decode(self, events):
            yield arrival._replace(tail=None)

    return decoded


def wrong(seeds: range, *, trim: bool = False, lie: float = 0.0) -> Iterator[tuple[int, list[str]]]:
    """Play schedules; give those that end otherwise than they should."""
    return ((seed, found) for seed in seeds if (found := list(faults(seed, trim=trim, lie=lie))))


def goes_wrong(most: int, *, trim: bool = False, lie: float = 0.0) -> bool:
    """Whether a schedule goes wrong; plays no more than it needs to know."""
    return next(wrong(range(most), trim=trim, lie=lie), None) is not None


@pytest.mark.parametrize("trim", [False, True])
def test_every_schedule_balances(trim: bool) -> None:
    assert list(wrong(range(SCHEDULES // 2), trim=trim)) == []


def test_every_schedule_balances_when_something_on_the_way_lies() -> None:
    """Old tails, batches that are lost or come twice, a header that is dropped."""
    assert list(wrong(range(SCHEDULES // 4), lie=0.1)) == []


def test_believing_a_tail_behind_us_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(V2Order, "_begin_doubt", lambda self, why: setattr(self, "recreated", True))
    assert goes_wrong(500, lie=0.1)


def test_taking_every_tail_behind_our_records_for_an_old_word_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream can be made anew under an open connection."""
    begin = V2Order._begin_connection

    def settling(self: V2Order) -> None:
        begin(self)
        self._settling = True

    monkeypatch.setattr(V2Order, "_begin_connection", settling)
    assert goes_wrong(1_000)


def test_believing_a_jump_at_once_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_order, "JUMPS_BELIEVED", 1)
    assert goes_wrong(500, lie=0.1)


def test_dropping_repeats_within_one_connection_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Archive, "recent", lambda self, generation: [])
    assert goes_wrong(2_000)


def test_moving_the_cursor_on_data_records_only_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = V2Order.admit

    def data_only(self: V2Order, records: list[object]) -> object:
        return admit(self, [record for record in records if record.kind != "command"])  # type: ignore[attr-defined]

    monkeypatch.setattr(V2Order, "admit", data_only)
    assert goes_wrong(500)


def test_no_window_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_order, "REPEAT_WINDOW", 0)
    assert goes_wrong(500)


def test_not_looking_at_the_tail_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(V2Order, "see_tail", lambda self, tail: None)
    assert goes_wrong(2_000)


def test_not_counting_what_was_trimmed_to_the_tail_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.wire.v2.V2Decoder.decode", _without_tails(V2Decoder.decode))
    assert goes_wrong(2_000, trim=True)


def test_trusting_an_end_without_done_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short body then passes for a final sweep that brought nothing."""
    monkeypatch.setattr("tailrace.wire.v2.V2Decoder.finish", lambda self: None)
    assert goes_wrong(3_000)


def test_resuming_after_the_last_record_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was created anew and has grown past our place shows itself only by the record that we hold."""

    resume = V2Order.resume

    def after(self: V2Order) -> str | None:
        return None if resume(self) is None else str(self._next - 1)

    monkeypatch.setattr(V2Order, "resume", after)
    assert goes_wrong(5_000)
