"""Streams of AI SDK messages, what the AI SDK makes of them, and how its parts are laid beside rows of `message_parts`.

``tests/data/messages/reductions.json`` holds streams and the AI SDK's own answers, so that Python alone tests them: those
of `NAMED`, inputs of tools that break off (`PARTIAL_INPUTS`), and some of `random_stream`. Where Node and npm are,
``python -m tests.witness.reductions`` writes it anew.

The AI SDK is npm ai 7.0.173, which lays these rules down in src/ui/process-ui-message-stream.ts. Approvals have an id of
their own here, as it makes them: of two with one id it would take the one of the first part.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

Chunk = dict[str, Any]
Part = dict[str, Any]

REDUCTIONS = Path(__file__).parent / "data" / "messages" / "reductions.json"

START, STEP, RESET = {"type": "start"}, {"type": "start-step"}, {"type": "reset-step"}
END_STEP, FINISH = {"type": "finish-step"}, {"type": "finish"}


def begun(message: str) -> Chunk:
    return {"type": "start", "messageId": message}


def text(*deltas: str, block: str = "0", kind: str = "text") -> list[Chunk]:
    """A whole text or reasoning."""
    return [
        {"type": f"{kind}-start", "id": block},
        *({"type": f"{kind}-delta", "id": block, "delta": delta} for delta in deltas),
        {"type": f"{kind}-end", "id": block},
    ]


def delta(text: str, block: str = "0", kind: str = "text") -> Chunk:
    return {"type": f"{kind}-delta", "id": block, "delta": text}


def tool(what: str, call: str = "c", **more: Any) -> Chunk:
    named = {"toolName": "look"} if what.startswith("input-") and what != "input-delta" else {}
    return {"type": f"tool-{what}", "toolCallId": call, **named, **more}


def typed(*deltas: str, call: str = "c") -> list[Chunk]:
    """The input of a tool call as it is typed."""
    return [tool("input-start", call), *(tool("input-delta", call, inputTextDelta=each) for each in deltas)]


def data(value: Any, **more: Any) -> Chunk:
    return {"type": "data-chart", **more, "data": value}


NAMED: dict[str, list[Chunk]] = {
    "an answer": [START, STEP, *text("Hello, ", "world"), END_STEP, FINISH],
    "reasoning, a tool call and an answer": [
        *(START, STEP, *text("Let me ", "look.", kind="reasoning"), *typed('{"city":', '"Bern"}')),
        *(tool("input-available", input={"city": "Bern"}), tool("output-available", output={"celsius": 1.5})),
        *(END_STEP, STEP, *text("It is cold."), END_STEP, FINISH),
    ],
    "steps that use an id again": [START, STEP, *text("one"), END_STEP, STEP, *text("two"), END_STEP],
    "a delta of a later step without a start": [
        *(START, STEP, *text("one"), END_STEP, STEP, *text("two"), END_STEP, STEP, delta("orphan"), FINISH),
    ],
    "a delta before any start": [START, delta("lost its head"), *text("whole")],
    "an end without a start": [START, {"type": "text-end", "id": "0"}, *text("whole"), {"type": "text-end", "id": "0"}],
    "a start that is repeated": [START, *text("one")[:2], *text("two")],
    "a text that goes on in the next step": [START, STEP, *text("on", "e")[:2], END_STEP, STEP, *text("on", "e")[2:]],
    "texts that overlap": [
        *(START, text()[0], text(block="1")[0], delta("B1", "1"), delta("A1"), delta("B2", "1"), delta("A2")),
        *(text(block="1")[1], text()[1]),
    ],
    "a text and a reasoning with one id": [START, *text("thought", kind="reasoning")[:2], *text("said"), delta("!")],
    "a text without deltas": [START, *text()],
    "a text without an end": [START, *text("broken o")[:2], {"type": "abort"}],
    "a character that is cut": [START, *text("go \ud83d", "\ude80!"), *text("\ud83d", "", "\ude80", block="1")],
    "halves that never meet": [
        START,
        *text("a\ud83d", "b", "\ude80c\ud83d"),
        *text("\ude80", "\ude80\ud83d", "\ud83d"),
    ],
    "an input that was wrong, and then an output": [
        *(START, STEP, tool("input-start"), tool("input-error", input="{oops", errorText="no JSON")),
        tool("output-available", output="still"),
    ],
    "an input that was wrong": [START, tool("input-error", input={"a": 1}, errorText="no such tool"), *text("Sorry")],
    "an output after an error": [
        *(
            START,
            tool("input-available", input=1),
            tool("output-error", errorText="later"),
            tool("output-available", output=2),
        ),
    ],
    "an error after an output": [
        *(
            START,
            tool("input-available", input=1),
            tool("output-available", output=2),
            tool("output-error", errorText="x"),
        ),
    ],
    "outputs as they come": [
        *(START, tool("input-available", input=1), tool("output-available", output="1 %", preliminary=True)),
        tool("output-available", output="100 %"),
    ],
    "an input that is typed again": [
        START,
        *typed('{"a":1'),
        *typed('{"b":'),
        tool("input-delta", inputTextDelta="2}"),
    ],
    "an input that was given and then typed": [
        *(START, tool("input-available", input={"a": 1}), tool("input-delta", inputTextDelta="{}"), *typed('{"b":2')),
    ],
    "an output without a call": [START, tool("output-available", output=1), tool("output-error", errorText="x")],
    "an input that goes on without a start": [START, tool("input-delta", inputTextDelta='{"a"'), *text("hello")],
    "a call that is answered a step later": [
        *(START, STEP, tool("input-available", input=1), END_STEP, STEP, tool("output-available", output=2)),
    ],
    "a call id that the next step uses again": [
        *(START, STEP, tool("input-available", input=1), tool("output-available", output=1)),
        *(STEP, tool("input-available", input=2), tool("output-available", output=2)),
        *(STEP, tool("output-available", output=3)),
    ],
    "a dynamic tool": [
        *(START, tool("input-start", dynamic=True), tool("input-delta", inputTextDelta='{"a')),
        *(tool("input-available", dynamic=True, input={"a": 1}), tool("output-available", dynamic=True, output=[])),
    ],
    "an input that is text": [
        *(START, tool("input-start", inputEncoding="text"), tool("input-delta", inputTextDelta="*** Begin")),
    ],
    "a call that is approved": [
        *(START, STEP, tool("input-available", input=1), tool("approval-request", approvalId="p")),
        {"type": "tool-approval-response", "approvalId": "p", "approved": True},
        tool("output-available", output=2),
    ],
    "a call that is denied": [
        *(START, STEP, tool("input-available", input=1), tool("approval-request", approvalId="p")),
        *({"type": "tool-approval-response", "approvalId": "p", "approved": False}, tool("output-denied")),
    ],
    "an approval that nobody asked for": [
        START,
        {"type": "tool-approval-response", "approvalId": "p", "approved": True},
    ],
    "an approval of a call whose id is used again": [
        *(START, STEP, tool("input-available", input=1), tool("approval-request", approvalId="p")),
        *(STEP, tool("input-available", input=2)),
        {"type": "tool-approval-response", "approvalId": "p", "approved": True},
    ],
    "data": [START, data([1]), data([2]), {"type": "data-other", "data": None}],
    "data that is replaced": [
        START,
        data(1, id="a"),
        data("b", id="b"),
        STEP,
        data(2, id="a"),
        *text("x"),
        data(3, id="a"),
    ],
    "data of one id and two types": [START, data(1, id="a"), {"type": "data-other", "id": "a", "data": 2}],
    "transient data": [START, data("soon", transient=True), data(1, id="a"), data(2, id="a", transient=True)],
    "data before the message": [data("connected", id="s"), START, *text("Hello"), data("done", id="s")],
    "errors are no parts": [START, *text("Hel")[:2], {"type": "error", "errorText": "broke"}, delta("lo")],
    "sources and files": [
        *(START, {"type": "source-url", "sourceId": "s", "url": "https://example.org", "title": "Example"}),
        {"type": "source-document", "sourceId": "d", "mediaType": "text/plain", "title": "T", "filename": "t.txt"},
        {"type": "file", "url": "data:,x", "mediaType": "text/plain"},
        {"type": "reasoning-file", "url": "data:,y", "mediaType": "text/plain"},
        {"type": "custom", "kind": "provider.thing"},
        {"type": "steering-message", "id": "u", "parts": [{"type": "text", "text": "Shorter!"}]},
        {"type": "message-metadata", "messageMetadata": {"a": 1}},
    ],
    "a step that is reset": [START, STEP, *text("no"), RESET, *text("yes"), FINISH],
    "a step that is reset twice": [START, STEP, *text("no"), RESET, *text("nor"), RESET, *text("yes"), FINISH],
    "only the last step is reset": [START, STEP, *text("kept"), STEP, *text("no"), RESET, *text("yes")],
    "a reset without a step": [START, *text("no"), RESET, *text("yes")],
    "a reset of nothing": [START, STEP, RESET, *text("yes")],
    "an open text does not outlive a reset": [
        *(START, STEP, *text("kept")[:2], STEP, delta(" too"), RESET, delta("orphan"), *text("new")),
    ],
    "a call that was reset": [
        *(
            START,
            STEP,
            *typed('{"a'),
            RESET,
            tool("input-delta", inputTextDelta='":1}'),
            tool("output-available", output=1),
        ),
    ],
    "a call of the step before is answered after a reset": [
        *(START, STEP, tool("input-available", input=1), STEP, tool("input-available", input=2), RESET),
        tool("output-available", output=3),
    ],
    "data that was reset": [
        START,
        STEP,
        data(1, id="a"),
        STEP,
        data(2, id="b"),
        data(3, id="a"),
        RESET,
        data(4, id="b"),
    ],
    "an attempt that was tried again": [START, STEP, *text("Hel")[:2], START, STEP, *text("Hello")],
    "an attempt that failed, and was tried again": [
        *(
            begun("m1"),
            STEP,
            *text("Hel")[:2],
            {"type": "error", "errorText": "broke"},
            begun("m2"),
            STEP,
            *text("Hello"),
        ),
    ],
    "messages one after the other": [begun("m1"), *text("One"), FINISH, begun("m2"), *text("Two"), FINISH],
    "streams that were merged into one message": [
        *(begun("m"), STEP, *text("One"), FINISH, begun("m"), STEP, *text("Two"), FINISH),
    ],
    "a start that names a message after parts": [data(1), begun("m"), *text("x")],
    "starts that name none, then one": [START, *text("a"), begun("m"), *text("b"), begun("m"), *text("c")],
    "ids that JavaScript knows": [
        START,
        *text("a", block="__proto__"),
        *text("b", block="constructor"),
        delta("c", "toString"),
    ],
}

PARTIAL_INPUTS = (
    *(
        "",
        "{",
        '{"',
        '{"a',
        '{"a"',
        '{"a":',
        '{"a": ',
        '{"a":1',
        '{"a":1,',
        '{"a":1,"b',
        '{"a":-',
        '{"a":-1',
        '{"a":1.',
    ),
    *('{"a":1.5e', '{"a":1e5', '{"a":"x', '{"a":"x\\', '{"a":"x\\"', '{"a":"x\\u00', '{"a":"x\\u0041', '{"a":"x"}'),
    *(
        '{"a":t',
        '{"a":fal',
        '{"a":nul',
        '{"a":true',
        '{"a":[',
        '{"a":[1',
        '{"a":[1,',
        '{"a":[1,[{',
        '{"a":[]',
        "[",
        "[1, 2",
    ),
    *(
        '"text',
        '"text"',
        "12",
        "-",
        "tru",
        '{"a":{"b":{"c":"d',
        '{"a":{}',
        '{"a":{},',
        ' { "a" : [ 1 , "b" ',
        "oops",
        "{oops",
    ),
    *(
        '{"a":"\ud83d',
        '{"a" 1',
        "[1 2",
        '{"a":"x\ny',
        '{"a\\',
        '{"a":"\\\\',
        '{"a":"\\\\"',
        '{"a":01',
        "[}",
        '{"a":}',
        '{"a":oops',
        '{"a":1 x',
        "[1 x",
        "1 2",
        '{"a":1}x',
        '{"a":[1,]',
        '{"é":"ü',
    ),
)


INPUT = '{"city": "Bern \ud83d\ude80", "days": [1, -2.5e3, {"a": null}], "\\u00e9": true, "b": {"c": [false]}}'


def random_stream(seed: int) -> list[Chunk]:
    """A stream with a good deal of what can happen; the same for the same seed."""
    rng = random.Random(seed)
    pick = rng.choice

    def piece() -> str:
        return "".join(
            pick(["a", "b ", "é", "\ud83d", "\ude80", "\U0001f680", "\x00", "\n"]) for _ in range(rng.randrange(3))
        )

    def call() -> dict[str, Any]:
        name = pick("abc")
        return {"toolCallId": name, **({"dynamic": True} if name == "c" else {})}

    approvals = ["p0"]  # each request has an id of its own
    written = dict.fromkeys("abc", 0)

    def begin_input() -> Chunk:
        made = {"type": "tool-input-start", "toolName": pick(["look", "find"]), **call()}
        written[made["toolCallId"]] = 0
        return made

    def type_input() -> Chunk:
        name = pick("abc")
        begun, written[name] = written[name], written[name] + rng.randrange(12)
        return {"type": "tool-input-delta", "toolCallId": name, "inputTextDelta": INPUT[begun : written[name]]}

    def asked() -> str:
        approvals.append(f"p{len(approvals)}")
        return approvals[-1]

    makers: list[tuple[int, Any]] = [
        (6, lambda: {"type": "text-start", "id": pick("01")}),
        (12, lambda: delta(piece(), pick("01"))),
        (4, lambda: {"type": "text-end", "id": pick("01")}),
        (3, lambda: {"type": "reasoning-start", "id": pick("01")}),
        (5, lambda: delta(piece(), pick("01"), "reasoning")),
        (2, lambda: {"type": "reasoning-end", "id": pick("01")}),
        (4, begin_input),
        (5, type_input),
        (
            4,
            lambda: {
                "type": "tool-input-available",
                "toolName": pick(["look", "find"]),
                "input": pick([1, None, {"a": []}]),
                **call(),
            },
        ),
        (2, lambda: {"type": "tool-input-error", "toolName": "look", "input": "{", "errorText": "wrong", **call()}),
        (4, lambda: {"type": "tool-output-available", "output": pick([1, "two", None]), **call()}),
        (2, lambda: {"type": "tool-output-error", "errorText": piece(), **call()}),
        (1, lambda: {"type": "tool-output-denied", "toolCallId": pick("abc")}),
        (2, lambda: {"type": "tool-approval-request", "toolCallId": pick("abc"), "approvalId": asked()}),
        (2, lambda: {"type": "tool-approval-response", "approvalId": pick(approvals), "approved": pick([True, False])}),
        (3, lambda: data(rng.randrange(9), **pick([{}, {"id": "x"}, {"id": "y"}, {"transient": True}]))),
        (1, lambda: {"type": "source-url", "sourceId": "s", "url": "https://example.org"}),
        (1, lambda: {"type": "error", "errorText": "broke"}),
        (1, lambda: {"type": "abort"}),
        (4, lambda: dict(STEP)),
        (2, lambda: dict(END_STEP)),
        (2, lambda: dict(RESET)),
        (1, lambda: pick([START, begun("m1"), begun("m1"), begun("m2")])),
    ]
    weights = [weight for weight, _ in makers]
    chunks = [pick([START, begun("m1")])] if rng.random() < 0.9 else []
    return chunks + [rng.choices(makers, weights)[0][1]() for _ in range(rng.randrange(5, 60))]


def streams(random: range) -> dict[str, list[Chunk]]:
    """Everything, by name. As JSON has it: halves of a character that stand in one string are that character."""
    found: dict[str, list[Chunk]] = json.loads(
        json.dumps(
            {
                **NAMED,
                **{f"an input that breaks off: {each!r}": [START, *typed(each)] for each in PARTIAL_INPUTS},
                **{f"random {seed}": random_stream(seed) for seed in random},
            }
        )
    )
    return found


def last_attempt(chunks: list[Chunk]) -> list[Chunk]:
    """From the last start that names no message or the one that is running, if it is not the first start.

    There the AI SDK would go on, and we begin: a task that is tried again writes that.
    """
    running, begins = None, 0
    for at, chunk in enumerate(chunks):
        if chunk["type"] == "start":
            name = chunk.get("messageId", "")
            if running is not None and name in ("", running):
                begins = at
            running = name
    return chunks[begins:]


@dataclass(frozen=True)
class Reduction:
    """What the AI SDK makes of a stream: the parts of its last message, and the indices of what it refuses."""

    chunks: list[Chunk]
    parts: list[Part]
    refused: list[int]


def reduced(chunks: list[Chunk], answer: dict[str, Any]) -> Reduction:
    """Take the answer of messages.mjs to `last_attempt` of these chunks."""
    before = len(chunks) - len(last_attempt(chunks))
    return Reduction(chunks, answer["parts"], [before + at for at in answer["refused"]])


def known() -> dict[str, Reduction]:
    """What the file says, by name."""
    return {name: Reduction(**each) for name, each in json.loads(REDUCTIONS.read_text()).items()}


def differences(reduction: Reduction, rows: list[dict[str, Any]]) -> list[str]:
    """What is not as the AI SDK has it in the rows of a stream's `message_parts`, in order; empty: nothing."""
    theirs = of_the_sdk(reduction.parts)
    ours = of_rows([row for row in rows if not row["superseded"] and not row["refused"]], theirs)
    wrong = [f"{here} is not {there}" for here, there in zip_longest(ours, theirs) if here != there]
    before = len(reduction.chunks) - len(last_attempt(reduction.chunks))
    kept = [row for row in rows if row["refused"] and row["first_index"] >= before]
    for row in kept:
        if not {row["first_index"], row["last_index"]} <= set(reduction.refused):
            wrong.append(f"refused, but the AI SDK takes it: {row}")
    for at in reduction.refused:
        if not any(row["first_index"] <= at <= row["last_index"] for row in kept):
            wrong.append(f"the AI SDK refuses chunk {at}")
    return wrong


