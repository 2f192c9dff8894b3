"""v2's order: numbers, gaps, repeats and streams that were made anew."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import MalformedRecord
from worker.ingest import v2_sequence as module
from worker.ingest.v2_sequence import V2Sequence
from worker.model import Checkpoint, Hole, HoleReason, Kind, Quarantined, Take, V2Record
from worker.wire.v2 import decode_read_batch, mark_of_body


def data(seq_num: int, text: str = "", body_id: str = "", ms: int = 5) -> V2Record:
    text, body_id = text or str(seq_num), body_id or f"id-{seq_num}"
    return V2Record(seq_num, ms, Kind.DATA, text.encode(), body_id, f'{{"data":{text},"id":"{body_id}"}}')


def other(seq_num: int, kind: Kind, body: str = "") -> V2Record:
    return V2Record(seq_num, 5, kind, b"", "", body)


def begun(checkpoint: Checkpoint | None = None, recent: list[tuple[int, bytes]] | None = None) -> V2Sequence:
    sequence = V2Sequence(checkpoint or Checkpoint(), recent or [])
    sequence.resume()
    return sequence


def held(*records: V2Record) -> Checkpoint:
    checkpoint = begun().admit(list(records)).checkpoint
    return Checkpoint(checkpoint.generation, checkpoint.last_index, json.loads(json.dumps(checkpoint.cursor)))


@pytest.mark.trap(6)
@pytest.mark.trap(7)
@pytest.mark.parametrize(
    ("records", "resume"),
    [
        ([], None),
        ([data(0)], None),
        ([data(0), data(1)], "0"),
        ([data(0), data(1), other(2, Kind.COMMAND)], "1"),
        ([data(n) for n in range(42)], "40"),
        ([data(7)], "6"),
    ],
)
def test_a_connection_begins_at_the_last_record_that_is_held(records: list[V2Record], resume: str | None) -> None:
    """By its number, never by the event's id; and from the start without a header, for `0` and `-1` skip record 0."""
    assert V2Sequence(held(*records), []).resume() == resume


def test_after_a_stretch_that_was_never_seen_a_connection_begins_after_it() -> None:
    take = begun().admit_missing(10)
    assert take.holes == [Hole(0, 0, 9, HoleReason.TRIMMED)]
    assert V2Sequence(take.checkpoint, []).resume() == "9"


@pytest.mark.trap(8)
def test_every_record_moves_the_place() -> None:
    records = [other(0, Kind.COMMAND), data(1), other(2, Kind.CONTROL), other(3, Kind.ODD, "x"), other(4, Kind.COMMAND)]
    take = begun().admit(records)
    assert (take.indices, take.checkpoint.last_index) == ([1], 4)
    assert take.holes == [
        Hole(0, 0, 0, HoleReason.COMMAND),
        Hole(0, 2, 2, HoleReason.CONTROL),
        Hole(0, 3, 3, HoleReason.QUARANTINED),
        Hole(0, 4, 4, HoleReason.COMMAND),
    ]
    assert take.quarantined == [Quarantined(0, 3, "not_an_envelope", b"x")]


@pytest.mark.trap(22)
@pytest.mark.trap(24)
@pytest.mark.parametrize(
    ("before", "first", "gap"), [([], 5, (0, 4)), ([data(0)], 2, (1, 1)), ([data(0), data(1)], 9, (2, 8))]
)
def test_a_jump_is_a_gap(before: list[V2Record], first: int, gap: tuple[int, int]) -> None:
    sequence = begun()
    sequence.admit(before)
    take = sequence.admit([data(first), data(first + 1)])
    assert take.holes == [Hole(0, *gap, HoleReason.TRIMMED)]
    assert take.indices == [first, first + 1]


@pytest.mark.trap(22)
def test_what_is_missing_below_the_tail_is_a_gap() -> None:
    sequence = begun(held(data(0)))
    sequence.admit([data(0)])
    assert sequence.admit_missing(4).holes == [Hole(0, 1, 3, HoleReason.TRIMMED)]


