"""v2's order: numbers, gaps, repeats and streams that were made anew."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord
from tailrace.ingest import v2_order
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Batch, Checkpoint, Hole, HoleReason, Kind, Quarantined, V2Record
from tailrace.wire.v2 import decode_read_batch, fingerprint_of_body


def data(seq_num: int, text: str = "", body_id: str = "", ms: int = 5) -> V2Record:
    text, body_id = text or str(seq_num), body_id or f"id-{seq_num}"
    return V2Record(seq_num, ms, Kind.DATA, text.encode(), body_id, f'{{"data":{text},"id":"{body_id}"}}')


def other(seq_num: int, kind: Kind, body: str = "") -> V2Record:
    return V2Record(seq_num, 5, kind, b"", "", body)


def begun(checkpoint: Checkpoint | None = None, recent: list[tuple[int, bytes]] | None = None) -> V2Order:
    order = V2Order(checkpoint or Checkpoint(), recent or [])
    order.resume()
    return order


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
    assert V2Order(held(*records), []).resume() == resume


def test_after_a_stretch_that_was_never_seen_a_connection_begins_after_it() -> None:
    order = begun()
    order.see_tail(10)
    batch = order.ended(None, final=False)
    assert batch is not None
    assert batch.holes == [Hole(0, 0, 9, HoleReason.TRIMMED)]
    assert V2Order(batch.checkpoint, []).resume() == "9"


@pytest.mark.trap(8)
def test_every_record_moves_the_place() -> None:
    records = [other(0, Kind.COMMAND), data(1), other(2, Kind.CONTROL), other(3, Kind.ODD, "x"), other(4, Kind.COMMAND)]
    batch = begun().admit(records)
    assert (batch.indices, batch.checkpoint.last_index) == ([1], 4)
    assert batch.holes == [
        Hole(0, 0, 0, HoleReason.COMMAND),
        Hole(0, 2, 2, HoleReason.CONTROL),
        Hole(0, 3, 3, HoleReason.QUARANTINED),
        Hole(0, 4, 4, HoleReason.COMMAND),
    ]
    assert batch.quarantined == [Quarantined(0, 3, "not_an_envelope", b"x")]


@pytest.mark.trap(22)
@pytest.mark.trap(24)
@pytest.mark.parametrize(
    ("before", "first", "gap"), [([], 5, (0, 4)), ([data(0)], 2, (1, 1)), ([data(0), data(1)], 9, (2, 8))]
)
def test_a_jump_is_a_gap(before: list[V2Record], first: int, gap: tuple[int, int]) -> None:
    order = begun()
    order.admit(before)
    batch = order.admit([data(first), data(first + 1)])
    assert batch.holes == [Hole(0, *gap, HoleReason.TRIMMED)]
    assert batch.indices == [first, first + 1]


@pytest.mark.trap(22)
def test_what_is_missing_below_the_tail_is_a_gap() -> None:
    order = begun(held(data(0)))
    order.see_tail(4)
    batch = order.ended(None, final=False)
    assert batch is not None
    assert batch.holes == [Hole(0, 1, 3, HoleReason.TRIMMED)]


@pytest.mark.trap(22)
def test_what_a_response_did_not_get_to_is_no_gap() -> None:
    order = begun(held(data(0)))
    order.admit([data(0)])
    order.see_tail(4)
    assert order.ended(None, final=True) is None


@pytest.mark.trap(23)
@pytest.mark.trap(10)
def test_a_tail_behind_us_is_another_stream() -> None:
    order = begun(held(data(0), data(1), data(2)))
    order.see_tail(2)
    assert order.recreated
    batch = order.begin_generation()
    assert (batch.holes, batch.checkpoint) == ([Hole(0, 3, None, HoleReason.RECREATED)], Checkpoint(1, -1, None))
    assert order.resume() is None
    assert order.admit([data(0)]).checkpoint.generation == 1


@pytest.mark.trap(23)
@pytest.mark.parametrize("now", [data(2, "9"), data(2, ms=6), data(2, body_id="x"), other(2, Kind.COMMAND), data(1)])
def test_another_record_where_ours_was_is_another_stream(now: V2Record) -> None:
    order = begun(held(data(0), data(1), data(2)))
    batch = order.admit([now, data(3)])
    assert order.recreated
    assert (batch.indices, batch.holes) == ([], [])


def test_our_record_coming_back_is_no_news() -> None:
    order = begun(held(data(0), data(1), data(2)))
    assert not order.anchored
    batch = order.admit([data(2), data(3)])
    assert (batch.indices, batch.duplicates, order.recreated, order.anchored) == ([3], 1, False, True)


@pytest.mark.parametrize(
    ("records", "tail", "anchored"),
    [([], None, False), ([], 1, True), ([], 4, False), ([data(0)], None, True), ([data(0), data(1)], 2, True)],
)
def test_a_stream_is_anchored_by_its_tail_or_by_our_record(
    records: list[V2Record], tail: int | None, anchored: bool
) -> None:
    order = begun(held(data(0)))
    order.admit(records)
    if tail is not None:
        order.see_tail(tail)
    assert order.anchored == anchored


def test_an_empty_stream_is_anchored_by_anything() -> None:
    assert begun().anchored


# --- repeats


@pytest.mark.trap(29)
def test_a_writers_retry_is_no_chunk_and_is_kept() -> None:
    batch = begun().admit([data(0, "1", "a"), data(1, "2", "b"), data(2, "1", "a"), data(3, "2", "b")])
    assert batch.indices == [0, 1]
    assert batch.holes == [Hole(0, 2, 2, HoleReason.REPEAT), Hole(0, 3, 3, HoleReason.REPEAT)]
    assert batch.quarantined[0] == Quarantined(0, 2, "repeat", b'{"data":1,"id":"a"}')


@pytest.mark.trap(30)
@pytest.mark.parametrize("again", [data(1, "1", "b"), data(1, "2", "a"), V2Record(1, 5, Kind.DATA, b"1", "", "{}")])
def test_an_id_or_a_text_alone_is_no_repeat(again: V2Record) -> None:
    assert begun().admit([data(0, "1", "a"), again]).indices == [0, 1]


@pytest.mark.trap(30)
@pytest.mark.parametrize(("distance", "repeat"), [(4_999, True), (5_000, True), (5_001, False)])
def test_a_repeat_is_one_within_5000_records(distance: int, repeat: bool) -> None:
    order = begun()
    order.admit([data(n) for n in range(distance)])
    assert bool(order.admit([data(distance, "0", "id-0")]).holes) == repeat


def test_a_long_id_is_one_before_and_after_a_restart() -> None:
    body_id = "é" * 120  # 240 bytes; a mark keeps 200
    first = begun().admit([data(0, "1", body_id)])
    restarted = begun(first.checkpoint, [(0, first.fingerprints[0])])
    assert restarted.admit([data(0, "1", body_id), data(1, "1", body_id)]).holes == [Hole(0, 1, 1, HoleReason.REPEAT)]


def test_records_of_another_generation_are_no_repeats() -> None:
    order = begun()
    order.admit([data(0), data(1)])
    order.begin_generation()
    assert order.admit([data(0), data(1)]).indices == [0, 1]


WINDOW = 4
KINDS = st.sampled_from(["1 a", "1 a", "1 b", "2 a", "2 b", "command", "odd", "NaN a", '"\\ud800" a', "3 c", "4 d"])


def records_of(kinds: list[str]) -> Iterator[V2Record]:
    for seq_num, kind in enumerate(kinds):
        if kind in ("command", "odd"):
            yield other(seq_num, Kind(kind), "x" * (kind == "odd"))
        else:
            yield data(seq_num, *kind.split())


def recent_of(batches: list[Batch]) -> list[tuple[int, bytes]]:
    """What the archive knows of the last records, as `store.streams` reads it."""
    chunks = [pair for batch in batches for pair in zip(batch.indices, batch.fingerprints, strict=True)]
    repeats = [item for batch in batches for item in batch.quarantined if item.reason == "repeat"]
    return sorted(chunks + [(item.chunk_index, fingerprint_of_body(item.raw) or b"") for item in repeats])


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_order, "REPEAT_WINDOW", WINDOW)


@pytest.mark.trap(29)
@pytest.mark.trap(30)
@given(st.lists(KINDS, min_size=1, max_size=20), st.sets(st.integers(1, 20)), st.sets(st.integers(1, 20)))
@pytest.mark.usefixtures("small_window")
def test_repeats_are_the_same_whatever_is_restarted(kinds: list[str], cuts: set[int], restarts: set[int]) -> None:
    """Blocks, reconnects and restarts of the worker make no difference, and the rule is that of protocol §2.8."""
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
    order, batches = begun(), []
    for start, end in zip([0, *sorted(cuts | restarts)], [*sorted(cuts | restarts), len(records)], strict=True):
        if start in restarts and batches:
            order = begun(batches[-1].checkpoint, recent_of(batches))
        if records[start:end]:
            batches.append(order.admit(records[start:end]))
    repeats = {hole.first_index for batch in batches for hole in batch.holes if hole.reason is HoleReason.REPEAT}
    assert repeats - bad == expected - bad
    chunks = [index for batch in batches for index in batch.indices]
    assert chunks == [r.seq_num for r in records if r.kind is Kind.DATA and r.seq_num not in expected | bad]


@given(st.lists(st.sampled_from(["1", '"é"', "[1, 2]", '"\\u0000"', "NaN", "1,2", "9" * 20]), max_size=30))
def test_many_at_once_are_the_same_as_one_by_one(texts: list[str]) -> None:
    records = [data(n, text) for n, text in enumerate(texts)]
    at_once, each = begun(), begun()
    batches = at_once.admit(records), each._admit_each(records)
    assert batches[0] == batches[1]
    assert at_once._window == each._window


# --- what is too large, and what is no number


@pytest.mark.parametrize(("event_id", "last"), [("3,4,5", 3), ("0,1,2", 0), ("7", 7)])
def test_a_batch_that_was_too_large_is_stepped_over(event_id: str, last: int) -> None:
    order = begun()
    batch = order.admit_oversized(event_id, '{"records":[')
    assert batch.holes == [Hole(0, 0, last, HoleReason.QUARANTINED)]
    assert batch.quarantined == [Quarantined(0, 0, "too_large", b'{"records":[')]
    assert order.cut_short
    assert V2Order(batch.checkpoint, []).cut_short
    assert order.admit([data(last + 1)]).indices == [last + 1]


@pytest.mark.parametrize("event_id", ["", "x", "1,2,3", "-1", "9" * 30])
def test_a_batch_that_was_too_large_and_has_no_place_is_refused(event_id: str) -> None:
    order = begun(held(data(0), data(1)))
    with pytest.raises(MalformedRecord):
        order.admit_oversized(event_id, "")


def test_times_beyond_64_bits_are_cut() -> None:
    assert begun().admit([data(0, ms=1 << 64), data(1, ms=-5)]).emitted_ms == [(1 << 63) - 1, 0]


@pytest.mark.trap(39)
def test_a_control_record_leaves_nothing_but_a_hole() -> None:
    headers = [["trigger-control", "turn-complete"], ["public-access-token", "eyJ.secret"]]
    batch = json.dumps({"records": [{"seq_num": 0, "timestamp": 1, "headers": headers}]})
    batch = begun().admit(decode_read_batch(batch).records)
    assert batch.holes == [Hole(0, 0, 0, HoleReason.CONTROL)]
    assert "eyJ" not in repr(batch)
