"""v1: events → records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord
from tailrace.model import Arrival, V1Record, Wire
from tailrace.wire.events import HEAD_CHARS, Framer
from tailrace.wire.v1 import V1Decoder, parse_id
from tests.decoding import every, outcome, v1_event


def decoded(body: str, *more: str) -> list[Arrival]:
    """One delivery for each block that holds an event."""
    framer, decoder = Framer(1 << 20), V1Decoder()
    return [given for block in (body, *more) if (events := framer.feed(block)) for given in decoder.decode(events)]


@pytest.mark.parametrize(
    ("body", "records"),
    [
        ("id: 5-0\ndata: 1\n\n", [V1Record(5, 0, "1")]),
        ("id: 5-0\ndata: 1\n\nid: 5-0\ndata: 2\n\n", [V1Record(5, 0, "1"), V1Record(5, 0, "2")]),
        ("id: 5-0\ndata: null\n\n", [V1Record(5, 0, "null")]),
        ('id: 5-0\ndata: ""\n\n', [V1Record(5, 0, '""')]),
        ("id: 5-0\ndata: 0\n\nid: 5-1\ndata: false\n\n", [V1Record(5, 0, "0"), V1Record(5, 1, "false")]),
        ("id: 5-0\ndata: undefined\n\n", [V1Record(5, 0, "undefined")]),
        ("id: 5-0\ndata: <<CLOSE_STREAM>>\n\n", [V1Record(5, 0, "<<CLOSE_STREAM>>")]),
        (": ping\n\nid: 5-0\ndata: 1\n\n: ping\n\n: ping\n\n", [V1Record(5, 0, "1")]),
        ("id: 18446744073709551615-18446744073709551615\ndata: 1\n\n", [V1Record((1 << 64) - 1, (1 << 64) - 1, "1")]),
    ],
)
def test_events_become_records(body: str, records: list[V1Record]) -> None:
    assert [record for arrival in decoded(body) for record in arrival.records] == records


@pytest.mark.parametrize(
    ("blocks", "alive"),
    [
        (["id: 5-0\ndata: 1\n\n"], [False]),
        (["id: 5-0\ndata: 1\n\n: ping\n\n"], [True]),
        (["id: 5-0\ndata: 1\n\n", ": ping\n\n"], [False, True]),
        (["id: 5-0\ndata: 1\n\nid: 5-0", "\ndata: 2\n\n"], [False, False]),
    ],
)
@pytest.mark.trap(4)
def test_only_what_follows_proves_the_last_record_whole(blocks: list[str], alive: list[bool]) -> None:
    assert [arrival.alive_after for arrival in decoded(*blocks)] == alive


@pytest.mark.trap(2)
@pytest.mark.trap(3)
def test_ids_are_pairs_of_numbers() -> None:
    """Neither text, where 9 comes after 10, nor the milliseconds alone."""
    assert parse_id("9-0") < parse_id("10-0") < parse_id("10-2") < parse_id("10-10")


@pytest.mark.parametrize("bad", ["", "5", "5-", "-5", "5-0-0", "5-0 ", "a-b", "٣-0", "1.5-0", "5-0\n", "9" * 21 + "-0"])
def test_what_is_no_redis_id_is_refused(bad: str) -> None:
    with pytest.raises(MalformedRecord):
        parse_id(bad)


@pytest.mark.trap(12)
def test_an_end_is_never_the_end_of_the_stream() -> None:
    """v1 has no word for it: whatever a line looks like, it is a line."""
    (arrival,) = decoded(
        'id: 5-0\ndata: <<CLOSE_STREAM>>\n\nid: 5-1\ndata: {"type":"finish"}\n\nid: 5-2\ndata: [DONE]\n\n'
    )
    assert len(arrival.records) == 3


@pytest.mark.parametrize("size", [1, 777, 65_536])
def test_a_line_beyond_the_limit_is_its_head(size: int) -> None:
    body = v1_event("5-0", "1") + v1_event("5-1", '"' + "x" * 9_000 + '"') + v1_event("5-2", "3")
    assert outcome(every(body, size), Wire.V1, limit=8_000) == (
        [V1Record(5, 0, "1"), V1Record(5, 1, '"' + "x" * (HEAD_CHARS - 1), oversized=True), V1Record(5, 2, "3")],
        "",
    )


def test_bytes_that_are_not_utf8_come_through() -> None:
    """As surrogates, from which the very bytes are made again; never as U+FFFD."""
    (record,), error = outcome([b'id: 5-0\ndata: "\xff\xc3("\n\n'], Wire.V1)
    assert record.text.encode("utf-8", "surrogateescape") == b'"\xff\xc3("'
    assert error == ""


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_give_records_or_a_known_error(body: bytes, size: int) -> None:
    assert outcome(every(body, size), Wire.V1) == outcome([body], Wire.V1)


LINES = st.sampled_from(
    [b"id: 1-0", b"id: 1-1", b"id: x", b"data: 1", b"data: {", b": p", b"", b"", b"event: e", b"\xff"]
)


@given(st.lists(LINES, max_size=20).map(b"\n".join), st.integers(1, 9))
def test_any_lines_give_records_or_a_known_error(body: bytes, size: int) -> None:
    assert outcome(every(body, size), Wire.V1) == outcome([body], Wire.V1)
