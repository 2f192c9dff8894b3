"""Views `stream_text`, `gaps` and `quarantined`, and function `chunks_range`."""

from __future__ import annotations

import json

import pytest

from tests.integration.schema_rows import Archive


def text_of(archive: Archive, chunks: list[object]) -> str | None:
    archive.whole_stream([chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks])
    text: str | None = archive.value("SELECT text FROM tailrace.stream_text WHERE run_id = 'run_1'")
    return text


def delta(text: str, block: str = "0") -> dict[str, str]:
    return {"type": "text-delta", "id": block, "delta": text}


def start(block: str = "0") -> dict[str, str]:
    return {"type": "text-start", "id": block}


def test_strings_are_put_together_as_they_are(archive: Archive) -> None:
    assert text_of(archive, ['"Hello, "', '"wor"', '""', '"ld"']) == "Hello, world"


def test_blocks_of_a_message_are_joined_by_a_blank_line(archive: Archive) -> None:
    assert (
        text_of(
            archive,
            [
                {"type": "start", "messageId": "m"},
                {"type": "start-step"},
                {"type": "reasoning-delta", "id": "r", "delta": "hidden"},
                *(start("a"), delta("One ", "a"), delta("two", "a"), {"type": "text-end", "id": "a"}),
                {"type": "tool-input-available", "toolName": "look"},
                *(start("b"), delta("Three", "b"), {"type": "text-end", "id": "b"}),
                {"type": "finish"},
            ],
        )
        == "One two\n\nThree"
    )


def test_a_step_that_uses_an_id_again_begins_a_new_block(archive: Archive) -> None:
    step = {"type": "start-step"}
    assert text_of(archive, [step, start(), delta("One"), step, start(), delta("Two")]) == "One\n\nTwo"


def test_blocks_that_overlap_keep_the_order_in_which_they_began(archive: Archive) -> None:
    chunks = [start("a"), start("b"), delta("B1", "b"), delta("A1", "a"), delta("B2", "b"), delta("A2", "a")]
    assert text_of(archive, chunks) == "A1A2\n\nB1B2"


def test_a_second_start_leaves_only_the_last_message(archive: Archive) -> None:
    begin = {"type": "start"}
    assert (
        text_of(archive, [begin, start(), delta("failed att"), begin, start(), delta("whole answer")]) == "whole answer"
    )


def test_start_means_nothing_in_other_streams(archive: Archive) -> None:
    assert text_of(archive, ['"a"', {"type": "start"}, '"b"']) == "ab"


def test_a_reset_step_takes_back_its_own_step_only(archive: Archive) -> None:
    step, reset = {"type": "start-step"}, {"type": "reset-step"}
    assert (
        text_of(archive, [step, start(), delta("1"), step, start(), delta("no"), reset, start(), delta("2")])
        == "1\n\n2"
    )


def test_a_reset_without_a_step_takes_back_all_before_it(archive: Archive) -> None:
    assert text_of(archive, [start(), delta("no"), {"type": "reset-step"}, start(), delta("yes")]) == "yes"


def test_the_choices_of_a_completion_are_blocks(archive: Archive) -> None:
    def choice(index: int, content: str) -> dict[str, object]:
        return {"object": "chat.completion.chunk", "choices": [{"index": index, "delta": {"content": content}}]}

    usage = {"object": "chat.completion.chunk", "choices": [], "usage": {}}
    assert text_of(archive, [choice(0, "a"), choice(1, "x"), choice(0, "b"), choice(1, "y"), usage]) == "ab\n\nxy"


def test_a_stream_without_text_has_a_row_and_no_text(archive: Archive) -> None:
    assert text_of(archive, [{"progress": 1}, {"progress": 2}]) is None
    archive.stream("run_1", "empty")
    assert archive.rows("SELECT generation, text FROM tailrace.stream_text WHERE stream_key = 'empty'") == [(0, None)]


