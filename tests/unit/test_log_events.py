"""docs/logs.md has a row for each event that the package logs, with its levels and its keys, and no others.

Events are found in the code itself: what is called on a logger, and what a `Failing` is about. An event whose name
could not be found so is refused here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "worker" / "tailrace"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
LOGGERS = frozenset({"log", "bound"})
BOUND = ("environment", "run_id", "stream_key", "lease_token")
"""What a reader's own logger, `bound`, has in every line (`service/runtime.py`)."""
ROW = re.compile(r"^\| `(\w+)` \| ([^|\n]+) \|([^|\n]*)\| ([^|\n]+) \| ([^|\n]+) \|$", re.MULTILINE)


class Event(NamedTuple):
    name: str
    level: str
    keys: frozenset[str]


def calls() -> Iterator[tuple[str, ast.Call, list[str]]]:
    """Every call in the package: its file, itself, and the parameters of the functions around it."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        pending: list[tuple[ast.AST, list[str]]] = [(ast.parse(path.read_text(encoding="utf-8")), [])]
        while pending:
            node, parameters = pending.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                given = node.args
                parameters = [*parameters, *(each.arg for each in (*given.args, *given.kwonlyargs))]
            if isinstance(node, ast.Call):
                yield name, node, parameters
            pending += [(child, parameters) for child in ast.iter_child_nodes(node)]


def literal(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def logged(file: str, call: ast.Call) -> Iterator[Event]:
    """What is called on a logger."""
    match call.func:
        case ast.Attribute(attr=level, value=ast.Name(id=logger)) if logger in LOGGERS and level in LEVELS:
            if file == "telemetry.py":
                return
            event = literal(call.args[0])
            assert event is not None, f"{file}:{call.lineno}: the event's name can't be read from the code"
            assert len(call.args) == 1, f"{file}:{call.lineno}: an event has keys, not arguments"
            keys = {each.arg for each in call.keywords} - {"exc_info"}
            assert None not in keys, f"{file}:{call.lineno}: keys that can't be read from the code"
            own = BOUND if logger == "bound" else ()
            level = "error" if level == "exception" else level
            yield Event(event, level, frozenset({*(key for key in keys if key), *own}))
        case ast.Attribute(attr=level) if level in {"exception", "critical"} and call.args:  # a task's has none
            raise AssertionError(f"{file}:{call.lineno}: a logger of another name than {sorted(LOGGERS)}")


def failing(file: str, call: ast.Call, parameters: list[str]) -> Iterator[Event]:
    """What a `Failing`, or a `Loop` with one, is about."""
    named = {each.arg: each.value for each in call.keywords}
    maker = call.func.id if isinstance(call.func, ast.Name) else None
    if maker == "Failing":
        what: ast.expr | None = call.args[0]
    elif maker == "Loop" or "what" in named:
        what = named["what"]
    else:
        return
    if isinstance(what, ast.Name) and what.id == "what" and "what" in parameters:
        return  # named by whoever calls the function around it
    about = literal(what)
    assert about is not None, f"{file}:{call.lineno}: what fails can't be read from the code"
    inside = {node.value for node in ast.walk(call) if isinstance(node, ast.Constant)}
    inside |= {node.id for node in ast.walk(call) if isinstance(node, ast.Name)} | named.keys()
    whose = frozenset({"environment"} if "environment" in inside else ())
    yield Event(f"{about}_failed", "warning", frozenset({"kind", "error"}) | whose)
    yield Event(f"{about}_recovered", "info", whose)


def events() -> dict[str, tuple[set[str], set[str]]]:
    """Levels and keys of each event, by its name."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for file, call, parameters in calls():
        for event in (*logged(file, call), *failing(file, call, parameters)):
            levels, keys = found.setdefault(event.name, (set(), set()))
            levels.add(event.level)
            keys |= event.keys
    return found


def documented() -> dict[str, tuple[set[str], set[str]]]:
    rows = ROW.findall((ROOT / "docs" / "logs.md").read_text(encoding="utf-8"))
    assert len({name for name, *_ in rows}) == len(rows), "an event has two rows"
    for name, _, _, meaning, to_do in rows:
        assert meaning.strip(), name
        assert to_do.strip(), name
    return {name: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", keys))) for name, levels, keys, *_ in rows}


def test_every_event_has_its_row_with_its_levels_and_keys() -> None:
    in_code = events()
    assert len(in_code) > 40
    assert documented() == in_code


def test_what_is_bound_to_a_readers_logger_is_what_is_documented_of_it() -> None:
    binds = [
        {each.arg for each in call.keywords}
        for file, call, _ in calls()
        if file == "service/runtime.py" and isinstance(call.func, ast.Attribute) and call.func.attr == "bind"
    ]
    assert binds == [set(BOUND)]


def test_one_word_for_one_thing() -> None:
    """``error``: the words of an error that was met. ``reason``: ours. Ids are named for what they are ids of."""
    keys = set().union(*(keys for _, keys in events().values()))
    assert not keys & {"stream", "run", "env", "exception", "exc", "message", "msg", "token", "index", "lease"}
    assert not [name for name, (_, keys) in events().items() if {"error", "reason"} <= keys]
