"""The check that runs after every test sees what it must see."""

from __future__ import annotations

import pytest

from tailrace.model import Wire
from tests.accounts import assert_balanced
from tests.ingestion import ingesting, numbered, store_with

DAMAGE = {
    "a chunk is gone": "DELETE FROM tailrace.segments WHERE first_index > 0",
    "a hole is gone": "DELETE FROM tailrace.holes",
    "quarantine is empty": "DELETE FROM tailrace.quarantine",
    "the checkpoint is ahead": "UPDATE tailrace.streams SET last_chunk_index = last_chunk_index + 1",
    "the checkpoint is behind": "UPDATE tailrace.streams SET last_chunk_index = last_chunk_index - 1",
    "a count is wrong": "UPDATE tailrace.streams SET chunk_count = chunk_count + 1",
    "a chunk is accounted for twice": "INSERT INTO tailrace.holes SELECT id, 0, 0, 0, 'command' FROM tailrace.streams",
    "a generation is missing": "UPDATE tailrace.streams SET generation = generation + 1",
}


@pytest.mark.unbalanced
@pytest.mark.parametrize("damage", DAMAGE)
def test_every_kind_of_damage_is_seen(damage: str, database_url: str) -> None:
    store = store_with(Wire.V2, numbered(2), over=False)
    with ingesting(database_url, store, batch_max_chunks=1) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.turn()
        store.repeat_record("run_1", "ai", 0)
        store.append_chunks("run_1", "ai", numbered(2))
        store.finish_run("run_1")
        ingestion.until_sealed()
        assert_balanced(database_url)
        ingestion.run(DAMAGE[damage])
        with pytest.raises(AssertionError):
            assert_balanced(ingestion.runtime.engine)


def test_a_database_without_an_archive_is_in_balance(empty_database_url: str) -> None:
    assert_balanced(empty_database_url)
