"""Every recording, however its bytes are cut: the same records; cut off anywhere: a prefix of them, never an end."""

from __future__ import annotations

import random

import pytest

from tailrace.model import V1Record, V2Record, Wire
from tests.decoding import blocks_of, every, outcome
from tests.wirecases import WireCase, case_names, load_case

CASES = {name: case for name in case_names() if (case := load_case(name)).status == 200}
CUTS_IN_FULL = 1_500


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> WireCase:
    return CASES[request.param]


def test_blocks_make_no_difference(case: WireCase) -> None:
    whole = outcome([case.body], case.wire)
    assert outcome(every(case.body, 1), case.wire) == whole
    dice = random.Random(case.name)
    for _ in range(5):
        cuts = sorted(dice.choices(range(len(case.body) + 1), k=20))
        assert outcome(blocks_of(case.body, *cuts), case.wire) == whole


@pytest.mark.trap(13)
@pytest.mark.trap(15)
def test_a_body_cut_at_any_byte_gives_a_prefix(case: WireCase) -> None:
    """v2 knows that it was cut, because [DONE] is missing; on v1 only the transport says so."""
    records, error = outcome([case.body], case.wire)
    size = len(case.body)
    dice = random.Random(case.name)
    cuts = range(size) if size <= CUTS_IN_FULL else [*dice.sample(range(size), 60), *range(size - 60, size)]
    for cut in cuts:
        got, ended = outcome([case.body[:cut]], case.wire)
        assert got == records[: len(got)], cut
        assert case.wire is Wire.V1 or ended == "SourceUnavailable", cut
        if case.wire is Wire.V1:
            assert ended in ("", error), cut


def test_what_the_recording_says_was_sent_is_what_is_decoded(case: WireCase) -> None:
    records = outcome([case.body], case.wire)[0]
    if case.wire is Wire.V1 and case.expected_texts is not None:
        # A CR before the LF ends the line together with it.
        assert [record.text.encode() for record in records] == [text.rstrip(b"\r") for text in case.expected_texts]
    numbers = [record.seq_num for record in records if isinstance(record, V2Record)]
    assert numbers == sorted(set(numbers))
    if case.wire is Wire.V1:
        ids = [(record.ms, record.seq) for record in records if isinstance(record, V1Record)]
        assert ids == sorted(ids)
