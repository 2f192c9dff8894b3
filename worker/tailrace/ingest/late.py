"""Look whether a sealed stream has more than is held, without a lease and without storing anything."""

from __future__ import annotations

from tailrace.ingest.assembly import Assembly, Records
from tailrace.ingest.reader import DRAIN_WAIT_S, Connector
from tailrace.model import Batch, Checkpoint, Wire


def has_more(connector: Connector, wire: Wire, checkpoint: Checkpoint) -> bool:
    """Return whether upstream holds anything that comes after ``checkpoint``, or another stream under the same key.

    A stream that was deleted since, or has expired, has no more.

    Raises:
        What reading raises: then nobody knows.
    """
    news = _News()
    assembly = Assembly(news, checkpoint, wire)
    with connector.connect(assembly.resume(), DRAIN_WAIT_S) as connection:
        assembly.opened(connection.wire, connection.date_ms)
        if assembly.stale:
            return True  # it speaks another wire: whatever it is, reading it finds out
        for arrival in connection.arrivals:
            assembly.arrive(arrival)
            if assembly.stale:
                return bool(arrival.records) or arrival.tail != 0
            if news.came or (arrival.tail is not None and not assembly.order.anchored):
                return True
    return False


class _News:
    """Notes that a batch came, and forgets it. A line that is held is news too."""

    def __init__(self) -> None:
        self.came = False

    def put(self, batch: Batch, wire: Wire, records: Records) -> None:
        self.came = True

    def hold(self, batch: Batch, wire: Wire, records: Records) -> None:
        self.came = True

    def confirm(self) -> None:
        """Nothing is kept."""

    def withdraw(self) -> bool:
        return True
