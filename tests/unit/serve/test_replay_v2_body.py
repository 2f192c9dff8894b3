"""The body of a v2 response, compared with the recorded ones, byte for byte."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from itertools import pairwise

import pytest

from tailrace.model import Wire
from tailrace.serve.cursors import NEWEST_RECORD, timeout_seconds, v2_start
from tailrace.serve.read_v2 import read_v2
from tailrace.serve.records import DONE, Draft
from tailrace.serve.timing import Timing
from tests.unit.serve.virtual_time import body_and_time, run_virtually
from tests.upstream.drafts import fence_draft, trim_draft
from tests.upstream.live import LiveStore
from tests.wirecases import WireCase, body_records, load_case

# case → the case whose body has the content of its stream
CONTENT = {
    "v2_a_replay_then_done": "v2_a_replay_then_done",
    "v2_a_resume_after_9": "v2_a_replay_then_done",
    "v2_a_resume_minus_one": "v2_a_replay_then_done",
    "v2_a_timeout_zero_at_tail": "v2_a_replay_then_done",
    "v2_a_timeout_zero_drain": "v2_a_replay_then_done",
    "v2_d_duplicate_body_ids": "v2_d_duplicate_body_ids",
    "v2_g_never_written_create_on_read": "v2_g_never_written_create_on_read",
    "v2_h_batches_of_1000": "v2_h_batches_of_1000",
    "v2_i_append_strings": "v2_i_append_strings",
    "v2_i_input_stream": "v2_i_input_stream",
    "v2_j_pings_real_interval": "v2_j_pings_real_interval",
}


class Gaps(random.Random):
    """Chance that deals out given distances between pings, and then the longest there is."""

    def __init__(self, *gaps_s: float) -> None:
        super().__init__(0)
        self._gaps_s = list(gaps_s)

    def uniform(self, a: float, b: float) -> float:
        return self._gaps_s.pop(0) if self._gaps_s else b


def store_of(drafts: list[Draft]) -> LiveStore:
    store = LiveStore()
    store.create_run("run_1", Wire.V2)
    store.append_records("run_1", "s", drafts)
    return store


def ping_times(case: WireCase) -> Callable[[], int]:
    times = iter([int(found) for found in re.findall(rb'event: ping\ndata: \{"timestamp":(\d+)', case.body)])
    return lambda: next(times)


async def answer(store: LiveStore, case: WireCase, *gaps_s: float) -> tuple[bytes, float]:
    stream = await store.v2_stream("run_1", "s")
    start = v2_start(case.request_headers.get("Last-Event-ID", ""))
    wait_s = timeout_seconds(case.request_headers["Timeout-Seconds"])
    assert wait_s is not None
    return await body_and_time(read_v2(stream, start, wait_s, Timing(), ping_times(case), Gaps(*gaps_s)))


@pytest.mark.parametrize(("name", "content"), CONTENT.items())
def test_a_body_is_the_recorded_one(name: str, content: str) -> None:
    case = load_case(name)
    drafts = [draft for _, draft in body_records(load_case(content).body)]
    body, took_s = run_virtually(answer(store_of(drafts), case, 6.432, 13.65, 10.001))
    assert body == case.body
    assert took_s == pytest.approx(case.info["response"]["total_ms"] / 1000, abs=0.05)


def test_command_records_come_as_recorded() -> None:
    case = load_case("v2_c_command_records")
    store = store_of([])
    at = [draft.timestamp_ms for _, draft in body_records(case.body)]
    data = [draft for _, draft in body_records(case.body) if not draft.headers]
    store.append_records("run_1", "s", [Draft(b'{"data":{"n":0},"id":"r00000"}', (), at[0]), *data[:2]])
    store.append_records("run_1", "s", [fence_draft("tok-1", at[2]), trim_draft(1, at[3])])
    store.trim_records("run_1", "s", 1)
    store.append_records("run_1", "s", [*data[2:], fence_draft("", at[6])])
    assert run_virtually(answer(store, case))[0] == case.body


def test_a_read_below_the_first_kept_record_begins_there_and_says_nothing() -> None:
    case = load_case("v2_e_gap_after_trim")
    store = store_of([Draft(b"gone", (), 1)] * 8)
    store.append_records("run_1", "s", [draft for _, draft in body_records(case.body)])
    store.trim_records("run_1", "s", 8)
    assert run_virtually(answer(store, case))[0] == case.body


def test_a_live_tail_comes_as_recorded_and_each_batch_at_once() -> None:
    case = load_case("v2_b_live_tail")
    drafts = [draft for _, draft in body_records(case.body)]
    store = store_of(drafts[:2])

    async def write() -> None:
        time = asyncio.get_running_loop().time
        for at_s, some in ((1.004, drafts[2:4]), (1.708, drafts[4:])):
            await asyncio.sleep(at_s - time())
            store.append_records("run_1", "s", some)

    async def read() -> tuple[bytes, float]:
        writing = asyncio.create_task(write())
        result = await answer(store, case)
        await writing
        return result

    body, took_s = run_virtually(read())
    assert body == case.body
    assert took_s == pytest.approx(case.info["response"]["total_ms"] / 1000, abs=0.05)


def events_of(body: bytes) -> list[bytes]:
    return [event.split(b"\n")[0] for event in body.split(b"\n\n") if event]


def read_all(store: LiveStore, start: int, during: Callable[[], object] = lambda: None, wait_s: float = 1) -> bytes:
    async def read() -> bytes:
        asyncio.get_running_loop().call_later(0.5, during)
        stream = await store.v2_stream("run_1", "s")
        return (await body_and_time(read_v2(stream, start, wait_s, Timing(), lambda: 1, Gaps())))[0]

    return run_virtually(read())


def test_a_start_beyond_the_tail_is_moved_to_it_and_shows_in_the_ping_only() -> None:
    store = store_of([Draft(b"x", (), 5)] * 3)
    assert read_all(store, 1_000) == b'event: ping\ndata: {"timestamp":1,"tail":{"seq_num":3,"timestamp":5}}\n\n' + DONE


@pytest.mark.parametrize(("kept", "first"), [(3, 2), (1, 0)])
def test_a_start_below_zero_is_counted_from_the_tail(kept: int, first: int) -> None:
    body = read_all(store_of([Draft(b"x", (), 5)] * kept), NEWEST_RECORD)
    assert re.findall(rb'"records":\[\{"seq_num":(\d+)', body) == [b"%d" % first]
    assert body.count(b'"body"') == 1


def test_an_empty_stream_has_no_newest_record() -> None:
    assert b"batch" not in read_all(store_of([]), NEWEST_RECORD)


def test_a_batch_holds_at_most_one_mebibyte_or_one_larger_record() -> None:
    store = store_of([Draft(b"x" * size, (), 5) for size in (400_000, 600_000, 48_560, 16, 1_048_568, 1)])
    body = read_all(store, 0, wait_s=0)
    # 400 008 + 600 008 + 48 568 is over 2**20 by 8 bytes.
    assert re.findall(rb"id: (\d+,\d+,\d+)", body) == [b"1,2,1000016", b"3,4,1048608", b"4,5,2097184", b"5,6,2097193"]


def test_a_follower_that_lags_catches_up_without_tail_and_gets_a_new_ping() -> None:
    store = store_of([])

    def burst() -> None:
        store.append_records("run_1", "s", [Draft(b"x", (), 7)] * 1001)

    body = read_all(store, 0, burst)
    assert events_of(body) == [b"event: ping", b"event: batch", b"event: batch", b"event: ping", b"data: [DONE]"]
    assert body.count(b'"tail"') == 2


def test_a_stream_deleted_while_it_is_read_ends_with_an_error_event_and_without_done() -> None:
    store = store_of([Draft(b"x", (), 7)])
    body = read_all(store, 0, lambda: store.delete_stream("run_1", "s"))
    assert events_of(body) == [b"event: batch", b"event: ping", b"event: error"]


def test_records_trimmed_ahead_of_a_follower_are_passed_over() -> None:
    store = store_of([Draft(b"x", (), 7)] * 4)
    store.trim_records("run_1", "s", 4)
    body = read_all(store, 2, lambda: store.append_records("run_1", "s", [Draft(b"y", (), 8)]))
    assert events_of(body) == [b"event: ping", b"event: batch", b"data: [DONE]"]
    assert b'"seq_num":4' in body


def test_pings_come_at_the_tail_and_then_every_five_to_fifteen_seconds() -> None:
    async def read() -> list[float]:
        time = asyncio.get_running_loop().time
        stream = await store_of([]).v2_stream("run_1", "s")
        blocks = read_v2(stream, 0, 600, Timing(), lambda: 1, random.Random(7))
        return [time() async for block in blocks if block.startswith(b"event: ping")]

    first, *others = run_virtually(read())
    gaps = [later - earlier for earlier, later in pairwise([first, *others])]
    assert first < 0.001
    assert len(gaps) >= 40
    assert 5 <= min(gaps) < 6
    assert 14 < max(gaps) <= 15.001
