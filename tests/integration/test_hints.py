"""A hint keeps a stream from others only while somebody is about to read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from tailrace.model import Wire
from tests.ingestion import ingesting, numbered, store_with


def test_a_row_that_is_locked_for_a_moment_is_no_reason_to_wait_for_the_hint_to_age(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that chooses, too, can have it; of a thousand streams that are free at once some meet that."""
    with ingesting(database_url, store_with(Wire.V2, numbered(3), over=False)) as (ingestion, _):
        leases = ingestion.runtime.leases
        acquire = leases.acquire
        ingestion.request("run_1")
        ingestion.watch()
        (chosen,) = ingestion.runtime.claim(10)
        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM tailrace.streams FOR NO KEY UPDATE")

            def acquire_and_let_go(stream_ids: Sequence[int]) -> Any:
                found = acquire(stream_ids)
                other.rollback()
                return found

            monkeypatch.setattr(leases, "acquire", acquire_and_let_go)
            ingestion.runtime.ingest_stream(chosen)
        assert len(ingestion.texts("run_1")) == 3


def test_a_stream_that_can_not_be_leased_is_free_for_others(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.watch()
        (chosen,) = ingestion.runtime.claim(10)
        ingestion.run("UPDATE tailrace.streams SET state = 'cancelled'")
        ingestion.runtime.ingest_stream(chosen)
        assert ingestion.value("SELECT hinted_until IS NULL FROM tailrace.streams")


def test_giving_one_back_waits_for_no_lock(database_url: str) -> None:
    with ingesting(database_url, store_with(Wire.V2, numbered(3))) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.watch()
        chosen = ingestion.runtime.claim(10)
        with psycopg.connect(database_url) as other:
            other.execute("SELECT FROM tailrace.streams FOR NO KEY UPDATE")
            ingestion.runtime.choosing.unhint(chosen)
        assert ingestion.value("SELECT hinted_until IS NOT NULL FROM tailrace.streams")
        ingestion.runtime.choosing.unhint(chosen)
        assert ingestion.runtime.claim(10) == chosen
