"""Every recorded wire case, served byte for byte and archived by the real command: what the archive then shows."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.cli_runner import cli_for
from tests.wirecases import DEFAULT_KEY, WireCase, case_names, load_case, running_case

QUICKLY = {
    "TAILRACE_SEAL_QUIET_SECONDS": "0.2",
    "TAILRACE_CONTROL_SECONDS": "0.1",
    "TAILRACE_WATCH_SECONDS": "0.1",
    "TAILRACE_RETRY_BASE_MS": "50",
    "TAILRACE_RETRY_CAP_MS": "200",
}

EXPECTED = [name for name in case_names() if load_case(name).expected_chunks is not None]
WRONG_OR_REFUSED = {
    # The rest of a line whose beginning was never sent is no chunk.
    "v1_c_resume_after_entry0": (['second line is split over three entries"}'], 3),
    "v1_c_resume_inside_split": (['it over three entries"}'], 3),
    "v1_c_resume_after_last_complete": ([], 0),
    # Redis refuses the cursor: the body breaks off, the next connection brings nothing that was not there.
    "v1_f_bad_last_event_id": ([], 0),
    "v1_f_resume_ms_only": ([], 20),
    "v1_i_sentinel_and_oddities": (["<<CLOSE_STREAM>>", "undefined", "not json at all"], 4),
    "v2_a_timeout_not_a_number": ([], 0),
    "v2_j_deletion_pending_500": ([], 0),
}


def ingest(case: WireCase, database_url: str, place: Path) -> tuple[int, dict[str, object]]:
    """Run ``tailrace ingest --local --wait --json`` against the case; return its exit code and what it said."""
    with running_case(case) as server:
        cli = cli_for(place, database_url=database_url, api_url=server.url, key=DEFAULT_KEY).with_(**QUICKLY)
        options = ("--stream", case.ref.stream_key, "--local", "--wait", "--json")
        done = cli.run("ingest", case.ref.run_id, *options)
    assert done.stdout, done.stderr
    return done.code, json.loads(done.stdout)


def query(database_url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[call-overload]


def archived(case: WireCase, database_url: str) -> list[bytes]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT data_text FROM tailrace.chunks WHERE run_id = %s AND stream_key = %s"
            " ORDER BY generation, chunk_index",
            tuple(case.ref),
        )
        return [text.encode() for (text,) in rows]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_archive_shows_the_expected_chunks(name: str, database_url: str, tmp_path: Path) -> None:
    case = load_case(name)
    code, said = ingest(case, database_url, tmp_path)
    assert (code, said["state"]) == (0, "sealed")
    stored = archived(case, database_url)
    if case.expected_texts is not None:
        assert stored == case.expected_texts
    assert [json.loads(text) for text in stored] == case.expected_chunks
    assert query(database_url, "SELECT * FROM tailrace.verify_accounts()") == []


def test_every_other_case_is_named_below() -> None:
    assert set(case_names()) - set(EXPECTED) == set(WRONG_OR_REFUSED)


@pytest.mark.parametrize("name", WRONG_OR_REFUSED)
def test_a_wrong_read_ends_as_the_protocol_says(name: str, database_url: str, tmp_path: Path) -> None:
    case = load_case(name)
    code, said = ingest(case, database_url, tmp_path)
    assert (code, said["state"]) == (0, "sealed")
    raw = [bytes(raw).decode() for (raw,) in query(
        database_url, "SELECT raw FROM tailrace.quarantine WHERE reason <> 'unterminated' ORDER BY chunk_index"
    )]  # fmt: skip
    assert (raw, len(archived(case, database_url))) == WRONG_OR_REFUSED[name]
    assert query(database_url, "SELECT * FROM tailrace.verify_accounts()") == []
