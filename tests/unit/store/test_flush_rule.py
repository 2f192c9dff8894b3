"""The flush rule, and how takes are cut into segments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.model import Batch, Checkpoint
from tailrace.store.flush_rule import BatchLimits, FlushReason, due
from tailrace.store.segments import (
    SEGMENT_MAX_BYTES,
    SEGMENT_MAX_CHUNKS,
    cut_segments,
    pack_fingerprints,
    unpack_fingerprints,
)

LIMITS = BatchLimits(max_chunks=500, max_bytes=1_000, max_age_s=0.25)


@pytest.mark.parametrize(
    ("chunks", "size", "age_s", "reason"),
    [
        (0, 0, 0.0, None),
        (499, 999, 0.24, None),
        (500, 0, 0.0, FlushReason.COUNT),
        (1, 1_000, 0.0, FlushReason.BYTES),
        (1, 1, 0.25, FlushReason.AGE),
        (0, 0, 0.25, FlushReason.AGE),
        (500, 1_000, 9.0, FlushReason.COUNT),
    ],
)
def test_a_batch_is_due_when_it_is_full_or_old(
    chunks: int, size: int, age_s: float, reason: FlushReason | None
) -> None:
    assert due(LIMITS, chunks, size, age_s) is reason


def batch(first: int, *texts: bytes, generation: int = 0, fingerprints: bool = True) -> Batch:
    indices = list(range(first, first + len(texts)))
    return Batch(
        Checkpoint(generation, indices[-1] if indices else first - 1),
        indices=indices,
        texts=list(texts),
        emitted_ms=[1_000 + index for index in indices],
        fingerprints=[b"%d" % index for index in indices] if fingerprints else [],
    )


TAKES = st.lists(
    st.tuples(
        st.lists(st.sampled_from([b"1", b'"22"', b"x" * 400_000, b"y" * 1_200_000]), max_size=9), st.integers(0, 2)
    ),
    max_size=6,
)


@given(TAKES, st.integers(1, 7))
def test_segments_hold_every_chunk_once_in_order_and_are_small(
    shapes: list[tuple[list[bytes], int]], most: int
) -> None:
    batches, index = [], 0
    for generation in sorted(generation for _, generation in shapes):
        texts = shapes[len(batches)][0]
        batches.append(batch(index, *texts, generation=generation))
        index += len(texts)
    segments = list(cut_segments(batches, most))
    assert [i for segment in segments for i in segment.indices] == [i for each in batches for i in each.indices]
    assert [t for segment in segments for t in segment.texts] == [t for each in batches for t in each.texts]
    assert [m for segment in segments for m in segment.fingerprints] == [
        m for each in batches for m in each.fingerprints
    ]
    for segment in segments:
        assert len(segment.texts) == len(segment.emitted_ms) == len(segment.fingerprints) <= most <= SEGMENT_MAX_CHUNKS
        assert len(segment.texts) == 1 or sum(map(len, segment.texts)) <= SEGMENT_MAX_BYTES
        assert len({each.checkpoint.generation for each in batches if set(each.indices) & set(segment.indices)}) == 1


def test_odd_is_a_mark_of_the_whole_batch() -> None:
    batches = [batch(0, b"1"), batch(1, b'"\\u0000"')]
    batches[1].odd = True
    assert [segment.odd for segment in cut_segments(batches, 500)] == [True]


@given(st.lists(st.binary(max_size=255), max_size=20))
def test_marks_come_back_as_they_were(fingerprints: list[bytes]) -> None:
    assert list(unpack_fingerprints(pack_fingerprints(fingerprints))) == fingerprints


def test_no_marks_take_no_place() -> None:
    assert pack_fingerprints([]) is None
