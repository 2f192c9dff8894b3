"""The views beyond `chunks`: figures, overview, message parts, changes; and that no chunk makes any of them raise."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tailrace.model import Doubt
from tests.integration.schema_rows import EPOCH_MS, Archive
from tests.integration.test_views_chunks import CHUNKS, TEXTS

DOCUMENT = Path(__file__).parents[2].joinpath("docs", "sql.md").read_text(encoding="utf-8")
VIEWS = ("chunks", "stream_text", "stream_stats", "run_overview", "message_parts", "gaps", "quarantined")

# What is hard on a message in particular: every field of a part is of the wrong type, missing, or poison.
POISON_PARTS = [
    json.dumps(part)
    for part in (
        {"type": "start"},
        {"type": "text-start", "id": 5},
        {"type": "text-delta", "id": {"a": [1]}, "delta": ["x"]},
        {"type": "text-delta", "id": None, "delta": None},
        {"type": "text-delta"},
        {"type": "reasoning-delta", "id": "r", "delta": 5},
        {"type": "tool-input-available", "toolCallId": 7, "toolName": {"n": 1}, "input": None},
        {"type": "tool-output-available", "toolCallId": 7},
        {"type": "tool-output-error", "errorText": [1]},
        {"type": "tool-"},
        {"type": "error", "errorText": {"deep": [None]}},
        {"type": "data-", "data": "x"},
        {"type": "reset-step"},
        {"type": "finish", "finishReason": 5},
    )
] + [
    '{"type":"tool-input-available","toolCallId":"\\u0000","toolName":"\\ud800","input":{"n":1e400000,"s":"\\udc00"}}',
    '{"type":"tool-output-available","toolCallId":"\\u0000","output":[1E+999999]}',
    '{"type":"text-delta","id":"\\u0000","delta":"\\ud800"}',
    '{"type":"error","errorText":"\\u0000"}',
    '{"type":"data-\\u0000","data":"\\u0000"}',
    '{"type":"\\u0000"}',
    '{"type":"start","messageId":"\\ud83e"}',
]


def read_everything(archive: Archive) -> int:
    """Every column of every view as text, as a client gets it: that is where a bad value would raise."""
    rows = 0
    for view in VIEWS:
        rows += len(archive.rows(f"SELECT v.*, v::text FROM tailrace.{view} v"))
    rows += len(archive.rows("SELECT c.*, c::text FROM tailrace.changes_since(-1) c"))
    rows += len(archive.rows("SELECT c.*, c::text FROM tailrace.chunks_range('run_1', 'ai', 0, 100000) c"))
    return rows


@pytest.mark.parametrize("text", [*CHUNKS, *TEXTS, *POISON_PARTS])
def test_no_view_raises_on_any_chunk(archive: Archive, text: str) -> None:
    archive.whole_stream([text])
    assert read_everything(archive) >= 5


def test_no_view_raises_on_all_of_them_together(archive: Archive) -> None:
    texts = [*CHUNKS, *TEXTS, *POISON_PARTS, '{"type":"text-delta","id":"z","delta":"the \\u0000 last words"}']
    stream = archive.whole_stream(texts)
    read_everything(archive)
    archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
    archive.run("UPDATE tailrace.streams SET state = 'sealed' WHERE id = %s", stream)
    assert archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream) == [(1, 1)]
    assert archive.value("SELECT tailrace.index_text(%s)", stream) == 1
    read_everything(archive)
    assert archive.value("SELECT run_id FROM tailrace.search_text('LAST words')") == "run_1"
    assert [row[0] for row in archive.rows("SELECT data_text FROM tailrace.chunks ORDER BY chunk_index")] == texts


@pytest.mark.parametrize("odd_times", [[0, (1 << 63) - 1, -(1 << 63), 5], [-(1 << 62), 1 << 62, 253402300799999, 1]])
def test_no_view_raises_on_any_time(archive: Archive, odd_times: list[int]) -> None:
    archive.whole_stream(['"a"', '"b"', '"c"', '"d"'], emitted_ms=odd_times)
    archive.run("UPDATE tailrace.runs SET created_at = '0001-01-01Z', started_at = '9999-12-31Z'")
    assert read_everything(archive)


def test_a_large_type_is_cut_in_the_figures(archive: Archive) -> None:
    archive.whole_stream([json.dumps({"type": "x" * 5000})])
    assert archive.value("SELECT chunk_types FROM tailrace.stream_stats") == ["x" * 100]


def parts_of(archive: Archive, chunks: list[Any], columns: str = "kind, text, superseded") -> list[tuple[Any, ...]]:
    archive.whole_stream([json.dumps(chunk) for chunk in chunks])
    return archive.rows(f"SELECT {columns} FROM tailrace.message_parts ORDER BY first_index")


MESSAGE = [
    {"type": "start", "messageId": "m"},
    {"type": "start-step"},
    {"type": "reasoning-start", "id": "0"},
    {"type": "reasoning-delta", "id": "0", "delta": "Let me "},
    {"type": "reasoning-delta", "id": "0", "delta": "look."},
    {"type": "reasoning-end", "id": "0"},
    {"type": "tool-input-start", "toolCallId": "c1", "toolName": "weather"},
    {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": '{"city":'},
    {"type": "tool-input-available", "toolCallId": "c1", "toolName": "weather", "input": {"city": "Bern"}},
    {"type": "tool-input-available", "toolCallId": "c2", "toolName": "time", "input": {}},
    {"type": "tool-output-available", "toolCallId": "c1", "output": {"celsius": 1.10}},
    {"type": "tool-output-error", "toolCallId": "c2", "errorText": "no clock"},
    {"type": "finish-step"},
    {"type": "start-step"},
    {"type": "text-start", "id": "0"},
    {"type": "text-delta", "id": "0", "delta": "It is "},
    {"type": "text-delta", "id": "0", "delta": "cold."},
    {"type": "text-end", "id": "0"},
    {"type": "source-url", "sourceId": "s", "url": "https://example.org"},
    {"type": "data-chart", "data": [1]},
    {"type": "error", "errorText": "late"},
    {"type": "finish"},
]


def test_the_parts_of_a_message(archive: Archive) -> None:
    rows = parts_of(
        archive, MESSAGE, "kind, text, tool_call_id, tool_name, state, input, output, error_text, step, superseded"
    )
    assert rows == [
        ("reasoning", "Let me look.", None, None, "reasoning-end", None, None, None, 1, False),
        *[
            (
                "tool",
                None,
                "c1",
                "weather",
                "tool-output-available",
                {"city": "Bern"},
                {"celsius": 1.1},
                None,
                1,
                False,
            ),
            ("tool", None, "c2", "time", "tool-output-error", {}, None, "no clock", 1, False),
        ],
        ("text", "It is cold.", None, None, "text-end", None, None, None, 2, False),
        ("source-url", None, None, None, None, None, None, None, 2, False),
        ("data-chart", None, None, None, None, None, None, None, 2, False),
    ]


def test_the_parts_of_an_attempt_that_was_retried_are_superseded(archive: Archive) -> None:
    attempt = [{"type": "start"}, {"type": "text-start", "id": "0"}, {"type": "text-delta", "id": "0", "delta": "Hel"}]
    rows = parts_of(archive, [*attempt, {"type": "error", "errorText": "broke"}, *attempt])
    assert rows == [("text", "Hel", True), ("text", "Hel", False)]


def test_the_parts_of_a_step_that_was_reset_are_superseded(archive: Archive) -> None:
    text = [{"type": "text-start", "id": "0"}, {"type": "text-delta", "id": "0", "delta": "x"}]
    rows = parts_of(
        archive, [{"type": "start"}, {"type": "start-step"}, *text, {"type": "reset-step"}, *text, {"type": "finish"}]
    )
    assert rows == [("text", "x", True), ("text", "x", False)]


def test_an_id_that_is_used_again_begins_a_new_part(archive: Archive) -> None:
    text = [{"type": "text-start", "id": "0"}, {"type": "text-delta", "id": "0", "delta": "x"}]
    assert parts_of(archive, [*text, *text]) == [("text", "x", False), ("text", "x", False)]


def test_the_parts_of_some_kinds_are_those_of_all_kinds(archive: Archive) -> None:
    """Chunks are left out by their text, so whatever hides a word in it (escapes) must not count as leaving it out."""
    hidden = [
        r'{"type":"\u0074ool-input-start","toolCallId":"a","toolName":"\u0000"}',
        r'{"t\u0079pe":"t\u006fol-output-error","toolCallId":"a","errorText":"\ud800"}',
        r'{"type":"s\u0074art"}',
        r'{"type":"tool-output-available","toolCallId":"b","output":[1]}',
        r'{"type":"data-100%_"}',
    ]
    texts = [*(json.dumps(chunk) for chunk in MESSAGE), *hidden, *POISON_PARTS, *CHUNKS]
    stream = archive.whole_stream(texts)
    columns = (
        "generation, message, superseded, step, first_index, last_index, kind, text, state, input::text, error_text"
    )
    everything = archive.rows(f"SELECT {columns} FROM tailrace.parts_of_stream(%s) ORDER BY kind, first_index", stream)
    kinds = sorted({row[6] for row in everything})
    assert {"text", "reasoning", "tool", "source-url", "data-100%_"} <= set(kinds)
    for some in (*([kind] for kind in kinds), ["tool", "text"], kinds):
        found = archive.rows(
            f"SELECT {columns} FROM tailrace.parts_of_stream(%s, %s) ORDER BY kind, first_index", stream, some
        )
        assert found == [row for row in everything if row[6] in some], some
    assert archive.rows("SELECT * FROM tailrace.parts_of_stream(%s, %s)", stream, HOSTILE) == []
    assert archive.rows("SELECT * FROM tailrace.parts_of_stream(%s, '{}')", stream) == []


@pytest.mark.unbalanced
def test_a_stream_too_large_for_its_parts_has_none(archive: Archive) -> None:
    stream = archive.whole_stream([json.dumps(chunk) for chunk in MESSAGE])
    archive.run("UPDATE tailrace.streams SET byte_count = 600000000")
    assert archive.rows("SELECT * FROM tailrace.parts_of_stream(%s)", stream) == []
    assert archive.rows("SELECT * FROM tailrace.parts_of_stream(%s, '{tool}')", stream) == []


def test_streams_of_other_shapes_have_no_parts(archive: Archive) -> None:
    assert parts_of(archive, ["text", 5, None, {"progress": 1}, {"type": "response.output_text.delta"}]) == []


def test_figures_of_a_stream(archive: Archive) -> None:
    stream = archive.stream()
    times = [EPOCH_MS + ms for ms in (2000, 2500, 15_500, 16_000)]
    archive.segment(stream, ['{"type":"start"}', '"ab"', '"c"'], emitted_ms=times[:3])
    archive.segment(stream, ['{"type":"finish"}'], first=5, emitted_ms=times[3:])
    archive.settle(stream, 5, ["x" * 4] * 4)
    archive.run("UPDATE tailrace.runs SET created_at = to_timestamp(%s)", EPOCH_MS / 1000)
    figures = """SELECT chunks, first_chunk_s, first_text_s, duration_s, chunks_per_s, longest_stall_s, stalled_before,
                        text_chunks, text_characters, chunk_types FROM tailrace.stream_stats"""
    expected = (4, 2.0, 2.5, 14.0, 4 / 14, 13.0, 2, 2, 3, ["finish", "start"])
    assert archive.row(figures) == expected
    for state in ("active", "sealed"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
    assert archive.value("SELECT count(*) FROM tailrace.facts") == 1
    assert archive.row(figures) == expected


def test_an_empty_stream_has_figures_too(archive: Archive) -> None:
    archive.stream()
    assert archive.row("SELECT chunks, first_chunk_s, duration_s, chunk_types FROM tailrace.stream_stats") == (
        *(0, None, None),
        [],
    )


@pytest.mark.parametrize(
    ("state", "verdicts", "expected"),
    [
        ("watched", ["complete"], "open"),
        ("sealed", ["complete", "complete"], "complete"),
        ("sealed", ["complete", "complete_with_gaps"], "complete_with_gaps"),
        ("sealed", ["possibly_truncated", "complete_with_gaps"], "possibly_truncated"),
        ("sealed", ["complete", "failed"], "failed"),
        ("sealed", [], "complete"),
        ("failed", [], "failed"),
    ],
)
def test_the_verdict_of_a_run_is_its_worst_streams(
    archive: Archive, state: str, verdicts: list[str], expected: str
) -> None:
    run = archive.value("SELECT tailrace.request_ingest('run_1')")
    for n, verdict in enumerate(verdicts):
        archive.run(
            """INSERT INTO tailrace.streams (run, stream_key, state, verdict, lost_count)
               VALUES (%s, %s, 'sealed', %s, %s)""",
            run,
            str(n),
            verdict,
            int(verdict == "complete_with_gaps"),
        )
    archive.run("UPDATE tailrace.runs SET state = %s", state)
    assert archive.value("SELECT verdict FROM tailrace.run_overview") == expected


@pytest.mark.parametrize("doubt", list(Doubt))
def test_each_doubt_says_what_would_have_made_the_verdict_complete(archive: Archive, doubt: Doubt) -> None:
    said = archive.rows("SELECT tailrace.doubt_reason(d, 'HTTP 500') FROM unnest(%s::text[]) d", list(Doubt))
    assert len(set(said)) == len(Doubt)
    why = archive.value("SELECT tailrace.doubt_reason(%s, 'HTTP 500')", doubt)
    assert re.fullmatch(r"[A-Z].+\. Complete, had .+\.", why)
    assert ("(HTTP 500)" in why) == (doubt is Doubt.UNSERVED)
    reason = "SELECT tailrace.verdict_reason('sealed', %s, %s, %s, NULL)"
    assert archive.value(reason, "possibly_truncated", doubt, 0) == archive.value(
        "SELECT tailrace.doubt_reason(%s, NULL)", doubt
    )
    assert archive.value(reason, "complete_with_gaps", doubt, 2).endswith("Besides: " + why.replace(" (HTTP 500)", ""))


@pytest.mark.parametrize(
    ("state", "verdict", "losses", "error", "said"),
    [
        ("sealed", "complete", 0, "cut", None),
        ("sealed", "complete_with_gaps", 3, None, "view gaps names (3 gaps)"),
        ("sealed", "complete_with_gaps", 0, None, "larger than TAILRACE_EVENT_MAX_BYTES"),
        ("sealed", "possibly_truncated", 0, None, "why was not noted"),
        ("failed", "failed", 0, "HTTP 404", "(HTTP 404)"),
        ("failed", "complete", 0, "HTTP 404", "could not be read again (HTTP 404)"),
        ("pending", "open", 0, None, "waits to be read. Complete once"),
        ("active", "open", 0, "cut", "being read (cut). Complete once"),
        ("parked", "open", 0, None, "looked at now and then"),
        ("cancelled", "open", 0, None, "cancelled"),
    ],
)
def test_a_verdict_is_explained_in_words(
    archive: Archive, state: str, verdict: str, losses: int, error: str | None, said: str | None
) -> None:
    run = archive.value("SELECT tailrace.request_ingest('run_1')")
    archive.run(
        """INSERT INTO tailrace.streams (run, stream_key, state, verdict, lost_count, last_error)
           VALUES (%s, 'ai', %s, %s, %s, %s)""",
        *(run, state, verdict, losses, error),
    )
    why = archive.value("SELECT verdict_reason FROM tailrace.stream_stats")
    assert why is None if said is None else said in why


@pytest.mark.parametrize(
    ("state", "streams", "said"),
    [
        ("sealed", [("a", "sealed", "complete"), ("b", "sealed", "complete")], None),
        ("sealed", [("a", "sealed", "complete_with_gaps"), ("b", "sealed", "possibly_truncated")], "b: Something may"),
        ("sealed", [("a", "sealed", "complete_with_gaps"), ("b", "sealed", "complete")], "a: An event was larger"),
        ("sealed", [("gap", "sealed", "complete_with_gaps"), ("b", "sealed", "complete")], "gap: Upstream dropped"),
        ("sealed", [("gap", "cancelled", "open"), ("b", "sealed", "complete")], "Upstream dropped or left out"),
        ("sealed", [("a", "sealed", "possibly_truncated"), ("b", "sealed", "failed")], "b: Upstream does not"),
        ("sealed", [("a", "failed", "possibly_truncated"), ("b", "sealed", "complete")], "a: Something may"),
        ("watched", [("a", "sealed", "possibly_truncated"), ("b", "parked", "open")], "b: It is looked at"),
        ("watched", [("a", "sealed", "possibly_truncated")], "The run goes on"),
        ("requested", [], "Nothing has been heard"),
        ("cancelled", [("a", "cancelled", "open")], "ingestion was cancelled"),
        ("failed", [("a", "failed", "failed")], "The run could not be read (no such run)"),
    ],
)
def test_a_run_says_the_reason_of_its_worst_stream_or_its_own(
    archive: Archive, state: str, streams: list[tuple[str, str, str]], said: str | None
) -> None:
    run = archive.value("SELECT tailrace.request_ingest('run_1')")
    for key, stream_state, verdict in streams:
        archive.run(
            """INSERT INTO tailrace.streams (run, stream_key, state, verdict, lost_count)
               VALUES (%s, %s, %s, %s, %s)""",
            *(run, key, stream_state, verdict, int(key == "gap")),
        )
    archive.run("UPDATE tailrace.runs SET state = %s, last_error = 'no such run'", state)
    why = archive.value("SELECT verdict_reason FROM tailrace.run_overview")
    assert why is None if said is None else said in why


class TestChanges:
    def test_each_chunk_comes_once_in_order(self, archive: Archive) -> None:
        a, b = archive.stream(key="a"), archive.stream(key="b")
        cursor, seen = -1, []
        for n in range(6):
            archive.segment((a, b)[n % 2], [str(n)], first=n)
            for row in archive.rows("SELECT change_id, data_text FROM tailrace.changes_since(%s)", cursor):
                cursor = row[0]
                seen.append(row[1])
        assert seen == [str(n) for n in range(6)]
        assert archive.rows("SELECT * FROM tailrace.changes_since(%s)", cursor) == []

    def test_what_commits_late_is_not_passed_over(self, archive: Archive, database_url: str) -> None:
        """The transaction that began first commits last: a cursor over times or sequence numbers would lose it."""
        stream = archive.stream()
        slow = Archive(database_url)
        with slow.connection.transaction():
            slow.segment(stream, ['"slow"'], first=0)
            archive.segment(stream, ['"fast"'], first=1)
            assert archive.rows("SELECT * FROM tailrace.changes_since(-1)") == []
        rows = archive.rows("SELECT data_text FROM tailrace.changes_since(-1)")
        assert rows == [('"slow"',), ('"fast"',)]
        slow.connection.close()

    def test_compaction_is_no_change(self, archive: Archive) -> None:
        stream = archive.stream()
        for n in range(5):
            archive.segment(stream, [str(n)], first=n)
        archive.settle(stream, 4, ["x"] * 5)
        (first, second, *_), *_ = [archive.rows("SELECT change_id, chunk_index FROM tailrace.changes_since(-1)")]
        committed = archive.rows("SELECT chunk_index, committed_at FROM tailrace.chunks ORDER BY 1")
        for state in ("active", "sealed"):
            archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
        assert archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream) == [(5, 1)]
        left = archive.rows("SELECT chunk_index FROM tailrace.changes_since(%s)", second[0])
        assert [row[0] for row in left] == [2, 3, 4]
        assert archive.value("SELECT min(change_id) FROM tailrace.changes_since(-1)") == first[0]
        assert archive.rows("SELECT chunk_index, committed_at FROM tailrace.chunks ORDER BY 1") == committed

    def test_in_portions(self, archive: Archive) -> None:
        stream = archive.stream()
        for n in range(7):
            archive.segment(stream, [str(n), str(n)], first=2 * n)
        cursor, portions = -1, []
        while rows := archive.rows("SELECT change_id FROM tailrace.changes_since(%s, 3)", cursor):
            cursor = rows[-1][0]
            portions.append(len(rows))
        assert portions == [6, 6, 2]

    @pytest.mark.parametrize("seed", range(3))
    def test_portions_are_the_whole_whatever_was_compacted(self, archive: Archive, seed: int) -> None:
        """Transactions that write to several streams, some of which are compacted, before and between the portions."""
        chance = random.Random(seed)
        streams = [archive.stream(key=f"s{n}") for n in range(5)]
        ends = dict.fromkeys(streams, 0)
        for _ in range(25):
            with archive.connection.transaction():
                for stream in chance.sample(streams, chance.randint(1, 4)):
                    archive.segment(stream, [str(ends[stream]), '"x"'], first=ends[stream])
                    ends[stream] += 2
        for stream, end in ends.items():
            archive.settle(stream, end - 1, [str(n) for n in range(end)])
            archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
        columns = "change_id, stream_id, generation, chunk_index, data_text"
        whole = archive.rows(f"SELECT {columns} FROM tailrace.changes_since()")
        assert len(whole) == sum(ends.values())
        cursor, portions, waiting = -1, list[tuple[object, ...]](), list(streams)
        while rows := archive.rows(f"SELECT {columns} FROM tailrace.changes_since(%s, 3)", cursor):
            cursor = rows[-1][0]
            portions += rows
            if waiting and chance.random() < 0.7:
                stream = waiting.pop(chance.randrange(len(waiting)))
                archive.run("UPDATE tailrace.streams SET state = 'sealed' WHERE id = %s", stream)
                archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
        assert portions == whole
        assert archive.rows(f"SELECT {columns} FROM tailrace.changes_since()") == whole
        assert archive.rows("SELECT * FROM tailrace.changes_since(9000000000000000000)") == []

    def test_a_portion_unpacks_only_what_it_gives(self, archive: Archive) -> None:
        """Everything else would raise here: what it holds is no array, which only a broken archive could do."""
        archive.run("ALTER TABLE tailrace.segments DROP CONSTRAINT segments_data_check")
        for n in range(6):
            stream = archive.stream(key=f"s{n}")
            for index in (0, 1):
                archive.segment(stream, [str(index)], first=index)
            archive.settle(stream, 1, ["0", "1"])
            for state in ("active", "sealed"):
                archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
            if n % 2:
                archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
        cursor = archive.rows("SELECT change_id FROM tailrace.changes_since(-1, 3)")[-1][0]
        archive.run("UPDATE tailrace.segments SET data = '7' WHERE change_id > %s", cursor)
        assert len(archive.rows("SELECT * FROM tailrace.changes_since(-1, 3)")) == 4
        with pytest.raises(psycopg.errors.InvalidParameterValue):
            archive.rows("SELECT * FROM tailrace.changes_since(-1)")


HOSTILE = ["'; DROP TABLE tailrace.runs; --", "run_1' OR '1'='1", '"', "\\", "%s", "$1", "a\nb", "🦜", ":name", "{}"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_names(archive: Archive, name: str) -> None:
    archive.whole_stream(['"harmless"'], run_id=name, key=name)
    archive.whole_stream(['"other"'], run_id="run_other")
    assert archive.value("SELECT data_text FROM tailrace.chunks_range(%s, %s, 0, 9)", name, name) == '"harmless"'
    assert archive.value("SELECT run_id FROM tailrace.chunks WHERE run_id = %s", name) == name
    archive.rows("SELECT * FROM tailrace.search_text(%s)", name)
    assert archive.row("SELECT archived FROM tailrace.forget_run('default', %s)", name) == (True,)
    assert archive.rows("SELECT run_id FROM tailrace.chunks") == [("run_other",)]


def test_a_time_prunes_partitions(archive: Archive) -> None:
    archive.whole_stream(['"a"'])
    plan = "\n".join(
        row[0]
        for row in archive.rows(
            "EXPLAIN SELECT count(*) FROM tailrace.chunks"
            " WHERE stream_id >= tailrace.stream_id_at(date_trunc('day', now(), 'UTC') + interval '3 days')"
        )
    )
    assert "Subplans Removed" in plan or plan.count("Scan on segments_") < 14, plan


def test_the_views_have_the_columns_that_are_promised(archive: Archive) -> None:
    """docs/sql.md names every column with its type; none may change without a release that says so."""
    for view in VIEWS:
        section = DOCUMENT.split(f"### `{view}`", 1)[1].split("\n## ", 1)[0].split("\n### ", 1)[0]
        columns = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
        promised = [(name.strip().strip("`"), kind.strip()) for name, kind in columns]
        actual = archive.rows(
            """SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
               WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
            f"tailrace.{view}",
        )
        assert promised == actual, view


