"""How the Streams API is used, for type checkers: nothing here is ever run.

What is inferred is said by ``assert_type``. Each line that ends with ``# wrong`` has to be refused, and no other may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from tailrace import runs, streams
from tailrace.runs import Run, RunUpdate, StreamUpdate
from tailrace.runs import aio as aio_runs
from tailrace.streams import Collected, StreamReader, aio


class Progress(TypedDict):
    percent: int


@dataclass
class Token:
    text: str


text = streams.define("ai", type=str)
progress = streams.define("progress", type=Progress)
tokens = streams.define("tokens", type=list[Token])
anything = streams.define("anything")
either = streams.define("either", type=str | int)
later_text = aio.define("ai", type=str)
later_progress = aio.define("progress", type=Progress)


def define() -> None:
    assert_type(text, streams.StreamDefinition[str])
    assert_type(progress, streams.StreamDefinition[Progress])
    assert_type(tokens, streams.StreamDefinition[list[Token]])
    assert_type(anything, streams.StreamDefinition[Any])
    assert_type(either, streams.StreamDefinition[Any])
    assert_type(later_text, aio.StreamDefinition[str])
    assert_type(text, streams.StreamDefinition[int])  # wrong
    assert_type(later_text, streams.StreamDefinition[str])  # wrong
    streams.define(1)  # wrong
    streams.define()  # wrong
    streams.define("ai", type=str, of=int)  # wrong


def read(run_id: str) -> None:
    for chunk in text.read(run_id):
        assert_type(chunk, str)
        print(chunk.percent)  # wrong
    for step in progress.read(run_id, timeout_in_seconds=None, start="latest", source="auto"):
        assert_type(step, Progress)
        assert_type(step["percent"], int)
        print(step["per_cent"])  # wrong
    for found in tokens.read(run_id, start_index=3):
        assert_type(found, list[Token])
        print(found[0].txt)  # wrong
    assert_type(streams.read(run_id), StreamReader[Any])
    assert_type(streams.read(run_id, "ai"), StreamReader[Any])
    assert_type(streams.read(run_id, "ai", type=str), StreamReader[str])
    assert_type(streams.read(run_id, "ai", type=Token, start="latest"), StreamReader[Token])
    assert_type(streams.read(run_id, text), StreamReader[str])
    assert_type(streams.read(run_id, text, last_event_id="4"), StreamReader[str])
    assert_type(streams.read(run_id, type=Progress), StreamReader[Progress])
    assert_type(next(text.read(run_id)), str)
    with text.read(run_id) as reader:
        assert_type(reader, StreamReader[str])
        assert_type(reader.last_index, int)
        assert_type(reader.last_event_id, str | None)
    streams.read(1)  # wrong
    streams.read(run_id, "ai", start="newest")  # wrong
    streams.read(run_id, "ai", source="archives")  # wrong
    streams.read(run_id, "ai", start_index="3")  # wrong
    streams.read(run_id, "ai", time_out=3)  # wrong
    streams.read(run_id, text, type=int)  # wrong
    text.read(run_id, type=int)  # wrong
    text.read()  # wrong
    streams.read(run_id, "ai", signal=True)  # wrong
    streams.read(run_id, "ai", on_invalid="leave out")  # wrong
    length: int = next(text.read(run_id))  # wrong
    print(length)


async def read_later(run_id: str) -> None:
    async for chunk in later_text.read(run_id):
        assert_type(chunk, str)
        print(chunk.percent)  # wrong
    async for step in aio.read(run_id, later_progress, start="latest"):
        assert_type(step, Progress)
    async for token in aio.read(run_id, "tokens", type=Token):
        assert_type(token, Token)
    assert_type(aio.read(run_id), aio.StreamReader[Any])
    assert_type(aio.read(run_id, "ai", type=str), aio.StreamReader[str])
    assert_type(await anext(aio.read(run_id, "ai", type=str)), str)
    async with aio.read(run_id, "ai", type=str) as reader:
        assert_type(reader, aio.StreamReader[str])
    await aio.read(run_id, "ai", type=str)  # wrong
    list(aio.read(run_id, "ai", type=str))  # wrong
    with aio.read(run_id, "ai", type=str):  # wrong
        pass
    aio.read(run_id, "ai", start="newest")  # wrong
    aio.read(run_id, later_text, type=int)  # wrong


def together(run_id: str) -> None:
    assert_type(text.collect(run_id), Collected[str])
    assert_type(streams.collect(run_id, text).chunks, list[str])
    assert_type(streams.collect(run_id, "ai", type=Token).chunks, list[Token])
    assert_type(streams.collect(run_id, "ai").chunks, list[Any])
    assert_type(streams.gather(run_id, text, progress), tuple[list[str], list[Progress]])
    assert_type(streams.gather(run_id, text, "progress"), tuple[list[Any], ...])
    for key, chunk in streams.read_many(run_id, [text, "progress"]):
        assert_type(key, str)
        assert_type(chunk, Any)
    for batch in streams.batches(progress.read(run_id), size=10, max_age_s=1):
        assert_type(batch, list[Progress])
    texts, steps = streams.gather(run_id, text, progress)
    assert_type(texts[0], str)
    assert_type(steps[0]["percent"], int)
    streams.collect(run_id, text, on_chunk=takes_progress)  # wrong
    text.collect(run_id, on_chunk=takes_progress)  # wrong
    streams.gather(run_id, text, progress, 3)  # wrong
    _one, _two, _three = streams.gather(run_id, text, progress)  # wrong


def takes_progress(step: Progress) -> None:
    print(step["percent"])


async def together_later(run_id: str) -> None:
    assert_type(await later_text.collect(run_id), Collected[str])
    assert_type(await aio.gather(run_id, later_text, later_progress), tuple[list[str], list[Progress]])
    async for batch in aio.batches(later_text.read(run_id)):
        assert_type(batch, list[str])
    aio.gather(run_id, later_text)[0]  # wrong


def subscribed(run_id: str) -> None:
    for run in runs.subscribe_to_run(run_id):
        assert_type(run, Run)
        assert_type(run.status, str)
    for update in runs.subscribe_to_run(run_id).with_streams(text):
        assert_type(update, RunUpdate | StreamUpdate)
        if isinstance(update, StreamUpdate):
            assert_type(update.chunk, Any)
            assert_type(update.index, int)
        else:
            assert_type(update.run, Run)
        print(update.chunk)  # wrong
    runs.subscribe_to_run(run_id, timeout_in_seconds=3)  # wrong
    runs.subscribe_to_run(run_id).with_streams("ai")  # wrong


async def subscribed_later(run_id: str) -> None:
    async for run in aio_runs.subscribe_to_run(run_id):
        assert_type(run, Run)
    async for update in aio_runs.subscribe_to_run(run_id).with_streams(later_text):
        assert_type(update, RunUpdate | StreamUpdate)
    list(aio_runs.subscribe_to_run(run_id))  # wrong
