"""Each command's help has examples, and each of them is a command line that is taken."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from tailrace.cli.app import GROUPS, PANELS, app
from tailrace.cli.examples import EXAMPLES

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_every_command_has_an_example_in_its_help() -> None:
    verbs = {verb.__name__ for verbs in PANELS.values() for verb in verbs}
    assert set(EXAMPLES) == set(COMMANDS) == verbs | {group.info.name for groups in GROUPS.values() for group in groups}
    for name, command in COMMANDS.items():
        assert EXAMPLES[name], name
        assert all(f"`{example.line}`" in command.epilog for example in EXAMPLES[name])


@pytest.mark.parametrize("line", [example.line for examples in EXAMPLES.values() for example in examples])
def test_an_example_can_be_parsed(line: str) -> None:
    program, verb, *arguments = shlex.split(line)
    assert program == "tailrace"
    command = COMMANDS[verb]
    while hasattr(command, "commands"):  # a group: the next word is a verb of its own
        verb, *arguments = arguments
        command = command.commands[verb]
    assert command.make_context(verb, arguments).params is not None


def test_every_example_says_what_it_does_in_its_own_words() -> None:
    said = [example.does for examples in EXAMPLES.values() for example in examples]
    assert len(said) == len(set(said))
    assert not any(text.endswith((".", ":")) for text in said)
