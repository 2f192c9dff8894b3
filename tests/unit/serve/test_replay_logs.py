"""The kept part of a stream: what trimming leaves, how much one slice holds."""

from __future__ import annotations

import pytest

from tailrace.serve.entries import Entry, V1Id
from tailrace.serve.logs import EntryLog, RecordLog
from tailrace.serve.records import Draft


def entry_log(sizes: list[int]) -> EntryLog:
    log = EntryLog()
    for number, size in enumerate(sizes):
        log.append(Entry(V1Id(1, number), b"x" * size))
    return log


@pytest.mark.parametrize(("written", "kept"), [(1000, 1000), (1099, 1099), (1100, 1000), (2500, 1000), (2599, 1099)])
def test_rough_trimming_drops_whole_nodes(written: int, kept: int) -> None:
    log = EntryLog()
    for number in range(written):
        log.append(Entry(V1Id(1, number), b"x\n"))
        log.trim(1000)
    assert len(log) == kept
    assert log.entries[0].id == V1Id(1, written - kept)


def test_a_slice_is_bounded_in_bytes_and_in_entries_but_never_empty_while_something_follows() -> None:
    log = entry_log([300_000, 1, 200_000, 62_143, 1, 1])
    assert [entry.id.seq for entry in log.after(V1Id(0, 0))] == [0]
    assert [entry.id.seq for entry in log.after(V1Id(1, 0))] == [1, 2, 3]
    assert [entry.id.seq for entry in log.after(V1Id(1, 3))] == [4, 5]
    assert log.after(V1Id(1, 5)) == []
    assert len(entry_log([1] * 5000).after(V1Id(0, 0))) == 2000


def test_slices_are_right_after_trimming_too() -> None:
    log = entry_log([10] * 250)
    log.trim(100)
    assert [entry.id.seq for entry in log.after(V1Id(1, 120), upto=30)] == [121, 122, 123, 124, 125, 126, 127, 128, 129]


def test_ids_grow_when_the_clock_does_not() -> None:
    log = entry_log([1])
    assert log.next_id(1) == V1Id(1, 1)
    assert log.next_id(0) == V1Id(1, 1)
    assert log.next_id(2) == V1Id(2, 0)
    with pytest.raises(ValueError, match="not greater"):
        log.append(Entry(V1Id(1, 0), b"x"))


def test_an_expired_key_forgets_its_last_id() -> None:
    log = entry_log([1] * 3)
    log.clear()
    assert (len(log), log.last_id) == (0, V1Id(0, 0))


def test_times_of_records_never_go_back() -> None:
    log = RecordLog()
    assert [log.append(Draft(b"x", (), ms), 50).timestamp_ms for ms in (10, 5, None, 7)] == [10, 10, 50, 50]
    assert log.tail == (4, 50)


def test_trimming_records_keeps_numbers_and_tail() -> None:
    log = RecordLog()
    for _ in range(10):
        log.append(Draft(b"x"), 1)
    log.trim(4)
    log.trim(2)
    assert [record.seq_num for record in log.since(0).records] == [4, 5, 6, 7, 8, 9]
    assert [record.seq_num for record in log.since(7, upto=9).records] == [7, 8]
    log.trim(100)
    assert log.since(0) == ([], (10, 1), False)
    assert log.append(Draft(b"y"), 2).seq_num == 10
    assert [record.seq_num for record in log.since(3).records] == [10]
