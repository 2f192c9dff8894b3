"""Every query of docs/sql.md runs as it stands there and answers what it says; other tools read the views too."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from tailrace.store import views
from tailrace.store.engine import create_engine
from tests.integration.schema_rows import EPOCH_MS, Archive
from tests.integration.test_queries_views import MESSAGE, VIEWS
from tests.integration.test_views_chunks import CHUNKS

DOCUMENT = Path(__file__).parents[2].joinpath("docs", "sql.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"^### ([^\n`]+)\n(?:(?!^###).)*?```sql\n(.*?)```", DOCUMENT, re.MULTILINE | re.DOTALL))


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    """A chat that failed a tool call and stalled, a stream of odd chunks with a gap, and an open run that lags."""
    archive = Archive(database_url)
    texts = [json.dumps(chunk) for chunk in MESSAGE]
    texts[-1] = '{"type":"finish","totalUsage":{"outputTokens":42}}'
    times = [EPOCH_MS + 100 * n + (15_000 if n > 14 else 0) for n in range(len(texts))]
    chat = archive.whole_stream(texts, run_id="run_1", emitted_ms=times)
    archive.run(
        "UPDATE tailrace.runs SET tags = '{tag-1}', task_identifier = 'chat', created_at = to_timestamp(%s)",
        EPOCH_MS / 1000,
    )
    odd = archive.whole_stream(list(CHUNKS), run_id="run_2", key="odd", first=0)
    archive.hole(odd, len(CHUNKS), len(CHUNKS) + 4, "trimmed")
    archive.settle(odd, len(CHUNKS) + 4, list(CHUNKS))
    archive.run("UPDATE tailrace.streams SET verdict = 'complete' WHERE id = %s", chat)
    archive.run("UPDATE tailrace.streams SET verdict = 'complete_with_gaps' WHERE id = %s", odd)
    for stream in (chat, odd):
        for state in ("active", "sealed"):
            archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
        archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
        archive.value("SELECT tailrace.index_text(%s)", stream)
    archive.run("UPDATE tailrace.runs SET state = 'sealed'")
    lagging = archive.stream("run_3")
    archive.run("UPDATE tailrace.streams SET lag = 77, state = 'active' WHERE id = %s", lagging)
    archive.segment(lagging, ['"x"'])
    archive.settle(lagging, 0, ['"x"'])
    with archive.connection:
        yield archive


def ask(archive: Archive, heading: str) -> list[tuple[Any, ...]]:
    return archive.connection.execute(QUERIES[heading]).fetchall()  # type: ignore[arg-type]


@pytest.mark.parametrize("heading", list(QUERIES))
def test_every_query_runs_as_it_stands(archive: Archive, heading: str) -> None:
    ask(archive, heading)


def test_there_are_as_many_as_were_promised() -> None:
    assert len(QUERIES) >= 13


def test_they_answer_what_they_say(archive: Archive) -> None:
    assert ask(archive, "Text of a run") == [("ai", "It is cold.")]
    assert ask(archive, "Streams that stalled for more than 10 s")[0][:4] == ("run_1", "ai", "chat", 15.1)
    assert [row[:2] + row[3:4] for row in ask(archive, "Tool calls that failed")] == [("run_1", "time", "no clock")]
    assert [row[0] for row in ask(archive, "Everything of one tag")] == ["run_1"]
    assert len(ask(archive, "The chunks of one tag")) == len(MESSAGE)
    incomplete = {(row[0], row[3], row[5], row[8]) for row in ask(archive, "What is incomplete, and why")}
    assert incomplete == {("run_2", "complete_with_gaps", "trimmed", 5), ("run_3", "open", None, None)}
    assert [row[:3] for row in ask(archive, "What is lagging now")] == [("run_3", None, 77)]
    assert [row[1] for row in ask(archive, "The conversation of a run")] == [
        *("reasoning", "tool", "tool", "text", "source-url", "data-chart"),
    ]
    assert len(ask(archive, "What changed since a cursor")) == len(MESSAGE) + len(CHUNKS) + 1
    assert sum(row[1] or 0 for row in ask(archive, "Tokens as the providers counted them")) == 42
    assert ask(archive, "Count of all chunks by a BI tool") == [(len(MESSAGE) + len(CHUNKS) + 1,)]
    assert ask(archive, "Slowest time to first token by task and day")[0][0] == "chat"


def test_the_phrase_of_the_example_is_looked_for(archive: Archive) -> None:
    query = QUERIES["Runs whose text contains a phrase"].replace("the phrase", "it is")
    assert archive.connection.execute(query).fetchall() == [("default", "run_1", "ai")]  # type: ignore[arg-type]


# --- other tools


@pytest.mark.parametrize("view", VIEWS)
def test_what_bi_tools_send(archive: Archive, view: str) -> None:
    for query in (
        f"SELECT * FROM tailrace.{view} LIMIT 100",
        f"SELECT count(*) FROM tailrace.{view}",
        f'SELECT "source".* FROM (SELECT * FROM "tailrace"."{view}") "source" LIMIT 1048575',
        f"SELECT t.run_id, count(*) FROM tailrace.{view} t GROUP BY 1 ORDER BY 2 DESC",
    ):
        archive.connection.execute(query).fetchall()  # type: ignore[arg-type]


def test_pandas(archive: Archive, database_url: str) -> None:
    engine = create_engine(database_url)
    for view in VIEWS:
        frame = pandas.read_sql(sa.text(f"SELECT * FROM tailrace.{view}"), engine)
        assert next(iter(frame.columns)) == "environment"
    chunks = pandas.read_sql(
        sa.text("SELECT data_text FROM tailrace.chunks WHERE run_id = 'run_2' ORDER BY chunk_index"), engine
    )
    assert list(chunks["data_text"]) == list(CHUNKS)
    engine.dispose()


def test_duckdb_reads_postgres(archive: Archive, database_url: str) -> None:
    """With the extension from its package, which is the file that INSTALL postgres would fetch."""
    connection = duckdb.connect()
    package = importlib.resources.files("duckdb_extension_postgres_scanner")
    [extension] = package.joinpath("extensions", f"v{duckdb.__version__}").iterdir()
    connection.execute(f"LOAD '{extension}'")
    url = make_url(database_url)
    connection.execute(
        f"ATTACH 'host={url.host} port={url.port} dbname={url.database} user={url.username} password={url.password}'"
        " AS archive (TYPE postgres, READ_ONLY)"
    )
    for view in VIEWS:
        expected = archive.value(f"SELECT count(*) FROM tailrace.{view}")
        connection.execute(f"CREATE OR REPLACE TABLE copy AS SELECT * FROM archive.tailrace.{view}")
        assert connection.execute("SELECT count(*) FROM copy").fetchall() == [(expected,)]
    rows = connection.execute(
        "SELECT data_text FROM archive.tailrace.chunks WHERE run_id = 'run_2' ORDER BY chunk_index"
    ).fetchall()
    assert [row[0] for row in rows] == list(CHUNKS)
    [query] = re.findall(r"```sql duckdb\n.*?\n(SELECT.*?)```", DOCUMENT, re.DOTALL)
    assert sorted(connection.execute(query).fetchall(), key=str) == [("chat", 1), (None, 2)]
    connection.close()


MODELS = {
    "chunks": views.Chunk,
    "stream_text": views.StreamText,
    "stream_stats": views.StreamStats,
    "run_overview": views.RunOverview,
    "message_parts": views.MessagePart,
    "gaps": views.Gap,
    "quarantined": views.Quarantined,
}


@pytest.mark.parametrize("view", VIEWS)
def test_models_have_the_columns_of_the_views(archive: Archive, view: str) -> None:
    actual = archive.rows(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        f"tailrace.{view}",
    )
    assert [column.name for column in MODELS[view].__table__.columns] == [row[0] for row in actual]


def test_models_read(archive: Archive, database_url: str) -> None:
    engine = create_engine(database_url)
    with Session(engine) as session:
        runs = session.scalars(sa.select(views.RunOverview).order_by(views.RunOverview.run)).all()
        assert [run.run_id for run in runs] == ["run_1", "run_2", "run_3"]
        texts = session.scalars(
            sa.select(views.Chunk.data_text)
            .where(views.Chunk.run_id == "run_2", views.Chunk.stream_key == "odd")
            .order_by(views.Chunk.generation, views.Chunk.chunk_index)
        ).all()
        assert list(texts) == list(CHUNKS)
        for model in MODELS.values():
            session.scalars(sa.select(model)).all()
    engine.dispose()


def test_a_dbt_style_incremental_model_misses_nothing(archive: Archive, database_url: str) -> None:
    """The SQL that dbt makes of the model in docs/sql.md, run between commits of two writers."""
    model = re.search(r"```jinja\n.*?\n(SELECT.*?)```", DOCUMENT, re.DOTALL)
    assert model is not None
    archive.run(
        """CREATE TABLE public.model (change_id bigint, run_id text, stream_key text, chunk_index bigint, type text,
           text_delta text, committed_at timestamptz)"""
    )

    def build() -> None:
        query = re.sub(r"\{% if.*?%\}(.*?)\{% else %\}.*?\{% endif %\}", r"\1", model[1]).replace(
            "{{ this }}", "public.model"
        )
        archive.run(f"INSERT INTO public.model {query}")

    build()
    slow, stream = Archive(database_url), archive.stream("run_4")
    for n in range(5):
        with slow.connection.transaction():
            slow.segment(stream, [str(n)], first=2 * n)
            archive.segment(stream, [str(n)], first=2 * n + 1)
            build()
    build()
    build()
    slow.connection.close()
    assert archive.value("SELECT count(*) FROM public.model") == archive.value("SELECT count(*) FROM tailrace.chunks")
    assert archive.value(
        "SELECT count(*) FROM (SELECT DISTINCT run_id, stream_key, chunk_index FROM public.model) m"
    ) == archive.value("SELECT count(*) FROM tailrace.chunks")


def test_sql_errors_are_postgres_own(archive: Archive) -> None:
    with pytest.raises(psycopg.Error):
        archive.rows("SELECT nonsense FROM tailrace.chunks")
