"""Look whether a sealed stream has more than is held, without a lease and without storing anything."""

from __future__ import annotations

from tailrace.ingest.order import order_for
from tailrace.ingest.reader import DRAIN_WAIT_S, Connector, moves
from tailrace.model import Checkpoint, Wire


def has_more(upstream: Connector, wire: Wire, checkpoint: Checkpoint) -> bool:
    """Return whether upstream holds anything that comes after ``checkpoint``, or another stream under the same key.

    A stream that was deleted since, or has expired, has no more.

    Raises:
        What reading raises: then nobody knows.
    """
    order = order_for(wire, checkpoint, [])
    with upstream.connect(order.resume(), DRAIN_WAIT_S) as connection:
        if connection.wire is not wire:
            return True  # whatever it is, reading it finds out
        order.opened(connection.date_ms)
        for arrival in connection.arrivals:
            if arrival.oversized is not None or moves(order.admit(arrival.records)):
                return True
            if arrival.tail is not None:
                order.see_tail(arrival.tail)
            if order.recreated:
                return bool(arrival.records) or arrival.tail != 0
            if arrival.tail is not None and not order.anchored:
                return True
    return False
