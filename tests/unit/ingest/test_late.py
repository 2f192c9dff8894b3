"""The late check: is there more than we hold? Nothing is stored, and no lease is needed."""

from __future__ import annotations

import pytest

from tailrace.errors import SourceUnavailable
from tailrace.ingest.late import has_more
from tailrace.model import Arrival, Checkpoint, RunEnd, Wire
from tests.simulation.script import DONE, PING, Answer, Script, leased, play, tail, v1, v2

V1_HELD = ((0, 0, "1"), (1, 0, "2"), (2, 0, "3"))


def held(wire: Wire) -> Checkpoint:
    brings = [v1(*V1_HELD)] if wire is Wire.V1 else [v2(0, 1, 2), tail(3), DONE]
    return play(Answer(wire, list(brings)), stream=leased(run_end=RunEnd(over=True))).shelf.batches[-1].checkpoint


@pytest.mark.trap(16)
@pytest.mark.parametrize(
    ("wire", "brings", "more"),
    [
        (Wire.V1, [v1(*V1_HELD)], False),
        (Wire.V1, [v1(*V1_HELD, (2, 0, "4"))], True),
        (Wire.V1, [v1(*V1_HELD), PING, v1((3, 0, "4"))], True),
        (Wire.V1, [v1((9, 0, "5"))], True),
        (Wire.V1, [], False),  # expired
        (Wire.V1, [PING], False),
        (Wire.V2, [v2(2), tail(3), DONE], False),
        (Wire.V2, [v2(2, 3), tail(4), DONE], True),
        (Wire.V2, [v2(2), tail(3), v2(3), DONE], True),
        (Wire.V2, [tail(3), DONE], False),  # expired
        (Wire.V2, [tail(5), DONE], True),  # more was written, and has expired: a gap
        (Wire.V2, [tail(0), DONE], False),  # deleted, and made anew by our reading it
        (Wire.V2, [tail(1), DONE], True),
        (Wire.V2, [v2(2, text="7"), tail(3), DONE], True),
        (Wire.V2, [Arrival([], oversized=("3,1,1", "x")), DONE], True),
    ],
)
def test_there_is_more_when_something_is_not_held(wire: Wire, brings: list[Arrival], more: bool) -> None:
    script = Script(Answer(wire, list(brings)))
    assert has_more(script, wire, held(wire)) == more
    assert script.asked[0][1] == 1


def test_a_stream_that_speaks_another_wire_has_to_be_read() -> None:
    assert has_more(Script(Answer(Wire.V2, [DONE])), Wire.V1, held(Wire.V1))


def test_a_stream_that_was_empty_may_not_be_any_more() -> None:
    assert not has_more(Script(Answer(Wire.V1, [PING])), Wire.V1, Checkpoint())
    assert has_more(Script(Answer(Wire.V1, [v1((0, 0, "1"))])), Wire.V1, Checkpoint())


def test_a_fault_is_no_answer() -> None:
    script = Script(Answer(Wire.V2, [v2(2)], end=SourceUnavailable("cut")))
    with pytest.raises(SourceUnavailable):
        has_more(script, Wire.V2, held(Wire.V2))
