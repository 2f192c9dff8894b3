"""What a writer can do to the live store, and what upstream's database says of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tailrace.model import Wire
from tailrace.serve.entries import V1Id
from tailrace.serve.records import Draft
from tailrace.serve.runs import Run
from tailrace.serve.store import NoSuchStream
from tests.upstream.live import LiveStore

CREATED = datetime(2026, 11, 1, tzinfo=UTC)
CREATED_MS = int(CREATED.timestamp() * 1000)


def store_at(now_ms: int = CREATED_MS) -> LiveStore:
    store = LiveStore(now_ms=lambda: now_ms)
    store.create_run("v1", Wire.V1)
    store.create_run("v2", Wire.V2)
    return store


def run_of(store: LiveStore, run_id: str) -> Run:
    run = asyncio.run(store.run(run_id))
    assert run is not None
    return run


def test_each_change_makes_the_time_of_a_run_grow_even_when_the_clock_stands() -> None:
    store = store_at()
    assert run_of(store, "v2").updated_at == CREATED
    store.set_status("v2", "CANCELED")
    store.open_stream("v2", "ai")
    store.finish_run("v2", "CANCELED")
    run = run_of(store, "v2")
    assert run.updated_at == CREATED + timedelta(milliseconds=3)
    assert (run.status, run.finished_at, run.stream_keys) == ("CANCELED", CREATED, ("ai",))


def test_cancelled_comes_before_the_end_of_the_run() -> None:
    store = store_at()
    store.set_status("v2", "CANCELED")
    assert run_of(store, "v2").finished_at is None


def test_a_key_is_listed_once_when_the_stream_is_opened_and_an_input_stream_never() -> None:
    store = store_at()
    store.open_stream("v1", "b")
    store.append_chunk("v1", "a", "1")
    store.append_chunk("v1", "b", "1")
    store.append_chunk("v1", "$trigger.input:approval", '"{}"')
    assert run_of(store, "v1").stream_keys == ("b", "a")
    store.set_stream_keys("v1", ["b", "b"])
    assert run_of(store, "v1").stream_keys == ("b", "b")


def test_a_chunk_is_a_line_on_v1_and_an_envelope_on_v2() -> None:
    store = store_at()
    store.append_chunks("v1", "s", ['{"a":1.10}', b'"\xc3\xa9"'])
    store.append_chunk("v2", "s", '{"a":1.10}')
    assert [entry.data for entry in store.entries("v1", "s")] == [b'{"a":1.10}\n', b'"\xc3\xa9"\n']
    body = store.records("v2", "s")[0].body
    assert body.startswith(b'{"data":{"a":1.10},"id":"')
    assert len(body) == len('{"data":{"a":1.10},"id":"1234567"}')


def test_ids_are_given_or_those_of_the_clock() -> None:
    store = store_at()
    assert store.append_entries("v1", "s", ["a\n", "b\n"]) == [V1Id(CREATED_MS, 0), V1Id(CREATED_MS, 1)]
    assert store.append_entry("v1", "s", "c\n", f"{CREATED_MS}-7") == V1Id(CREATED_MS, 7)
    with pytest.raises(ValueError, match="not greater"):
        store.append_entry("v1", "s", "d\n", "5-0")


def test_v1_keeps_about_a_thousand_entries() -> None:
    store = store_at()
    store.append_entries("v1", "s", ["x\n"] * 1299)
    assert len(store.entries("v1", "s")) == 1099
    store.trim_entries("v1", "s", 500)
    assert len(store.entries("v1", "s")) == 599


def test_age_leaves_nothing_of_a_v1_stream_and_the_tail_of_a_v2_stream() -> None:
    store = store_at()
    store.append_entry("v1", "s", "a\n", "9999999999999-0")
    store.expire_stream("v1", "s")
    assert store.append_entry("v1", "s", "b\n", "5-0") == V1Id(5, 0)  # an id from before is right again
    store.append_chunks("v2", "s", ["1", "2"])
    store.expire_stream("v2", "s")
    assert store.records("v2", "s") == []
    assert store.append_records("v2", "s", [Draft(b"x")])[0].seq_num == 2


def test_a_recreated_v2_stream_counts_from_zero() -> None:
    store = store_at()
    store.append_chunks("v2", "s", ["1", "2"])
    store.recreate_stream("v2", "s")
    assert store.append_records("v2", "s", [Draft(b"x")])[0].seq_num == 0
    store.delete_stream("v2", "never")
    store.delete_stream("v1", "never")


def test_a_repeat_is_the_same_body_under_a_new_number() -> None:
    store = store_at()
    store.append_chunks("v2", "s", ["1", "2"])
    again = store.repeat_record("v2", "s", 0)
    assert (again.seq_num, again.body) == (2, store.records("v2", "s")[0].body)
    with pytest.raises(LookupError):
        store.repeat_record("v2", "s", 9)


def test_a_trim_command_is_a_record_and_is_carried_out() -> None:
    store = store_at()
    store.append_chunks("v2", "s", ["1", "2", "3"])
    store.append_trim("v2", "s", 2)
    assert [record.seq_num for record in store.records("v2", "s")] == [2, 3]


def test_reading_creates_a_v2_stream_or_not() -> None:
    store = LiveStore(create_on_read=False)
    store.create_run("v2")
    with pytest.raises(NoSuchStream):
        asyncio.run(store.v2_stream("v2", "s"))
    store.open_stream("v2", "s")
    asyncio.run(store.v2_stream("v2", "s"))


def test_the_wire_of_a_run_is_fixed() -> None:
    store = store_at()
    with pytest.raises(ValueError, match="not a v1 run"):
        store.append_entry("v2", "s", "x\n")
    with pytest.raises(ValueError, match="not a v2 run"):
        store.append_records("v1", "s", [Draft(b"x")])
    with pytest.raises(ValueError, match="exists"):
        store.create_run("v1")
    with pytest.raises(KeyError):
        store.open_stream("other", "s")


def test_a_deleted_run_is_unknown() -> None:
    store = store_at()
    store.delete_run("v2")
    assert asyncio.run(store.run("v2")) is None
