"""The flush rule: when the chunks that a stream has waiting are written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FlushReason(StrEnum):
    """Why a batch was flushed."""

    FIRST = "first"  # a stream's first chunk is visible at once
    COUNT = "count"
    BYTES = "bytes"
    AGE = "age"
    END = "end"  # the reader leaves, or asks
    PRESSURE = "pressure"  # the process holds as much as it may


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is full: as soon as one of these is reached."""

    max_chunks: int = 500
    max_bytes: int = 1_048_576
    max_age_s: float = 0.25


def due(limits: BatchLimits, chunks: int, size_bytes: int, age_s: float) -> FlushReason | None:
    """Return why a batch must be flushed now, or None.

    ``age_s`` is that of its oldest chunk. A batch of nothing but holes counts like one chunk: it moves the checkpoint.
    """
    if chunks >= limits.max_chunks:
        return FlushReason.COUNT
    if size_bytes >= limits.max_bytes:
        return FlushReason.BYTES
    if age_s >= limits.max_age_s:
        return FlushReason.AGE
    return None
