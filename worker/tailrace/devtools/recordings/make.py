"""Writes the two bundled recordings: ``python -m tailrace.devtools.recordings.make``. The same bytes every time."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from tailrace.devtools.recordings import DIRECTORY

_THINKING = """The question is how a water mill works, from the river to the flour. I should begin with the \
water: head and flow decide everything else. Then the wheel, because undershot, breastshot and overshot wheels \
are three answers to the same river. Then the gears, since a wheel turns slowly and a stone has to turn fast. A \
number or two would help; there is a small tool for the power of falling water, so let me ask it for a head of \
1.10 m and half a cubic metre a second before I write."""

_TOOL_INPUT = '{"head_m": 1.10, "flow_m3_s": 0.50, "wheel": "breastshot", "efficiency": 0.65}'

_ANSWER = """# How a water mill works 💧

A water mill does one thing: it lets water fall, slowly, and makes something else turn while it does. Everything \
in the building, from the weir outside to the flour bin below the stones, follows from how far the water falls \
and how much of it there is.

## From the river to the wheel

A **weir** across the river holds the water back and raises its level by a metre or two. From above the weir a \
channel leads to the mill: the *head race*, in German the „Obergraben“, in French « le bief d’amont ». It is dug \
almost level, so that the height which the river loses along the way is saved up for a single drop at the end. A \
sluice gate decides how much of it may pass. The miller opens it in the morning, and closes it again in a flood.

At the drop stands the wheel. An **undershot** wheel dips its paddles into the stream and is pushed by it; it is \
easy to build and wastes two thirds of the power. An **overshot** wheel takes the water at its top, into \
buckets, and is turned by their weight: slow, heavy, and surprisingly good, at 80 % or more. A **breastshot** \
wheel is filled at half height and is what most mills in the lowlands have, because few of them have the fall \
for anything better.

With a head of 1.10 m and a flow of 0.50 m³ a second, such a wheel gives about 3.5 kW. That is not much more \
than a kettle, but it is there day and night, and it grinds some 60 kg of flour in an hour.

When the water has done its work it leaves by the **tail race**. That channel matters as much as the other one: \
if it is silted up or the river is high, the water stands around the wheel, the wheel has to wade, and the mill \
stops. Millers call it *back water*, and they kept the tail race clean before anything else 🧹.

## From the wheel to the stone

The wheel turns six or eight times a minute; a millstone wants a hundred and twenty. Between them stands the \
gearing: a pit wheel on the shaft, a *wallower* on the upright, then the great spur wheel, which drives two or \
three pairs of stones through small *stone nuts*. The teeth were made of apple wood or hornbeam, always against \
iron, so that in an accident the cheap part broke. Their numbers share no divisor, the so-called hunting tooth: \
no tooth meets the same partner again until all the others had their turn, and so they wear evenly.

Of each pair of stones the lower one, the *bedstone*, lies still. The upper one, the *runner*, weighs up to a \
tonne and hangs on a spindle a paper's width above it. Grain falls through the eye in its middle, is cut by the \
furrows like cloth between scissors, and works its way out to the rim as meal. A little shoe, shaken by a square \
on the spindle (the “damsel”, because it never stops talking), feeds more grain when the stone turns faster. So \
the mill governs itself, long before there was a word for it.

## What is left

