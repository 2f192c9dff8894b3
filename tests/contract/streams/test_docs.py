"""Every example of docs/streams-api.md does what the page says, against the stand-in upstream."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tailrace import streams
from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tests.streamcases import Place, World, running_wsgi
from tests.upstream import running

PAGE = Path(__file__).parents[3] / "docs" / "streams-api.md"

TEXTS = ["Once", " upon", " a time"]
MESSAGES: list[dict[str, str]] = [
    {"type": "start", "messageId": "m1"},
    {"type": "reasoning-delta", "id": "r", "delta": "They greet me."},
    {"type": "text-start", "id": "t"},
    {"type": "text-delta", "id": "t", "delta": "Hello, "},
    {"type": "text-delta", "id": "t", "delta": "world"},
    {"type": "finish"},
]


@dataclass
class Example:
    """A piece of code of the page, and what it says it prints."""

    name: str
    run: str
    code: str
    output: str
    line: int


def examples() -> list[Example]:
    found = re.finditer(
        r"<!-- example: ([^\n]*?)(?:, run=(\w+))? -->\n```python\n(.*?)```\n\n```text\n(.*?)```\n",
        PAGE.read_text(),
        re.DOTALL,
    )
    text = PAGE.read_text()
    return [
        Example(each[1], each[2] or "finished", each[3], each[4], text[: each.start(3)].count("\n")) for each in found
    ]


EXAMPLES = examples()


def apps() -> dict[str, str]:
    return dict(re.findall(r"<!-- app: (\w+) -->\n```python\n(.*?)```\n", PAGE.read_text(), re.DOTALL))


@pytest.fixture
def environment(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the page says is in the environment."""
    monkeypatch.setenv("TRIGGER_SECRET_KEY", DEFAULT_KEY)
    monkeypatch.setenv("TRIGGER_API_URL", world.server.url)
    monkeypatch.setenv("TAILRACE_DATABASE_URL", world.archiver.url)
    yield
    streams.configure(None)


def prepared(world: World, kind: str) -> Place:
    """The run that an example is about."""
    place = world.place(Wire.V2, tags=["docs"])
    place.write("default", ['{"log":"started"}'])
    place.write("ai-output", [json.dumps(text) for text in TEXTS])
    place.write("progress", ['{"percent":50}', '{"percent":100}'])
    place.write("messages", [json.dumps(message) for message in MESSAGES])
    match kind:
        case "finished":
            place.finish()
        case "flaky":
            place.finish()
            place.faults.stream(place.run_id, "ai-output").answer(503)
        case "broken":
            place.faults.stream(place.run_id, "ai-output").answer(503, times=10)
        case "archived":
            place.archive("ai-output", 2)
            place.finish()
        case _:
            assert kind == "live"
    return place


def test_every_row_has_an_example_in_both_flavours() -> None:
    names = [example.name for example in EXAMPLES]
    assert len(names) == PAGE.read_text().count("<!-- example:") == len(set(names))
    blocking = {name for name in names if not name.endswith(", asyncio")}
    assert {name.removesuffix(", asyncio") for name in names} == blocking
    assert len(blocking) >= 13
    for example in EXAMPLES:
        assert ("asyncio" in example.code) == example.name.endswith(", asyncio")
    assert PAGE.read_text().count("```python") == len(EXAMPLES) + len(apps())


@pytest.mark.parametrize("example", EXAMPLES, ids=[each.name for each in EXAMPLES])
@pytest.mark.usefixtures("environment")
def test_an_example_prints_what_the_page_says(world: World, example: Example) -> None:
    place = prepared(world, example.run)
    printed = io.StringIO()
    code = compile("\n" * example.line + example.code, str(PAGE), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(printed):
        exec(code, {"run_id": place.run_id, "__name__": "example"})
    found = printed.getvalue().replace(world.server.url, "https://api.trigger.dev")
    assert found.strip() == example.output.strip()
    for key in ("ai-output", "progress", "messages", "default", "quiet"):
        assert place.left(key)
    world.server.faults.clear()


@pytest.mark.parametrize("name", ["flask", "starlette"])
@pytest.mark.usefixtures("environment")
def test_an_app_serves_events(world: World, name: str) -> None:
    place = prepared(world, "finished")
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(apps()[name], str(PAGE), "exec", dont_inherit=True), scope)
    with serving(name, scope["app"]) as url, httpx.Client(base_url=url, trust_env=False) as client:
        refused = client.get("/stream")
        assert (refused.status_code, refused.text) == (400, "Missing runId")
        answer = client.get("/stream", params={"runId": place.run_id})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.text == "".join(f'id: {at}\ndata: {{"chunk":{json.dumps(t)}}}\n\n' for at, t in enumerate(TEXTS))
        rest = client.get("/stream", params={"runId": place.run_id}, headers={"Last-Event-ID": "1"})
        assert rest.text == 'id: 2\ndata: {"chunk":" a time"}\n\n'


@contextlib.contextmanager
def serving(name: str, app: Any) -> Iterator[str]:
    """Serve an application of the page."""
    if name == "starlette":
        with running(app) as server:
            yield server.url
        return
    with running_wsgi(app) as url:
        yield url
