"""Commits that only add: the stream's row stays as it is, and whatever asks sees what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tailrace.errors import LeaseLost, StoreUnavailable
from tailrace.model import Batch, Checkpoint, LeasedStream, Wire
from tailrace.store.commit import AnotherServer, Committer, Flush, FlushRefused
from tailrace.store.engine import create_engine
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.leases import Leases, WorkerRow
from tailrace.store.migrate import upgrade
from tailrace.store.queries import Archive as Status
from tailrace.store.sink import Sink
from tailrace.store.writer import Writer, WriterLimits
from tests.integration.test_commit import balanced, batch, flush_of, new_stream, rows
from tests.throwaway import Servers

AT_ONCE = BatchLimits(max_chunks=1)
BEHIND = "SELECT s.last_chunk_index, n.last_chunk_index FROM tailrace.streams s JOIN tailrace.streams_now n USING (id)"


@pytest.fixture
def leases(engine: sa.Engine) -> Leases:
    return leases_of(engine)


def leases_of(engine: sa.Engine) -> Leases:
    leases = Leases(engine, WorkerRow(uuid4(), "here", 1, "local", 1), 10.0)
    leases.renew()
    return leases


def added(stream: LeasedStream, *batches: Batch) -> Flush:
    """A flush that the row of the stream does not follow."""
    return replace(flush_of(stream, *batches), due=False)


def begun(engine: sa.Engine, leases: Leases, *texts: bytes) -> tuple[LeasedStream, Committer]:
    """A stream of which these chunks have been committed, and followed."""
    (stream,) = leases.acquire([new_stream(engine)])
    committer = Committer(engine, leases.worker_id)
    committer.commit([flush_of(stream, batch(0, *texts))])
    return replace(stream, rev=stream.rev + 1), committer


def written(committer: Committer, stream: LeasedStream, count: int) -> tuple[Writer, Sink]:
    """A Writer that runs, by which so many chunks have been committed, one by one."""
    writer = Writer(committer, WriterLimits(), random=lambda: 0.5)
    sink = writer.open(stream, AT_ONCE)
    writer.start()
    for index in range(count):
        sink.put(batch(index, b"%d" % index), Wire.V2)
        sink.flush()
    return writer, sink


def test_a_commit_that_only_adds_makes_no_new_version_of_the_row(engine: sa.Engine, leases: Leases) -> None:
    stream, committer = begun(engine, leases, b"1")
    before = rows(engine, "SELECT s.xmin::text, s.ctid::text, s FROM tailrace.streams s")
    for index in range(1, 5):
        assert committer.commit([added(stream, batch(index, b"2"))]) == {stream.id}
    assert rows(engine, "SELECT s.xmin::text, s.ctid::text, s FROM tailrace.streams s") == before
    assert rows(engine, BEHIND) == [(0, 4)]
    balanced(engine)


def test_whatever_asks_sees_what_is_stored(engine: sa.Engine, leases: Leases) -> None:
    stream, committer = begun(engine, leases, b"1")
    committer.commit([replace(added(stream, batch(1, '"é"'.encode(), b"[3, 4]")), max_chunks=1)])
    (status,) = Status(engine).streams(rows(engine, "SELECT run FROM tailrace.streams")[0][0])  # type: ignore[arg-type]
    assert (status.checkpoint, status.chunks, status.bytes) == (2, 3, 1 + 4 + 6)
    assert status.last_chunk_at is not None
    assert status.first_chunk_at is not None
    assert status.last_chunk_at > status.first_chunk_at
    assert rows(engine, "SELECT chunks, bytes FROM tailrace.stream_stats") == [(3, 11)]
    assert rows(engine, "SELECT chunks, bytes FROM tailrace.run_overview") == [(3, 11)]
    balanced(engine)


def test_the_lag_of_a_stream_is_less_what_was_added(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    committer = Committer(engine, leases.worker_id)
    committer.commit([replace(flush_of(stream, batch(0, b"1")), lag=3)])
    stream = replace(stream, rev=stream.rev + 1)
    seen = []
    for index in range(1, 6):
        committer.commit([added(stream, batch(index, b"2"))])
        seen += rows(engine, "SELECT lag FROM tailrace.streams_now")
    assert seen == [(2,), (1,), (0,), (0,), (0,)]


def test_whoever_takes_the_lease_goes_on_after_what_is_stored(engine: sa.Engine, leases: Leases) -> None:
    stream, committer = begun(engine, leases, b"1")
    committer.commit([added(stream, batch(1, b"22", b"33"))])
    committer.commit([added(stream, batch(3, b"4"))])
    now = rows(engine, "SELECT last_chunk_index, chunk_count, byte_count, last_chunk_at FROM tailrace.streams_now")
    (again,) = leases.acquire([stream.id])
    assert again.checkpoint == Checkpoint(0, 3, {"seq_num": 3})
    assert again.chunk_count == 4
    assert rows(engine, "SELECT last_chunk_index, chunk_count, byte_count, last_chunk_at FROM tailrace.streams") == now
    assert committer.commit([added(stream, batch(4, b"5"))]) == set(), "the lease before is over"
    assert committer.commit([added(again, batch(4, b"5"))]) == {stream.id}
    balanced(engine)


def test_a_row_follows_with_all_that_it_did_not_follow_before(engine: sa.Engine, leases: Leases) -> None:
    stream, committer = begun(engine, leases, b"1")
    committer.commit([added(stream, batch(1, b"22"))])
    stored_at = rows(engine, "SELECT max(committed_at) FROM tailrace.segments")
    parked = replace(flush_of(stream), checkpoint=Checkpoint(0, 1, {"seq_num": 1}), behind_chunks=1, behind_bytes=2)
    assert committer.commit([parked]) == {stream.id}
    assert rows(engine, "SELECT last_chunk_index, chunk_count, byte_count, rev FROM tailrace.streams") == [
        (1, 2, 3, stream.rev + 1)
    ]
    assert rows(engine, "SELECT last_chunk_at FROM tailrace.streams") == stored_at, "nothing was stored since"
    balanced(engine)


def test_nothing_is_stored_in_the_future_when_the_clock_was_set_back(engine: sa.Engine, leases: Leases) -> None:
    """A stream would be waited for that much longer."""
    stream, committer = begun(engine, leases, b"1")
    committer.commit([added(stream, batch(1, b"2"))])
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE tailrace.segments SET committed_at = now() + interval '1 hour'"))
    (again,) = leases.acquire([stream.id])
    assert again.silent_s >= 0.0


# --- answers that are lost


def test_a_commit_that_was_given_up_and_comes_through_after_all_is_stored_once(
    engine: sa.Engine, leases: Leases
) -> None:
    """The connection broke; the statement was under way; it was sent again on another, and then the first arrived."""
    (stream,) = leases.acquire([new_stream(engine)])

    class Slow(Committer):
        sent = 0
        under_way: list[Flush]

        def commit(self, flushes: list[Flush]) -> set[int]:
            self.sent += 1
            if self.sent == 2:
                self.under_way = [replace(flush) for flush in flushes]
                raise StoreUnavailable("no answer")
            if self.sent == 3:
                assert super().commit(self.under_way) == {stream.id}
            return super().commit(flushes)

    committer = Slow(engine, leases.worker_id)
    writer, _ = written(committer, stream, 4)
    writer.stop(5)
    assert rows(engine, "SELECT data_text FROM tailrace.chunks ORDER BY chunk_index") == [
        ("0",),
        ("1",),
        ("2",),
        ("3",),
    ]
    assert rows(engine, "SELECT state, last_error FROM tailrace.streams") == [("active", None)]
    assert committer.sent > 4
    balanced(engine)


def test_the_key_of_segments_refuses_what_is_stored(engine: sa.Engine, leases: Leases) -> None:
    stream, committer = begun(engine, leases, b"1")
    committer.commit([added(stream, batch(1, b"2"))])
    with pytest.raises(FlushRefused, match="23505"):
        committer.commit([added(stream, batch(1, b"2", b"3"))])
    assert rows(engine, BEHIND) == [(0, 1)]


# --- another server


@pytest.mark.parametrize("lost", [False, True], ids=["kept all", "lost the last"])
def test_another_server_gets_nothing_before_what_it_has_was_compared(servers_to_break: Servers, lost: bool) -> None:
    """A standby took over, or a copy of yesterday: neither token nor ``rev`` tell of commits that only added."""
    postgres = servers_to_break.postgres
    upgrade(postgres.url())
    engine = create_engine(postgres.url())
    leases = leases_of(engine)
    (stream,) = leases.acquire([new_stream(engine)])
    writer, sink = written(Committer(engine, leases.worker_id), stream, 3)
    if lost:
        with engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM tailrace.segments WHERE first_index = 2"))
    postgres.restart_immediate()
    with capture_logs() as logs:
        sink.put(batch(3, b"3"), Wire.V2)
        if lost:
            with pytest.raises(LeaseLost, match="lost"):
                sink.flush()
        else:
            sink.flush()
        writer.stop(5)
    assert {line["event"] for line in logs} <= {"flush_failed", "flush_recovered"}
    (again,) = leases.acquire([stream.id])
    assert again.checkpoint.last_index == (1 if lost else 3)
    balanced(engine)
    engine.dispose()


def test_a_commit_names_the_server_that_confirmed_those_before(
    engine: sa.Engine, leases: Leases, replaced: Callable[[Committer], None]
) -> None:
    stream, committer = begun(engine, leases, b"1")
    replaced(committer)
    for flush in (added(stream, batch(1, b"2")), flush_of(stream, batch(1, b"2"))):
        with pytest.raises(AnotherServer):
            committer.commit([flush])
    assert rows(engine, BEHIND) == [(0, 0)]
    committer.server = committer.fates([stream.id]).server
    assert committer.commit([added(stream, batch(1, b"2"))]) == {stream.id}


@pytest.fixture
def replaced() -> Callable[[Committer], None]:
    def replace_it(committer: Committer) -> None:
        assert committer.server is not None
        committer.server = committer.server.replace(year=2020)

    return replace_it
