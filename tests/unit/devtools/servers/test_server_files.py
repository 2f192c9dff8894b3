"""What the servers are told and how their files are read; no server runs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tailrace.devtools.servers import binaries, process, up
from tailrace.devtools.servers.home import Home, State
from tailrace.devtools.servers.postgres import Postgres
from tailrace.devtools.servers.valkey import Valkey, _quoted
from tailrace.errors import BadSettings

READY = "4711\n/data\n1700000000\n5555\n\n127.0.0.1\n  1 2\nready   \n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (READY, True),
        (READY.replace("ready   ", "starting"), False),
        (READY.replace("5555", "5556"), False),  # another port than the one we chose
        ("\n".join(READY.split("\n")[:4]), False),  # just being written
        ("", False),
    ],
)
def test_postgres_is_ready_when_its_pid_file_says_so(tmp_path: Path, text: str, expected: bool) -> None:
    server = Postgres(Home(tmp_path))
    server.directory.mkdir()
    (server.directory / "postmaster.pid").write_text(text)
    assert server._answers(State("p", {"postgres": 5555})) is expected


def test_no_password_is_on_a_command_line(tmp_path: Path) -> None:
    state = State("secret", {"postgres": 1, "valkey": 2})
    for server in (Postgres(Home(tmp_path)), Valkey(Home(tmp_path))):
        assert not [word for word in server._command(state).argv() if "secret" in word]


def test_our_secrets_are_not_in_the_environment_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGER_SECRET_KEY", "tr_dev_x")
    monkeypatch.setenv("PGPORT", "1")
    assert not {"TRIGGER_SECRET_KEY", "PGPORT"} & process.environment().keys()


@pytest.mark.parametrize("text", ["plain", "with space", 'with "quotes"', "back\\slash", "line\nend", ""])
def test_valkey_gets_every_path_as_one_word(text: str) -> None:
    assert shlex.split(_quoted(text).replace("\\n", "\n")) == [text]


@pytest.mark.parametrize("text", ["", "x", "99999999", "0", "-1"])
def test_a_pid_file_with_nonsense_means_that_nothing_runs(tmp_path: Path, text: str) -> None:
    server = Valkey(Home(tmp_path))
    server.directory.mkdir()
    (server.directory / "valkey.pid").write_text(text)
    assert server.pid is None


def test_a_living_process_that_is_not_the_server_is_not_taken_for_it(tmp_path: Path) -> None:
    server = Valkey(Home(tmp_path))
    server.directory.mkdir()
    (server.directory / "valkey.pid").write_text(str(os.getpid()))
    assert server.pid is None
    assert server.stop() is False


def test_without_the_extra_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    with pytest.raises(BadSettings, match="not installed"):
        up(tmp_path / "home")
    assert not (tmp_path / "home").exists()
