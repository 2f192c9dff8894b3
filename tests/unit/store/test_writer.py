"""The Writer against a database in memory: what is put is committed once, whatever becomes of questions and answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from tailrace.errors import LeaseLost, StoreUnavailable
from tailrace.model import Batch, Checkpoint, Hole, HoleReason, LeasedStream, Outcome, StreamState, Wire
from tailrace.store.commit import AnotherServer, Fate, Fates, Flush, FlushRefused, Position
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.segments import SEGMENT_MAX_BYTES, SEGMENT_MAX_CHUNKS
from tailrace.store.sink import FOLLOW_S, Sink
from tailrace.store.writer import Writer, WriterLimits
from tests.counted import counted
from tests.simulation.script import leased

AT_ONCE = BatchLimits(max_chunks=1)
NEVER = BatchLimits(max_chunks=2_000, max_age_s=3_600.0)
WAIT_S = 10.0
START = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass
class Tables:
    """What Postgres would do with flushes. ``trouble`` is what befalls the next commits, one each."""

    token: int = 1
    rev: int = 1
    texts: list[bytes] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    settlements: list[Outcome] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    commits: int = 0
    bad: bytes = b"NaN"
    last: int = -1
    followed: list[bool] = field(default_factory=list)
    server: datetime = START  # that is trusted, as `Committer.server`
    answering: datetime = START

    def commit(self, flushes: list[Flush]) -> set[int]:
        self.commits += 1
        trouble = self.trouble.pop(0) if self.trouble else ""
        if trouble == "question lost":
            raise StoreUnavailable
        if trouble == "locked":
            return set()
        if trouble == "surprise":
            raise RuntimeError("nobody has foreseen this")
        (flush,) = flushes
        if any(text == self.bad for batch in flush.batches for text in batch.texts):
            raise FlushRefused("22P02")
        if self.answering != self.server:
            raise AnotherServer
        if (flush.token, flush.rev) != (self.token, self.rev):
            return set()
        self.rev += flush.follows
        self.followed.append(flush.follows)
        self.last = flush.checkpoint.last_index
        for batch in flush.batches:
            self.texts += batch.texts
            self.holes += batch.holes
            self.reasons += [item.reason for item in batch.quarantined]
        if flush.outcome:
            self.settlements.append(flush.outcome)
        if trouble == "answer lost":
            raise StoreUnavailable
        return {flush.stream_id}

    def fates(self, stream_ids: list[int]) -> Fates:
        fate = Fate(self.token, True, Position(self.rev, 0, self.last))
        return Fates(self.answering, dict.fromkeys(stream_ids, fate))

    def takes_json(self, text: bytes) -> bool:
        return text != self.bad


class Accepting:
    """Takes everything. ``streams``: how many came together, of each commit."""

    def __init__(self) -> None:
        self.streams: list[int] = []

    def commit(self, flushes: list[Flush]) -> set[int]:
        self.streams.append(len(flushes))
        return {flush.stream_id for flush in flushes}

    def fates(self, stream_ids: list[int]) -> Fates:
        raise AssertionError("everything comes back")


@pytest.fixture
def tables() -> Tables:
    return Tables()


@pytest.fixture
def writer(tables: Tables) -> Iterator[Writer]:
    writer = started(tables, WriterLimits(retry_base_s=0.0, retry_cap_s=0.001, hold_s=3_600.0))
    yield writer
    writer.stop(WAIT_S)


def started(tables: Tables, limits: WriterLimits) -> Writer:
    writer = Writer(tables, limits, random=lambda: 1.0)  # type: ignore[arg-type]
    writer.start()
    return writer


def stream() -> LeasedStream:
    return leased(Wire.V2)


def chunk(index: int, text: bytes | None = None, size: int = 0) -> Batch:
    text = text or b"%d" % index
    return Batch(Checkpoint(0, index), [index], [text], [1_000], [b"m"], size_bytes=size or len(text))


def put(sink: Sink, *indices: int) -> None:
    for index in indices:
        sink.put(chunk(index), Wire.V2)


@pytest.mark.parametrize(
    "trouble",
    [
        [],
        ["question lost"],
        ["answer lost"],
        ["locked"],
        ["surprise"],
        ["question lost", "answer lost", "locked", "surprise", "question lost"] * 3,
    ],
)
@pytest.mark.trap(9)
@pytest.mark.trap(31)
def test_what_is_put_is_committed_once(writer: Writer, tables: Tables, trouble: list[str]) -> None:
    tables.trouble = list(trouble)
    sink = writer.open(stream(), AT_ONCE)
    put(sink, *range(20))
    sink.flush()
    assert tables.texts == [b"%d" % n for n in range(20)]
    assert sink.checkpoint.last_index == 19


@pytest.mark.trap(31)
@pytest.mark.parametrize("lost", ["token", "rev"])
def test_a_lost_lease_is_told_at_the_next_call_and_writes_nothing(writer: Writer, tables: Tables, lost: str) -> None:
    sink = writer.open(stream(), NEVER)
    put(sink, 0)
    sink.flush()
    if lost == "token":
        tables.token += 1
    else:
        tables.rev += 5
    put(sink, 1)
    before = counted("tailrace_lease_losses_total")
    with pytest.raises(LeaseLost):
        sink.flush()
    with pytest.raises(LeaseLost):
        put(sink, 2)
    assert tables.texts == [b"0"]
    assert counted("tailrace_lease_losses_total") == before + 1


def test_the_first_chunk_of_a_stream_does_not_wait(writer: Writer, tables: Tables) -> None:
    sink = writer.open(stream(), NEVER)
    put(sink, 0)
    assert until(writer, lambda: tables.texts == [b"0"])
    put(sink, 1)
    sink.flush()


def test_a_held_take_is_committed_when_something_follows_and_not_before(writer: Writer, tables: Tables) -> None:
    sink = writer.open(stream(), NEVER)
    sink.hold(chunk(0), Wire.V2)
    sink.flush()
    assert tables.texts == []
    put(sink, 1)
    sink.flush()
    assert tables.texts == [b"0", b"1"]


@pytest.mark.trap(4)
def test_a_held_take_can_be_withdrawn(writer: Writer, tables: Tables) -> None:
    sink = writer.open(stream(), NEVER)
    sink.hold(chunk(0), Wire.V2)
    assert sink.withdraw()
    assert not sink.withdraw()
    put(sink, 0)
    sink.flush()
    assert tables.texts == [b"0"]


@pytest.mark.trap(4)
def test_a_held_take_is_believed_after_the_hold_time(tables: Tables) -> None:
    """While its reader is blocked on a silent socket: the Writer's own thread does it."""
    writer = started(tables, WriterLimits(hold_s=0.01))
    sink = writer.open(stream(), AT_ONCE)
    sink.hold(chunk(0), Wire.V2)
    assert until(writer, lambda: tables.texts == [b"0"])
    assert not sink.withdraw()
    writer.stop(WAIT_S)


