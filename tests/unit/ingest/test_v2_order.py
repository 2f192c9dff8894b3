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
from tailrace.wire.v2 import decode_read_batch, fingerprint_of, fingerprint_of_body


def data(seq_num: int, text: str = "", body_id: str = "", ms: int = 5) -> V2Record:
    text, body_id = text or str(seq_num), body_id or f"id-{seq_num}"
    return V2Record(seq_num, ms, Kind.DATA, text.encode(), body_id, f'{{"data":{text},"id":"{body_id}"}}')


def other(seq_num: int, kind: Kind, body: str = "") -> V2Record:
    return V2Record(seq_num, 5, kind, b"", "", body)


def begun(checkpoint: Checkpoint | None = None, recent: list[tuple[int, bytes]] | None = None) -> V2Order:
    order = V2Order(checkpoint or Checkpoint(), recent or [])
    order.resume()
    return order


def jumped(order: V2Order, records: list[V2Record]) -> Batch:
    """Admit records that begin behind a jump, as three connections in a row show it."""
    for _ in range(2):
        assert order.admit(records).indices == []
        assert order.doubt
        order.resume()
    return order.admit(records)


def held(*records: V2Record) -> Checkpoint:
    order = begun()
    checkpoint = (
        order.admit(list(records)) if not records or records[0].seq_num == 0 else jumped(order, [*records])
    ).checkpoint
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


def gone_up_to(order: V2Order, *tails: int) -> Batch:
    """Connections in a row that bring nothing, and say that there was something."""
    batch = Batch(Checkpoint())
    for tail in tails:
        order.resume()
        order.see_tail(tail)
        batch = order.ended(None, final=False) or batch
    return batch


def test_after_a_stretch_that_was_never_seen_a_connection_begins_after_it() -> None:
    batch = gone_up_to(begun(), 10, 10, 10)
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
def test_a_jump_that_three_connections_show_is_a_gap(before: list[V2Record], first: int, gap: tuple[int, int]) -> None:
    order = begun(held(*before)) if before else begun()
    batch = jumped(order, [data(first), data(first + 1)])
    assert batch.holes == [Hole(0, *gap, HoleReason.TRIMMED)]
    assert batch.indices == [first, first + 1]


@pytest.mark.trap(22)
@pytest.mark.parametrize("times", [1, 2])
def test_a_jump_that_fewer_connections_show_is_no_gap(times: int) -> None:
    order = begun(held(data(0), data(1)))
    for _ in range(times):
        assert order.admit([data(9)]).holes == []
        assert order.resume() == "0"
    batch = order.admit([data(1), data(2), data(3)])
    assert (batch.indices, batch.holes, order.doubt) == ([2, 3], [], None)


@pytest.mark.trap(22)
@pytest.mark.parametrize("first", [0, 1])
def test_what_stands_between_two_that_came_is_not_trimmed_but_missing(first: int) -> None:
    """Upstream trims from the beginning. The record before came with each connection."""
    order = begun(held(data(0), data(1)) if first else None)
    records = [data(1), data(4)] if first else [data(0), data(1), data(4)]
    for _ in range(5):
        assert order.admit(records).holes == []
        assert order.doubt
        order.resume()
        records = [data(1), data(4)]
    order.believe()
    batch = order.admit(records)
    assert batch.holes == [Hole(0, 2, 3, HoleReason.MISSING)]
    assert batch.indices == [4]


@pytest.mark.trap(22)
def test_what_is_missing_below_the_tail_is_a_gap() -> None:
    batch = gone_up_to(begun(held(data(0))), 5, 4, 6)
    assert batch.holes == [Hole(0, 1, 3, HoleReason.TRIMMED)]


@pytest.mark.trap(22)
def test_what_was_written_while_a_connection_closed_is_no_gap() -> None:
    """One that brought nothing says that there is one more: it may have come in this very moment."""
    order = begun(gone_up_to(begun(), 3, 3, 3).checkpoint)
    order.see_tail(4)
    batch = order.ended(None, final=True)
    assert batch is not None
    assert batch.holes == []
    order.resume()
    assert order.admit([data(3)]).indices == [3]