@pytest.mark.trap(23)
@pytest.mark.trap(10)
def test_a_tail_behind_us_is_another_stream() -> None:
    sequence = begun(held(data(0), data(1), data(2)))
    sequence.see_tail(2)
    assert sequence.recreated
    take = sequence.begin_generation()
    assert (take.holes, take.checkpoint) == ([Hole(0, 3, None, HoleReason.RECREATED)], Checkpoint(1, -1, None))
    assert sequence.resume() is None
    assert sequence.admit([data(0)]).checkpoint.generation == 1


@pytest.mark.trap(23)
@pytest.mark.parametrize("now", [data(2, "9"), data(2, ms=6), data(2, body_id="x"), other(2, Kind.COMMAND), data(1)])
def test_another_record_where_ours_was_is_another_stream(now: V2Record) -> None:
    sequence = begun(held(data(0), data(1), data(2)))
    take = sequence.admit([now, data(3)])
    assert sequence.recreated
    assert (take.indices, take.holes) == ([], [])


def test_our_record_coming_back_is_no_news() -> None:
    sequence = begun(held(data(0), data(1), data(2)))
    assert not sequence.anchored
    take = sequence.admit([data(2), data(3)])
    assert (take.indices, take.duplicates, sequence.recreated, sequence.anchored) == ([3], 1, False, True)


@pytest.mark.parametrize(
    ("records", "tail", "anchored"),
    [([], None, False), ([], 1, True), ([], 4, False), ([data(0)], None, True), ([data(0), data(1)], 2, True)],
)
def test_a_stream_is_anchored_by_its_tail_or_by_our_record(
    records: list[V2Record], tail: int | None, anchored: bool
) -> None:
    sequence = begun(held(data(0)))
    sequence.admit(records)
    if tail is not None:
        sequence.see_tail(tail)
    assert sequence.anchored == anchored


def test_an_empty_stream_is_anchored_by_anything() -> None:
    assert begun().anchored


# --- repeats


@pytest.mark.trap(29)
def test_a_writers_retry_is_no_chunk_and_is_kept() -> None:
    take = begun().admit([data(0, "1", "a"), data(1, "2", "b"), data(2, "1", "a"), data(3, "2", "b")])
    assert take.indices == [0, 1]
    assert take.holes == [Hole(0, 2, 2, HoleReason.REPEAT), Hole(0, 3, 3, HoleReason.REPEAT)]
    assert take.quarantined[0] == Quarantined(0, 2, "repeat", b'{"data":1,"id":"a"}')


@pytest.mark.trap(30)
@pytest.mark.parametrize("again", [data(1, "1", "b"), data(1, "2", "a"), V2Record(1, 5, Kind.DATA, b"1", "", "{}")])
def test_an_id_or_a_text_alone_is_no_repeat(again: V2Record) -> None:
    assert begun().admit([data(0, "1", "a"), again]).indices == [0, 1]


@pytest.mark.trap(30)
@pytest.mark.parametrize(("distance", "repeat"), [(4_999, True), (5_000, True), (5_001, False)])
def test_a_repeat_is_one_within_5000_records(distance: int, repeat: bool) -> None:
    sequence = begun()
    sequence.admit([data(n) for n in range(distance)])
    assert bool(sequence.admit([data(distance, "0", "id-0")]).holes) == repeat


def test_a_long_id_is_one_before_and_after_a_restart() -> None:
    body_id = "é" * 120  # 240 bytes; a mark keeps 200
    first = begun().admit([data(0, "1", body_id)])
    restarted = begun(first.checkpoint, [(0, first.marks[0])])
    assert restarted.admit([data(0, "1", body_id), data(1, "1", body_id)]).holes == [Hole(0, 1, 1, HoleReason.REPEAT)]


def test_records_of_another_generation_are_no_repeats() -> None:
    sequence = begun()
    sequence.admit([data(0), data(1)])
    sequence.begin_generation()
    assert sequence.admit([data(0), data(1)]).indices == [0, 1]


WINDOW = 4
KINDS = st.sampled_from(["1 a", "1 a", "1 b", "2 a", "2 b", "command", "odd", "NaN a", '"\\ud800" a', "3 c", "4 d"])


def records_of(kinds: list[str]) -> Iterator[V2Record]:
    for seq_num, kind in enumerate(kinds):
        if kind in ("command", "odd"):
            yield other(seq_num, Kind(kind), "x" * (kind == "odd"))
        else:
            yield data(seq_num, *kind.split())