def test_every_view_and_every_column_says_what_it_is(archive: Archive) -> None:
    """`\\d+` is the manual: what docs/sql.md says of a column stands there too, in the same words."""
    said: dict[str, dict[str, str]] = {}
    for view, column, comment in archive.rows(
        """SELECT c.relname, coalesce(a.attname, ''), coalesce(col_description(c.oid, a.attnum), '')
           FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
           WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind IN ('v', 'm')
           UNION ALL
           SELECT c.relname, '', coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class c
           WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind IN ('v', 'm')"""
    ):
        assert comment.strip(), f"{view}.{column} has no comment"
        said.setdefault(view, {})[column] = comment
    assert set(said) == {*VIEWS, "streams_now"}
    for view in VIEWS:
        section = DOCUMENT.split(f"### `{view}`", 1)[1].split("\n## ", 1)[0].split("\n### ", 1)[0]
        cells = [[cell.strip() for cell in line.split("|")] for line in section.splitlines() if line.startswith("| `")]
        documented = {name.strip("`"): words.replace("`", "") for _, name, _, words, _ in cells}
        assert documented == {column: comment for column, comment in said[view].items() if column}


def test_the_functions_that_are_promised_are_there(archive: Archive) -> None:
    """By name and number of arguments, those of the table of docs/sql.md."""
    section = DOCUMENT.split("\n## Functions\n", 1)[1].split("\n## ", 1)[0]
    promised = {
        (name, given.count(",") + 1) for name, given in re.findall(r"^\| `tailrace\.(\w+)\((.*?)\)`", section, re.M)
    }
    actual = set(
        archive.rows(
            "SELECT proname, pronargs FROM pg_proc WHERE pronamespace = 'tailrace'::regnamespace AND pronargs > 0"
        )
    )
    assert len(promised) >= 7
    assert promised <= actual


def test_views_are_for_reading(archive: Archive) -> None:
    archive.whole_stream(['"a"'])
    with pytest.raises(psycopg.Error):
        archive.run("DELETE FROM tailrace.chunks")
