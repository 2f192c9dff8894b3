"""v1's order: two ids back, skipped by id and ordinal; what is missing is said."""

from __future__ import annotations

import pytest

from tailrace.ingest.completeness import CLOCK_SLACK_MS
from tailrace.ingest.order import order_for
from tailrace.ingest.v1_order import V1Order
from tailrace.model import Batch, Checkpoint, Doubt, Hole, HoleReason, Quarantined, V1Record, Wire

DATE_MS = 1_795_000_000_000


def record(ms: int, seq: int, text: str, oversized: bool = False) -> V1Record:
    return V1Record(ms, seq, text, oversized)


def opened(checkpoint: Checkpoint | None = None) -> V1Order:
    order = V1Order(checkpoint or Checkpoint(), DATE_MS)
    order.resume()
    order.opened(DATE_MS)
    return order


def held(*records: V1Record) -> Checkpoint:
    """The checkpoint of an archive that has these."""
    return opened().admit(list(records)).checkpoint


A, B, C, D = record(5, 0, "1"), record(5, 1, "2"), record(6, 0, "3"), record(6, 0, "4")


@pytest.mark.parametrize(
    ("records", "resume"),
    [
        ([], None),
        ([A], None),
        ([A, B], None),
        ([A, B, C], "5-0"),
        ([A, B, C, D], "5-0"),
        ([A, B, C, D, record(10, 0, "5")], "5-1"),
    ],
)
@pytest.mark.trap(1)
@pytest.mark.trap(5)
def test_a_connection_begins_two_distinct_ids_back(records: list[V1Record], resume: str | None) -> None:
    assert V1Order(held(*records)).resume() == resume


@pytest.mark.trap(1)
@pytest.mark.trap(2)
def test_what_is_held_is_skipped_by_id_and_ordinal() -> None:
    order = opened(held(A, B, C))
    batch = order.admit([B, C, D, record(6, 0, "4"), record(7, 0, "5")])
    assert (batch.texts, batch.indices, batch.holes, batch.duplicates) == ([b"4", b"4", b"5"], [3, 4, 5], [], 2)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_a_batch_that_comes_again_within_a_connection_is_no_news(size: int) -> None:
    """Redis gives ids out in order: a step back comes from something on the way."""
    order = opened()
    lines = [A, B, C, D]
    batches = [order.admit(lines[:2]), order.admit(lines[2:])]
    for _ in range(2):
        batches += [order.admit(lines[at : at + size]) for at in range(0, 4, size)]
    assert order.anchored
    batches.append(order.admit([A, B, record(7, 0, "5"), A, B, C, D, record(7, 0, "5"), record(8, 0, "6")]))
    assert [text for batch in batches for text in batch.texts] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert [hole for batch in batches for hole in batch.holes] == []
    assert sum(batch.duplicates for batch in batches) == 15


@pytest.mark.trap(30)
def test_equal_lines_are_no_repeats() -> None:
    """The wire has no writer's id: a token that comes twice is two tokens."""
    batch = opened().admit([record(5, 0, '"ha"'), record(5, 0, '"ha"'), record(6, 0, '"ha"')])
    assert batch.texts == [b'"ha"'] * 3


@pytest.mark.trap(3)
def test_ids_are_compared_as_numbers() -> None:
    order = opened(held(record(99, 0, "1"), record(99, 9, "2"), record(99, 10, "3")))
    assert order.resume() == "99-0"
    assert order.admit([record(99, 9, "2"), record(99, 10, "3"), record(100, 0, "4")]).texts == [b"4"]


@pytest.mark.trap(1)
def test_a_fragment_before_what_is_held_is_no_chunk() -> None:
    """The entry two ids back can hold the beginning of the next line, of which only the rest comes again."""
    order = opened(held(A, B, C, record(7, 0, "5")))
    assert order.resume() == "5-1"
    batch = order.admit([record(6, 0, '"}'), record(7, 0, "5"), record(8, 0, "6")])
    assert (batch.texts, batch.holes) == ([b"6"], [])


@pytest.mark.trap(21)
def test_a_newest_line_that_does_not_come_back_is_a_gap_of_unknown_size() -> None:
    order = opened(held(A, B, C))
    batch = order.admit([record(9, 0, "7")])
    assert (batch.texts, batch.indices, batch.holes) == ([b"7"], [3], [Hole(0, 3, None, HoleReason.TRIMMED)])
    assert order.admit([record(9, 1, "8")]).holes == []


def read_on(line: V1Record, at_ms: int = 0) -> tuple[list[Hole], Doubt | None]:
    """What a line tells that comes, so long after the connection was opened, instead of all that is held."""
    order = opened(held(A, B, C))
    order.passed(at_ms)
    batch = order.admit([line])
    return [hole for hole in batch.holes if hole.reason.lost], order.unsure


GAP = [Hole(0, 3, None, HoleReason.TRIMMED)], None
DOUBT = [], Doubt.NOT_THERE


@pytest.mark.trap(21)
@pytest.mark.parametrize("text", ['{"n":4}', " [4] ", '"4"', "4", "null"])
def test_a_line_that_follows_by_its_number_tells_of_no_gap(text: str) -> None:
    """Upstream has dropped the last that is held, and perhaps nothing else."""
    assert read_on(record(6, 1, text)) == DOUBT


@pytest.mark.trap(21)
@pytest.mark.parametrize("line", [record(6, 2, "{}"), record(7, 0, "{}"), record(6, 1, '"n":4}')])
def test_a_line_that_does_not_follow_or_is_the_rest_of_one_tells_of_a_gap(line: V1Record) -> None:
    assert read_on(line) == GAP


