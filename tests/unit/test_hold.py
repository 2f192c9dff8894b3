"""How long a line that may be half is held."""

from __future__ import annotations

from tailrace.hold import GRACE, Hold


def test_a_line_is_certain_after_the_hold_time_when_the_process_ran_through_it() -> None:
    hold = Hold(2.0, now=10.0)
    assert not hold.certain(hold.look_at - 0.001)
    assert not hold.certain(hold.look_at)
    assert hold.look_at == 12.0
    assert hold.certain(12.0)


def test_a_process_that_was_stopped_must_run_through_a_grace_first() -> None:
    hold = Hold(2.0, now=10.0)
    assert not hold.certain(60.0)
    assert hold.look_at == 60.0 + GRACE * 2.0
    assert not hold.certain(60.1)
    assert hold.certain(60.25)


def test_a_process_that_was_stopped_in_its_grace_begins_another() -> None:
    hold = Hold(2.0, now=10.0)
    assert not hold.certain(11.75)
    assert not hold.certain(30.0)
    assert not hold.certain(30.2)
    assert hold.certain(30.25)