@pytest.mark.trap(22)
def test_what_a_response_did_not_get_to_is_no_gap() -> None:
    order = begun(held(data(0)))
    order.admit([data(0)])
    order.see_tail(4)
    assert order.ended(None, final=True) is None


@pytest.mark.trap(23)
@pytest.mark.trap(10)
@pytest.mark.parametrize("anew", [[data(0, ms=9)], [data(0, "7")], [data(0, body_id="x"), data(1)]])
def test_a_tail_behind_us_and_another_first_record_are_another_stream(anew: list[V2Record]) -> None:
    order = begun(held(data(0), data(1), data(2)))
    order.see_tail(2)
    assert (order.recreated, bool(order.doubt)) == (False, True)
    assert order.resume() is None, "the next looks at the very beginning"
    assert order.admit(anew).indices == []
    assert order.recreated
    batch = order.begin_generation()
    assert (batch.holes, batch.checkpoint.generation) == ([Hole(0, 3, None, HoleReason.RECREATED)], 1)
    assert order.resume() is None
    assert order.admit(anew).checkpoint.generation == 1


@pytest.mark.trap(23)
def test_a_tail_behind_us_is_wrong_when_our_records_are_there() -> None:
    order = begun(held(data(0), data(1), data(2)))
    order.see_tail(2)
    order.resume()
    batch = order.admit([data(0), data(1), data(2), data(3)])
    assert (batch.indices, batch.duplicates, order.recreated, order.doubt) == ([3], 3, False, None)
    assert order.resume() == "2", "the doubt is over"


@pytest.mark.trap(23)
def test_an_old_tail_after_our_records_is_settled_by_the_next_connection() -> None:
    """It is an old word; or the stream was made anew under the connection, which would go on with its records."""
    order = begun(held(data(0), data(1), data(2)))
    for _ in range(3):
        order.admit([data(2)])
        order.see_tail(2)
        assert (order.recreated, bool(order.doubt)) == (False, True)
        assert order.resume() == "1"
        order.admit([data(2)])
        order.see_tail(2)
        assert (order.recreated, order.doubt, order.anchored) == (False, None, True)
        order.resume()


@pytest.mark.trap(23)
def test_a_stream_made_anew_under_a_connection_does_not_go_on_with_the_old_one() -> None:
    order = begun(held(data(0), data(1), data(2)))
    order.admit([data(2)])
    order.see_tail(0)
    assert order.admit([data(3, "9")]).indices == []
    assert order.resume() == "1"
    order.admit([data(2, "9"), data(3, "9")])
    assert order.resume() is None
    order.admit([data(0, "9"), data(1, "9")])
    assert order.recreated


@pytest.mark.trap(23)
@pytest.mark.parametrize("records", [[data(3, "9")], [data(3, "9"), data(4, "9")]])
def test_what_comes_without_the_record_before_it_is_not_taken_for_its_sequel(records: list[V2Record]) -> None:
    """What was to show whether it is still the same stream was lost on the way, or is trimmed."""
    order = begun(held(data(0), data(1), data(2)))
    for _ in range(2):
        assert order.admit(records).indices == []
        assert order.doubt
        assert order.resume() == "1"
    assert order.admit(records).indices == [each.seq_num for each in records], "trimmed: three connections show it"


@pytest.mark.trap(23)
def test_an_empty_answer_and_a_tail_behind_us_prove_nothing() -> None:
    order = begun(held(data(0), data(1), data(2)))
    for _ in range(3):
        order.see_tail(0)
        assert not order.recreated
        assert not order.anchored
        assert order.resume() is None


@pytest.mark.trap(23)
def test_a_shorter_stream_of_which_we_know_nothing_is_another() -> None:
    """The first records that we hold were trimmed from the old one before we came."""
    order = begun(held(data(7), data(8)))
    order.see_tail(2)
    order.resume()
    assert order.admit([data(0), data(1)]).indices == []
    order.see_tail(2)
    assert order.recreated