def test_how_a_stream_is_left_goes_with_its_last_chunks(writer: Writer, tables: Tables) -> None:
    sink = writer.open(stream(), NEVER)
    put(sink, 0)
    sink.flush()
    put(sink, 1)
    commits = tables.commits
    sink.settle(Outcome(StreamState.PARKED))
    assert (tables.texts, tables.settlements, tables.commits) == (
        [b"0", b"1"],
        [Outcome(StreamState.PARKED)],
        commits + 1,
    )


@pytest.mark.trap(36)
def test_a_chunk_that_postgres_refuses_is_moved_aside(writer: Writer, tables: Tables) -> None:
    sink = writer.open(stream(), NEVER)
    put(sink, 0)
    sink.put(chunk(1, b"NaN"), Wire.V2)
    put(sink, 2)
    sink.flush()
    assert tables.texts == [b"0", b"2"]
    assert tables.holes == [Hole(0, 1, 1, HoleReason.QUARANTINED)]
    assert tables.reasons == ["refused_by_postgres"]


@pytest.mark.parametrize(
    ("attempt", "troubled_s", "state"), [(0, 0.0, StreamState.PARKED), (19, 600.0, StreamState.FAILED)]
)
def test_a_flush_that_is_refused_for_no_chunk_ends_its_reader_with_the_reason(
    writer: Writer, tables: Tables, attempt: int, troubled_s: float, state: StreamState
) -> None:
    sink = writer.open(replace(stream(), attempt=attempt, troubled_s=troubled_s), NEVER)
    tables.takes_json = lambda text: True  # type: ignore[method-assign]
    sink.put(chunk(0, b"NaN"), Wire.V2)
    with pytest.raises(LeaseLost):
        sink.flush()
    assert until(writer, lambda: bool(tables.settlements))
    (outcome,) = tables.settlements
    assert (outcome.state, outcome.error) == (state, "refused: 22P02")


