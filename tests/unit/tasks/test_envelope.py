"""What a message must look like."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tailrace.errors import BadArgument
from tailrace.tasks.envelope import Malformed, asked_by, check_stored
from tailrace.tasks.refused import Refusals, what_is_wrong
from tests.counted import counted
from tests.foreignmessages import BAD, CANARY, first_protocol, message, with_header

SHAPES = ("body", "headers", "envelope")
ELSEWHERE = {"headers a list", "eta bogus", "compressed badly", "compressed by nobody", "no bytes", "no content type"}
"""Celery and kombu see these."""
NOW, LATER = "2026-11-27T12:00:00Z", "2026-11-28T12:00:00+02:00"


def seen(made: Any) -> None:
    """Look at a message as kombu and then Celery's part of a worker do."""
    check_stored(made)
    headers = made["headers"] or {}
    asked_by(headers, json.loads(base64.b64decode(made["body"])), first_protocol="task" not in headers)


@pytest.mark.parametrize(
    ("kind", "made"),
    [(kind, made) for name, (kind, made) in BAD.items() if kind in SHAPES and name not in ELSEWHERE],
    ids=[name for name, (kind, _) in BAD.items() if kind in SHAPES and name not in ELSEWHERE],
)
def test_a_shape_that_nobody_can_read_is_seen(kind: str, made: Any) -> None:
    with pytest.raises(Malformed) as refusal:
        seen(made)
    assert refusal.value.kind == kind
    assert CANARY not in refusal.value.reason


@pytest.mark.parametrize(
    "made",
    [
        message(),
        with_header(eta=NOW, expires=LATER, retries=3, timelimit=[None, 5], shadow=None, stamps={}, stamped_headers=[]),
        with_header(whatever={"a": 1}),
        message([[], {}, {"later": "than us"}]),
        first_protocol(),
        first_protocol(args=..., kwargs=...),
        first_protocol(expires=LATER, utc=True, timelimit=[5, 1.5], callbacks=None),
    ],
)
def test_good_messages_of_both_protocols_are_let_through(made: Any) -> None:
    seen(made)


def test_each_is_counted_and_each_kind_told_once_an_hour(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    refusals = Refusals(clock=lambda: now[0])
    before = counted("tailrace_refused_messages_total")
    told = []
    for at, kind in ((0, "body"), (1, "body"), (2, "task"), (3_599, "body"), (3_600, "body")):
        now[0] = at
        refusals.refuse(None, Malformed(kind, "why"), f"name Bearer {CANARY}\ud800")
        told.append("message_refused" in capsys.readouterr().out)
    assert told == [True, False, True, False, True]
    assert counted("tailrace_refused_messages_total") - before == len(told)


def test_a_reason_repeats_nothing_of_an_error_that_is_not_ours() -> None:
    assert what_is_wrong(KeyError(CANARY)) == ("fault", "KeyError")
    assert CANARY not in str(what_is_wrong(UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, CANARY)))
    assert what_is_wrong(BadArgument("streams must be a list")) == ("arguments", "streams must be a list")