@pytest.mark.trap(23)
@pytest.mark.parametrize(
    "now", [data(2, "9"), data(2, ms=6), data(2, body_id="x"), other(2, Kind.COMMAND), data(1, "9")]
)
def test_another_record_where_ours_was_is_a_doubt(now: V2Record) -> None:
    order = begun(held(data(0), data(1), data(2)), [(n, fingerprint_of(b"%d" % n, f"id-{n}")) for n in range(3)])
    batch = order.admit([now, data(3)])
    assert (batch.indices, batch.holes) == ([], [])
    assert (order.recreated, bool(order.doubt)) == (False, True)
    assert order.resume() is None


@pytest.mark.trap(23)
def test_a_stream_made_anew_and_trimmed_since_shows_itself_by_its_first_record_that_is_left() -> None:
    fingerprints = [(n, fingerprint_of(b"%d" % n, f"id-{n}")) for n in range(4)]
    order = begun(held(data(0), data(1), data(2), data(3)), fingerprints)
    order.see_tail(3)
    order.resume()
    order.admit([data(1, "9"), data(2, "9")])
    assert order.recreated


@pytest.mark.trap(23)
def test_what_begins_as_ours_and_goes_on_as_another_is_another_only_in_the_end() -> None:
    """No stream can do that: something on the way mixes two, until that is believed."""
    fingerprints = [(n, fingerprint_of(b"%d" % n, f"id-{n}")) for n in range(3)]
    order = begun(held(data(0), data(1), data(2)), fingerprints)
    for _ in range(4):
        order.admit([data(0), data(1, "9"), data(2, "9")])
        assert (order.recreated, bool(order.doubt)) == (False, True)
        assert order.resume() is None
    order.believe()
    order.admit([data(0), data(1, "9"), data(2, "9")])
    assert order.recreated


@pytest.mark.trap(23)
def test_a_doubt_is_settled_from_the_start_also_when_new_records_came_before_it() -> None:
    order = begun(held(data(0), data(1), data(2)))
    assert order.admit([data(2), data(3), data(0, "9")]).indices == [3]
    assert order.doubt
    assert order.resume() is None


@pytest.mark.trap(23)
def test_a_batch_that_comes_twice_is_no_news() -> None:
    order = begun()
    records = [data(0), other(1, Kind.COMMAND), data(2), other(3, Kind.ODD, "x")]
    order.admit(records)
    for _ in range(3):
        batch = order.admit(records)
        assert (batch.duplicates, batch.holes, order.recreated, order.doubt) == (4, [], False, None)
    assert order.admit([data(4)]).indices == [4]


@pytest.mark.trap(10)
def test_a_connection_that_begins_too_early_is_read_to_where_we_are() -> None:
    """Something on the way drops `Last-Event-ID`."""
    order = begun(held(data(0), data(1), data(2)))
    batch = order.admit([data(0), data(1)])
    assert (batch.duplicates, order.anchored, order.doubt) == (2, False, None)
    assert order.admit([data(2), data(3)]).indices == [3]


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


def test_a_stream_written_again_is_no_repeat_of_the_one_before() -> None:
    order = begun()
    order.admit([data(0), data(1)])
    order.begin_generation()
    assert order.admit([data(0, ms=6), data(1, ms=6)]).indices == [0, 1]


def test_a_generation_that_is_the_one_before_is_dropped_as_repeats() -> None:
    """With the times of the old one too: whatever said that it is new was wrong."""
    order = begun()
    first = order.admit([data(0), data(1), data(2)])
    begun_anew = order.begin_generation()
    restarted = V2Order(begun_anew.checkpoint, [], first.fingerprints)
    for each in (order, restarted):
        each.resume()
        batch = each.admit([data(0), data(1), data(2), data(3, ms=9)])
        assert (batch.indices, batch.quarantined) == ([3], [])
        assert batch.holes == [Hole(1, 0, 2, HoleReason.REPEAT)]


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
            start = min(start, len(records)) - 1  # a connection begins at the last that is held
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
