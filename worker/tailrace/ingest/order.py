"""Put records in order: records → chunks, holes, quarantined; what was seen before is dropped. Pure.

Two upstream formats, two rules (`v1_sequence`, `v2_sequence`), one interface. Both are told when a connection opens,
and say where it must begin.
"""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Seq
from typing import Any, Protocol

from tailrace.ingest.v1_order import V1Order
from tailrace.ingest.v2_order import V2Order
from tailrace.model import Batch, Checkpoint, Doubt, Wire


class Order(Protocol):
    """The order of one stream."""

    @property
    def recreated(self) -> bool:
        """Upstream began the stream anew: call `begin_generation`, then connect again."""

    @property
    def doubt(self) -> str | None:
        """What this connection said that contradicts what is held: leave it, the next one settles it. None: nothing."""

    def believe(self) -> None:
        """Take what the next connection says as it is: it has been contradicting what is held for too long."""

    @property
    def unsure(self) -> Doubt | None:
        """v1: why upstream may have dropped something before we could see it (see `ingest.completeness`)."""

    @property
    def cut_short(self) -> bool:
        """Something was too large, and only its head is kept."""

    @property
    def anchored(self) -> bool:
        """This connection has shown that what we hold is up to where upstream is: nothing can have been passed over."""

    def resume(self) -> str | None:
        """Return the ``Last-Event-ID`` to connect with, None for none; and expect the records of that connection."""

    def opened(self, date_ms: int | None) -> None:
        """Learn upstream's clock at the moment the connection opened, when it said."""

    def passed(self, ms: int) -> None:
        """Learn how long the connection has been open."""

    def admit(self, records: Seq[Any]) -> Batch:
        """Take the next records of this connection. Stops at the first that is in doubt, or of another stream."""

    def see_tail(self, tail: int) -> None:
        """Look at the number that upstream will give next."""

    def ended(self, loose: Any, *, final: bool) -> Batch | None:
        """Return what a clean end of this connection tells by itself; None when nothing.

        ``loose`` (v1): the line that came together with the end, None when there is none. ``final``: the run was over
        when the connection was opened.
        """

    def admit_oversized(self, event_id: str, head: str) -> Batch:
        """v2: account for a batch that was larger than the limit; ``event_id`` is its ``last,count,bytes``.

        Raises:
            MalformedRecord: the id does not say what is missing.
        """

    def begin_generation(self) -> Batch:
        """Leave what was, and begin at the stream's new start."""

    def snapshot(self) -> object:
        """Return the present state, for `restore`."""

    def restore(self, snapshot: object) -> None:
        """Go back to a state that `snapshot` gave: what was admitted since then never happened."""


def order_for(
    wire: Wire,
    checkpoint: Checkpoint,
    recent: list[tuple[int, bytes]],
    not_before_ms: int | None = None,
    previous: Collection[bytes] = (),
) -> Order:
    """Return the sequence that goes on after ``checkpoint``.

    ``recent``: index and fingerprint of the last records of this stream's generation, oldest first (v2; see `Batch`).
    ``previous``: fingerprints of the generation before, while this one is young.
    ``not_before_ms``: upstream's clock at a moment before which nothing of the stream can have been written (v1).
    """
    return V1Order(checkpoint, not_before_ms) if wire is Wire.V1 else V2Order(checkpoint, recent, previous)
