"""The file format of recordings, and the store that plays them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from tailrace.devtools.recordings import bundled_recordings
from tailrace.devtools.recordings.make import write_recordings
from tailrace.errors import MalformedRecord
from tailrace.model import Wire
from tailrace.serve.entries import BEGINNING, V1Id
from tailrace.serve.read_v1 import read_v1
from tailrace.serve.recorded import RecordedStore
from tailrace.serve.recording import Recording, body_id, parse_recording, read_recording
from tailrace.serve.timing import Timing
from tests.unit.serve.virtual_time import body_and_time, now_s, run_virtually

Result = TypeVar("Result")

V1 = b'{"tailrace_recording":1,"run_id":"r","wire":"v1","created_at":"2026-11-01T09:00:00Z"}\n'
V2 = V1.replace(b"v1", b"v2")
STARTED = datetime(2026, 11, 1, 9, tzinfo=UTC)
STARTED_MS = int(STARTED.timestamp() * 1000)

DEMO = V1 + (
    b'{"at_ms":1000,"stream":"a","chunk":{"x": 1.10}}\n'
    b'{"at_ms":1000,"stream":"a","entry":"{\\"y\\":"}\n'
    b'{"at_ms":3000,"stream":"a","entry":"2}\\n"}\n'
    b'{"at_ms":3500,"stream":"b"}\n'
    b'{"at_ms":4000,"status":"COMPLETED_SUCCESSFULLY"}\n'
)


def playing(content: bytes, speed: float) -> RecordedStore:
    recording = parse_recording(content, "demo.jsonl")
    return RecordedStore([recording], speed=speed, clock_s=lambda: asyncio.get_running_loop().time())


def texts(recording: Recording) -> list[bytes]:
    return [
        arrival.content if isinstance(arrival.content, bytes) else arrival.content.body
        for arrival in recording.moments
        if arrival.content is not None
    ]


def test_a_chunk_is_kept_as_it_stands_in_the_file() -> None:
    lines = b'{"at_ms":0,"stream":"s","chunk":{ "b":1.10, "a":"\\u00e9","a":2 }}\n'
    assert texts(parse_recording(V1 + lines, "x")) == [b'{ "b":1.10, "a":"\\u00e9","a":2 }\n']
    assert texts(parse_recording(V2 + lines, "x")) == [
        b'{"data":{ "b":1.10, "a":"\\u00e9","a":2 },"id":"%b"}' % body_id(0).encode()
    ]


def test_a_text_can_be_what_the_file_cannot_hold() -> None:
    lines = b'{"at_ms":0,"stream":"s","text":"\\"\\\\ud800\\"","id":"abc1234"}\n'
    assert texts(parse_recording(V2 + lines, "x")) == [b'{"data":"\\ud800","id":"abc1234"}']


def test_a_record_can_be_given_as_storage_keeps_it() -> None:
    lines = b'{"at_ms":0,"stream":"s","headers":[["","fence"]],"body":"tok"}\n{"at_ms":0,"stream":"s","headers":[]}\n'
    drafts = [arrival.content for arrival in parse_recording(V2 + lines, "x").moments]
    assert drafts == [(b"tok", (("", "fence"),), None), (b"", (), None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "demo: empty"),
        (b'{"run_id":"r"}\n', "demo, line 1"),
        (V1 + b'{"at_ms":0}\n', "demo, line 2: neither"),
        (V1 + b'{"at_ms":0,"stream":"s","chunk":1,"text":"1"}\n', "demo, line 2: one line cannot have chunk and text"),
        (V1 + b'{"at_ms":0,"stream":"s","body":"x"}\n', "demo, line 2: body or headers is for v2 runs"),
        (V2 + b'{"at_ms":0,"stream":"s","entry":"x"}\n', "demo, line 2: entry is for v1 runs"),
        (V1 + b'\n{"at_ms":5,"stream":"s"}\n{"at_ms":4,"stream":"s"}\n', "demo, line 4: at_ms goes back"),
        (V1 + b'{"at_ms":0,"strem":"s"}\n', "demo, line 2.*strem"),
        (V1 + b"{\n", "demo, line 2"),
    ],
)
def test_what_is_no_recording_is_refused_with_file_and_line(content: bytes, message: str) -> None:
    with pytest.raises(MalformedRecord, match=message):
        parse_recording(content, "demo")


def test_made_up_body_ids_have_seven_characters_and_do_not_meet() -> None:
    ids = {body_id(number) for number in range(20_000)}
    assert len(ids) == 20_000
    assert {len(made) for made in ids} == {7}


def test_at_its_own_pace_each_thing_comes_when_it_is_due() -> None:
    async def play() -> None:
        store = playing(DEMO, 1)
        assert (await store.run("r")) is not None
        stream = await store.v1_stream("r", "a")
        came = []
        async for block in read_v1(stream, BEGINNING, 5, Timing()):
            came.append((round(now_s(), 2), block))
        assert came == [
            (1.0, b'id: %d-0\ndata: {"x": 1.10}\n\n' % (STARTED_MS + 1000)),
            (3.0, b'id: %d-0\ndata: {"y":2}\n\n' % (STARTED_MS + 3000)),
        ]

    run_virtually(play())


@pytest.mark.parametrize(("speed", "took_s"), [(2, 1.5), (0.5, 6)])
def test_the_pace_can_be_changed_and_the_ids_stay(speed: float, took_s: float) -> None:
    async def play() -> None:
        store = playing(DEMO, speed)
        await store.run("r")
        stream = await store.v1_stream("r", "a")
        entries = await stream.after(V1Id(STARTED_MS + 1000, 1), 60)
        assert [entry.id for entry in entries] == [V1Id(STARTED_MS + 3000, 0)]
        assert now_s() == pytest.approx(took_s, abs=0.01)

    run_virtually(play())


def test_at_speed_zero_everything_is_there_and_the_run_is_over() -> None:
    async def play() -> None:
        store = playing(DEMO, 0)
        run = await store.run("r")
        assert run is not None
        assert (run.status, run.stream_keys) == ("COMPLETED_SUCCESSFULLY", ("a", "b"))
        assert run.finished_at == STARTED + timedelta(seconds=4)
        body, took_s = await body_and_time(read_v1(await store.v1_stream("r", "a"), BEGINNING, 1, Timing()))
        assert body.count(b"id: ") == 2
        assert round(took_s, 2) == 5.0

    run_virtually(play())


def test_the_run_changes_as_its_streams_open_and_as_it_ends() -> None:
    async def play() -> None:
        store = playing(DEMO, 1)
        run = await store.run("r")
        seen = []
        while run is not None:
            seen.append((round(now_s(), 1), run.status, run.stream_keys))
            run = await store.run_changed("r", run.updated_at, 10)
        assert seen == [
            (0.0, "EXECUTING", ()),
            (1.0, "EXECUTING", ("a",)),
            (3.5, "EXECUTING", ("a", "b")),
            (4.0, "COMPLETED_SUCCESSFULLY", ("a", "b")),
        ]

    run_virtually(play())


def test_a_run_begins_when_it_is_first_asked_for() -> None:
    async def play() -> None:
        store = playing(DEMO, 1)
        await asyncio.sleep(100)
        run = await store.run("r")
        assert run is not None
        assert run.status == "EXECUTING"
        assert await store.run("other") is None

    run_virtually(play())


def test_a_recording_without_a_date_begins_now() -> None:
    recording = parse_recording(b'{"tailrace_recording":1,"run_id":"r","wire":"v2"}\n', "x")
    store = RecordedStore([recording], speed=0, now=lambda: STARTED + timedelta(microseconds=1999))
    run = asyncio.run(store.run("r"))
    assert run is not None
    assert run.created_at == STARTED + timedelta(milliseconds=1)


def test_v2_records_come_when_they_are_due_and_an_unknown_key_is_an_empty_stream() -> None:
    lines = b"".join(b'{"at_ms":%d,"stream":"s","chunk":%d}\n' % (number * 100, number) for number in range(5))

    async def play() -> None:
        store = playing(V2 + lines, 1)
        await store.run("r")
        stream = await store.v2_stream("r", "s")
        await asyncio.sleep(0.25)
        page = await stream.since(0, 0)
        assert ([record.seq_num for record in page.records], page.tail) == ([0, 1, 2], (3, STARTED_MS + 200))
        assert await stream.tail() == (3, STARTED_MS + 200)
        assert [record.seq_num for record in (await stream.since(3, 9)).records] == [3]
        assert round(now_s(), 2) == 0.3
        empty = await (await store.v2_stream("r", "never")).since(0, 1)
        assert empty == ([], (0, 0), False)

    run_virtually(play())


def test_the_bundled_recordings_are_what_their_script_writes(tmp_path: Path) -> None:
    write_recordings(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in bundled_recordings()}


def test_the_bundled_recordings_hold_what_the_demonstrations_need() -> None:
    ai, report = (read_recording(path) for path in bundled_recordings())
    assert (ai.run_id, ai.wire, report.run_id, report.wire) == ("run_demo_ai", Wire.V2, "run_demo_report", Wire.V1)
    chunks = [json.loads(text)["data"] for text in texts(ai)]
    kinds = [chunk["type"] for chunk in chunks if "type" in chunk]
    assert len(kinds) >= 600
    assert (kinds[0], kinds[-1]) == ("start", "finish")
    assert {"tool-input-start", "tool-input-delta", "tool-input-available", "tool-output-available"} <= set(kinds)
    assert {"reasoning-delta", "text-start", "text-delta", "text-end", "start-step", "finish-step"} <= set(kinds)
    assert [chunk["percent"] for chunk in chunks if "percent" in chunk] == list(range(0, 101, 10))
    assert 15_000 <= ai.moments[-1].at_ms <= 20_000
    assert b"".join(texts(report)).count(b"\n") == pytest.approx(200, abs=10)
    assert b"1.10" in b"".join(texts(ai))
