"""The home directory: who may read it, and what it remembers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tailrace.devtools.servers.home import Endpoints, Home, State, home_directory
from tailrace.errors import BadSettings


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "/project/.tailrace"),
        ({"TAILRACE_HOME": ""}, "/project/.tailrace"),
        ({"TAILRACE_HOME": "/var/lib/mine"}, "/var/lib/mine"),
        ({"TAILRACE_HOME": "elsewhere"}, "/project/elsewhere"),
    ],
)
def test_the_home_is_in_the_current_directory_unless_the_environment_says_otherwise(
    environ: dict[str, str], expected: str
) -> None:
    assert home_directory(environ, Path("/project")) == Path(expected)


def test_a_new_home_is_private_and_so_are_its_files(tmp_path: Path) -> None:
    home = Home(tmp_path / "a" / "home")
    home.create()
    home.save(home.load())
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in home.path.iterdir()} == {
        ".gitignore": 0o600,
        "state.json": 0o600,
    }


def test_a_home_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    Home(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_a_home_that_exists_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine\n")
    Home(tmp_path).create()
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


def test_a_directory_that_everybody_may_write_in_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(BadSettings, match="everybody may write"):
        Home(tmp_path).create()


def test_a_file_in_the_way_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(BadSettings, match=r"TAILRACE_HOME: .*home cannot be made"):
        Home(tmp_path / "home").create()


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    home = Home(tmp_path)
    state = State(password="p", ports={"postgres": 1, "valkey": 2})
    home.save(state)
    assert home.load() == state


def test_a_new_home_gets_a_new_password(tmp_path: Path) -> None:
    assert len({Home(tmp_path).load().password for _ in range(100)}) == 100


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"password": "x", "ports": {"postgres": "many"}}'])
def test_a_state_that_is_not_ours_is_refused_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(BadSettings, match=r"state\.json cannot be read .* remove the file"):
        Home(tmp_path).load()


def test_no_password_is_printed() -> None:
    assert "secret" not in repr(Endpoints("postgresql://x:secret@h/d", "redis://:secret@h/0"))
    assert "secret" not in repr(State("secret"))
