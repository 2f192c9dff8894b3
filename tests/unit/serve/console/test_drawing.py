"""What is drawn is to scale."""

from __future__ import annotations

from tailrace.serve.console.drawing import HEIGHT, WIDTH, bars, coverage, stalls
from tailrace.store.viewing import Arrivals, ShownHole, Stall


def test_what_is_held_lost_skipped_and_unread_fills_the_picture_to_scale() -> None:
    holes = [ShownHole(0, 24, "trimmed", True), ShownHole(50, 50, "command", False)]
    drawn = coverage(79, 20, holes)
    assert [(bar.kind, bar.x, bar.width) for bar in drawn] == [
        ("held", 0, 800),
        ("lost", 0, 250),
        ("skipped", 500, 10),
        ("unread", 800, 200),
    ]
    assert drawn[1].said == "0 to 24: trimmed"


def test_a_loss_of_unknown_size_is_a_line_at_its_place() -> None:
    (held, loss) = coverage(9, None, [ShownHole(5, None, "expired", True)])
    assert (loss.kind, loss.x, loss.width) == ("lost", 500, 0)
    assert held.width == WIDTH


def test_a_stream_that_holds_nothing_has_no_picture() -> None:
    assert coverage(-1, None, []) == coverage(-1, 0, []) == []
    assert [bar.kind for bar in coverage(-1, 5, [])] == ["unread"]


def test_the_largest_count_is_as_high_as_the_picture_and_none_is_no_bar() -> None:
    drawn = bars([0, 10, 5, None], ["", "", "", "not looked at"])
    assert [(bar.x, bar.height, bar.kind) for bar in drawn] == [
        (250, HEIGHT, "count"),
        (500, HEIGHT / 2, "count"),
        (750, HEIGHT, "unknown"),
    ]
    assert all(bar.y + bar.height == HEIGHT for bar in drawn)
    assert bars([0, 0], ["", ""]) == []


def test_a_stall_stands_where_the_pause_was() -> None:
    found = stalls(Arrivals(3, 1_000, 10_999, [1, 1], [Stall(2_000, 7_000, 2)]))
    assert [(bar.x, bar.width, bar.said) for bar in found] == [(100, 500, "5.0 s before chunk 2")]
