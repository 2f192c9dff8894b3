"""Cut chunks into segments, and pack what a v2 segment remembers of its records. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from tailrace.model import Batch

SEGMENT_MAX_CHUNKS = 2_000
"""A larger one costs more to unpack for one chunk than it saves in space."""
SEGMENT_MAX_BYTES = 1_048_576
"""Of chunks; a larger chunk is a segment alone."""


class Segment(NamedTuple):
    """One row of `segments`, before it is one: parallel lists, indices ascending."""

    generation: int
    indices: list[int]
    texts: list[bytes]
    emitted_ms: list[int]
    fingerprints: list[bytes]
    odd: bool


def cut_segments(batches: list[Batch], max_chunks: int) -> Iterator[Segment]:
    """Cut the chunks of batches into segments, in order; batches without chunks make none.

    A segment holds chunks of one generation, at most ``max_chunks`` of them and at most 1 MiB, or one larger chunk.
    """
    for generation, group in groupby(batches, key=lambda batch: batch.checkpoint.generation):
        whole = Segment(generation, [], [], [], [], odd=False)
        odd = False
        for batch in group:
            whole.indices.extend(batch.indices)
            whole.texts.extend(batch.texts)
            whole.emitted_ms.extend(batch.emitted_ms)
            whole.fingerprints.extend(batch.fingerprints)
            odd = odd or batch.odd
        for start, end in _cuts(whole.texts, max_chunks):
            yield Segment(
                generation,
                whole.indices[start:end],
                whole.texts[start:end],
                whole.emitted_ms[start:end],
                whole.fingerprints[start:end],
                odd,
            )


def _cuts(texts: list[bytes], max_chunks: int) -> Iterator[tuple[int, int]]:
    if 0 < len(texts) <= max_chunks and sum(map(len, texts)) + len(texts) <= SEGMENT_MAX_BYTES:
        yield 0, len(texts)
        return
    if texts and max_chunks * (max(map(len, texts)) + 1) <= SEGMENT_MAX_BYTES:  # only the count can matter
        for start in range(0, len(texts), max_chunks):
            yield start, min(start + max_chunks, len(texts))
        return
    start = size = 0
    for at, text in enumerate(texts):
        if at > start and (at - start >= max_chunks or size + len(text) > SEGMENT_MAX_BYTES):
            yield start, at
            start, size = at, 0
        size += len(text) + 1
    if texts:
        yield start, len(texts)


def pack_fingerprints(fingerprints: list[bytes]) -> bytes | None:
    """Join fingerprints of at most 255 bytes each, with their lengths; None when there are none."""
    if not fingerprints:
        return None
    size = bytes((len(fingerprints[0]),))
    if set(map(len, fingerprints)) == {size[0]}:  # as upstream's own writer makes them
        return size + size.join(fingerprints)
    return b"".join(bytes((len(each),)) + each for each in fingerprints)


def unpack_fingerprints(packed: bytes | None) -> Iterable[bytes]:
    """Undo `pack_fingerprints`."""
    at = 0
    while packed and at < len(packed):
        end = at + 1 + packed[at]
        yield packed[at + 1 : end]
        at = end
