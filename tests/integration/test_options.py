"""What a request sets for its run is followed; what can't be meant ends the run's streams with the reason in their rows."""

from __future__ import annotations

import pytest

from tailrace.model import Wire
from tests.ingestion import ingesting, numbered, store_with


def test_a_request_sets_the_batches_of_its_run(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(40))) as (ingestion, _):
        ingestion.runtime.request("run_1", None, {"batch_max_chunks": 7})
        ingestion.until_sealed()
        assert ingestion.value("SELECT max(chunk_count) FROM tailrace.segments") <= 7


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            '{"batch_max_bytes": "abc"}',
            "the run's options: batch_max_bytes must be a whole number, 1,024 to 1,048,576 bytes",
        ),
        ("[1]", "the run's options: options must be an object"),
    ],
)
def test_a_row_written_past_the_rule_fails_with_its_reason(options: str, reason: str, database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, server):
        ingestion.request("run_1")
        ingestion.run("ALTER TABLE tailrace.runs DROP CONSTRAINT runs_options_check")
        ingestion.run(f"UPDATE tailrace.runs SET options = '{options}'")
        ingestion.turn()
        found = ingestion.rows("SELECT state, verdict, last_error, worker_id FROM tailrace.streams")
        assert found == [("failed", "failed", reason, None)]
        assert server.traffic.requests("/realtime/v1/streams/") == []
        # Mended, it is read.
        ingestion.run("UPDATE tailrace.runs SET options = '{}'")
        ingestion.run("SELECT tailrace.retry_run('run_1')")
        ingestion.until_sealed()
        assert len(ingestion.texts("run_1")) == 3
