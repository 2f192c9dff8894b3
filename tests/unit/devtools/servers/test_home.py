"""The home directory: who may read it, and what it remembers."""

from __future__ import annotations

import os
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
    places = {tmp_path / "a" / "home", home.path}
    assert {stat.S_IMODE(place.stat().st_mode) for place in places} == {0o700}
    files = [path for place in places for path in place.iterdir() if path.is_file()]
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {
        ".gitignore": 0o600,
        "state.json": 0o600,
    }


def test_a_home_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    Home(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's home is elsewhere")
class TestRootsHome:
    """Only a link is in it: the servers run as an account that may not enter root's own directories."""

    def test_its_files_are_another_accounts_and_private(self, tmp_path: Path, shared: Path) -> None:
        home = Home(tmp_path / "home")
        home.create()
        home.save(home.load())
        assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [".gitignore", "servers"]
        assert home.path.parent == shared
        assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
        assert home.account is not None
        assert {path.stat().st_uid for path in (home.path, *home.path.iterdir())} == {home.account.uid}

    def test_a_home_that_was_moved_keeps_its_files(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "home")
        home.create()
        home.save(State("p"))
        (tmp_path / "home").rename(tmp_path / "moved")
        moved = Home(tmp_path / "moved")
        moved.create()
        assert moved.load() == State("p")

    def test_one_whose_files_were_removed_is_made_anew(self, tmp_path: Path) -> None:
        home = Home(tmp_path / "home")
        home.create()
        home.path.rmdir()
        assert home.exists() is False
        home.create()
        assert home.path.is_dir()

    def test_a_link_in_somebody_elses_home_is_not_followed(self, tmp_path: Path) -> None:
        os.chown(tmp_path, 65_534, 65_534)
        (tmp_path / "servers").symlink_to("/etc")
        home = Home(tmp_path)
        assert home.path == tmp_path
        assert home.account is not None
        assert home.account.uid == 65_534


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
