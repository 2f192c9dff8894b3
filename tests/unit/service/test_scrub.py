"""When the scrub may work, and how much."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tailrace.service.scrub import night, pause_s


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "hours", "began"),
    [
        (at(10, 1), (1, 5), at(10, 1)),
        (at(10, 4, 59), (1, 5), at(10, 1)),
        (at(10, 5), (1, 5), None),
        (at(10, 0, 59), (1, 5), None),
        (at(10, 23), (22, 4), at(10, 22)),
        (at(10, 3, 59), (22, 4), at(9, 22)),
        (at(10, 4), (22, 4), None),
        (at(10, 21, 59), (22, 4), None),
        (at(10, 0), (0, 24), at(10, 0)),
        (at(10, 23, 59), (0, 24), at(10, 0)),
        (at(10, 3), (20, 24), None),
        (at(10, 21), (20, 24), at(10, 20)),
    ],
)
def test_a_night_may_go_over_midnight(now: datetime, hours: tuple[int, int], began: datetime | None) -> None:
    assert night(now, hours) == began


@pytest.mark.parametrize("load", [0.01, 0.1, 0.5, 1.0])
def test_of_a_step_and_its_pause_the_step_is_the_load(load: float) -> None:
    took_s = 0.3
    assert took_s / (took_s + pause_s(took_s, load)) == pytest.approx(load)
