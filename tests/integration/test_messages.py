"""View `message_parts` shows what the AI SDK itself makes of the chunks (tests/messagestreams.py)."""

from __future__ import annotations

import json

from psycopg.rows import dict_row

from tests.integration.schema_rows import Archive
from tests.messagestreams import Chunk, begun, delta, differences, known, text, tool

START, STEP = {"type": "start"}, {"type": "start-step"}


def test_the_parts_are_those_of_the_ai_sdk(archive: Archive) -> None:
    reductions = known()
    assert len(reductions) > 150
    with archive.connection.cursor(row_factory=dict_row) as cursor:
        for number, (name, reduction) in enumerate(reductions.items()):
            stream = archive.stream(f"run_{number}")
            archive.segment(stream, [json.dumps(chunk) for chunk in reduction.chunks])
            rows = cursor.execute(
                "SELECT * FROM tailrace.message_parts WHERE stream_id = %s ORDER BY first_index", [stream]
            ).fetchall()
            assert differences(reduction, rows) == [], name


def parts(archive: Archive, chunks: list[Chunk], columns: str) -> list[tuple[object, ...]]:
    archive.whole_stream([json.dumps(chunk) for chunk in chunks])
    return archive.rows(f"SELECT {columns} FROM tailrace.message_parts ORDER BY first_index")


def test_what_the_ai_sdk_refuses_is_a_part_of_its_own(archive: Archive) -> None:
    chunks = [START, *text("one"), delta("or"), delta("phan"), tool("output-available", "x", output=[1]), *text("two")]
    assert parts(archive, chunks, "kind, text, tool_call_id, output, refused") == [
        ("text", "one", None, None, False),
        ("text", "orphan", None, None, True),
        ("tool", None, "x", [1], True),
        ("text", "two", None, None, False),
    ]


def test_an_attempt_that_was_tried_again_is_superseded(archive: Archive) -> None:
    for name, chunks in {
        "a start that names no message": [START, *text("Hel")[:2], START, *text("Hello")],
        "a start that names the same": [begun("m"), *text("Hel")[:2], begun("m"), *text("Hello")],
        "a start that names another": [begun("m1"), *text("Hel")[:2], begun("m2"), *text("Hello")],
    }.items():
        assert parts(archive, chunks, "message, text, superseded") == [(1, "Hel", True), (2, "Hello", False)], name
        archive.run("TRUNCATE tailrace.runs CASCADE")
        archive.run("TRUNCATE tailrace.segments")


def test_an_input_that_never_came_whole_is_there_as_it_came(archive: Archive) -> None:
    chunks = [
        *(START, {"type": "tool-input-start", "toolCallId": "c", "toolName": "look"}),
        *(tool("input-delta", inputTextDelta=each) for each in ('{"city":"Be', "rn \ud83d", '\ude80", "da')),
    ]
    assert parts(archive, chunks, "input, raw_input") == [({"city": "Bern 🚀"}, '{"city":"Bern 🚀", "da')]


def test_parts_of_the_ai_sdks_other_stream(archive: Archive) -> None:
    """`fullStream` of streamText has calls and results of other names."""
    chunks = [
        {"type": "text-delta", "text": "Hello"},
        {"type": "tool-call", "toolCallId": "c", "toolName": "look", "input": {"a": 1}},
        {"type": "tool-result", "toolCallId": "c", "toolName": "look", "output": 2},
    ]
    assert parts(archive, chunks, "kind, text, tool_name, input, output, refused") == [
        ("text", "Hello", None, None, None, True),
        ("tool", None, "look", {"a": 1}, 2, False),
    ]


def test_a_stream_of_many_parts_takes_no_longer_for_each(archive: Archive) -> None:
    """Nothing is compared with everything: 4,000 calls and answers are read, and counted."""
    chunks: list[Chunk] = [START]
    for number in range(1_000):
        chunks += [
            *(STEP, tool("input-available", str(number), input=1)),
            tool("approval-request", str(number), approvalId=f"p{number}"),
            {"type": "tool-approval-response", "approvalId": f"p{number}", "approved": True},
            tool("output-available", str(number), output=2),
        ]
    stream = archive.stream()
    for first in range(0, len(chunks), 2000):
        archive.segment(stream, [json.dumps(chunk) for chunk in chunks[first : first + 2000]], first=first)
    archive.run("SET statement_timeout = '20s'")
    assert archive.rows(
        "SELECT count(*), count(*) FILTER (WHERE refused), max(step) FROM tailrace.parts_of_stream(%s)", stream
    ) == [(1_000, 0, 1_000)]
