"""An upstream that says that there is more and gives nothing: the stream is told as stuck, and read on."""

from __future__ import annotations

import pytest
import structlog

from tailrace.ingest import stuck
from tailrace.ingest.stuck import Sign
from tailrace.model import Wire
from tests.ingestion import ingesting
from tests.upstream import LiveStore
from tests.upstream.faults import Lie

ROW = "SELECT stuck_at IS NOT NULL, last_error, state, last_chunk_index FROM tailrace.streams"


def test_a_stream_that_is_withheld_is_stuck_until_it_is_given(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stuck.GRACE_S, Sign.AHEAD, 0.06)  # a ping of the test's upstream comes every 50 ms
    store = LiveStore()
    store.create_run("run_1", Wire.V2)
    store.append_chunk("run_1", "ai", '"0"')
    with ingesting(database_url, store, wait_seconds=60, park_after_seconds=60, slice_seconds=1) as (ingestion, server):
        ingestion.request("run_1")
        ingestion.watch()
        server.faults.stream("run_1", "ai").lie(Lie.WITHHELD, times=1_000)
        with structlog.testing.capture_logs() as logs:
            ingestion.read()
            assert ingestion.rows(ROW) == [(True, Sign.AHEAD.value, "active", -1)]
            assert [each["event"] for each in logs if "stuck" in each["event"]] == ["stream_stuck"]
            assert len(server.traffic.requests("/realtime/v1/streams")) >= 3
            ingestion.read()  # whoever takes it over knows, and does not tell again
            assert ingestion.rows(ROW) == [(True, Sign.AHEAD.value, "active", -1)]
            assert [each["event"] for each in logs if "stuck" in each["event"]] == ["stream_stuck"]
            server.faults.clear()
            ingestion.read()
        assert ingestion.texts("run_1") == [b'"0"']
        assert ingestion.rows(ROW) == [(False, None, "active", 0)]
        assert [each["event"] for each in logs if each["event"].startswith("stream_m")] == ["stream_moved_on"]
        assert ingestion.holes() == []
