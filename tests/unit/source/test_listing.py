"""A page of the list of runs: each row is read by itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.model import RunView
from tailrace.source.listing import listed_run
from tailrace.wire.feed import readable
from tailrace.wire.run_fields import BadRow
from tests.unit.wire.test_feed import ANYTHING


def listed(*rows: Any) -> tuple[list[RunView], list[BadRow]]:
    return readable(rows, "id", listed_run)


def row(**fields: Any) -> dict[str, Any]:
    return {"id": "run_1", "status": "EXECUTING", **fields}


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        *(("id", bad) for bad in (None, 5, "", "a\0b", "\udfff", "x" * 2_001)),
        *(("status", bad) for bad in (None, 5, "X" * 101)),
        *(("taskIdentifier", bad) for bad in (5, [], "x" * 20_001)),
        *(("tags", bad) for bad in ("red", {}, [5], [None], 5, False)),
        *((column, bad) for column in ("createdAt", "startedAt", "finishedAt") for bad in (5, "yesterday", {})),
    ],
    ids=lambda each: repr(each)[:30],
)
def test_a_row_that_is_wrong_keeps_no_other_from_being_read(field: str, bad: Any) -> None:
    runs, malformed = listed(row(**{field: bad}), row(id="run_2"), row(id="run_2"))
    assert [run.run_id for run in runs] == ["run_2", "run_2"]
    assert [(each.run_id, each.field) for each in malformed] == [(None if field == "id" else "run_1", field)]


@pytest.mark.parametrize("bad", [None, 5, "run_1", [], [row()]])
def test_what_is_no_object_is_no_row(bad: Any) -> None:
    runs, malformed = listed(bad, row())
    assert [run.run_id for run in runs] == ["run_1"]
    assert [(each.run_id, each.field) for each in malformed] == [(None, "row")]


FIELDS = ["id", "status", "tags", "taskIdentifier", "createdAt", "startedAt", "finishedAt"]


@given(
    st.lists(st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3).map(lambda each: row() | each) | ANYTHING)
)
def test_good_rows_come_through_whatever_stands_beside_them(others: list[Any]) -> None:
    runs, malformed = listed(row(id="run_first"), *others, row(id="run_last"))
    assert (runs[0].run_id, runs[-1].run_id) == ("run_first", "run_last")
    assert len(runs) + len(malformed) == len(others) + 2