Steam did not end the water mills; they ended with the railway, which brought cheap flour from the harbours. \
Many of the weirs are still there, and here and there a turbine sits where the wheel used to be. The water does \
not mind. It falls, as it always did, and leaves by the tail race 🌾.
"""

_STEPS = ("read question", "think", "ask tool", "outline", "river", "weir", "wheel", "power", "gears", "stones", "end")


def write_recordings(directory: Path) -> None:
    """Write both files into ``directory``."""
    directory.mkdir(exist_ok=True)
    (directory / "demo_ai.jsonl").write_text(_file(_AI_RUN, _ai_lines()), encoding="utf-8")
    (directory / "demo_report.jsonl").write_text(_file(_REPORT_RUN, _report_lines()), encoding="utf-8")


_AI_RUN = {
    "tailrace_recording": 1,
    "run_id": "run_demo_ai",
    "wire": "v2",
    "task_identifier": "explain",
    "tags": ["demo", "model:mill-1"],
    "created_at": "2026-11-01T09:00:00Z",
    "metadata": {"question": "How does a water mill work?"},
}
_REPORT_RUN = {
    "tailrace_recording": 1,
    "run_id": "run_demo_report",
    "wire": "v1",
    "task_identifier": "monthly-report",
    "tags": ["demo"],
    "created_at": "2026-11-01T09:05:00Z",
}


def _ai_lines() -> Iterator[str]:
    """Two streams that interleave: the message, and a progress line for every so many of its chunks."""
    chance = random.Random(1)
    chunks = list(_ai_chunks())
    at_ms = 120
    steps = [round(index * (len(chunks) - 1) / (len(_STEPS) - 1)) for index in range(len(_STEPS))]
    for number, chunk in enumerate(chunks):
        at_ms += chance.choice((12, 18, 20, 22, 24, 30, 45))
        yield _line(at_ms, "ai-output", chunk)
        if number in steps:
            step = steps.index(number)
            yield _line(at_ms, "progress", _json({"step": _STEPS[step], "percent": step * 10}))
    yield _json({"at_ms": at_ms + 400, "status": "COMPLETED_SUCCESSFULLY"})


def _ai_chunks() -> Iterator[str]:
    """The chunks of one AI SDK message, as JSON text; some are written in the odd ways that an archive has to keep."""
    call = {"toolCallId": "call_7", "toolName": "waterPower"}
    yield _json({"type": "start", "messageId": "msg_mill"})
    yield '{"type":"start-step"}'
    yield '{"type":"reasoning-start","id":"rsn_1"}'
    for word in _words(_THINKING):
        yield _json({"type": "reasoning-delta", "id": "rsn_1", "delta": word})
    yield '{"type":"reasoning-end","id":"rsn_1"}'
    yield _json({"type": "tool-input-start", **call})
    for part in re.findall(r"[^,]+,?", _TOOL_INPUT):
        yield _json({"type": "tool-input-delta", "toolCallId": "call_7", "inputTextDelta": part})
    yield _json({"type": "tool-input-available", **call})[:-1] + f',"input":{_TOOL_INPUT}}}'
    yield '{"type": "tool-output-available", "toolCallId": "call_7", "output": {"kw": 3.50, "note": "\\u2248 5 hp"}}'
    yield '{"type":"finish-step"}'
    yield '{"type":"start-step"}'
    yield '{"type":"text-start","id":"txt_1"}'
    for number, word in enumerate(_words(_ANSWER)):
        if number % 97 == 41:  # the keys in another order
            yield f'{{"id":"txt_1","delta":{json.dumps(word, ensure_ascii=False)},"type":"text-delta"}}'
        elif word[0] in "“💧🧹„":  # escapes where none are needed
            yield f'{{"type":"text-delta","id":"txt_1","delta":{json.dumps(word)}}}'
        else:
            yield _json({"type": "text-delta", "id": "txt_1", "delta": word})
    yield '{"type":"text-end","id":"txt_1"}'
    yield '{"type":"data-usage","data":{"input":212,"output":1.10e3,"cost":0.00310},"transient":true}'
    yield '{"type":"finish-step"}'
    yield '{"type":"finish","finishReason":"stop"}'


def _report_lines() -> Iterator[str]:
    """A table of measurements, some of its lines in the shapes that Redis leaves: two in an entry, one over two."""
    chance = random.Random(2)
    at_ms = 80
    yield _line(at_ms, "report", _json({"heading": "Head race and tail race, October 2026", "unit": "m"}))
    for reading in range(198):
        at_ms += 40
        level = 1.10 + chance.randint(-9, 9) / 100
        day, hour = divmod(reading, 6)
        row = f'{{"day":{day % 31 + 1},"hour":{hour * 4},"head":{level:.2f},"back":{level - 0.7:.2f}}}'
        if reading % 50 == 20:
            yield _json({"at_ms": at_ms, "stream": "report", "entry": f'{row}\n{{"flag":"gate moved"}}\n'})
        elif reading % 50 == 40:
            yield _json({"at_ms": at_ms, "stream": "report", "entry": row[:12]})
            yield _json({"at_ms": at_ms, "stream": "report", "entry": row[12:] + "\n"})
        else:
            yield _line(at_ms, "report", row)
    yield _line(at_ms + 40, "report", '"end of report"')
    yield _json({"at_ms": at_ms + 300, "status": "COMPLETED_SUCCESSFULLY"})


def _words(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)


def _line(at_ms: int, key: str, chunk: str) -> str:
    return f'{{"at_ms":{at_ms},"stream":"{key}","chunk":{chunk}}}'


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _file(run: dict[str, object], lines: Iterator[str]) -> str:
    return "\n".join([_json(run), *lines]) + "\n"


if __name__ == "__main__":
    write_recordings(DIRECTORY)
