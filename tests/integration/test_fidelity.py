"""Chunks of every kind through the whole path: what Postgres takes as JSON comes back verbatim, the rest is kept raw."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest

from tailrace.model import Wire
from tailrace.wire.chunk_json import MAX_DEPTH
from tests.ingestion import Ingestion, ingesting, store_with

VIEWS = ("chunks", "stream_text", "stream_stats", "run_overview", "gaps")

NASTY = [
    *("null", "true", "false", "0", "-0", "1.10", "1e5", "1E+5", "1e400", "-1e-400", "12345678901234567890", "9" * 400),
    *('""', '"é"', '"😀"', '"\u2028\u2029\u0085"', '"\\u2028"', '"\\u0000"', '"a\\u0000b"', '"\\/\\b\\f\\n\\r\\t"'),
    *('"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00"', '"\\ud83d\\ud83d"', '"\\\\ud83d"', '"\\\\\\\\u0000"', '"\\uD800x"'),
    *(
        "{}",
        "[]",
        '{"a":1,"a":2}',
        '{"b":1,"a":[1.10, null ]}',
        '{"\\u0000":1}',
        '{"\\ud800":1}',
        "[1,\r2]",
        "[ 1 ,\t2 ]",
    ),
    *(
        "[" * MAX_DEPTH + "]" * MAX_DEPTH,
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        '{"a":' * 600 + "1" + "}" * 600,
    ),
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1,2",
        "1 2",
        "01",
        "+1",
        ".5",
        "5.",
        "1e",
        "0x10",
        "'a'",
        "undefined",
        "nul",
        "nulll",
    ),
    *(
        '"',
        '"\\x"',
        '"\\u12"',
        '"a',
        "{",
        "}",
        "[1,]",
        '{"a"}',
        '{"a":1,}',
        "{a:1}",
        "[1 2]",
        "<<CLOSE_STREAM>>x",
        "data: 1",
    ),
    *(
        '"\x01"',
        '"\x1f"',
        '"\x7f"',
        "\ufeff1",
        '"tab\tinside"',
        "1]",
        "1],[2",
        "]",
        "[[1],[2]",
        '"]","["',
        "1//2",
        "/*1*/1",
    ),
    *('{"type":"text-delta","delta":"\\ud800"}', '{"type":"text-delta","delta":5}', '{"type":{}}', '{"type":"start"}'),
    *(
        '{"object":"chat.completion.chunk","choices":[]}',
        '{"choices":[{"delta":null}],"object":"chat.completion.chunk"}',
    ),
    *('"' + "x" * 70_000 + '"', "[" + ",".join(["1.10"] * 9_000) + "]", "9" * 200_000, '"' + "\\u0000" * 9_000 + '"'),
]


def made_up(count: int) -> Iterator[str]:
    """Texts on both sides of the border of JSON."""
    dice = random.Random(4)
    pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"',
        "1",
        "-",
        ".",
        "e",
        "0",
        "true",
        "null",
        '"a"',
        "\\",
        "u0000",
        "ud800",
        " ",
    ]
    pieces += [
        "é",
        "\u2028",
        '"\\u0000"',
        '"\\ud800\\udc00"',
        '{"a":1}',
        "[1]",
        "1.10",
        "1e9",
        '"type"',
        "\t",
        "\r",
        "NaN",
    ]
    for _ in range(count):
        yield "".join(dice.choices(pieces, k=dice.randint(1, 6)))


def postgres_takes(connection: psycopg.Connection[tuple[object, ...]], text: str) -> bool:
    try:
        connection.execute("SELECT %s::json", [text])
    except psycopg.errors.DataError:
        return False
    return True


def depth(text: str) -> int:
    """How deep a valid text is nested."""
    deepest = now = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string, escaped = not (char == '"' and not escaped), char == "\\" and not escaped
        else:
            in_string = char == '"'
            now += (char in "[{") - (char in "]}")
            deepest = max(deepest, now)
    return deepest


def read_everything(ingestion: Ingestion) -> None:
    """Every column of every view, of every row: none may raise."""
    for view in VIEWS:
        for row in ingestion.rows(f"SELECT v::text FROM tailrace.{view} v"):
            assert row[0] is not None


@pytest.mark.trap(36)
@pytest.mark.trap(37)
@pytest.mark.parametrize("wire", list(Wire))
def test_what_postgres_takes_is_archived_verbatim_and_no_view_raises(wire: Wire, database_url: str) -> None:
    texts = [text for text in (*NASTY, *made_up(400)) if text.strip(" \t\r\n\ufeff\u2028")]
    store = store_with(wire, [], over=False)
    for start in range(0, len(texts), 50):
        store.append_chunks("run_1", "ai", texts[start : start + 50])
    store.finish_run("run_1")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.until_sealed()
        good = [postgres_takes(ingestion.connection, text) and depth(text) <= MAX_DEPTH for text in texts]
        assert sum(good) > 75  # fewer than 900 in all: more at the first visit would be a doubt
        assert sum(not each for each in good) > 100
        expected = [text.strip(" \t\r\n").encode() for text, each in zip(texts, good, strict=True) if each]
        assert ingestion.texts("run_1") == expected
        kept = [raw for _, raw in ingestion.quarantine()]
        bad = [text for text, each in zip(texts, good, strict=True) if not each]
        if wire is Wire.V1:
            assert kept == [text.removesuffix("\r").encode() for text in bad]
        else:
            assert len(kept) == len(bad)
            assert all(
                b'{"data":%b,"id":"' % text.encode() == raw[: -len('1234567"}')]
                for text, raw in zip(bad, kept, strict=True)
            )
        assert ingestion.verdict("run_1") == "complete"
        read_everything(ingestion)


def test_bytes_that_are_not_utf8_are_kept_as_they_came(database_url: str) -> None:
    store = store_with(Wire.V1, ['"a"'], over=False)
    store.append_entry("run_1", "ai", b'"\xff\xc3("\n')
    store.append_chunks("run_1", "ai", ['"z"'])
    store.finish_run("run_1")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"a"', b'"z"']
        assert ingestion.quarantine() == [("not UTF-8", b'"\xff\xc3("')]


@pytest.mark.trap(35)
@pytest.mark.trap(39)
def test_records_that_are_no_chunks(database_url: str) -> None:
    """v2: commands, control records with a live credential, bodies that are no envelope, records with nothing in them."""
    from tailrace.serve.records import Draft
    from tests.upstream.drafts import control_draft, fence_draft, undefined_draft

    store = store_with(Wire.V2, ['"a"'], over=False)
    secret = "eyJhbGciOi.secret"
    store.append_records(
        "run_1",
        "ai",
        [
            fence_draft("token"),
            fence_draft(""),
            control_draft("turn-complete", (("public-access-token", secret), ("session-in-event-id", "4"))),
            Draft(b""),
            Draft(b"not json"),
            Draft(b'{"data":1}'),
            undefined_draft("abcdefg"),
            Draft(b'{"data":1,"id":"x"}', (("kind", "x"),)),
        ],
    )
    store.append_trim("run_1", "ai", 0)
    store.finish_run("run_1")
    with ingesting(database_url, store) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert ingestion.texts("run_1") == [b'"a"', b"1"]
        assert [reason for *_, reason in ingestion.holes()] == [
            *("command", "command", "control"),
            *["quarantined"] * 4,
            "command",
        ]
        assert [raw for _, raw in ingestion.quarantine()] == [b"", b"not json", b'{"data":1}', b'{"id":"abcdefg"}']
        assert ingestion.verdict("run_1") == "complete"
        for table in ("streams", "runs", "segments", "holes", "quarantine"):
            assert not any(secret in str(row) for row in ingestion.rows(f"SELECT t::text FROM tailrace.{table} t"))


def test_chunks_of_16_mib(database_url: str) -> None:
    """As large as an event may be; one goes alone into a segment."""
    large = '"' + "é\\u0000" * 1_800_000 + '"'
    store = store_with(Wire.V1, ['"a"', large, '"z"'])
    with ingesting(database_url, store, event_max_bytes=16 << 20) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.until_sealed()
        assert [len(text) for text in ingestion.texts("run_1")] == [3, len(large.encode()), 3]
        assert ingestion.value("SELECT md5(data_text) FROM tailrace.chunks WHERE chunk_index = 1") == ingestion.value(
            "SELECT md5(%s)", large
        )