def test_odd_chunks_have_readable_text(archive: Archive) -> None:
    assert text_of(archive, [start(), '{"type":"text-delta","id":"0","delta":"a\\u0000"}', delta("b")]) == "a\ufffdb"


def test_each_generation_has_a_text_of_its_own(archive: Archive) -> None:
    stream = archive.stream()
    archive.segment(stream, ['"old"'])
    archive.segment(stream, ['"ne"', '"w"'], generation=1)
    archive.settle(stream, 1, ['"old"', '"ne"', '"w"'], generation=1)
    assert archive.rows("SELECT generation, text FROM tailrace.stream_text ORDER BY 1") == [(0, "old"), (1, "new")]


def test_a_stream_too_large_for_one_text_has_none(archive: Archive) -> None:
    stream = archive.whole_stream(['"a"'])
    archive.run("UPDATE tailrace.streams SET byte_count = 600000000 WHERE id = %s", stream)
    assert archive.rows("SELECT text FROM tailrace.stream_text") == [(None,)]


def test_gaps_are_the_losses_and_quarantined_is_raw(archive: Archive) -> None:
    stream = archive.stream()
    archive.hole(stream, 0, 4, "trimmed")
    archive.hole(stream, 5, 5, "command")
    archive.hole(stream, 6, None, "trimmed")
    archive.hole(stream, 6, 6, "quarantined")
    archive.quarantine(stream, 6, b"\x00\xff")
    assert archive.rows(
        "SELECT environment, run_id, stream_key, generation, first_index, last_index, lost, reason FROM tailrace.gaps"
        " ORDER BY first_index"
    ) == [
        ("default", "run_1", "ai", 0, 0, 4, 5, "trimmed"),
        ("default", "run_1", "ai", 0, 6, None, None, "trimmed"),
    ]
    assert archive.rows("SELECT run_id, stream_key, generation, chunk_index, raw FROM tailrace.quarantined") == [
        ("run_1", "ai", 0, 6, b"\x00\xff")
    ]


class TestChunksRange:
    @pytest.fixture
    def stream(self, archive: Archive) -> int:
        """Indices 0-9 without 4, in segments 0-2, 3-6, 7-9; then generation 1 with 0-1."""
        stream = archive.stream()
        archive.segment(stream, ["0", "1", "2"])
        archive.segment(stream, ["3", "5", "6"], first=3, offsets=[0, 2, 3])
        archive.segment(stream, ["7", "8", "9"], first=7)
        archive.segment(stream, ["10", "11"], generation=1)
        archive.run("UPDATE tailrace.streams SET generation = 1 WHERE id = %s", stream)
        return stream

    @pytest.mark.parametrize(
        ("first", "last"),
        [(0, 0), (0, 100), (-5, 1), (2, 3), (4, 4), (5, 8), (9, 9), (10, 20), (6, 7), (3, 2), (0, 9223372036854775807)],
    )
    def test_it_equals_the_view(self, archive: Archive, stream: int, first: int, last: int) -> None:
        found = archive.rows("SELECT * FROM tailrace.chunks_range('run_1', 'ai', %s, %s)", first, last)
        assert found == archive.rows(
            """SELECT * FROM tailrace.chunks WHERE run_id = 'run_1' AND stream_key = 'ai'
               AND chunk_index BETWEEN %s AND %s ORDER BY generation, chunk_index""",
            first,
            last,
        )

    def test_it_unpacks_only_what_it_needs(self, archive: Archive, stream: int) -> None:
        archive.run("UPDATE tailrace.streams SET generation = 0 WHERE id = %s", stream)
        plan = "\n".join(
            row[0]
            for row in archive.rows(
                """EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
                   SELECT data_text FROM tailrace.chunks_range('run_1', 'ai', 5, 6)"""
            )
        )
        (unpacked,) = [line for line in plan.splitlines() if "Function Scan on c" in line]
        assert "loops=1" in unpacked, plan
