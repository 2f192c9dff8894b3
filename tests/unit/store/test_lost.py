"""A reader is told when nothing more can be stored, also while it waits for upstream and asks for nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from tailrace.errors import LeaseLost
from tailrace.model import Batch, Checkpoint, Wire
from tailrace.store.commit import Committer, Fate, Fates, Flush, FlushRefused, Position
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.writer import Writer, WriterLimits
from tests.simulation.script import leased

NOW = datetime.now(UTC)


class Taken(Committer):
    """The stream is somebody else's by now."""

    def __init__(self) -> None:
        self.server = NOW

    def commit(self, flushes: list[Flush]) -> set[int]:
        return set()

    def fates(self, stream_ids: Iterable[int]) -> Fates:
        return Fates(NOW, {stream_id: Fate(2, False, Position(2, 0, -1)) for stream_id in stream_ids})


class Refusing(Committer):
    """Postgres refuses all that this stream brings, and blames no chunk of it."""

    def __init__(self) -> None:
        self.server = NOW
        self.settled = threading.Event()

    def commit(self, flushes: list[Flush]) -> set[int]:
        if any(flush.batches for flush in flushes):
            raise FlushRefused("22000: refused")
        self.settled.set()
        return {flush.stream_id for flush in flushes}

    def fates(self, stream_ids: Iterable[int]) -> Fates:
        return Fates(NOW, {stream_id: Fate(1, True, Position(1, 0, -1)) for stream_id in stream_ids})

    def takes_json(self, text: bytes) -> bool:
        return True


@pytest.mark.parametrize("kind", [Taken, Refusing])
def test_whoever_waits_for_upstream_is_called(kind: type[Committer]) -> None:
    committer = kind()  # type: ignore[call-arg]
    writer = Writer(committer, WriterLimits(), random=lambda: 0.5)
    writer.start()
    called = threading.Event()
    sink = writer.open(leased(Wire.V2), BatchLimits(max_age_s=0.01), called.set)
    sink.put(Batch(Checkpoint(0, 0), indices=[0], texts=[b"1"], emitted_ms=[1], size_bytes=1), Wire.V2)
    assert called.wait(5)
    with pytest.raises(LeaseLost):
        sink.flush()
    if isinstance(committer, Refusing):
        assert committer.settled.wait(5)  # the reason is in the row
    writer.stop(5)


def test_whoever_is_content_is_not_called() -> None:
    class Accepting(Taken):
        def commit(self, flushes: list[Flush]) -> set[int]:
            return {flush.stream_id for flush in flushes}

    writer = Writer(Accepting(), WriterLimits(), random=lambda: 0.5)
    writer.start()
    called = threading.Event()
    sink = writer.open(leased(Wire.V2), BatchLimits(max_age_s=0.01), called.set)
    sink.put(Batch(Checkpoint(0, 0), indices=[0], texts=[b"1"], emitted_ms=[1], size_bytes=1), Wire.V2)
    sink.flush()
    assert not called.is_set()
    writer.stop(5)
