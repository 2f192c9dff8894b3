"""The body of a v1 response, compared with recordings of upstream's own class, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tailrace.model import Wire
from tailrace.serve.body import BrokenOff
from tailrace.serve.cursors import NEWEST, timeout_seconds, v1_cursor
from tailrace.serve.entries import BEGINNING, PING, V1Id
from tailrace.serve.read_v1 import fail_v1, read_v1
from tailrace.serve.timing import Timing
from tests.unit.serve.virtual_time import body_and_time, run_virtually
from tests.upstream.live import LiveStore
from tests.wirecases import WireCase, body_entries, load_case

RECORDED = Timing(idle_s=15)  # the recording server's own default; the web app passes 60 s

SPLIT = [  # the entries behind v1_c_*, from its recordings and their descriptions
    '{"n":0,"t":"first"}\n{"n":1,"t":"',
    "second line is spl",
    'it over three entries"}\n',
    '{"n":2,"t":"third"}\n',
    '{"n":3,"t":"fou',
    'rth"}\n{"n":4,"t":"fifth"}',
    "\n",
]
ODDITIES = {  # the entries behind v1_i_sentinel_and_oddities
    "1795324647387-0": '{"n":0}\n',
    "1795324647387-1": "<<CLOSE_STREAM>>",
    "1795324647387-2": '{"n":1}\n',
    "1795324647387-3": "<<CLOSE_STREAM>>\n",
    "1795324647387-4": "undefined\n",
    "1795324647388-0": "not json at all\n",
    "1795324647388-1": "\n\n",
    "1795324647388-2": "  \t\r\n\ufeff\n",
    "1795324647388-3": '{"n":2}\r\n',
    "1795324647388-4": '{"n":3}\n',
}

# case → the case whose body has the content of its stream
CONTENT = {
    "v1_a_text_delta_50": "v1_a_text_delta_50",
    "v1_b_multi_lines_one_entry": "v1_b_multi_lines_one_entry",
    "v1_b_resume_after_partly_read_id": "v1_b_multi_lines_one_entry",
    "v1_d_unicode": "v1_d_unicode",
    "v1_e_default_inactivity_15s": "v1_e_pings_then_inactivity_close",
    "v1_e_pings_then_inactivity_close": "v1_e_pings_then_inactivity_close",
    "v1_e_resume_at_end_nothing_new": "v1_e_pings_then_inactivity_close",
    "v1_e_stream_never_written": "v1_e_stream_never_written",
    "v1_f_dollar_last_event_id": "v1_f_startindex_is_a_no_op",
    "v1_f_resume": "v1_f_startindex_is_a_no_op",
    "v1_f_resume_ms_only": "v1_f_startindex_is_a_no_op",
    "v1_f_startindex_is_a_no_op": "v1_f_startindex_is_a_no_op",
    "v1_h_trimmed_head": "v1_h_trimmed_head",
    "v1_i_append_strings": "v1_i_append_strings",
    "v1_i_input_stream": "v1_i_input_stream",
    "v1_m_writer_reconnect_loss": "v1_m_writer_reconnect_loss",
}


def store_of(entries: Sequence[tuple[V1Id | str, str | bytes]], max_entries: int | None = None) -> LiveStore:
    store = LiveStore(v1_max_entries=max_entries)
    store.create_run("run_1", Wire.V1)
    store.open_stream("run_1", "s")
    for entry_id, data in entries:
        store.append_entry("run_1", "s", data, entry_id)
    return store


async def answer(store: LiveStore, case: WireCase) -> tuple[bytes, float]:
    stream = await store.v1_stream("run_1", "s")
    last_event_id = case.request_headers.get("Last-Event-ID", "")
    if last_event_id == NEWEST:
        cursor = await stream.last_id()
    else:
        cursor = v1_cursor(last_event_id) if last_event_id else BEGINNING
    idle_s = timeout_seconds(case.request_headers.get("Timeout-Seconds")) or RECORDED.idle_s
    return await body_and_time(read_v1(stream, cursor, idle_s, RECORDED))


@pytest.mark.parametrize(("name", "content"), CONTENT.items())
def test_a_body_is_the_recorded_one(name: str, content: str) -> None:
    case = load_case(name)
    body, took_s = run_virtually(answer(store_of(body_entries(load_case(content).body)), case))
    assert body == case.body
    assert took_s == pytest.approx(case.info["response"]["total_ms"] / 1000, abs=0.2)


@pytest.mark.parametrize(
    "name",
    [
        "v1_c_split_line",
        "v1_c_resume_after_entry0",
        "v1_c_resume_after_last_complete",
        "v1_c_resume_inside_split",
    ],
)
def test_lines_over_several_entries_come_as_recorded(name: str) -> None:
    case = load_case(name)
    store = store_of(list(zip(case.info["entry_ids"], SPLIT, strict=True)))
    assert run_virtually(answer(store, case))[0] == case.body


def test_the_sentinel_blank_lines_and_text_that_is_no_json_come_as_recorded() -> None:
    case = load_case("v1_i_sentinel_and_oddities")
    assert run_virtually(answer(store_of(list(ODDITIES.items())), case))[0] == case.body


def test_rough_trimming_leaves_what_redis_left() -> None:
    case = load_case("v1_h_trimmed_head")
    lost = [(V1Id(1, seq), f'{{"n":{seq}}}\n') for seq in range(1, 1501)]
    store = store_of([*lost, *body_entries(case.body)], max_entries=1000)
    assert len(store.entries("run_1", "s")) == case.info["entries_left"]
    assert run_virtually(answer(store, case))[0] == case.body


def test_a_live_tail_comes_as_recorded_and_each_chunk_at_once() -> None:
    case = load_case("v1_f_live_tail")
    entries = body_entries(case.body)
    due_s = [at_ms / 1000 for at_ms, _ in case.timeline]
    store = store_of([])

    async def write() -> None:
        time = asyncio.get_running_loop().time
        for (entry_id, data), at_s in zip(entries, due_s, strict=True):
            await asyncio.sleep(at_s - time())
            store.append_entry("run_1", "s", data, entry_id)

    async def read() -> None:
        writing = asyncio.create_task(write())
        time = asyncio.get_running_loop().time
        stream = await store.v1_stream("run_1", "s")
        came = [(block, time()) async for block in read_v1(stream, BEGINNING, 3, RECORDED)]
        assert b"".join(block for block, _ in came) == case.body
        assert [at_s for _, at_s in came] == pytest.approx(due_s, abs=0.001)
        assert time() == pytest.approx(case.info["response"]["total_ms"] / 1000, abs=0.2)
        await writing

    run_virtually(read())


def test_an_unfinished_line_is_sent_when_the_stream_closes_and_its_rest_after_the_resume() -> None:
    store = store_of([("5-0", '{"n":0}\n{"n":1,"t":"ha'), ("6-0", 'lf"}\n')])

    async def read(cursor: V1Id, hidden: bool) -> bytes:
        shown = store_of([("5-0", '{"n":0}\n{"n":1,"t":"ha')]) if hidden else store
        stream = await shown.v1_stream("run_1", "s")
        return (await body_and_time(read_v1(stream, cursor, 1, RECORDED)))[0]

    assert run_virtually(read(BEGINNING, True)) == b'id: 5-0\ndata: {"n":0}\n\nid: 5-0\ndata: {"n":1,"t":"ha\n\n'
    assert run_virtually(read(V1Id(5, 0), False)) == b'id: 6-0\ndata: lf"}\n\n'


@pytest.mark.parametrize(("timeout_s", "closed_s"), [(1, 5), (5, 5), (6, 10), (12, 15), (60, 60)])
def test_the_idle_close_is_rounded_up_to_whole_blocks(timeout_s: int, closed_s: int) -> None:
    async def read() -> tuple[bytes, float]:
        return await body_and_time(read_v1(await store_of([]).v1_stream("run_1", "s"), BEGINNING, timeout_s, RECORDED))

    body, took_s = run_virtually(read())
    assert took_s == pytest.approx(closed_s, abs=0.001)
    assert body == PING * ((closed_s - 1) // 10)


def test_a_skipped_sentinel_does_not_keep_a_stream_open_but_text_without_a_line_does() -> None:
    store = store_of([])

    async def write(data: str) -> None:
        await asyncio.sleep(4)
        store.append_entry("run_1", "s", data)

    async def read(data: str) -> float:
        writing = asyncio.create_task(write(data))
        stream = await store.v1_stream("run_1", "s")
        _, took_s = await body_and_time(read_v1(stream, await stream.last_id(), 5, RECORDED))
        await writing
        return took_s

    assert run_virtually(read("<<CLOSE_STREAM>>")) == pytest.approx(9, abs=0.001)  # 4 s, then a block that ends late
    assert run_virtually(read("half a li")) == pytest.approx(9, abs=0.001)
    store.expire_stream("run_1", "s")

    async def read_for_longer(data: str) -> float:
        writing = asyncio.create_task(write(data))
        stream = await store.v1_stream("run_1", "s")
        _, took_s = await body_and_time(read_v1(stream, await stream.last_id(), 8, RECORDED))
        await writing
        return took_s

    assert run_virtually(read_for_longer("<<CLOSE_STREAM>>")) == pytest.approx(9, abs=0.001)
    assert run_virtually(read_for_longer("half a li")) == pytest.approx(14, abs=0.001)


def test_a_refused_cursor_gives_nothing_for_three_seconds_and_then_breaks_off() -> None:
    async def read() -> float:
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(BrokenOff) as broken:
            [block async for block in fail_v1(Timing())]
        assert type(broken.value) is BrokenOff, "the connection is closed, not reset"
        return asyncio.get_running_loop().time() - began_s

    assert run_virtually(read()) == pytest.approx(3, abs=0.001)
