"""A stream's lines above debug are its changes: first lease, trouble and its end, and how it ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
from structlog.testing import capture_logs

from tailrace.model import Checkpoint, LeasedStream, Outcome, RunEnd, StreamRef, StreamState
from tailrace.service import telling

STREAM = LeasedStream(1, StreamRef("run_1", "ai"), 1, 0, None, Checkpoint(), 0, 0, 0, 0.0, RunEnd(), {})
AGAIN = replace(STREAM, token=7)
TROUBLED = replace(AGAIN, attempt=3)


def told(stream: LeasedStream, outcome: Outcome) -> list[tuple[str, str]]:
    """The events above debug, with their levels, of a reader that begins and leaves so."""
    with capture_logs() as lines:
        bound = structlog.get_logger("tailrace")
        telling.began(bound, stream)
        telling.left(bound, stream, outcome, 5)
    assert all(line["position"] in (-1, 5) for line in lines)
    return [(line["log_level"], line["event"]) for line in lines if line["log_level"] != "debug"]


@pytest.mark.parametrize("state", [StreamState.PARKED, StreamState.ACTIVE])
def test_a_stream_that_comes_round_again_is_told_of_once(state: StreamState) -> None:
    assert told(STREAM, Outcome(state)) == [("info", "lease_acquired")]
    assert told(AGAIN, Outcome(state)) == []


def test_trouble_is_told_when_it_begins_and_when_it_ends() -> None:
    failing = Outcome(StreamState.PARKED, attempt=1, error="upstream answered 500")
    assert told(AGAIN, failing) == [("info", "stream_parked")]
    assert told(TROUBLED, replace(failing, attempt=4)) == []
    assert told(TROUBLED, Outcome(StreamState.PARKED)) == [("info", "stream_recovered")]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (StreamState.SEALED, ("info", "stream_sealed")),
        (StreamState.CANCELLED, ("info", "stream_cancelled")),
        (StreamState.FAILED, ("warning", "stream_failed")),
    ],
)
def test_how_it_ends_is_told_always(state: StreamState, line: tuple[str, str]) -> None:
    assert told(AGAIN, Outcome(state, attempt=1, error="why")) == [line]
