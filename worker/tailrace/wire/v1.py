"""Decode v1: server-sent events → records. One event is one line that a writer sent.

Facts (protocol §1): the event's id is the Redis id of the entry that *completed* the line, so several events can
share one id; comments are pings; nothing on the wire says that a stream is over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from httpx_sse import ServerSentEvent

from tailrace.errors import MalformedRecord
from tailrace.model import Arrival, V1Record
from tailrace.redaction import excerpt
from tailrace.wire.events import OversizedEvent

_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})\Z")


_v1_record = partial(tuple.__new__, V1Record)  # a third of the time of V1Record(...), which is Python


class V1Decoder:
    """Decode the events of one connection."""

    def __init__(self) -> None:
        self._raw_id: str | None = None
        self._id = (0, 0)

    def decode(self, events: list[ServerSentEvent]) -> Iterator[Arrival]:
        """Return what ``events`` hold, as one delivery.

        ``alive_after`` says that a ping followed the last record, which proves it whole.

        Raises:
            MalformedRecord: an event without a Redis id; what came before it has been given. Terminal.
        """
        records: list[V1Record] = []
        alive_after = True
        raw_id, (ms, seq) = self._raw_id, self._id
        for event in events:
            text = event.data
            if not text:  # the phantom of a ping
                alive_after = True
                continue
            if event.id != raw_id:
                raw_id = event.id
                try:
                    ms, seq = parse_id(raw_id)
                except MalformedRecord:
                    yield Arrival(records, alive_after=True)
                    raise
            records.append(_v1_record((ms, seq, text, type(event) is OversizedEvent)))
            alive_after = False
        self._raw_id, self._id = raw_id, (ms, seq)
        yield Arrival(records, alive_after=alive_after)

    def finish(self) -> None:
        """Accept the end of the body: on v1 any clean end is one."""


def parse_id(text: str) -> tuple[int, int]:
    """Split ``<ms>-<seq>``. Ids compare as these pairs, never as text."""
    match = _ID.match(text)
    if match is None:
        raise MalformedRecord(f"a v1 event has the id {excerpt(text, 64)!r}, which is no Redis id")
    return int(match[1]), int(match[2])
