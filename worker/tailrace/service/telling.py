"""What the log says of reading one stream: a line for what has changed, none above debug for what comes round again.

A stream that is silent is leased, looked at and parked every few seconds for as long as its run lives.
"""

from __future__ import annotations

from typing import Any

from tailrace.model import LeasedStream, Outcome, StreamState

FIRST_TOKEN = 1
"""Of a stream that nobody has read before."""


def began(bound: Any, stream: LeasedStream) -> None:
    """Tell that a reader has a stream."""
    if stream.token == FIRST_TOKEN:
        bound.info("lease_acquired", position=stream.checkpoint.last_index)
    else:
        bound.debug("lease_acquired", position=stream.checkpoint.last_index)


def left(bound: Any, stream: LeasedStream, outcome: Outcome, position: int) -> None:
    """Tell how a reader left ``stream``, which is as it was when the reader began. ``position``: the checkpoint now."""
    if stream.attempt > 0 and outcome.attempt == 0 and outcome.error is None:
        bound.info("stream_recovered", position=position)
    if outcome.state is StreamState.SEALED:
        bound.info("stream_sealed", position=position)
    elif outcome.state is StreamState.FAILED:
        bound.warning("stream_failed", position=position, error=outcome.error)
    elif outcome.state is StreamState.CANCELLED:
        bound.info("stream_cancelled", position=position)
    elif outcome.state is StreamState.ACTIVE:
        bound.debug("stream_handed_on", position=position)
    elif outcome.attempt > 0 and stream.attempt == 0:
        bound.info("stream_parked", position=position, attempt=outcome.attempt, error=outcome.error)
    else:
        bound.debug("stream_parked", position=position, attempt=outcome.attempt, error=outcome.error)