def test_a_postgres_that_takes_nothing_is_told_once(writer: Writer, tables: Tables) -> None:
    """A full disk: all else that a worker asks of Postgres may be answered, so nobody else would say it."""
    tables.trouble = ["question lost"] * 20
    with capture_logs() as logs:
        sink = writer.open(stream(), AT_ONCE)
        put(sink, *range(5))
        sink.flush()
    assert [line["event"] for line in logs] == ["flush_failed"]


def test_a_full_writer_makes_its_readers_wait(tables: Tables) -> None:
    """More than the buffer is never held, and everything arrives."""
    limit = 2 * chunk(0).held_bytes + 10
    writer = started(tables, WriterLimits(buffer_max_bytes=limit, stream_max_bytes=limit))
    sink = writer.open(stream(), NEVER)
    most = 0
    for index in range(50):
        sink.put(chunk(index), Wire.V2)
        most = max(most, writer.room.held_bytes)
    sink.flush()
    assert most <= limit
    assert len(tables.texts) == 50
    writer.stop(WAIT_S)


def test_a_flush_takes_no_more_streams_than_fill_a_quarter_of_the_buffer() -> None:
    """What one stream has waiting goes whole, so the last one may go beyond."""
    each = chunk(0).held_bytes
    limit = 40 * each
    committer = Accepting()
    writer = Writer(committer, WriterLimits(buffer_max_bytes=limit, stream_max_bytes=limit), random=lambda: 0.5)  # type: ignore[arg-type]
    for number in range(1, 21):
        put(writer.open(replace(stream(), id=number), NEVER), 0)
    writer.start()
    writer.stop(WAIT_S)
    assert committer.streams == [10, 10]


def test_a_stream_holds_no_more_than_its_own_share(tables: Tables) -> None:
    each = chunk(0).held_bytes
    writer = started(tables, WriterLimits(buffer_max_bytes=100 * each, stream_max_bytes=2 * each))
    sink = writer.open(stream(), NEVER)
    most = 0
    for index in range(50):
        sink.put(chunk(index), Wire.V2)
        most = max(most, writer.room.held_bytes)
    sink.flush()
    assert most <= 2 * each + 10
    assert len(tables.texts) == 50
    writer.stop(WAIT_S)


def test_a_chunk_larger_than_the_buffer_is_stored_while_others_are_live(tables: Tables) -> None:
    """Others put without a pause until it is there: what comes first goes first."""
    limit = 20 * chunk(0).held_bytes
    writer = Writer(Accepting(), WriterLimits(buffer_max_bytes=limit, stream_max_bytes=limit), random=lambda: 0.5)  # type: ignore[arg-type]
    writer.start()
    stored = threading.Event()
    until_s = time.monotonic() + WAIT_S

    def live(number: int) -> None:
        sink, index = writer.open(replace(stream(), id=number), NEVER), 0
        while not stored.is_set() and time.monotonic() < until_s:
            sink.put(chunk(index), Wire.V2)
            index += 1

    threads = [threading.Thread(target=live, args=(number,)) for number in range(2, 8)]
    for thread in threads:
        thread.start()
    large = writer.open(stream(), AT_ONCE)
    large.put(chunk(0, b"1" * 2 * limit), Wire.V2)
    large.flush()
    in_time = time.monotonic() < until_s
    stored.set()
    for thread in threads:
        thread.join(WAIT_S)
    writer.stop(WAIT_S)
    assert in_time
    assert writer.room.held_bytes == 0


