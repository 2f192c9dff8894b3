"""`tailrace.frames`: a stream, a run and a query as columns, which say what view ``chunks`` says."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow as pa
import pytest

from tailrace import frames
from tailrace.frames import answers, chunks
from tailrace.streams import Client, NotArchived, NotConfigured, StreamError
from tests.integration.schema_rows import EPOCH_MS, Archive

pa.enable_signal_handlers(False)  # for Ctrl-C, Arrow opens a pipe with the first CSV that it reads, and keeps it

NOTEBOOK = Path(__file__).parents[2] / "docs" / "frames.ipynb"
WORDS = ["Rivers", "carry", "what", "the", "rain", "has", "left", "them", "and", "give", "all", "of", "it", "away"]

CHUNKS = """
SELECT run_id, stream_key, generation, chunk_index, data_text AS data, emitted_at, committed_at FROM tailrace.chunks
WHERE run_id = 'run_1' ORDER BY stream_key, generation, chunk_index
"""
ODD = [
    *('"\\u0000"', '"\\ud83d"', '"\\\\"', '"a,b"', '"[{"', '{"b":1,"a":1.10,"a":2}', "1E400", "[]", "{}", '""', "null"),
    *('"\u2028é🦜"', '{ "a" : [ 1 , 2 ] }', '{"x":"\\"}]"}', "[" * 5_000 + "]" * 5_000, json.dumps("x" * 100_000)),
]


@pytest.fixture
def rows(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    with archive.connection:
        yield archive


@pytest.fixture
def client(database_url: str) -> Iterator[Client]:
    client = Client(database_url=database_url)
    yield client
    client.close()


def viewed(rows: Archive) -> list[dict[str, Any]]:
    cursor = rows.connection.execute(CHUNKS)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor]


class TestChunks:
    @pytest.mark.parametrize("size", [1, 2, 100])
    def test_a_run_is_what_the_view_says(
        self, rows: Archive, client: Client, monkeypatch: pytest.MonkeyPatch, size: int
    ) -> None:
        """Of several streams and generations, in segments with holes, whatever the chunks hold, cut into any parts."""
        monkeypatch.setattr(chunks, "BATCH_CHUNKS", size)
        rows.stream(key="empty")
        odd = rows.stream(key="odd")
        rows.segment(odd, ODD)
        rows.segment(odd, ['"\\ud83d"', " 1 ", "2"], first=20, offsets=[0, 4, 5])
        rows.segment(odd, ['"again"'], generation=1, emitted_ms=[(1 << 63) - 1])
        ai = rows.stream(key="ai")
        rows.segment(ai, ['"a"', '"b"', '"c"'], emitted_ms=[0, -(1 << 63), EPOCH_MS])
        rows.segment(ai, ['"d"'], first=3)
        rows.segment(ai, ['"e"', "5"], first=7, offsets=[0, 2])
        rows.value("SELECT tailrace.merge_segments(%s, 0, 0, 7)::text", ai)  # its chunks have their own times now
        other = rows.stream("run_2", "ai")
        rows.segment(other, ['"of another run"'])
        expected = viewed(rows)
        assert len(expected) == len(ODD) + 4 + 6
        assert len({row["committed_at"] for row in expected}) > 3
        parts = list(frames.run("run_1", client=client).batches())
        assert [row for part in parts for row in part.to_pylist()] == expected
        assert all(part.schema.equals(chunks.SCHEMA) for part in parts)
        one = frames.stream("run_1", "ai", client=client).to_arrow()
        assert one.to_pylist() == [row for row in expected if row["stream_key"] == "ai"]
        one.validate(full=True)

    def test_a_stream_of_which_nothing_is_archived_has_no_rows(self, rows: Archive, client: Client) -> None:
        rows.stream()
        for found in (frames.stream("run_1", "ai", client=client), frames.stream("run_1", "b", client=client)):
            table = found.to_arrow()
            assert (table.num_rows, table.schema) == (0, chunks.SCHEMA)
            assert len(found.to_pandas()) == len(found.to_polars()) == 0
        with pytest.raises(NotArchived, match="run_2"):
            frames.run("run_2", client=client).to_arrow()

    def test_a_run_in_several_environments_needs_a_name(self, rows: Archive, database_url: str) -> None:
        rows.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('other', 'http://x')")
        for environment in ("default", "other"):
            rows.segment(rows.stream(environment=environment), [json.dumps(environment)])
        with pytest.raises(NotConfigured, match=r"default, other.*TAILRACE_ENVIRONMENT"):
            frames.run("run_1", client=Client(database_url=database_url)).to_arrow()
        for environment in ("default", "other"):
            client = Client(database_url=database_url, environment=environment)
            assert frames.run("run_1", client=client).to_arrow()["data"].to_pylist() == [json.dumps(environment)]

    def test_pandas_and_polars_have_the_same(self, rows: Archive, client: Client) -> None:
        rows.whole_stream(['{"n":1}', "null", '"é"'])
        frame = frames.run("run_1", client=client)
        by_polars = frame.to_polars()
        assert isinstance(by_polars, polars.DataFrame)
        assert by_polars["data"].to_list() == ['{"n":1}', "null", '"é"']
        assert by_polars["emitted_at"][0] == datetime.fromtimestamp(EPOCH_MS / 1000, UTC)
        by_pandas = frame.to_pandas()
        assert isinstance(by_pandas, pandas.DataFrame)
        assert list(by_pandas["data"]) == ['{"n":1}', "null", '"é"']
        assert list(by_pandas["run_id"]) == ["run_1"] * 3
        assert by_pandas["emitted_at"][0] == pandas.Timestamp(EPOCH_MS, unit="ms", tz="UTC")
        assert by_pandas["chunk_index"].dtype == "int64"


class TestQuery:
    def test_values_of_every_type(self, rows: Archive, client: Client) -> None:
        """``%`` means nothing without parameters, and nothing that a text holds is taken for something else."""
        table = frames.query(
            """
            SELECT 1 AS n, 2::int8 AS big, 1.5::numeric, 'NaN'::float8 AS nan, true AS yes, NULL::int AS nothing,
                'a,"b"' || E'\\n\\\\N' AS text, '' AS empty, NULL::text AS none, '{"a": 1.10}'::json AS json,
                '2026-11-01 10:00+02'::timestamptz AS moment, '2026-11-01'::date AS day, '\\x00ff'::bytea AS bytes,
                ARRAY['a', NULL, '"'] AS tags, ARRAY[1, 2]::bigint[] AS numbers, '1 day'::interval AS span, 5 % 3 AS n
            -- a comment at its end
            """,
            client=client,
        ).to_arrow()
        (row,) = table.to_pylist()
        assert str(row.pop("nan")) == "nan"
        assert row == {
            **{"n": 1, "big": 2, "numeric": 1.5, "yes": True, "nothing": None, "n_2": 2},
            **{"text": 'a,"b"\n\\N', "empty": "", "none": None, "json": '{"a": 1.10}', "span": "1 day"},
            **{"moment": datetime(2026, 11, 1, 8, tzinfo=UTC), "day": date(2026, 11, 1), "bytes": b"\x00\xff"},
            **{"tags": ["a", None, '"'], "numbers": [1, 2]},
        }
        assert table.schema.field("n").type == pa.int32()
        assert table.schema.field("numbers").type == pa.list_(pa.int64())

    def test_parameters_are_values_and_no_more(self, rows: Archive, client: Client) -> None:
        for parameters, statement in (
            (["it's; --", 3], "SELECT %s AS text, %s::int AS n, '%%' AS sign"),
            ({"text": "it's; --", "n": 3}, "SELECT %(text)s AS text, %(n)s::int AS n, '%%' AS sign"),
        ):
            found = frames.query(statement, parameters, client=client).to_arrow().to_pylist()
            assert found == [{"text": "it's; --", "n": 3, "sign": "%"}]

    def test_a_query_of_the_view_is_what_the_stream_is_in_any_parts(
        self, rows: Archive, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows.whole_stream(ODD)
        expected = frames.run("run_1", client=client).to_arrow().to_pylist()
        for size in (1, 100, 8 << 20):
            monkeypatch.setattr(answers, "PART_BYTES", size)
            assert frames.query(CHUNKS, client=client).to_arrow().to_pylist() == expected

    def test_nulls_alone_and_no_rows(self, rows: Archive, client: Client) -> None:
        frame = frames.query("SELECT CASE WHEN n = 2 THEN 'two' END AS x FROM generate_series(1, 3) n", client=client)
        assert frame.to_arrow().to_pylist() == [{"x": None}, {"x": "two"}, {"x": None}]
        nothing = frames.query("SELECT 1 AS n, '' AS text WHERE false", client=client)
        assert nothing.to_arrow().schema == pa.schema([("n", pa.int32()), ("text", pa.string())])
        assert nothing.to_polars().shape == (0, 2)

    @pytest.mark.parametrize(
        ("statement", "said"),
        [
            ("SELECT nonsense", "nonsense"),
            ("SELECT 1; SELECT 2", "Only one statement"),
            ("DELETE FROM tailrace.runs RETURNING 1", "DELETE|WITH|syntax"),
            ("SELECT set_config('transaction_read_only', 'off', false), tailrace.request_ingest('run_9')", "read"),
            ("SELECT 'infinity'::timestamptz", "infinity"),
        ],
    )
    def test_what_is_wrong_is_said_and_changes_nothing(
        self, rows: Archive, client: Client, statement: str, said: str
    ) -> None:
        with pytest.raises(StreamError, match=said):
            frames.query(statement, client=client).to_arrow()
        assert rows.value("SELECT count(*) FROM tailrace.runs") == 0

    def test_a_database_that_is_not_there(self) -> None:
        client = Client(database_url="postgresql://nobody:secret@127.0.0.1:1/x")
        with pytest.raises(StreamError, match="did not answer") as caught:
            frames.run("run_1", client=client).to_arrow()
        assert "secret" not in str(caught.value)

    def test_a_database_without_an_archive(self, empty_database_url: str) -> None:
        with pytest.raises(StreamError, match="tailrace migrate"):
            frames.run("run_1", client=Client(database_url=empty_database_url)).to_arrow()


class TestNotebook:
    """docs/frames.ipynb: its cells, run one after another, print what stands below them."""

    def test_its_cells_print_what_it_shows(
        self, rows: Archive, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DATABASE_URL", database_url)
        texts = ['{"type":"start"}', '{"type":"text-start","id":"0"}']
        texts += [json.dumps({"type": "text-delta", "id": "0", "delta": f"{word} "}) for word in WORDS]
        texts += ['{"type":"text-end","id":"0"}', '{"type":"finish"}']
        rows.whole_stream(texts, emitted_ms=range(EPOCH_MS, EPOCH_MS + 50 * len(texts), 50))
        rows.whole_stream(['{"percent":50}', '{"percent":100}'], key="progress")
        scope = {"__name__": "__main__"}
        cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
        for cell in cells:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), scope)
            assert printed.getvalue() == "".join(text for output in cell["outputs"] for text in output["text"])
