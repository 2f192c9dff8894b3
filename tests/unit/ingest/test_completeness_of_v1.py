"""v1 says nothing of what it dropped: what proves that nothing is missing, and what leaves a doubt."""

from __future__ import annotations

import pytest

from tailrace.ingest.completeness import CLOCK_SLACK_MS, FORGOTTEN_MS, KEPT_ENTRIES, PIECE_BYTES
from tailrace.ingest.v1_order import V1Order
from tailrace.model import Checkpoint, Doubt, V1Record

NOW = 1_795_000_000_000


def visit(checkpoint: Checkpoint, date_ms: int | None = NOW, began_ms: int | None = NOW - 60_000) -> V1Order:
    order = V1Order(checkpoint, began_ms)
    order.resume()
    order.opened(date_ms)
    return order


def lines(count: int, ms: int, every_ms: int = 1, text: str = "1") -> list[V1Record]:
    return [V1Record(ms + n * every_ms, 0, text) for n in range(count)]


def admit(order: V1Order, records: list[V1Record], size: int = 200) -> Checkpoint:
    checkpoint = Checkpoint()
    for start in range(0, len(records), size):
        checkpoint = order.admit(records[start : start + size]).checkpoint
    return checkpoint


@pytest.mark.trap(21)
@pytest.mark.parametrize(
    ("entries", "doubted"), [(0, False), (1, False), (KEPT_ENTRIES - 1, False), (KEPT_ENTRIES, True), (2_500, True)]
)
def test_many_entries_at_the_first_visit_are_a_doubt(entries: int, doubted: bool) -> None:
    order = visit(Checkpoint())
    checkpoint = admit(order, lines(entries, NOW - 10_000))
    assert (order.unsure is not None) == doubted
    if entries:
        assert (visit(checkpoint).unsure is not None) == doubted


def test_what_is_written_while_we_read_is_no_doubt() -> None:
    """5 000 lines, 100 a second, each delivered as it is written."""
    order = visit(Checkpoint())
    for n in range(5_000):
        order.passed(n * 10)
        order.admit([V1Record(NOW + n * 10, 0, "1")])
    assert not order.unsure


