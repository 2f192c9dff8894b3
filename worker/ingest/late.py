"""Look whether a sealed stream has more than is held, without a lease and without storing anything."""

from __future__ import annotations

from worker.ingest.loop import DRAIN_WAIT_S, Upstream, moves
from worker.ingest.sequence import sequence_for
from worker.model import Checkpoint, Wire


def has_more(upstream: Upstream, wire: Wire, checkpoint: Checkpoint) -> bool:
    """Tell whether upstream holds anything that comes after ``checkpoint``, or another stream under the same key.

    A stream that was deleted since, or has expired, has no more.

    Raises:
        What reading raises: then nobody knows.
    """
    sequence = sequence_for(wire, checkpoint, [])
    with upstream.connect(sequence.resume(), DRAIN_WAIT_S) as connection:
        if connection.wire is not wire:
            return True  # whatever it is, reading it finds out
        sequence.opened(connection.date_ms)
        for delivery in connection.deliveries:
            if delivery.oversized is not None or moves(sequence.admit(delivery.records)):
                return True
            if delivery.tail is not None:
                sequence.see_tail(delivery.tail)
            if sequence.recreated:
                return bool(delivery.records) or delivery.tail != 0
            if delivery.tail is not None and not sequence.anchored:
                return True
    return False
