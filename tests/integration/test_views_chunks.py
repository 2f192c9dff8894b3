"""View `chunks`: every chunk byte for byte, and derived columns that never raise."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tailrace.wire.chunk_json import ODD, PLAIN, check
from tests.integration.schema_rows import EPOCH_MS, Archive
from tests.unit.streams.test_streams_text import SHAPES, transcript

HALF = "\ufffd"

# JSON text → (type, text_delta, data_jsonb as Python reads it); jsonb None: SQL null.
CHUNKS: dict[str, tuple[str | None, str | None, object]] = {
    # what JSON allows and a parser would change
    '{"b":1,"a":2}': (None, None, {"b": 1, "a": 2}),
    '{"a":1,"a":2,"type":"x","type":"y"}': ("y", None, {"a": 2, "type": "y"}),
    "1.10": (None, None, 1.1),
    "-0": (None, None, 0),
    "1E2": (None, None, 100),
    '{ "a" : [ 1 ,2 ] }': (None, None, {"a": [1, 2]}),
    '{"":{"":null}}': (None, None, {"": {"": None}}),
    '"\\/\\u0041"': (None, "/A", "/A"),
    "[]": (None, None, []),
    "{}": (None, None, {}),
    "null": (None, None, None),
    "true": (None, None, True),
    '""': (None, "", ""),
    '"naïve 🦜 \u2028 text"': (None, "naïve 🦜 \u2028 text", "naïve 🦜 \u2028 text"),
    '"\\ud83e\\udd9c"': (None, "🦜", "🦜"),
    '["text-delta",{"type":"text-delta","delta":"x"}]': (
        None,
        None,
        ["text-delta", {"type": "text-delta", "delta": "x"}],
    ),
    # escapes that ->> and jsonb refuse
    '"\\u0000"': (None, HALF, HALF),
    '"a\\u0000\\u0000b"': (None, f"a{HALF}{HALF}b", f"a{HALF}{HALF}b"),
    '"\\ud800"': (None, HALF, HALF),
    '"\\uDC00x"': (None, f"{HALF}x", f"{HALF}x"),
    '"\\udc00\\ud800"': (None, HALF * 2, HALF * 2),
    '"\\ud83d\\ud83e\\udd9c"': (None, f"{HALF}🦜", f"{HALF}🦜"),
    '"\\ud83e\\udd9c\\udd9c"': (None, f"🦜{HALF}", f"🦜{HALF}"),
    '"\\ud83e\\u0041"': (None, f"{HALF}A", f"{HALF}A"),
    '"\\ud83e\\n\\udd9c"': (None, f"{HALF}\n{HALF}", f"{HALF}\n{HALF}"),
    '{"type":"text-delta","id":"0","delta":"\\u0000!"}': (
        "text-delta",
        f"{HALF}!",
        {"type": "text-delta", "id": "0", "delta": f"{HALF}!"},
    ),
    '{"\\u0000":1,"type":"\\ud800"}': (HALF, None, {HALF: 1, "type": HALF}),
    # backslashes before a u that is no escape
    '"\\\\u0000"': (None, "\\u0000", "\\u0000"),
    '"\\\\\\u0000"': (None, f"\\{HALF}", f"\\{HALF}"),
    '"\\\\\\\\u0000 \\u0000"': (None, f"\\\\u0000 {HALF}", f"\\\\u0000 {HALF}"),
    '"\\\\ud800\\udc00"': (None, f"\\ud800{HALF}", f"\\ud800{HALF}"),
    '"\\"\\u0000\\""': (None, f'"{HALF}"', f'"{HALF}"'),
    # numbers that numeric can't hold
    "1e400000": (None, None, None),
    "1e-20000": (None, None, None),
    '{"type":"x","n":[1E+999999]}': ("x", None, None),
    "1e308": (None, None, 10**308),
    '{"s":"1e400000","n":1e0003}': (None, None, {"s": "1e400000", "n": 1000}),
    # types that are not what they seem
    '{"type":5}': (None, None, {"type": 5}),
    '{"type":null,"delta":"x"}': (None, None, {"type": None, "delta": "x"}),
    '{"type":["text-delta"],"delta":"x"}': (None, None, {"type": ["text-delta"], "delta": "x"}),
    '{"type":"text-delta","delta":null}': ("text-delta", None, {"type": "text-delta", "delta": None}),
    '{"type":"text-delta","delta":{"a":1}}': ("text-delta", None, {"type": "text-delta", "delta": {"a": 1}}),
    '{"type":"text-delta"}': ("text-delta", None, {"type": "text-delta"}),
    '{"type":"content_block_delta","delta":5}': (
        "content_block_delta",
        None,
        {"type": "content_block_delta", "delta": 5},
    ),
    '{"object":"chat.completion.chunk","choices":{"0":1}}': (
        None,
        None,
        {"object": "chat.completion.chunk", "choices": {"0": 1}},
    ),
    '{"object":"chat.completion.chunk","choices":[5]}': (
        None,
        None,
        {"object": "chat.completion.chunk", "choices": [5]},
    ),
    '{"object":"chat.completion.chunk","choices":[]}': (None, None, {"object": "chat.completion.chunk", "choices": []}),
    '{"object":"chat.completion.chunk","choices":[{"delta":{"content":null}}]}': (
        None,
        None,
        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": None}}]},
    ),
}

TEXTS = {
    '{"type":"text-delta","id":"1","delta":"a"}': "a",
    '{"type":"text-delta","id":"1","text":"b"}': "b",
    '{"type":"text-delta","textDelta":"c"}': "c",
    '{"type":"text-delta","delta":null,"text":"d"}': "d",
    '{"type":"response.output_text.delta","delta":"e"}': "e",
    '{"type":"response.output_text.done","text":"e"}': None,
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"f"}}': "f",
    '{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{"}}': None,
    '{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"g"}}]}': "g",
    '{"type":"reasoning-delta","id":"1","delta":"no"}': None,
    '{"progress":0.5}': None,
    '"h"': "h",
}


def test_text_is_byte_exact_and_no_column_raises(archive: Archive) -> None:
    texts = list(CHUNKS)
    archive.whole_stream(texts)
    rows = archive.rows(
        """SELECT convert_to(data_text, 'UTF8'), data::text, type, text_delta, data_jsonb::text
           FROM tailrace.chunks WHERE run_id = 'run_1' AND stream_key = 'ai' ORDER BY generation, chunk_index"""
    )
    assert [row[0].decode() for row in rows] == texts
    assert [row[1] for row in rows] == texts
    for text, (_, _, type_, delta, jsonb) in zip(texts, rows, strict=True):
        assert (type_, delta, json.loads(jsonb) if jsonb else None) == CHUNKS[text], text


@pytest.mark.parametrize("text", list(CHUNKS))
def test_a_chunk_that_the_writer_calls_plain_is_safe_in_a_plain_segment(archive: Archive, text: str) -> None:
    archive.whole_stream([text])
    assert archive.value("SELECT NOT odd FROM tailrace.segments") is (check(text.encode()) == PLAIN)
    type_, delta, jsonb = archive.row("SELECT type, text_delta, data_jsonb::text FROM tailrace.chunks")
    assert (type_, delta, json.loads(jsonb) if jsonb else None) == CHUNKS[text]


def test_derived_columns_are_the_same_in_a_segment_that_is_odd_without_need(archive: Archive) -> None:
    plain = [text for text in CHUNKS if check(text.encode()) == PLAIN]
    archive.whole_stream(plain, odd=True)
    for text, row in zip(
        plain,
        archive.rows("SELECT type, text_delta, data_jsonb::text FROM tailrace.chunks ORDER BY chunk_index"),
        strict=True,
    ):
        assert (row[0], row[1], json.loads(row[2]) if row[2] else None) == CHUNKS[text]


def test_the_text_of_every_known_shape(archive: Archive) -> None:
    archive.whole_stream(list(TEXTS))
    found = archive.rows("SELECT text_delta FROM tailrace.chunks ORDER BY chunk_index")
    assert [row[0] for row in found] == list(TEXTS.values())


def test_the_text_of_every_shape_is_that_of_python(archive: Archive) -> None:
    samples = [sample for shape in SHAPES for sample in shape["samples"]]
    archive.whole_stream([json.dumps(sample["chunk"]) for sample in samples])
    found = archive.rows("SELECT text_delta FROM tailrace.chunks ORDER BY chunk_index")
    assert [text for (text,) in found] == [sample["text"] for sample in samples]
    archive.run("TRUNCATE tailrace.segments")
    for number, sample in enumerate(samples):
        stream = archive.whole_stream([json.dumps(sample["chunk"])], run_id=f"run_{number}", key="one")
        text = archive.value("SELECT text FROM tailrace.stream_text WHERE stream_id = %s", stream)
        assert (text or "") == transcript([sample["chunk"]]).text, sample


@pytest.mark.parametrize(
    ("text", "has_jsonb"),
    [
        ("[" * 512 + "]" * 512, True),
        ('{"a":' * 511 + '"\\u0000"' + "}" * 511, True),
        ("9" * 14_999, True),
        ("0." + "3" * 14_999, True),
        ("9" * 200_000, False),
        ("0." + "3" * 20_000, False),
        (json.dumps({"digits": "9" * 200_000}), True),  # in a string they are no number
        ("[" + ",".join(["1e99"] * 300_000) + "]", True),
        ("[" + ",".join(["1e999"] * 300_000) + "]", False),  # 300 MB when printed
        ('"' + "x" * (17 << 20) + '"', False),
        ('"' + "x" * (2 << 20) + '\\u0000"', True),
        ('"' + "\\\\" * (9 << 20) + '\\u0000"', False),
    ],
    ids=[
        *("nested", "nested_odd", "digits", "fraction", "too_many_digits", "too_long_fraction", "digits_in_string"),
        *("exponents", "large_exponents", "large", "large_odd", "too_large_odd"),
    ],
)
def test_large_and_deep_chunks(archive: Archive, text: str, has_jsonb: bool) -> None:
    archive.whole_stream([text])
    exact, type_, jsonb, length = archive.row(
        "SELECT data_text = %s, type, data_jsonb IS NOT NULL, length(text_delta) FROM tailrace.chunks", text
    )
    assert exact
    assert type_ is None
    assert jsonb is has_jsonb or check(text.encode()) == PLAIN
    assert length is None or text.startswith('"')


def test_times_that_postgres_has_no_timestamp_for_are_null(archive: Archive) -> None:
    archive.whole_stream(["1"] * 5, emitted_ms=[0, EPOCH_MS + 123, 9_000_000_000_000_000_000, -(1 << 63), -1])
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert [row[0] for row in archive.rows("SELECT emitted_at FROM tailrace.chunks ORDER BY chunk_index")] == [
        epoch,
        epoch + timedelta(milliseconds=EPOCH_MS + 123),
        None,
        None,
        epoch - timedelta(milliseconds=1),
    ]


def test_indices_with_holes_come_from_the_offsets(archive: Archive) -> None:
    stream = archive.stream()
    archive.segment(stream, ["0", "1", "2"], first=10, offsets=[0, 1, 5])
    archive.segment(stream, ["3"], first=16)
    assert archive.rows("SELECT chunk_index, data_text FROM tailrace.chunks ORDER BY chunk_index") == [
        *((10, "0"), (11, "1"), (15, "2"), (16, "3"))
    ]


def test_every_column_is_named(archive: Archive) -> None:
    archive.whole_stream(["1"])
    (row,) = archive.connection.execute("SELECT * FROM tailrace.chunks")
    columns = [column.name for column in archive.connection.execute("SELECT * FROM tailrace.chunks").description or ()]
    assert dict(zip(columns, row, strict=True)) == {
        "environment": "default",
        "run_id": "run_1",
        "stream_key": "ai",
        "generation": 0,
        "chunk_index": 0,
        "data": 1,
        "data_text": "1",
        "data_jsonb": 1,
        "type": None,
        "text_delta": None,
        "emitted_at": datetime.fromtimestamp(EPOCH_MS / 1000, UTC),
        "committed_at": archive.value("SELECT committed_at FROM tailrace.segments"),
        "stream_id": archive.value("SELECT stream_id FROM tailrace.segments"),
    }


def test_a_filter_on_run_and_key_reads_by_index_in_one_partition(archive: Archive) -> None:
    archive.run(
        "INSERT INTO tailrace.runs (environment_id, run_id) SELECT 1, 'run_' || n FROM generate_series(1, 2000) n"
    )
    archive.run(
        "INSERT INTO tailrace.streams (run, stream_key) SELECT id, key FROM tailrace.runs, unnest('{a,b}'::text[]) key"
    )
    archive.run(
        """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
           SELECT id, 0, 0, 1, 2, '[1,2]', '{1,2}' FROM tailrace.streams"""
    )
    archive.run("ANALYZE tailrace.runs, tailrace.streams, tailrace.segments")
    plan = "\n".join(
        row[0]
        for row in archive.rows(
            """EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
               SELECT data_text FROM tailrace.chunks WHERE run_id = 'run_77' AND stream_key = 'b'
               ORDER BY generation, chunk_index"""
        )
    )
    scans = re.findall(r"(Seq|Index\b.*) Scan .*?on segments_\d+ \S+ \((.*?)\)", plan)
    assert [kind for kind, work in scans if work != "never executed"] == ["Index"], plan
    assert "Index Cond: (run_id = 'run_77'::text)" in plan
    assert "stream_key = 'b'::text" in plan


def test_large_segments_are_unpacked_in_one_go(archive: Archive) -> None:
    """A subscript for each element would take minutes."""
    stream = archive.stream()
    texts = [f'{{"type":"text-delta","id":"0","delta":"token {n}"}}' for n in range(2000)]
    for first in range(0, 100_000, 2000):
        archive.segment(stream, texts, first=first)
    began = monotonic()
    assert archive.value("SELECT sum(length(data_text) + chunk_index) FROM tailrace.chunks") > 0
    assert monotonic() - began < 30


# ------------------------------------------------------------------------------------------------ any text at all

PIECES = st.sampled_from(
    [
        *("\\\\", '\\"', "\\n", "\\u0000", "\\u0001", "\\ud83d", "\\uD83D", "\\ude00", "\\uDE00", "\\u005c", "\\u00e9"),
        *("u0000", "ud83d", "u", "d83d", "0000", "é", "🦜", "a", " "),
    ]
)


def readable(text: str) -> str:
    """What is left of a Python string when U+FFFD stands for U+0000 and for half pairs."""
    whole = text.encode("utf-16-le", "surrogatepass")
    units = [int.from_bytes(whole[at : at + 2], "little") for at in range(0, len(whole), 2)]
    out, at = "", 0
    while at < len(units):
        unit = units[at]
        if 0xD800 <= unit < 0xDC00 and at + 1 < len(units) and 0xDC00 <= units[at + 1] < 0xE000:
            out += chr(0x10000 + ((unit - 0xD800) << 10) + units[at + 1] - 0xDC00)
            at += 1
        else:
            out += HALF if unit == 0 or 0xD800 <= unit < 0xE000 else chr(unit)
        at += 1
    return out


@given(pieces=st.lists(PIECES, max_size=12))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mixture_of_escapes(archive: Archive, pieces: list[str]) -> None:
    text = f'{{"type":"text-delta","delta":"{"".join(pieces)}"}}'
    expected = readable(json.loads(text)["delta"])
    marked = check(text.encode()) == ODD
    odd, delta, jsonb = archive.row(
        """SELECT tailrace.is_odd(%s), c.text_delta, c.data_jsonb ->> 'delta'
           FROM tailrace.unpack(0, ('[' || %s || ']')::json, '{0}', NULL, %s) c""",
        text,
        text,
        marked,
    )
    assert marked or not odd
    assert delta == jsonb == expected