def test_what_is_written_faster_than_upstream_keeps_it_is_a_doubt() -> None:
    """3 000 lines in a second: a pause of a third of one is enough to lose some."""
    order = visit(Checkpoint())
    for n in range(3_000):
        order.passed(n // 3)
        order.admit([V1Record(NOW + n // 3, n % 3, "1")])
    assert order.unsure


def test_a_reader_that_falls_behind_is_a_doubt() -> None:
    """A Writer that waits for Postgres stops the socket: what comes then was written a minute ago."""
    order = visit(Checkpoint())
    admit(order, lines(10, NOW - 100))
    order.passed(3_000)
    order.admit([V1Record(NOW + 3_000, 0, "1")])
    order.passed(60_000)  # nobody read for a minute, in which a thousand lines were written
    for record in lines(1_000, NOW + 3_001, 50):
        order.admit([record])
    assert order.unsure


def test_what_follows_the_line_that_came_back_is_proven() -> None:
    """950 lines were written while the worker was down, and ours is still there: so are they all."""
    checkpoint = admit(visit(Checkpoint()), lines(5, NOW - 100))
    later = visit(checkpoint, NOW + 600_000)
    admit(later, [*lines(5, NOW - 100), *lines(950, NOW + 10_000)])
    assert not later.unsure
    assert later.anchored


@pytest.mark.trap(21)
def test_what_follows_in_a_later_piece_is_not_proven_by_a_line_that_came_back() -> None:
    """Upstream can trim between two reads of its own, in the middle of one response."""
    checkpoint = admit(visit(Checkpoint()), lines(5, NOW - 100))
    later = visit(checkpoint, NOW + 600_000)
    later.admit(lines(5, NOW - 100))
    later.admit(lines(950, NOW + 10_000))
    assert later.unsure


def test_a_first_visit_that_was_broken_off_counts_on() -> None:
    """The line that came back proves what follows it, not what was before the first."""
    records = lines(1_000, NOW - 10_000)
    checkpoint = admit(visit(Checkpoint()), records[:500])
    assert not visit(checkpoint).unsure
    later = visit(checkpoint, NOW + 5_000)
    admit(later, records[498:])
    assert later.unsure


def test_every_visit_without_a_line_is_a_first_visit() -> None:
    """A burst between two looks at an empty stream is as old as what was there at the first."""
    order = visit(Checkpoint())
    order.resume()
    order.opened(NOW + 60_000)
    admit(order, lines(1_000, NOW + 50_000))
    assert order.unsure


@pytest.mark.parametrize("behind_ms", [0, CLOCK_SLACK_MS + 1, 5_000, 86_400_000])
def test_a_date_that_is_older_than_its_answer_proves_nothing(behind_ms: int) -> None:
    """A busy server's; or the entries' ids come from a clock that is ahead."""
    order = visit(Checkpoint(), NOW - behind_ms)
    admit(order, [V1Record(NOW - 100, n, "1") for n in range(1_000)])
    assert order.unsure


@pytest.mark.parametrize("behind_ms", [5_000, 86_400_000])
def test_nor_is_what_is_written_while_we_read_a_doubt_then(behind_ms: int) -> None:
    order = visit(Checkpoint(), NOW - behind_ms)
    for n in range(5_000):
        order.passed(n * 10)
        order.admit([V1Record(NOW + n * 10, 0, "1")])
    assert not order.unsure


@pytest.mark.parametrize("after_ms", [-1_000_000, 0, CLOCK_SLACK_MS])
def test_the_date_is_cut_to_the_second(after_ms: int) -> None:
    """A thousand lines in the second of the answer were there before it, for all we know."""
    order = visit(Checkpoint())
    for n, record in enumerate(lines(1_000, NOW + after_ms, 0)):
        order.admit([record._replace(seq=n)])
    assert order.unsure


@pytest.mark.parametrize(
    ("records", "doubted"),
    [
        (lines(100, NOW - 9_000, text='"' + "x" * (9 * PIECE_BYTES) + '"'), True),
        (lines(100, NOW - 9_000, text='"' + "x" * 700 + '"'), False),
        ([V1Record(NOW - 9_000, 1_500, "1")], True),
        ([V1Record(NOW - 9_000, 0, "1"), V1Record(NOW - 9_000, 950, "1")], True),
        ([V1Record(NOW - 9_000 + n, 9, "1") for n in range(80)], False),
        ([V1Record(NOW - 9_000 + n, 9, "1") for n in range(100)], True),
    ],
)
def test_lines_can_be_many_entries(records: list[V1Record], doubted: bool) -> None:
    """Long ones are cut, and the entries of a millisecond are counted by their ids, also those that no event names."""
    order = visit(Checkpoint())
    admit(order, records)
    assert (order.unsure is not None) == doubted


@pytest.mark.trap(25)
@pytest.mark.parametrize(
    ("began_ms", "doubted"),
    [(NOW - 3_600_000, False), (NOW - FORGOTTEN_MS + 60_000, False), (NOW - FORGOTTEN_MS - 60_000, True), (None, True)],
)
@pytest.mark.parametrize("entries", [0, 3])
def test_a_first_visit_a_day_late_is_a_doubt(began_ms: int | None, doubted: bool, entries: int) -> None:
    """An expired stream answers like one that was never written, and one that was written again like a new one."""
    order = visit(Checkpoint(), began_ms=began_ms)
    checkpoint = admit(order, lines(entries, NOW - 10))
    assert (order.unsure is not None) == doubted
    if entries:
        # What was young once is not doubted later, and a doubt never goes.
        assert (visit(checkpoint, NOW + 10 * FORGOTTEN_MS, began_ms).unsure is not None) == doubted


def test_an_answer_without_a_date_proves_nothing() -> None:
    order = visit(Checkpoint(), date_ms=None)
    assert order.unsure is Doubt.UNDATED


def test_the_first_doubt_is_the_one_that_is_kept() -> None:
    order = visit(Checkpoint(), began_ms=None)
    checkpoint = admit(order, lines(2_500, NOW - 10_000))
    assert order.unsure is Doubt.OLD
    assert visit(checkpoint).unsure is Doubt.OLD
    order = visit(Checkpoint())
    assert visit(admit(order, lines(2_500, NOW - 10_000))).unsure is Doubt.BACKLOG


def test_a_huge_line_counts_as_what_is_kept_of_it_and_marks_the_stream_otherwise() -> None:
    order = visit(Checkpoint())
    order.admit([V1Record(NOW - 5, 0, '"xxx', oversized=True)])
    assert order.cut_short