def test_who_loses_the_lease_while_he_waits_for_room_takes_none(tables: Tables) -> None:
    limit = 2 * chunk(0).held_bytes
    writer = Writer(tables, WriterLimits(buffer_max_bytes=limit, stream_max_bytes=limit), random=lambda: 0.5)  # type: ignore[arg-type]
    other, sink = writer.open(replace(stream(), id=2), NEVER), writer.open(stream(), NEVER)
    other.put(chunk(0), Wire.V2)
    other.put(chunk(1), Wire.V2)
    lost = threading.Event()

    def waiting() -> None:
        with pytest.raises(LeaseLost):
            sink.put(chunk(0), Wire.V2)
        lost.set()

    thread = threading.Thread(target=waiting)
    thread.start()
    assert until(writer, lambda: bool(writer.room._storing))
    sink.abandon()
    thread.join(WAIT_S)
    assert lost.is_set()
    assert writer.room.held_bytes == limit
    other.abandon()
    assert writer.room.held_bytes == 0


def test_stopping_commits_what_is_there(tables: Tables) -> None:
    writer = started(tables, WriterLimits())
    sink = writer.open(leased(Wire.V2, Checkpoint(0, 4)), NEVER)
    sink.first = False
    put(sink, 5)
    writer.stop(WAIT_S)
    assert tables.texts == [b"5"]


def until(writer: Writer, happened: Callable[[], bool]) -> bool:
    """Wait for the Writer's thread to have done something."""
    with writer.changed:
        return writer.changed.wait_for(happened, WAIT_S) or threading.active_count() < 0


# --- the row of the stream


class Watch:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def launched(*, wire: Wire = Wire.V2, clock: Watch | None = None) -> tuple[Tables, Writer, Sink, Watch]:
    tables, clock = Tables(), clock or Watch()
    writer = Writer(tables, WriterLimits(), random=lambda: 1.0, clock=clock)  # type: ignore[arg-type]
    return tables, writer, writer.open(leased(wire), AT_ONCE), clock


def flush_now(writer: Writer, sink: Sink, *batches: Batch) -> Flush:
    """Commit these in one flush, in the thread of the caller."""
    with writer.changed:
        for batch in batches:
            sink.pending.append(batch)
        flush = sink.launch()
        writer._flying[sink] = None
    writer._commit([sink])
    return flush


def test_a_row_follows_the_first_commit_of_a_lease_and_then_every_half_minute() -> None:
    """Of an earlier lease it may say that a sweep ended where it stands."""
    tables, writer, sink, clock = launched()
    for index, now in enumerate([0.0, 0.1, FOLLOW_S - 0.1, FOLLOW_S, FOLLOW_S + 0.1, 2 * FOLLOW_S]):
        clock.now = now
        flush_now(writer, sink, chunk(index))
    assert tables.followed == [True, False, False, True, False, True]


