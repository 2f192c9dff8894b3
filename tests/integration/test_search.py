"""Runs that a person looks for, a page at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from tailrace.errors import TerminalError
from tailrace.serve.console import shown_sql
from tailrace.store import search
from tailrace.store.search import RunSearch, Wanted
from tests.integration.schema_rows import Archive


@pytest.fixture
def looking(engine: sa.Engine) -> RunSearch:
    return RunSearch(engine)


def found(looking: RunSearch, most: int = 100, **wanted: object) -> list[str]:
    return [run.run_id for run in looking.page(Wanted(**wanted), most).runs]  # type: ignore[arg-type]


def several(archive: Archive, count: int) -> list[str]:
    """Runs, the newest first."""
    for number in range(count):
        archive.value("SELECT tailrace.request_ingest(%s)", f"run_{number}")
    return [f"run_{number}" for number in reversed(range(count))]


def sealed(archive: Archive, run_id: str, text: str, environment: str = "default") -> None:
    stream = archive.whole_stream([f'"{text}"'], run_id)
    archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
    archive.run("UPDATE tailrace.streams SET state = 'sealed', verdict = 'complete' WHERE id = %s", stream)
    archive.run("UPDATE tailrace.runs SET state = 'sealed' WHERE run_id = %s", run_id)
    assert archive.value("SELECT tailrace.index_text(%s)", stream) == 1


def test_pages_hold_every_run_once_newest_first(looking: RunSearch, archive: Archive) -> None:
    names = several(archive, 7)
    pages, before = [], None
    while True:
        page = looking.page(Wanted(before=before), 3)
        pages.append([run.run_id for run in page.runs])
        if page.more is None:
            break
        before = page.more
    assert pages == [names[:3], names[3:6], names[6:]]
    assert looking.page(Wanted(before=1), 3) == ([], None)


def test_each_field_narrows_and_all_must_hold(looking: RunSearch, archive: Archive) -> None:
    several(archive, 3)
    archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('other', 'https://x')")
    archive.value("SELECT tailrace.request_ingest('run_1', NULL, 'other')")
    archive.run(
        "UPDATE tailrace.runs SET tags = '{a,b}', task_identifier = 'answer', status = 'COMPLETED' WHERE run_id = 'run_1'"
    )
    assert found(looking, run_id="run_1") == ["run_1", "run_1"]
    assert found(looking, run_id="run_1", environment="other") == ["run_1"]
    assert found(looking, environment="nowhere") == []
    assert found(looking, tag="b", environment="default") == ["run_1"]
    assert found(looking, task="answer", status="COMPLETED", environment="default") == ["run_1"]
    assert found(looking, task="answer", status="FAILED") == found(looking, tag="c") == []
    now = datetime.now(UTC)
    assert len(found(looking, since=now - timedelta(hours=1), until=now + timedelta(hours=1))) == 4
    assert found(looking, since=now + timedelta(hours=1)) == found(looking, until=now - timedelta(hours=1)) == []


@pytest.mark.unbalanced
def test_words_of_the_text_are_found_once_a_run_and_the_verdict_is_that_of_the_overview(
    looking: RunSearch, archive: Archive
) -> None:
    several(archive, 2)
    sealed(archive, "run_1", "the quick brown fox")
    assert found(looking, text="Quick, brown") == ["run_1"]
    assert found(looking, text="brown quick") == []
    assert found(looking, verdict="complete") == ["run_1"]
    assert found(looking, verdict="open") == ["run_0"]


def test_what_is_not_among_those_that_were_looked_at_is_looked_for_on_the_next_page(
    looking: RunSearch, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    several(archive, 9)
    archive.run("UPDATE tailrace.runs SET task_identifier = 'rare' WHERE run_id = 'run_0'")
    monkeypatch.setattr(search, "LOOKED_AT", 4)
    wanted, looks = Wanted(task="rare"), 0
    while not (page := looking.page(wanted, 3)).runs:
        assert page.more is not None
        wanted, looks = Wanted(task="rare", before=page.more), looks + 1
    assert looks == 2
    monkeypatch.setattr(search, "LOOKED_AT", 5)
    first = looking.page(Wanted(verdict="complete"), 3)
    assert first.runs == []
    assert looking.page(Wanted(verdict="complete", before=first.more), 3) == ([], None)


def test_a_search_that_takes_too_long_is_refused(
    looking: RunSearch, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "STATEMENT_S", 0.05)
    with archive.connection.transaction():
        archive.run("LOCK tailrace.runs")  # nobody may even look
        with pytest.raises(TerminalError, match="statement timeout"):
            looking.page(Wanted(), 1)


HOSTILE = "it's \\ '; DROP TABLE tailrace.runs; -- \" %s :x {} é"


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted(environment=HOSTILE, run_id=HOSTILE, tag=HOSTILE, task=HOSTILE, status=HOSTILE, verdict=HOSTILE),
        Wanted(text=HOSTILE, before=5, since=datetime(2026, 1, 1, tzinfo=UTC), until=datetime(2027, 1, 1, tzinfo=UTC)),
        Wanted(tag="nul\0here"),
    ],
)
def test_the_sql_that_is_shown_runs_as_it_stands(wanted: Wanted, archive: Archive) -> None:
    several(archive, 2)
    shown = shown_sql.of_runs(wanted, 50)
    for standard in ("on", "off"):
        with archive.connection.transaction(force_rollback=True):
            archive.connection.execute(f"SET LOCAL standard_conforming_strings = {standard}")  # type: ignore[call-overload]
            archive.connection.execute("SET LOCAL escape_string_warning = off")
            assert len(archive.connection.execute(shown.encode()).fetchall()) == (2 if wanted == Wanted() else 0)
    assert archive.value("SELECT count(*) FROM tailrace.runs") == 2


def test_the_sql_of_a_stream_runs_as_it_stands_and_shows_the_same(archive: Archive) -> None:
    key = "\"><img> it's \\"
    archive.whole_stream(['"one"', '{"type":"x"}'], "run_1", key)
    names = shown_sql.StreamNames("default", "run_1", key, 0)
    ran = {
        "run": archive.connection.execute(shown_sql.of_run("default", "run_1").encode()).fetchall(),
        "text": archive.connection.execute(shown_sql.of_text(names).encode()).fetchall(),
        "parts": archive.connection.execute(shown_sql.of_parts(names).encode()).fetchall(),
        "chunks": archive.connection.execute(shown_sql.of_chunks(names, 1, 1).encode()).fetchall(),
        "arrivals": archive.connection.execute(shown_sql.of_arrivals(names).encode()).fetchall(),
    }
    assert {name: len(rows) for name, rows in ran.items()} == {
        "run": 1,
        "text": 1,
        "parts": 0,
        "chunks": 1,
        "arrivals": 2,
    }
    assert ran["text"] == [("one",)]
    assert ran["chunks"][0][-1] == '{"type":"x"}'
