"""The words that the schema's rules name are those of the code: states, wires, verdicts, reasons, events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

import psycopg
import pytest

from tailrace.model import OPEN_STATES, Doubt, HoleReason, RunEvent, RunState, StreamState, Verdict, Wire

RULES: dict[str, Iterable[StrEnum]] = {
    "runs_state_check": RunState,
    "streams_wire_check": Wire,
    "streams_state_check": StreamState,
    "streams_verdict_check": Verdict,
    "streams_known_verdict_check": Verdict,
    "streams_doubt_check": Doubt,
    "streams_lease_check": OPEN_STATES,
    "holes_reason_check": HoleReason,
    "holes_range_check": [reason for reason in HoleReason if reason.lost],
    "outbox_event_check": RunEvent,
}
INDEXES: dict[str, Iterable[StrEnum]] = {
    "runs_watch_idx": [RunState.REQUESTED, RunState.WATCHED],
    "streams_open_idx": OPEN_STATES,
    "runs_open_idx": [RunState.REQUESTED, RunState.WATCHED],
    "streams_keep_idx": [StreamState.SEALED],
    "runs_failed_idx": [RunState.FAILED],
    "streams_failed_idx": [StreamState.FAILED],
    "runs_late_check_idx": [RunState.SEALED],
}


def words(rule: str) -> set[str]:
    return set(re.findall(r"'([^']*)'", rule))


def asked(url: str, query: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute(query, [name]).fetchone()  # type: ignore[arg-type]
    assert row is not None, name
    return str(row[0])


@pytest.mark.parametrize("name", list(RULES))
def test_a_check_allows_what_the_code_says(database_url: str, name: str) -> None:
    rule = asked(database_url, "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", name)
    assert words(rule) == {word.value for word in RULES[name]}


@pytest.mark.parametrize("name", list(INDEXES))
def test_an_index_is_of_the_states_that_the_code_asks_for(database_url: str, name: str) -> None:
    definition = asked(
        database_url, "SELECT pg_get_indexdef(c.oid) FROM pg_class c WHERE c.relname = %s AND c.relkind = 'i'", name
    )
    assert words(definition) == {word.value for word in INDEXES[name]}


def test_a_gap_is_a_hole_whose_reason_is_a_loss(database_url: str) -> None:
    view = asked(database_url, "SELECT pg_get_viewdef(c.oid) FROM pg_class c WHERE c.relname = %s", "gaps")
    assert words(view) == {reason.value for reason in HoleReason if reason.lost}
