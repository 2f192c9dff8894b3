"""`tailrace status` as a person sees it in a terminal of 100 columns, and as a program reads it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.cli.columns import cells
from tests.acceptance.cli_runner import DEADLINE_S, Cli, cli_for, kept
from tests.integration.schema_rows import Archive

COLUMNS, LINES = 100, 50
LONG = "a-stream-key-that-somebody-has-made-of-all-they-knew-" * 4
ERROR = "Upstream answered 502: " + "words " * 60 + "and the last of them"
DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


class Terminal:
    """A command in a terminal. ``text``: all that it has written, without what moves the cursor or colours."""

    def __init__(self, cli: Cli, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace", *arguments],
            cwd=cli.cwd,
            env={**kept(), **cli.environ, "TERM": "xterm-256color"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._written = b""

    @property
    def text(self) -> str:
        plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self._written)
        return plain.replace(b"\r\n", b"\n").replace(b"\r", b"\n").decode()  # a line that is drawn anew is another

    def read_until(self, part: str | None) -> None:
        """Read until it has written this; None: until it ends."""
        until = time.monotonic() + DEADLINE_S
        while part is None or part not in self.text:
            assert time.monotonic() < until, f"not within {DEADLINE_S:g} s: {part}\n{self.text}"
            if not select.select([self._ours], [], [], 0.2)[0]:
                continue
            try:
                more = os.read(self._ours, 65536)
            except OSError:  # Linux says so when nobody has the other side open
                more = b""
            if not more:
                assert part is None, f"it ended without {part}:\n{self.text}"
                return
            self._written += more

    def end(self) -> int:
        self.read_until(None)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@contextlib.contextmanager
def terminal(cli: Cli, *arguments: str) -> Iterator[Terminal]:
    made = Terminal(cli, *arguments)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    with archive.connection:
        yield archive


@pytest.fixture
def cli(tmp_path: Path, database_url: str, archive: Archive) -> Cli:
    """An archive in which there is something to tell of everything."""
    archive.run(
        "INSERT INTO tailrace.workers (id, host, pid, pool, slots, expires_at, lease_s)"
        " VALUES (gen_random_uuid(), 'web-1', 812, 'gevent', 200, now() + interval '1 hour', 3610)"
    )
    for key in ("ai", LONG, f"{LONG[:-1]}2", f"{LONG}3"):
        stream = archive.stream("run_cm3x9k2l80001qwer5tyu8iop", key)
        archive.segment(stream, ["1", "2", "3"])
    archive.run(
        "UPDATE tailrace.streams SET state = 'active', lag = 145, last_chunk_index = 2, chunk_count = 3, lost_count = 1,"
        " last_error = %s, last_chunk_at = now(), worker_id = (SELECT id FROM tailrace.workers)",
        ERROR,
    )
    archive.run("UPDATE tailrace.runs SET state = 'watched'")
    return cli_for(tmp_path, database_url=database_url)


def test_in_a_terminal_no_line_is_wider_than_it_and_what_was_cut_stands_below(cli: Cli) -> None:
    with terminal(cli, "status", "run_cm3x9k2l80001qwer5tyu8iop") as shown:
        assert shown.end() == 0
    lines = shown.text.splitlines()
    assert max(cells(line) for line in lines) <= COLUMNS
    assert re.fullmatch(r"1 worker, beat \d+s · slots 4/200 · 4 active · lag 145/\d+[smhd]", lines[0]), lines[0]
    (heading,) = (number for number, line in enumerate(lines) if line.startswith("stream "))
    rows = lines[heading + 1 : heading + 5]
    assert all("active" in row and " 145/" in row and "web-1:812" in row for row in rows)
    assert len({row.partition(" ")[0] for row in rows}) == 4
    below = "".join(lines[heading + 5 :])
    for key in (LONG, f"{LONG[:-1]}2", f"{LONG}3"):
        assert key in below
    assert below.count("and the last of them") == 4


def test_runs_are_one_line_each_with_their_whole_ids(cli: Cli) -> None:
    with terminal(cli, "status") as shown:
        assert shown.end() == 0
    lines = shown.text.splitlines()
    assert max(cells(line) for line in lines) <= COLUMNS
    assert len([line for line in lines if line.startswith("run_cm3x9k2l80001qwer5tyu8iop  open 0/4")]) == 1, lines


def test_watching_shows_what_is_new_and_ends_well_with_ctrl_c(cli: Cli, archive: Archive) -> None:
    with terminal(cli, "status", "--watch") as shown:
        shown.read_until("run_cm3x9k2l80001qwer5tyu8iop")
        archive.stream("run_new")
        shown.read_until("run_new")
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == 0
    assert "Traceback" not in shown.text
    assert max(cells(line) for line in shown.text.splitlines()) <= COLUMNS


@pytest.mark.parametrize("more", [(), ("--json",), ("run_cm3x9k2l80001qwer5tyu8iop",)])
def test_watching_needs_a_terminal(cli: Cli, more: tuple[str, ...]) -> None:
    done = cli.run("status", "--watch", *more)
    assert (done.code, done.stdout) == (2, b"")
    assert "--watch needs a terminal" in done.stderr


def test_off_a_terminal_nothing_is_cut(cli: Cli) -> None:
    printed = cli.run("status", "run_cm3x9k2l80001qwer5tyu8iop").stdout.decode()
    for part in (LONG, ERROR):
        assert part in printed
    assert "\x1b" not in printed


# --- for programs


def documented() -> set[str]:
    rows = re.findall(
        r"^\| (`(?:fleet|halted|run|stream)\..+?`) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    return {key for row in rows for key in re.findall(r"`([\w.]+)`", row)}


def keys(name: str, value: Any) -> set[str]:
    """The names of all there is in a JSON value; those in a list are those of each of it."""
    if isinstance(value, dict):
        return {f"{name}.{key}" for key in value}.union(*(keys(f"{name}.{key}", each) for key, each in value.items()))
    if isinstance(value, list):
        return set[str]().union(*(keys(name, each) for each in value))
    return set()


def test_json_has_the_keys_that_are_documented(cli: Cli, archive: Archive) -> None:
    archive.run("UPDATE tailrace.environments SET halted_at = now(), halted_reason = 'refused'")
    all_runs = json.loads(cli.run("status", "--json").stdout)
    one_run = json.loads(cli.run("status", "run_cm3x9k2l80001qwer5tyu8iop", "--json").stdout)
    assert set(all_runs) == {"fleet", "halted", "runs"}
    assert set(one_run) == {"fleet", "halted", "run", "streams"}
    assert keys("run", all_runs["runs"]) == keys("run", one_run["run"])
    found = set[str]().union(
        *(keys(name, one_run[place]) for name, place in (("fleet", "fleet"), ("halted", "halted"), ("run", "run"))),
        keys("stream", one_run["streams"]),
    )
    assert found == documented()
    assert one_run["fleet"]["behind"]["run_id"] == "run_cm3x9k2l80001qwer5tyu8iop"
    assert one_run["run"]["workers"] == ["web-1:812"]
    assert one_run["run"]["last_error"] == ERROR
