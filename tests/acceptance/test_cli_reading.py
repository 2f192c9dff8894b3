"""`chunks`, `text`, `sql` and `status` on an archive that holds odd things."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from tailrace.model import Wire
from tailrace.serve.timing import Timing
from tests.acceptance.cli_runner import DEADLINE_S, Cli, cli_for, kept
from tests.conftest import PostgresServer, database
from tests.upstream import create_app, running
from tests.upstream.live import LiveStore

ODD = [
    b'{"type":"text-delta","id":"1","delta":"a\\u0000\\ud800"}',
    b'{\n "type": "text-delta",\r\n "delta": "b", "delta": "c"}',
    '"ä \u2028 💧 \x7f"'.encode(),
    b"1e999",
    b"null",
]
WORDS = [b'{"type":"text-delta","id":"1","delta":"Hello "}', b'{"type":"text-delta","id":"1","delta":"world"}']


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Cli:
    """The command, on an archive with two runs: run_odd and run_text."""
    store = LiveStore()
    store.create_run("run_odd")
    store.append_chunks("run_odd", "odd", ODD)
    store.create_run("run_text", Wire.V1, tags=["x"])
    store.append_chunks("run_text", "ai", WORDS)
    store.append_chunks("run_text", "log", ['"one"', '"two"'])
    store.append_chunk("run_text", "none", "{}")
    for run_id in ("run_odd", "run_text"):
        store.finish_run(run_id)
    with running(create_app(store, timing=Timing().scaled(0.1))) as server:
        cli = cli_for(tmp_path_factory.mktemp("cli"), database_url=module_database_url, api_url=server.url)
        for run_id in ("run_odd", "run_text"):
            done = cli.run("ingest", run_id, "--local")
            assert done.code == 0, done
    return cli


@pytest.fixture(scope="module")
def module_database_url(
    postgres_server: PostgresServer, administrator: psycopg.Connection, template_database: str
) -> Iterator[str]:
    """A database for all tests of this module: none of them writes."""
    with database(postgres_server, administrator, template_database) as url:
        yield url


# --- chunks


def test_chunks_come_out_as_they_were_sent_line_ends_inside_included(filled: Cli) -> None:
    assert filled.run("chunks", "run_odd").stdout == b"".join(text + b"\n" for text in ODD)


def test_a_locale_without_utf8_changes_nothing(filled: Cli) -> None:
    done = filled.with_(LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii", PGCLIENTENCODING="LATIN1").run(
        "chunks", "run_odd"
    )
    assert done.stdout == b"".join(text + b"\n" for text in ODD)


def test_chunks_as_json_say_where_each_belongs(filled: Cli) -> None:
    rows = [json.loads(line) for line in filled.run("chunks", "run_odd", "--json").stdout.split(b"\n") if line]
    assert rows == [
        {"stream_key": "odd", "generation": 0, "index": index, "data_text": text.decode()}
        for index, text in enumerate(ODD)
    ]


def test_streams_follow_each_other_by_key(filled: Cli) -> None:
    assert filled.run("chunks", "run_text").stdout.splitlines() == [*WORDS, b'"one"', b'"two"', b"{}"]


@pytest.mark.parametrize(
    ("range_", "indices"),
    [
        ((), [0, 1, 2, 3, 4]),
        (("--from", "3"), [3, 4]),
        (("--to", "1"), [0, 1]),
        (("--from", "1", "--to", "1"), [1]),
        (("--from", "5"), []),
        (("--from", "3", "--to", "2"), []),
    ],
)
def test_a_range_includes_both_ends(filled: Cli, range_: tuple[str, ...], indices: list[int]) -> None:
    done = filled.run("chunks", "run_odd", *range_)
    assert done.code == 0
    assert done.stdout == b"".join(ODD[index] + b"\n" for index in indices)


@pytest.mark.parametrize("arguments", [("run_none",), ("run_odd", "--stream", "other"), ("run_odd", "-e", "elsewhere")])
@pytest.mark.parametrize("verb", ["chunks", "text"])
def test_what_is_not_there_is_said(filled: Cli, verb: str, arguments: tuple[str, ...]) -> None:
    done = filled.run(verb, *arguments)
    assert done.code == 1, done
    assert done.stdout == b""
    assert "not in the archive" in done.stderr or "no stream 'other'" in done.stderr


def test_a_reader_that_ends_first_is_no_error_message(filled: Cli) -> None:
    command = f"{sys.executable} -P -m tailrace chunks run_odd --json | true"
    environ = {**filled.environ, "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["/bin/sh", "-c", command], cwd=filled.cwd, env=environ, capture_output=True, check=False)
    assert done.stderr == b""


# --- text


def test_the_text_of_one_stream_is_printed_alone(filled: Cli) -> None:
    assert filled.run("text", "run_text", "--stream", "ai").stdout == b"Hello world\n"


def test_several_texts_are_headed_by_their_streams(filled: Cli) -> None:
    assert filled.run("text", "run_text").stdout == b"== ai\nHello world\n== log\nonetwo\n"


def test_text_as_json_names_streams_without_text_too(filled: Cli) -> None:
    rows = [json.loads(line) for line in filled.run("text", "run_text", "--json").stdout.splitlines()]
    assert {row["stream_key"]: row["text"] for row in rows} == {"ai": "Hello world", "log": "onetwo", "none": None}


def test_no_text_is_said(filled: Cli) -> None:
    done = filled.run("text", "run_text", "--stream", "none")
    assert (done.code, done.stdout) == (0, b"")
    assert "no text" in done.stderr


# --- sql


def test_a_query_answers_as_table_json_and_csv(filled: Cli) -> None:
    query = """
        SELECT stream_key, count(*) AS n, NULL AS nothing
        FROM tailrace.chunks WHERE run_id = 'run_text' GROUP BY 1 ORDER BY 1
    """
    assert json.loads(filled.run("sql", query, "--json").stdout.splitlines()[0]) == {
        "stream_key": "ai",
        "n": 2,
        "nothing": None,
    }
    rows = list(csv.reader(io.StringIO(filled.run("sql", query, "--csv").stdout.decode())))
    assert rows == [["stream_key", "n", "nothing"], ["ai", "2", ""], ["log", "2", ""], ["none", "1", ""]]
    table = filled.run("sql", query).stdout.decode()
    assert [line.split() for line in table.splitlines()[2:]] == [["ai", "2"], ["log", "2"], ["none", "1"]]


def test_json_columns_come_out_as_they_are_stored(filled: Cli) -> None:
    done = filled.run("sql", "SELECT data FROM tailrace.chunks WHERE run_id = 'run_odd' ORDER BY chunk_index", "--json")
    lines = done.stdout.split(b"\n")[:-1]
    assert len(lines) == len(ODD)
    kept = [text.replace(b"\n", b" ").replace(b"\r", b" ") for text in ODD]
    assert lines == [b'{"data": ' + text + b"}" for text in kept]


ODD_TIMES = {
    "timestamptz 'infinity'": "infinity",
    "timestamp '-infinity'": "-infinity",
    "date 'infinity'": "infinity",
    "date '0044-03-15 BC'": "0044-03-15 BC",
    "timestamp '10000-01-01 00:00'": "10000-01-01 00:00:00",
    "time '24:00'": "24:00:00",
    "interval '178000000 years 1 month'": "178000000 years 1 mon",
    "ARRAY[date '-infinity', '2026-11-28']": '["-infinity", "2026-11-28"]',
    "timestamp '2026-11-28 12:00'": "2026-11-28T12:00:00",
    "(SELECT taken_at FROM tailrace.tallied UNION ALL SELECT '-infinity' ORDER BY 1 LIMIT 1)": "-infinity",
}
"""What Python has no value for, between others, and how it is shown."""


def test_times_that_python_has_no_value_for_come_out_in_every_form(filled: Cli) -> None:
    query = f"SELECT {', '.join(f'{time} AS c{number}' for number, time in enumerate(ODD_TIMES))}"
    names, cells = [f"c{number}" for number in range(len(ODD_TIMES))], list(ODD_TIMES.values())
    found = json.loads(filled.run("sql", query, "--json").stdout)
    assert found.pop("c7") == ["-infinity", "2026-11-28"]
    assert list(found.values()) == [cell for cell in cells if not cell.startswith("[")]
    assert list(csv.reader(io.StringIO(filled.run("sql", query, "--csv").stdout.decode()))) == [names, cells]
    assert re.split("  +", filled.run("sql", query).stdout.decode().splitlines()[2].strip()) == cells
    lines = filled.run("sql", query, "-x").stdout.decode().splitlines()[1:]
    assert [line.split(" | ") for line in lines] == [[name, cell] for name, cell in zip(names, cells, strict=True)]


def test_percent_signs_and_colons_mean_nothing(filled: Cli) -> None:
    done = filled.run("sql", "SELECT '%s %(a)s :b %%' AS \":c\"", "--json")
    assert json.loads(done.stdout) == {":c": "%s %(a)s :b %%"}


def test_a_statement_can_come_from_stdin(filled: Cli) -> None:
    assert filled.run("sql", "-", "--csv", stdin=b"SELECT 1 AS a").stdout == b"a\n1\n"


@pytest.mark.parametrize("query", ["EXPLAIN SELECT 1", "SHOW server_version", "VALUES (1)", "TABLE tailrace.runs"])
def test_every_statement_that_reads_is_taken(filled: Cli, query: str) -> None:
    assert filled.run("sql", query).code == 0


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM tailrace.runs",
        "DELETE FROM tailrace.runs RETURNING id",
        "WITH gone AS (DELETE FROM tailrace.runs RETURNING id) SELECT * FROM gone",
        "SELECT 1; DELETE FROM tailrace.runs",
        "COMMIT",
        "SET TRANSACTION READ WRITE",
        "SELECT tailrace.request_ingest('run_new')",
        "SELECT nextval('tailrace.id_bits')",
        "CREATE TABLE x ()",
        "COPY tailrace.runs TO STDOUT",
        "",
    ],
)
def test_nothing_that_writes_is_taken(filled: Cli, query: str) -> None:
    done = filled.run("sql", query)
    assert done.code == 1, done
    assert done.stdout == b""
    with psycopg.connect(filled.environ["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT count(*) FROM tailrace.runs").fetchone() == (2,)


def test_a_query_has_the_rights_of_the_url(filled: Cli) -> None:
    """It is no wall: what its owner may do without a transaction that writes, a query may do."""
    owner = urlsplit(filled.environ["DATABASE_URL"]).username
    done = filled.run("sql", "SELECT current_user, length(pg_read_file('PG_VERSION')) > 0", "--csv")
    assert done.stdout.decode().splitlines()[1:] == [f"{owner},true"], done


def test_a_query_that_takes_too_long_is_ended(filled: Cli) -> None:
    done = filled.run("sql", "SELECT pg_sleep(30)", "--timeout", "0.2", timeout_s=15)
    assert done.code == 1
    assert "--timeout" in done.stderr


def test_a_query_without_its_schema_says_where_the_views_are(filled: Cli) -> None:
    done = filled.run("sql", "SELECT * FROM chunkz")
    assert done.code == 1
    assert "tailrace.chunks" in done.stderr


def test_a_table_of_many_rows_says_that_it_is_cut(filled: Cli) -> None:
    done = filled.run("sql", "SELECT generate_series(1, 5000)")
    assert done.code == 0
    assert "only the first 1000 rows" in done.stderr
    assert filled.run("sql", "SELECT generate_series(1, 5000)", "--csv").stdout.count(b"\n") == 5001


def test_expanded_has_a_line_for_each_column(filled: Cli) -> None:
    query = "SELECT stream_key, text FROM tailrace.stream_text WHERE run_id = 'run_text' ORDER BY 1 LIMIT 1"
    assert filled.run("sql", query, "--expanded").stdout == b"-[ 1 ]------\nstream_key | ai\ntext       | Hello world\n"
    assert filled.run("sql", "SELECT 1 WHERE false", "-x").stdout == b""
    assert filled.run("sql", query, "-x", "--json").code == 2


def test_on_a_terminal_wide_rows_are_expanded_and_long_answers_paged(filled: Cli) -> None:
    """``PAGER`` says that it was there; a screen has 24 lines of 80 columns."""
    paging = filled.with_(PAGER="sed 's/^/paged: /'", TERM="dumb")
    short = on_a_terminal(paging, "sql", "SELECT 1 AS a, 2 AS b")
    assert [line.split() for line in short.splitlines()[2:]] == [["1", "2"]]
    wide = on_a_terminal(paging, "sql", "SELECT repeat('x', 50) AS a, repeat('y', 50) AS b")
    assert wide.splitlines() == ["-[ 1 ]-", f"a | {'x' * 50}", f"b | {'y' * 50}"]
    asked = on_a_terminal(paging, "sql", "SELECT repeat('x', 50) AS a, repeat('y', 50) AS b", "--no-expanded")
    assert "-[ 1 ]" not in asked
    long = on_a_terminal(paging, "sql", "SELECT generate_series(1, 30)").splitlines()
    assert all(line.startswith("paged: ") for line in long)
    assert [line.split()[-1] for line in long[-30:]] == [str(n) for n in range(1, 31)]
    none = on_a_terminal(paging.with_(PAGER="no-such-pager-here"), "sql", "SELECT generate_series(1, 30)")
    assert none.splitlines()[-1].strip() == "30"


def test_a_pager_that_is_left_early_is_no_error(filled: Cli) -> None:
    """It reads a line of much more than a pipe holds."""
    left = on_a_terminal(filled.with_(PAGER="head -n 3"), "sql", "SELECT repeat('x', 70), generate_series(1, 1000)")
    assert len(left.splitlines()) == 3


def on_a_terminal(cli: Cli, *arguments: str) -> str:
    """Run a command on a terminal of 24 lines of 80 columns; return what is on it when the command has ended well."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tailrace", *arguments],
        cwd=cli.cwd,
        env={**kept(), **cli.environ},
        stdin=its,
        stdout=its,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says when nobody has the other end any more
            while piece := os.read(ours, 65_536):
                shown += piece
        os.close(ours)
        assert process.wait(DEADLINE_S) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r\n", "\n")


