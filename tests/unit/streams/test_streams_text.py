"""The text that chunks add up to. tests/integration/test_streams_archive.py asks Postgres about the same cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailrace.streams.text import Transcript


def delta(text: str, block: str = "0") -> dict[str, str]:
    return {"type": "text-delta", "id": block, "delta": text}


def thought(text: str, block: str = "r") -> dict[str, str]:
    return {"type": "reasoning-delta", "id": block, "delta": text}


def begin(block: str = "0") -> dict[str, str]:
    return {"type": "text-start", "id": block}


def choice(index: int, content: str | None, **more: object) -> dict[str, object]:
    return {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": {"content": content}}], **more}


START, STEP, RESET = {"type": "start"}, {"type": "start-step"}, {"type": "reset-step"}

CASES: dict[str, tuple[list[object], str]] = {
    "strings": (["Hello, ", "wor", "", "ld"], "Hello, world"),
    "a string that holds JSON is taken as it is": (['{"type":"text-delta"}'], '{"type":"text-delta"}'),
    "nothing": ([], ""),
    "no text": ([{"progress": 1}, None, 5, [1], {"type": "finish"}, {"type": 5}], ""),
    "blocks are joined by a blank line": (
        [
            *(START, STEP, begin("a"), delta("One ", "a"), delta("two", "a"), {"type": "text-end", "id": "a"}),
            *({"type": "tool-input-available"}, begin("b"), delta("Three", "b"), {"type": "finish"}),
        ],
        "One two\n\nThree",
    ),
    "an id that is used again begins a new block": (
        [STEP, begin(), delta("One"), STEP, begin(), delta("Two")],
        "One\n\nTwo",
    ),
    "blocks that overlap": (
        [begin("a"), begin("b"), delta("B1", "b"), delta("A1", "a"), delta("B2", "b"), delta("A2", "a")],
        "A1A2\n\nB1B2",
    ),
    "a second start is a retry": ([START, begin(), delta("failed att"), START, begin(), delta("whole")], "whole"),
    "start means nothing elsewhere": (["a", START, "b"], "ab"),
    "a reset takes back its step": (
        [STEP, begin(), delta("1"), STEP, begin(), delta("no"), RESET, begin(), delta("2")],
        "1\n\n2",
    ),
    "a reset without a step takes back all": ([begin(), delta("no"), RESET, begin(), delta("yes")], "yes"),
    "two resets": ([STEP, delta("a"), RESET, delta("b"), RESET, delta("c")], "c"),
    "empty blocks leave nothing": ([begin("a"), begin("b"), delta("x", "b"), delta("", "a")], "x"),
    "deltas of the AI SDK's other formats": (
        [{"type": "text-delta", "text": "a"}, {"type": "text-delta", "textDelta": "b"}],
        "ab",
    ),
    "Chat Completions": ([choice(0, "a"), choice(0, None), choice(0, "b"), {**choice(0, "x"), "choices": []}], "ab"),
    "several choices": ([choice(0, "a"), choice(1, "x"), choice(0, "b"), choice(1, "y")], "ab\n\nxy"),
    "Responses": (
        [
            {"type": "response.output_text.delta", "delta": "a"},
            {"type": "response.output_text.delta", "delta": "b"},
            {"type": "response.output_text.done", "text": "ab"},
        ],
        "ab",
    ),
    "Anthropic": (
        [
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}},
            {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{"}},
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "b"}},
        ],
        "ab",
    ),
    "fields of the wrong type": (
        [
            {"type": "text-delta", "delta": 5},
            {"type": "response.output_text.delta"},
            {"type": "content_block_delta", "delta": "x"},
            {"object": "chat.completion.chunk", "choices": [5]},
            {"object": "chat.completion.chunk", "choices": {"0": 1}},
            delta("a"),
        ],
        "a",
    ),
    "ids of any type": ([{"type": "text-delta", "id": 1, "delta": "a"}, delta("b", "1")], "ab"),
    "what no text can hold": (["a\x00b\ud83dc"], "a\ufffdb\ufffdc"),
    "a delta after the end of its block": (
        [STEP, begin(), delta("one"), {"type": "text-end", "id": "0"}, STEP, delta("or"), delta("phan")],
        "one\n\norphan",
    ),
    "a block goes on in the next step": ([STEP, begin(), delta("o"), STEP, delta("ne")], "one"),
    "a reset does not take back what began before": (
        [
            STEP,
            begin("a"),
            delta("kept", "a"),
            STEP,
            delta(" too", "a"),
            begin(),
            delta("no"),
            RESET,
            delta("new", "a"),
        ],
        "kept too\n\nnew",
    ),
    "a start that names another message": (
        [{**START, "messageId": "a"}, begin(), delta("Hel"), {**START, "messageId": "b"}, begin(), delta("Hello")],
        "Hello",
    ),
    "a start that names the same message": (
        [{**START, "messageId": "a"}, begin(), delta("One"), {**START, "messageId": "a"}, begin(), delta("Two")],
        "Two",
    ),
    "a first start after text": ([begin(), delta("One"), START, begin(), delta("Two")], "One\n\nTwo"),
    "an answer that was aborted": ([START, begin(), delta("Hel"), {"type": "abort"}], "Hel"),
    "an answer that failed": ([START, begin(), delta("Hel"), {"type": "error", "errorText": "broke"}], "Hel"),
    "a last message without text": ([START, begin(), delta("whole"), START, {"type": "error", "errorText": "x"}], ""),
    "choices of completions with an id": (
        [choice(0, "a", id="x"), choice(1, "m", id="x"), choice(0, "b", id="x"), choice(0, "c", id="y")],
        "ab\n\nm\n\nc",
    ),
    "a pair of surrogates is a character": (["\U0001f600"], "\U0001f600"),
    "reasoning is apart": ([thought("hidden"), delta("shown")], "shown"),
}


SHAPES: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "data" / "text" / "shapes.json").read_text())
"""Every shape of a chunk of which the text is known: a sample, its text (null: none) and where it is from."""


@pytest.mark.parametrize("shape", SHAPES, ids=[shape["shape"] for shape in SHAPES])
def test_the_text_of_every_shape(shape: dict[str, Any]) -> None:
    for sample in shape["samples"]:
        assert transcript([sample["chunk"]]).text == (sample["text"] or ""), sample


def test_the_page_of_shapes_shows_the_samples() -> None:
    page = (Path(__file__).parents[3] / "docs" / "shapes.md").read_text()
    for shape in SHAPES:
        if shape["shape"] != "none of them":
            chunk = json.dumps(shape["samples"][0]["chunk"], ensure_ascii=False)
            assert f"| {shape['shape']} | `{chunk}` | {shape['source']} |" in page


HALVES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "data" / "text" / "halves.json").read_text()
)
"""Characters that are cut between two deltas: chunks, as their JSON texts, and the text that they add up to."""


@pytest.mark.parametrize("name", HALVES)
def test_a_character_that_was_cut(name: str) -> None:
    found = Transcript()
    for chunk in HALVES[name]["chunks"]:
        found.add(chunk.encode())
    assert found.text == HALVES[name]["text"]


def transcript(chunks: list[object]) -> Transcript:
    found = Transcript()
    for chunk in chunks:
        found.add(json.dumps(chunk).encode())
    return found


@pytest.mark.parametrize("name", CASES)
def test_text(name: str) -> None:
    chunks, text = CASES[name]
    assert transcript(chunks).text == text


def test_reasoning() -> None:
    chunks = [START, {"type": "reasoning-start", "id": "r"}, thought("Let "), delta("Answer"), thought("me see")]
    assert transcript(chunks).reasoning == "Let me see"
    assert transcript([START, thought("old"), START, thought("new"), delta("x")]).reasoning == "new"


def test_what_is_no_json_adds_nothing() -> None:
    found = Transcript()
    found.add(b"undefined")
    found.add(b"\xff")
    found.add(b'"a"')
    assert found.text == "a"
    found.restart()
    assert found.text == ""
