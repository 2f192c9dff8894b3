"""The short ways of v2 mean the same as the long ones."""

from __future__ import annotations

import random

import pytest

from tailrace.ingest import v2_order
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Checkpoint, Kind, PlainRecords, V2Record
from tailrace.wire.chunk_json import PLAIN, check
from tailrace.wire.envelope import envelope, envelopes, plain_envelopes

TEXTS = (b'"a"', b'{"a":1}', b'"\\u0000"', b"1e99999", b'"\xc3\xa9"', b'"\\ud800"')


def records(chance: random.Random, count: int) -> list[V2Record]:
    """Mostly ordinary records; now and then a jump, a command, a repeat, an odd text, no id, a long one."""
    found: list[V2Record] = []
    number = 0
    for _ in range(count):
        number += 1 if chance.random() < 0.98 else chance.randrange(2, 5)
        text, body_id, kind = TEXTS[0], f"{number:07d}", Kind.DATA
        odd = chance.random()
        if odd < 0.02 and found:
            text, body_id = found[-1].text, found[-1].body_id
        elif odd < 0.04:
            text = chance.choice(TEXTS)
        elif odd < 0.05:
            body_id = chance.choice(("", "x" * 300))
        elif odd < 0.06:
            kind, text, body_id = Kind.COMMAND, b"", ""
        found.append(V2Record(number - 1, 1_700_000_000_000 + number, kind, text, body_id, f"{text!r}{body_id}"))
    return found


def by_column(given: list[V2Record]) -> list[V2Record] | PlainRecords:
    """The records as the decoder gives them: by column, when all of them are ordinary."""
    if not all(each.kind is Kind.DATA and each.body_id and check(each.text) == PLAIN for each in given):
        return given
    numbers, times, _, texts, ids, bodies = map(list, zip(*given, strict=True))
    return PlainRecords(numbers, times, texts, ids, bodies)


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("window", [5, 5_000])
def test_admitting_at_once_is_admitting_each(seed: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2_order, "REPEAT_WINDOW", window)
    chance = random.Random(seed)
    given = records(chance, 300)
    short, long = V2Order(Checkpoint(), []), V2Order(Checkpoint(), [])
    at = 0
    while at < len(given):
        size = chance.randrange(1, 25)
        part = given[at : at + size]
        assert short.admit(by_column(part)) == long.admit(part)
        at += size


def test_records_by_column_are_the_records() -> None:
    given = [V2Record(at, 7, Kind.DATA, b"%d" % at, f"id{at}", f"body {at}") for at in range(5)]
    columns = by_column(given)
    assert isinstance(columns, PlainRecords)
    assert (list(columns), columns[-1], list(columns[1:3]), len(columns)) == (given, given[-1], given[1:3], 5)
    assert columns == given
    assert columns[:2] != given


def test_taking_bodies_apart_together_gives_what_each_gives() -> None:
    ordinary = ['{"data":1.10,"id":"a"}', '{"id":"b","data": {"x":[1,2]} }', '{"data":"é","id":""}']
    together = envelopes(ordinary)
    assert together is not None
    assert list(zip(*together, strict=True)) == [(each.data, each.id) for each in map(envelope, ordinary) if each]


@pytest.mark.parametrize("body", ['{"id":"a"}', "[]", "", '{"data":1}', '{"data":1,"id":"a"},{"data":2,"id":"b"}'])
def test_one_body_out_of_the_ordinary_is_left_to_the_long_way(body: str) -> None:
    assert envelopes(['{"data":1,"id":"a"}', body]) is None


def test_plain_bodies_are_taken_apart_as_each_is() -> None:
    ordinary = ['{"data":1.10,"id":"aaa"}', '{"data":{"x":[1,"\\n\u00e9"]},"id":"bbb"}', '{"id":"ccc","data":"}é"}']
    apart = plain_envelopes(ordinary)
    assert apart is not None
    assert list(zip(*apart, strict=True)) == [(each.data, each.id) for each in map(envelope, ordinary) if each]


@pytest.mark.parametrize(
    "bodies",
    [
        [],
        # Each begins and ends like an envelope, and joined they are as many envelopes as they are: but others.
        ['{"data":1,"id":"a"},{"data":[{"q":"x"}', '{"data":5,"id":"b"}],"id":"c"}'],
        ['{"data":1,"id":"a"},{"data":2', '"id":"b"}'],
        ['{"data":1,"id":"a"}', '{"data":1,"id":"b"},{"data":1,"id":"c"}'],
        ['{"data":1,"id":"a"} '],
        ['{"data": 1,"id":"a"}'],
        ['{"data":1,"id":"\\u0061"}'],
        ['{"data":1,"id":"\u00e9"}'],
        ['{"data":1,"data":2,"id":"a"}'],
        ['{"data":1,"id":"a","x":1}'],
        ['{"data":1,"id":"a"}', '{"data":1,"id":"bb"}'],
        ['{"data":1,"id":""}'],
        ['{"id":"a"}'],
        ['{"data":1}'],
        ['{"data":NaN,"id":"a"}'],
        ['{"data":"\\u0000","id":"a"}'],
        ['{"data":"\\ud800","id":"a"}'],
        ['{"data":"\udcff","id":"a"}'],
        ['{"data":1e99999,"id":"a"}'],
        ['{"data":[-2.5E+0099999],"id":"a"}'],
        ['{"data":"%s","id":"a"}' % ("x" * 2_000)],
    ],
)  # fmt: skip
def test_bodies_out_of_the_plain_are_left_to_the_longer_way(bodies: list[str]) -> None:
    assert plain_envelopes(bodies) is None
