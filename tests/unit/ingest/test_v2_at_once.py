"""The short ways of v2 mean the same as the long ones."""

from __future__ import annotations

import random

import pytest

from worker.ingest import sequence as module
from worker.ingest.sequence import V2Sequence
from worker.model import Checkpoint, Kind, V2Record
from worker.wire.jsontext import envelope, envelopes

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


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("window", [5, 5_000])
def test_admitting_at_once_is_admitting_each(seed: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPEAT_WINDOW", window)
    chance = random.Random(seed)
    given = records(chance, 300)
    short, long = V2Sequence(Checkpoint(), []), V2Sequence(Checkpoint(), [])
    monkeypatch.setattr(long, "_admit_at_once", lambda _: None)
    at = 0
    while at < len(given):
        size = chance.randrange(1, 25)
        part = given[at : at + size]
        assert short.admit(part) == long.admit(part)
        at += size


def test_taking_bodies_apart_together_gives_what_each_gives() -> None:
    ordinary = ['{"data":1.10,"id":"a"}', '{"id":"b","data": {"x":[1,2]} }', '{"data":"é","id":""}']
    together = envelopes(ordinary)
    assert together is not None
    assert list(zip(*together, strict=True)) == [(each.data, each.id) for each in map(envelope, ordinary) if each]


@pytest.mark.parametrize("body", ['{"id":"a"}', "[]", "", '{"data":1}', '{"data":1,"id":"a"},{"data":2,"id":"b"}'])
def test_one_body_out_of_the_ordinary_is_left_to_the_long_way(body: str) -> None:
    assert envelopes(['{"data":1,"id":"a"}', body]) is None