def recent_of(takes: list[Take]) -> list[tuple[int, bytes]]:
    """What the archive knows of the last records, as `store.streams` reads it."""
    chunks = [pair for take in takes for pair in zip(take.indices, take.marks, strict=True)]
    repeats = [item for take in takes for item in take.quarantined if item.reason == "repeat"]
    return sorted(chunks + [(item.chunk_index, mark_of_body(item.raw) or b"") for item in repeats])


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEAT_WINDOW", WINDOW)


@pytest.mark.trap(29)
@pytest.mark.trap(30)
@given(st.lists(KINDS, min_size=1, max_size=20), st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)))
@pytest.mark.usefixtures("small_window")
def test_repeats_are_the_same_whatever_is_restarted(kinds: list[str], cuts: set[int], restarts: set[int]) -> None:
    """Blocks, reconnects and restarts of the worker make no difference, and the rule is that of PROTOCOL §2.8."""
    records = list(records_of(kinds))
    expected = {
        record.seq_num
        for record in records
        if record.kind is Kind.DATA
        and any(
            (before.text, before.body_id) == (record.text, record.body_id)
            for before in records[max(0, record.seq_num - WINDOW) : record.seq_num]
        )
    }
    # A record whose text is no JSON is not kept as a chunk, nor is its repeat: which of the two it is called is open.
    bad = {record.seq_num for record in records if record.text == b"NaN"}
    sequence, takes = begun(), []
    for start, end in zip([0, *sorted(cuts | restarts)], [*sorted(cuts | restarts), len(records)], strict=True):
        if start in restarts and takes:
            sequence = begun(takes[-1].checkpoint, recent_of(takes))
        if records[start:end]:
            takes.append(sequence.admit(records[start:end]))
    repeats = {hole.first_index for take in takes for hole in take.holes if hole.reason is HoleReason.REPEAT}
    assert repeats - bad == expected - bad
    chunks = [index for take in takes for index in take.indices]
    assert chunks == [r.seq_num for r in records if r.kind is Kind.DATA and r.seq_num not in expected | bad]


@given(st.lists(st.sampled_from(["1", '"é"', "[1, 2]", '"\\u0000"', "NaN", "1,2", "9" * 20]), max_size=30))
def test_many_at_once_are_the_same_as_one_by_one(texts: list[str]) -> None:
    records = [data(n, text) for n, text in enumerate(texts)]
    at_once, each = begun(), begun()
    takes = at_once.admit(records), each._admit_each(records)
    assert takes[0] == takes[1]
    assert at_once._window == each._window


# --- what is too large, and what is no number


@pytest.mark.parametrize(("event_id", "last"), [("3,4,5", 3), ("0,1,2", 0), ("7", 7)])
def test_a_batch_that_was_too_large_is_stepped_over(event_id: str, last: int) -> None:
    sequence = begun()
    take = sequence.admit_oversized(event_id, '{"records":[')
    assert take.holes == [Hole(0, 0, last, HoleReason.QUARANTINED)]
    assert take.quarantined == [Quarantined(0, 0, "too_large", b'{"records":[')]
    assert sequence.cut_short
    assert V2Sequence(take.checkpoint, []).cut_short
    assert sequence.admit([data(last + 1)]).indices == [last + 1]


@pytest.mark.parametrize("event_id", ["", "x", "1,2,3", "-1", "9" * 30])
def test_a_batch_that_was_too_large_and_has_no_place_is_refused(event_id: str) -> None:
    sequence = begun(held(data(0), data(1)))
    with pytest.raises(MalformedRecord):
        sequence.admit_oversized(event_id, "")


def test_times_beyond_64_bits_are_cut() -> None:
    assert begun().admit([data(0, ms=1 << 64), data(1, ms=-5)]).emitted_ms == [(1 << 63) - 1, 0]


@pytest.mark.trap(39)
def test_a_control_record_leaves_nothing_but_a_hole() -> None:
    headers = [["trigger-control", "turn-complete"], ["public-access-token", "eyJ.secret"]]
    batch = json.dumps({"records": [{"seq_num": 0, "timestamp": 1, "headers": headers}]})
    take = begun().admit(decode_read_batch(batch).records)
    assert take.holes == [Hole(0, 0, 0, HoleReason.CONTROL)]
    assert "eyJ" not in repr(take)