@pytest.mark.trap(21)
@pytest.mark.parametrize(
    ("written_ms", "told"),
    [(-60_000, GAP), (CLOCK_SLACK_MS, GAP), (CLOCK_SLACK_MS + 1, DOUBT), (30_000, DOUBT), (60_000, GAP)],
)
def test_a_line_that_was_written_while_we_were_connected_tells_of_no_gap(
    written_ms: int, told: tuple[list[Hole], Doubt | None]
) -> None:
    """The stream had been emptied. A line from upstream's future may have waited: the answer's date was an old one."""
    assert read_on(record(DATE_MS + written_ms, 0, "{}"), at_ms=30_000 + CLOCK_SLACK_MS) == told


def test_what_followed_once_leaves_its_doubt_in_the_cursor() -> None:
    order = opened(held(A, B, C))
    assert opened(order.admit([record(6, 1, "4")]).checkpoint).unsure is Doubt.NOT_THERE


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("undefined", "not json"),
        ("<<CLOSE_STREAM>>", "not json"),
        ("1,2", "not json"),
        ("NaN", "not json"),
        ("", "empty"),
        ("[" * 513 + "]" * 513, "nested deeper than 512"),
        ("\udcff", "not utf-8"),
    ],
)
def test_what_is_no_json_is_kept_raw_and_the_stream_goes_on(text: str, reason: str) -> None:
    batch = opened().admit([A, record(6, 0, text), record(7, 0, "3")])
    assert (batch.texts, batch.indices) == ([b"1", b"3"], [0, 2])
    assert batch.holes == [Hole(0, 1, 1, HoleReason.QUARANTINED)]
    ((generation, index, why, raw),) = batch.quarantined
    assert (generation, index, raw) == (0, 1, text.encode("utf-8", "surrogateescape"))
    assert why.lower().startswith(reason)


def test_a_head_of_a_huge_line_is_kept_and_noted_for_good() -> None:
    order = opened()
    batch = order.admit([record(5, 0, '"xxx', oversized=True), record(6, 0, "2")])
    assert (batch.texts, batch.quarantined) == ([b"2"], [Quarantined(0, 0, "too_large", b'"xxx')])
    assert order.cut_short
    assert V1Order(batch.checkpoint).cut_short


@pytest.mark.trap(37)
def test_what_is_false_is_a_chunk() -> None:
    texts = ["null", '""', "0", "false", "{}", "[]", "-0", "1.10", "1e400", '"\\u0000"', '"\\ud800"']
    batch = opened().admit([record(5, n, text) for n, text in enumerate(texts)])
    assert batch.texts == [text.encode() for text in texts]
    assert batch.odd


def test_blanks_around_a_chunk_are_not_part_of_it() -> None:
    assert opened().admit([record(5, 0, " [1, 2]\t")]).texts == [b"[1, 2]"]


def test_times_beyond_64_bits_are_cut() -> None:
    batch = opened().admit([record((1 << 64) - 1, 0, "1")])
    assert batch.emitted_ms == [(1 << 63) - 1]
    assert V1Order(batch.checkpoint)._ids == (((1 << 64) - 1, 0),)


def test_going_back_to_a_mark_undoes_everything_since() -> None:
    order = opened(held(A))
    order.admit([A])
    snapshot, before = order.snapshot(), order._cursor()
    order.admit([B, C, record(7, 0, "x", oversized=True)])
    assert order._cursor() != before
    order.restore(snapshot)
    assert order._cursor() == before
    assert order.admit([B]).indices == [1]


def ended(order: V1Order, loose: V1Record) -> Batch:
    batch = order.ended(loose, final=True)
    assert batch is not None
    return batch


@pytest.mark.trap(4)
def test_a_half_line_is_admitted_when_two_sweeps_end_with_it() -> None:
    half = record(6, 0, '{"a":')
    order = opened(held(A))
    first = ended(order, half)
    assert (first.texts, first.holes, first.checkpoint.last_index) == ([], [], 0)
    second = ended(opened(first.checkpoint), half)
    assert [item.reason for item in second.quarantined][-1] == "unterminated"
    assert second.checkpoint.last_index == 1


@pytest.mark.trap(4)
def test_a_half_line_that_grew_is_looked_at_again() -> None:
    order = opened(held(A))
    first = ended(order, record(6, 0, '{"a":'))
    order = opened(first.checkpoint)
    assert ended(order, record(6, 1, '{"a":1')).texts == []
    batch = order.admit([record(6, 2, '{"a":1}')])
    assert batch.texts == [b'{"a":1}']
    assert "loose" not in (batch.checkpoint.cursor or {})


def test_a_stream_is_anchored_once_all_lines_of_the_newest_id_came_back() -> None:
    assert opened().anchored
    order = opened(held(A, B, C, D))
    assert not order.anchored
    order.admit([B, C])
    assert not order.anchored
    order.admit([D])
    assert order.anchored


def test_a_sequence_is_made_for_its_wire() -> None:
    assert isinstance(order_for(Wire.V1, Checkpoint(), []), V1Order)


def test_a_new_generation_begins_with_nothing() -> None:
    order = opened(held(A, B, C))
    batch = order.begin_generation()
    assert batch.holes == [Hole(0, 3, None, HoleReason.RECREATED)]
    assert batch.checkpoint.last_index == -1
    assert order.resume() is None
    order.opened(DATE_MS)
    assert order.admit([A]) == Batch(
        batch.checkpoint.__class__(1, 0, order._cursor()), indices=[0], texts=[b"1"], emitted_ms=[5], size_bytes=1
    )
