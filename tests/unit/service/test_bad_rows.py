"""Rows that can't be read are all counted, and told once."""

from __future__ import annotations

import structlog

from tailrace.service.bad_rows import TOLD_AGAIN_S, BadRows
from tailrace.wire.run_fields import BadRow
from tests.counted import counted

ROWS_READ = "tailrace_malformed_rows_total"
ROWS = [BadRow(f"run_{n}", "createdAt", "createdAt is no time: 5") for n in range(3)]


def test_a_kind_is_told_once_an_hour_and_each_row_is_counted() -> None:
    now = 0.0
    bad_rows, before = BadRows("default", lambda: now), counted(ROWS_READ, kind="feed: createdAt")
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            bad_rows.note("feed", ROWS)
        bad_rows.note("feed", [])
        assert [(each["kind"], each["run_id"]) for each in logs] == [("feed: createdAt", "run_0")]
        bad_rows.note("list", ROWS[:1])
        bad_rows.note("feed", [BadRow(None, "message", "no object")])
        assert [each["kind"] for each in logs[1:]] == ["list: createdAt", "feed: message"]
        now += TOLD_AGAIN_S
        bad_rows.note("feed", ROWS)
        assert len(logs) == 4
    assert counted(ROWS_READ, kind="feed: createdAt") - before == 18