@pytest.mark.parametrize(
    ("chunks", "text"), [(SEGMENT_MAX_CHUNKS // 2, b"1"), (1, b'"%s"' % (b"x" * (SEGMENT_MAX_BYTES // 2)))]
)
def test_it_is_never_far_behind(chunks: int, text: bytes) -> None:
    """Whoever asks how far a stream is looks through what its row does not say."""
    tables, writer, sink, _ = launched()
    for number in range(6):
        indices = list(range(number * chunks, (number + 1) * chunks))
        flush_now(writer, sink, Batch(Checkpoint(0, indices[-1]), indices, [text] * chunks, [1_000] * chunks))
    assert tables.followed == [True, False, False, True, False, False]


def test_it_is_told_of_all_that_it_did_not_follow() -> None:
    _, writer, sink, clock = launched()
    flush_now(writer, sink, chunk(0, b"1"))
    flush_now(writer, sink, chunk(1, b"22"), chunk(2, b"333"))
    flush_now(writer, sink, chunk(3, b"4444"))
    clock.now = FOLLOW_S
    flush = flush_now(writer, sink, chunk(4, b"5"))
    assert (flush.behind_chunks, flush.behind_bytes) == (3, 9)
    assert flush_now(writer, sink, chunk(5)).behind_chunks == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda sink: setattr(sink, "outcome", Outcome(StreamState.PARKED)),
        lambda sink: setattr(sink, "error", "away"),
        lambda sink: setattr(sink, "attempt", 1),
        lambda sink: setattr(sink, "wire", Wire.V1),
        lambda sink: sink.pending.append(Batch(Checkpoint(0, 7), holes=[Hole(0, 7, 7, HoleReason.TRIMMED)])),
        lambda sink: sink.pending.append(Batch(Checkpoint(1, 0), [0], [b"1"], [1_000])),
    ],
    ids=["outcome", "error", "attempt", "wire", "hole", "generation"],
)
def test_it_follows_what_is_more_than_chunks_and_what_undoes_it(change: Callable[[Sink], None]) -> None:
    tables, writer, sink, _ = launched()
    flush_now(writer, sink, chunk(0))
    change(sink)
    flush_now(writer, sink, *([] if sink.pending else [chunk(1)]))
    assert tables.followed == [True, True]


def test_after_trouble_it_follows_once_more() -> None:
    tables, writer, sink, _ = launched()
    flush_now(writer, sink, chunk(0))
    sink.error, sink.attempt = "away", 1
    for index in range(1, 4):
        flush_now(writer, sink, chunk(index))
    assert tables.followed == [True, True, True, False]


def test_a_flush_without_chunks_is_followed() -> None:
    """There is no segment that could carry the cursor."""
    tables, writer, sink, _ = launched()
    flush_now(writer, sink, chunk(0))
    flush_now(writer, sink, Batch(Checkpoint(0, 0, {"cut": True})))
    assert tables.followed == [True, True]


# --- another server


def other_server(writer: Writer, tables: Tables) -> None:
    tables.answering += timedelta(hours=1)
    writer._in_doubt = True


@pytest.mark.parametrize("lost", [False, True], ids=["kept all", "lost the last"])
def test_streams_of_which_nothing_is_sent_are_compared_too_when_another_server_answers(lost: bool) -> None:
    """Else the next commit would leave out what the server lost."""
    tables, writer, sink, _ = launched()
    flush_now(writer, sink, chunk(0))
    flush_now(writer, sink, chunk(1))
    other = writer.open(replace(leased(Wire.V2), id=2), AT_ONCE)
    other.checkpoint, other.rev = sink.checkpoint, sink.rev
    tables.last -= lost
    with writer.changed:
        put(other, 2)
        flush = other.launch()
        writer._flying[other] = None
    other_server(writer, tables)
    writer._resolve([other])
    assert tables.server == tables.answering
    if not lost:
        assert other.in_flight is flush
        sink.check()
        return
    for each in (sink, other):
        with pytest.raises(LeaseLost, match="lost"):
            each.check()


def test_a_commit_that_another_server_gets_is_compared_and_then_sent(writer: Writer, tables: Tables) -> None:
    sink = writer.open(stream(), AT_ONCE)
    put(sink, 0)
    sink.flush()
    tables.answering += timedelta(hours=1)
    put(sink, 1)
    sink.flush()
    assert tables.texts == [b"0", b"1"]