_STATES = {
    "text-start": "streaming",
    "text-delta": "streaming",
    "text-end": "done",
    "tool-input-start": "input-streaming",
    "tool-input-delta": "input-streaming",
    "tool-input-available": "input-available",
    "tool-input-error": "output-error",
    "tool-approval-request": "approval-requested",
    "tool-approval-response": "approval-responded",
    "tool-output-available": "output-available",
    "tool-output-error": "output-error",
    "tool-output-denied": "output-denied",
}


def of_the_sdk(parts: list[Part]) -> list[Part]:
    """Its parts as `of_a_row` has ours: without what no column holds."""
    found: list[Part] = []
    steps = sorted({part["step"] for part in parts})
    for part in parts:
        kind: str = part["type"]
        one: Part = {"step": steps.index(part["step"])}
        if kind in ("text", "reasoning"):
            one |= {"kind": kind, "text": part["text"], "state": part["state"]}
        elif "toolCallId" in part:
            name = part["toolName"] if kind == "dynamic-tool" else kind.removeprefix("tool-")
            one |= {"kind": "tool", "call": part["toolCallId"], "name": name, "state": part["state"]}
            one |= {name: part.get(name) for name in ("input", "output")}
            one["error"] = part.get("errorText")
            if part["state"] == "input-streaming" and "rawInput" in part:
                one["raw"] = part["rawInput"]
        else:
            one |= {
                "kind": kind,
                "data": {name: value for name, value in part.items() if name not in ("step", "transient")},
            }
        found.append(json.loads(_readable(json.dumps(one))))
    return found


def of_rows(rows: list[dict[str, Any]], beside: list[Part]) -> list[Part]:
    """Rows of `message_parts` as `of_the_sdk` has its parts. Where it leaves out the raw input, ours is too."""
    found: list[Part] = []
    steps = sorted({row["step"] for row in rows})
    for at, row in enumerate(rows):
        one: Part = {"step": steps.index(row["step"]), "kind": row["kind"]}
        if row["kind"] in ("text", "reasoning"):
            one |= {"text": row["text"], "state": _STATES[row["state"].replace("reasoning", "text")]}
        elif row["kind"] == "tool":
            one |= {"call": row["tool_call_id"], "name": row["tool_name"], "state": _STATES[row["state"]]}
            one |= {"input": row["input"], "output": row["output"], "error": row["error_text"]}
            if at < len(beside) and "raw" in beside[at]:
                one["raw"] = row["raw_input"]
        else:
            one["data"] = {name: value for name, value in row["data"].items() if name != "transient"}
        found.append(one)
    return found


def _readable(text: str) -> str:
    """As no text of Postgres holds them: halves of surrogate pairs that stand alone, and NUL."""
    whole = json.dumps(json.loads(text), ensure_ascii=False).replace("\\u0000", "\ufffd")
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
