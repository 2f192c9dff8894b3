"""How records are written: what is absent, what is counted, what stays as it was."""

from __future__ import annotations

import json

import pytest

from tailrace.serve.records import Record, data_draft, metered_bytes
from tests.upstream.drafts import control_draft, fence_draft, trim_draft, undefined_draft


def test_headers_and_body_are_absent_when_there_are_none() -> None:
    assert Record(3, 9, b"").wire == b'{"seq_num":3,"timestamp":9}'


def test_a_body_that_is_no_utf8_shows_replacement_characters_and_is_counted_as_stored() -> None:
    record = Record(0, 1, (200).to_bytes(8, "big"), (("", "trim"),))
    assert json.loads(record.wire)["body"] == "\0" * 7 + "\ufffd"
    assert record.metered == 8 + 2 + 4 + 8


@pytest.mark.parametrize("text", ['{"b":1.10,"a":1,"a":2}', '"\\ud800 \\u0000"', "null", '""', ' {"x" : 1e400} '])
def test_a_chunk_stays_as_it_was_written(text: str) -> None:
    assert data_draft(text, "abc1234").body == f'{{"data":{text},"id":"abc1234"}}'.encode()


def test_the_other_kinds_of_records() -> None:
    assert undefined_draft("abc1234").body == b'{"id":"abc1234"}'
    assert control_draft("turn-complete", (("last-event-id", "7"),)) == (
        b"",
        (("trigger-control", "turn-complete"), ("last-event-id", "7")),
        None,
    )
    assert Record(1, 2, *fence_draft("")[:2]).wire == b'{"seq_num":1,"timestamp":2,"headers":[["","fence"]]}'
    assert trim_draft(258).body == b"\0\0\0\0\0\0\1\2"


def test_the_metered_size_counts_bytes() -> None:
    assert metered_bytes("é".encode(), (("ä", "b"),)) == 8 + 2 + 3 + 2
