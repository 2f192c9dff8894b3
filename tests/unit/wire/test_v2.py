"""v2: events → records, tails and ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.model import Arrival, Kind, V2Record, Wire
from tailrace.wire.events import Framer
from tailrace.wire.v2 import V2Decoder, decode_read_batch
from tests.decoding import every, outcome

DONE = "data: [DONE]\n\n"


def event(batch: Any, name: str = "batch", event_id: str = "9,1,1") -> str:
    return f"event: {name}\nid: {event_id}\ndata: {batch if isinstance(batch, str) else json.dumps(batch)}\n\n"


def decoded(*blocks: str) -> list[Arrival]:
    framer, decoder = Framer(1 << 20), V2Decoder()
    return [given for block in blocks if (events := framer.feed(block)) for given in decoder.decode(events)]


def record(fields: dict[str, Any]) -> V2Record:
    (found,) = decode_read_batch(json.dumps({"records": [{"seq_num": 7, "timestamp": 5, **fields}]})).records
    assert (found.seq_num, found.timestamp_ms) == (7, 5)
    return found


@pytest.mark.parametrize(
    ("body", "text", "body_id"),
    [
        ('{"data":{"b":1,"a":1.10},"id":"abcdefg"}', b'{"b":1,"a":1.10}', "abcdefg"),
        ('{"id":"abcdefg","data":null}', b"null", "abcdefg"),
        ('{"data":"","id":"i"}', b'""', "i"),
        ('{"data":0,"id":"i"}', b"0", "i"),
        ('{"data":false,"id":"i"}', b"false", "i"),
        ('{"data":{},"id":"i"}', b"{}", "i"),
        ('{"data": [1, 2] ,"id":"i"}', b"[1, 2]", "i"),
        ('{"data":"\\ud800","id":"i"}', b'"\\ud800"', "i"),
        ('{"data":1e400,"id":"i"}', b"1e400", "i"),
        ('{"data":"{\\"approved\\":true}","id":"inp_1"}', b'"{\\"approved\\":true}"', "inp_1"),
    ],
)
@pytest.mark.trap(37)
@pytest.mark.trap(38)
def test_a_chunk_is_the_text_of_data_whatever_it_is(body: str, text: bytes, body_id: str) -> None:
    found = record({"body": body})
    assert (found.kind, found.text, found.body_id, found.body) == (Kind.DATA, text, body_id, body)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"body": ""},
        {"body": "not json"},
        {"body": "[1]"},
        {"body": '{"data":1}'},
        {"body": '{"id":"abcdefg"}'},
        {"body": '{"data":1,"id":7}'},
        {"body": '{"data":1,"id":"a"} x'},
        {"headers": None},
        {"headers": [], "body": "NaN"},
        {"headers": [["kind", "x"]]},
    ],
)
@pytest.mark.trap(35)
def test_a_body_that_is_no_envelope_is_kept_raw(fields: dict[str, Any]) -> None:
    found = record(fields)
    assert (found.kind, found.text, found.body) == (Kind.ODD, b"", fields.get("body", ""))


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ([["", "fence"]], Kind.COMMAND),
        ([["", "trim"]], Kind.COMMAND),
        ([["", "something new"]], Kind.COMMAND),
        ([["trigger-control", "turn-complete"], ["public-access-token", "eyJ.secret"]], Kind.CONTROL),
        ([["public-access-token", "eyJ.secret"], ["trigger-control", "upgrade-required"]], Kind.CONTROL),
    ],
)
@pytest.mark.trap(39)
def test_commands_and_control_records_say_nothing_but_their_number(headers: list[list[str]], kind: Kind) -> None:
    assert record({"headers": headers, "body": "\0\0\0\0\0\0\0\b"}) == V2Record(7, 5, kind, b"", "", "")


@pytest.mark.parametrize(
    "odd",
    [{"body": None}, {"body": 5}, {"headers": "x"}, {"headers": [["a"]]}, {"headers": [[1, 2]]}, {"timestamp": "x"}],
)
def test_a_record_of_another_shape_is_odd_and_its_neighbours_are_not(odd: dict[str, Any]) -> None:
    records = [
        {"seq_num": 1, "timestamp": 5, "body": '{"data":1,"id":"a"}'},
        {"seq_num": 2, "timestamp": 5, "headers": [["x", "eyJ.secret"]], **odd},
        {"seq_num": 3, "timestamp": 5, "body": '{"data":"\\ud800","id":"a"}'},
    ]
    before, found, after = decode_read_batch(json.dumps({"records": records, "tail": {"seq_num": 4}})).records
    assert (before.text, after.text) == (b"1", b'"\\ud800"')
    assert (found.kind, found.seq_num) == (Kind.ODD, 2)
    assert "secret" not in found.body


@pytest.mark.parametrize(
    "data",
    [
        *("", "x", "[]", '{"records":5}', '{"records":[1]}', '{"records":[{"body":"eyJ"}]}', "[" * 100_000),
        *('{"records":[{"seq_num":-1,"body":"eyJ"}]}', '{"records":[{"seq_num":"1"}]}'),
        *('{"records":[{"seq_num":1.5}]}', '{"records":[{"seq_num":9223372036854775808}]}'),
    ],
)
def test_a_batch_without_numbers_is_refused_without_its_text(data: str) -> None:
    """What it holds can be a credential, and the message goes to the log and into the database."""
    with pytest.raises(MalformedRecord) as caught:
        decode_read_batch(data)
    assert "eyJ" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (event({"records": [], "tail": {"seq_num": 3, "timestamp": 1}}), Arrival([], tail=3, alive_after=True)),
        (event({}), Arrival([], alive_after=True)),
        (
            event({"timestamp": 1, "tail": {"seq_num": 0, "timestamp": 0}}, "ping"),
            Arrival([], tail=0, alive_after=True),
        ),
        (event({"timestamp": 1}, "ping"), Arrival([], alive_after=True)),
        (event("what is this", "ping"), Arrival([], alive_after=True)),
        (DONE, Arrival([], alive_after=True)),
    ],
)
def test_what_an_event_says(body: str, found: Arrival) -> None:
    assert decoded(body) == [found]


def test_unknown_events_and_comments_are_signs_of_life_only() -> None:
    assert decoded(event("x", "news"), ": hello\n\n", event("{}", "message")) == []


@pytest.mark.trap(14)
@pytest.mark.parametrize("block", [event({"code": "unavailable", "message": "x"}, "error"), event("", "error")])
def test_an_error_event_is_a_fault_and_what_came_before_it_counts(block: str) -> None:
    body = event({"records": [{"seq_num": 0, "body": '{"data":1,"id":"a"}'}]}) + block + DONE
    (found, error) = outcome([body.encode()], Wire.V2)
    assert error == "SourceUnavailable"
    assert [each.text for each in found] == [b"1"]


@pytest.mark.trap(15)
def test_an_end_without_done_is_a_fault() -> None:
    decoder = V2Decoder()
    with pytest.raises(SourceUnavailable):
        decoder.finish()
    list(decoder.decode(Framer(999).feed(DONE)))
    decoder.finish()


@pytest.mark.parametrize("size", [1, 1_000, 65_536])
@pytest.mark.parametrize("id_first", [True, False])
def test_a_batch_beyond_the_limit_is_its_id_and_its_head(size: int, id_first: bool) -> None:
    small = event({"records": [{"seq_num": 0, "body": '{"data":1,"id":"a"}'}]}, event_id="0,1,1")
    data = json.dumps({"records": [{"seq_num": 1, "body": "x" * 9_000}]})
    large = f"id: 1,2,9\nevent: batch\ndata: {data}\n\n" if id_first else f"event: batch\ndata: {data}\nid: 1,2,9\n\n"
    last = event({"records": [{"seq_num": 2, "body": '{"data":3,"id":"c"}'}]}, event_id="2,3,9")
    found, error = outcome(every((small + large + last + DONE).encode(), size), Wire.V2, limit=8_000)
    one, (event_id, head), three = found
    assert (one.text, event_id, head, three.text, error) == (b"1", "1,2,9", data[:4096], b"3", "")


def test_a_huge_event_that_is_no_batch_is_skipped() -> None:
    assert outcome([event("p" * 9_000, "ping").encode() + DONE.encode()], Wire.V2, limit=8_000) == ([], "")


def test_several_mib_in_one_line() -> None:
    """Twice escaped, as the wire has it."""
    text = json.dumps("\\" * 700_000 + "\u2028é")
    body = json.dumps({"data": json.loads(text), "id": "a"}, ensure_ascii=False)
    batch = json.dumps({"records": [{"seq_num": 0, "timestamp": 1, "body": body}]}, ensure_ascii=False)
    assert len(batch) > 2 << 20
    (found,), error = outcome(every(event(batch).encode() + DONE.encode(), 65_536), Wire.V2)
    assert (json.loads(found.text), error) == (json.loads(text), "")


def test_bytes_that_are_not_utf8_come_through() -> None:
    body = b'event: batch\nid: 0,1,1\ndata: {"records":[{"seq_num":0,"body":"\xff{"}]}\n\ndata: [DONE]\n\n'
    (found,), error = outcome([body], Wire.V2)
    assert (found.kind, found.body.encode("utf-8", "surrogateescape"), error) == (Kind.ODD, b"\xff{", "")


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_give_records_or_a_known_error(body: bytes, size: int) -> None:
    assert outcome(every(body, size), Wire.V2) == outcome([body], Wire.V2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["records", "tail", "seq_num", "body", "headers", "timestamp", "id"]), inner)
    ),
    max_leaves=12,
)
RECORD = st.fixed_dictionaries(
    {"seq_num": st.integers(0, 9)}, optional={"body": JSON, "headers": JSON, "timestamp": JSON, "odd": JSON}
)
BATCH = st.fixed_dictionaries({"records": st.lists(RECORD, max_size=3)}, optional={"tail": JSON})


@given(st.lists(st.tuples(st.sampled_from(["batch", "ping", "error", "x"]), JSON | BATCH), max_size=4), st.booleans())
def test_any_json_gives_records_or_a_known_error(events: list[tuple[str, Any]], done: bool) -> None:
    body = "".join(event(json.dumps(data), name) for name, data in events) + DONE * done
    found, error = outcome([body.encode()], Wire.V2)
    assert outcome(every(body.encode(), 7), Wire.V2) == (found, error)
    assert error in ("", "SourceUnavailable", "MalformedRecord")
    assert error or done


@given(st.lists(RECORD, max_size=4))
def test_a_batch_of_numbered_records_keeps_every_number(records: list[dict[str, Any]]) -> None:
    found = decode_read_batch(json.dumps({"records": records})).records
    assert [each.seq_num for each in found] == [each["seq_num"] for each in records]