# --- status


def test_status_shows_runs_and_streams(filled: Cli) -> None:
    runs = json.loads(filled.run("status", "--json").stdout)["runs"]
    assert [(run["run_id"], run["state"], run["chunks"]) for run in runs] == [
        ("run_text", "sealed", 5),
        ("run_odd", "sealed", 5),
    ]
    one = json.loads(filled.run("status", "run_odd", "--json").stdout)
    assert one["run"]["status"] == "COMPLETED"
    assert [(each["stream_key"], each["verdict"], each["chunks"]) for each in one["streams"]] == [
        ("odd", "complete", 5)
    ]
    assert "run_odd" in filled.run("status").stdout.decode()
    assert "complete" in filled.run("status", "run_odd").stdout.decode()
    assert len(json.loads(filled.run("status", "--json", "--limit", "1").stdout)["runs"]) == 1


def test_a_run_in_two_environments_asks_which(filled: Cli) -> None:
    with psycopg.connect(filled.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("INSERT INTO tailrace.environments (name, api_url) VALUES ('other', 'http://x')")
        connection.execute("SELECT tailrace.request_ingest('run_odd', NULL, 'other')")
        try:
            done = filled.run("chunks", "run_odd")
            assert done.code == 2, done
            assert "--environment" in done.stderr
            assert filled.run("chunks", "run_odd", "-e", "default").stdout.count(b"\n") == len(ODD) + 2
        finally:
            connection.execute("DELETE FROM tailrace.runs WHERE environment_id <> 1")
