"""The group commit against a real Postgres: fence, accounts, what is stored."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from uuid import uuid4

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tailrace.errors import LeaseLost
from tailrace.model import Batch, Checkpoint, Hole, HoleReason, LeasedStream, Outcome, Quarantined, StreamState, Wire
from tailrace.store.choosing import Choosing
from tailrace.store.commit import Committer, Flush, FlushRefused
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.leases import Leases, WorkerRow
from tailrace.store.writer import LOCKED_PAUSE_S, Writer, WriterLimits


@pytest.fixture
def leases(engine: sa.Engine) -> Leases:
    leases = Leases(engine, WorkerRow(uuid4(), "here", 1, "local", 1), 10.0)
    leases.renew()
    return leases


def new_stream(engine: sa.Engine, key: str = "ai") -> int:
    with engine.begin() as connection:
        run = connection.execute(sa.text("SELECT tailrace.request_ingest('run_1')")).scalar_one()
        return connection.execute(
            sa.text("INSERT INTO tailrace.streams (run, stream_key) VALUES (:run, :key) RETURNING id"),
            {"run": run, "key": key},
        ).scalar_one()


def flush_of(stream: LeasedStream, *batches: Batch, outcome: Outcome | None = None) -> Flush:
    checkpoint = batches[-1].checkpoint if batches else stream.checkpoint
    return Flush(stream.id, stream.token, stream.rev, Wire.V2, checkpoint, list(batches), outcome)


def batch(first: int, *texts: bytes, generation: int = 0, odd: bool = False) -> Batch:
    last = first + len(texts) - 1
    return Batch(
        Checkpoint(generation, last, {"seq_num": last}),
        indices=list(range(first, last + 1)),
        texts=list(texts),
        emitted_ms=[1_700_000_000_000 + n for n in range(len(texts))],
        odd=odd,
        size_bytes=sum(map(len, texts)),
    )


def rows(engine: sa.Engine, statement: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def balanced(engine: sa.Engine) -> None:
    assert rows(engine, "SELECT * FROM tailrace.verify_accounts()") == []


def test_chunks_and_checkpoint_are_one_statement(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    texts = [b'{"b":1,"a":1.10}', b'"\\u0000"', b"null", '"\u2028é"'.encode(), b'{"a":1,"a":2}']
    done = Committer(engine, leases.worker_id).commit([flush_of(stream, batch(0, *texts, odd=True))])
    assert done == {stream.id}
    stored = rows(engine, "SELECT data_text FROM tailrace.chunks ORDER BY generation, chunk_index")
    assert [text.encode() for (text,) in stored] == texts
    assert rows(engine, "SELECT last_chunk_index, rev, chunk_count, cursor FROM tailrace.streams") == [
        (4, stream.rev + 1, 5, {"seq_num": 4})
    ]
    balanced(engine)


def test_a_flush_with_an_old_token_changes_nothing(engine: sa.Engine, leases: Leases) -> None:
    stream_id = new_stream(engine)
    (old,) = leases.acquire([stream_id])
    (new,) = leases.acquire([stream_id])
    assert new.token == old.token + 1
    committer = Committer(engine, leases.worker_id)
    assert committer.commit([flush_of(old, batch(0, b"1"))]) == set()
    assert rows(engine, "SELECT count(*) FROM tailrace.segments") == [(0,)]
    assert committer.commit([flush_of(new, batch(0, b"2"))]) == {stream_id}
    assert rows(engine, "SELECT data_text FROM tailrace.chunks") == [("2",)]


def test_the_same_flush_twice_is_stored_once(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    committer = Committer(engine, leases.worker_id)
    flush = flush_of(stream, batch(0, b"1"))
    assert committer.commit([flush]) == {stream.id}
    assert committer.commit([flush]) == set()
    assert committer.fates([stream.id]).of[stream.id] == (stream.token, True, (stream.rev + 1, 0, 0))
    balanced(engine)


def test_a_locked_stream_is_left_out_and_the_others_commit(engine: sa.Engine, leases: Leases) -> None:
    ids = [new_stream(engine, key) for key in ("a", "b")]
    a, b = leases.acquire(ids)
    committer = Committer(engine, leases.worker_id)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT FROM tailrace.streams WHERE id = :id FOR UPDATE"), {"id": a.id})
        assert committer.commit([flush_of(a, batch(0, b"1")), flush_of(b, batch(0, b"2"))]) == {b.id}
    assert committer.commit([flush_of(a, batch(0, b"1"))]) == {a.id}
    balanced(engine)


def test_holes_quarantine_and_generations_are_stored_with_the_chunks(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    first = batch(2, b"1", b"2")
    first.holes = [Hole(0, 0, 1, HoleReason.TRIMMED)]
    second = batch(6, b"3")
    second.holes = [Hole(0, 4, 4, HoleReason.COMMAND), Hole(0, 5, 5, HoleReason.QUARANTINED)]
    second.quarantined = [Quarantined(0, 5, "not_an_envelope", b"\x00\xff")]
    third = Batch(Checkpoint(1, -1, None), holes=[Hole(0, 7, None, HoleReason.RECREATED)])
    fourth = batch(0, b"4", generation=1)
    Committer(engine, leases.worker_id).commit([flush_of(stream, first, second, third, fourth)])
    assert rows(
        engine, "SELECT generation, chunk_index, data_text FROM tailrace.chunks ORDER BY generation, chunk_index"
    ) == [(0, 2, "1"), (0, 3, "2"), (0, 6, "3"), (1, 0, "4")]
    assert rows(engine, "SELECT raw FROM tailrace.quarantine") == [(b"\x00\xff",)]
    assert rows(engine, "SELECT hole_count, lost_count, quarantine_count FROM tailrace.streams") == [(4, 2, 1)]
    balanced(engine)


def test_a_settlement_ends_the_lease_in_the_same_statement(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    outcome = Outcome(StreamState.PARKED, delay_s=60, attempt=3, error="nul \0 here", swept=True)
    Committer(engine, leases.worker_id).commit([flush_of(stream, batch(0, b"1"), outcome=outcome)])
    assert rows(
        engine,
        "SELECT state, worker_id, attempt, last_error, swept_index, next_attempt_at > now() + interval '50 s'"
        " FROM tailrace.streams",
    ) == [("parked", None, 3, "nul \ufffd here", 0, True)]
    assert Choosing(engine, leases.worker_id).claim(["default"], 10, 30) == []


def test_what_postgres_refuses_changes_nothing(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    committer = Committer(engine, leases.worker_id)
    with pytest.raises(FlushRefused):
        committer.commit([flush_of(stream, batch(0, b"1", b"NaN"))])
    assert rows(engine, "SELECT last_chunk_index FROM tailrace.streams") == [(-1,)]
    assert not committer.takes_json(b"NaN")
    assert committer.takes_json(b'"\\ud800"')


def test_an_expired_lease_goes_on_until_somebody_takes_it(engine: sa.Engine, leases: Leases) -> None:
    stream_id = new_stream(engine)
    (stream,) = leases.acquire([stream_id])
    assert leases.calls([stream_id]) == []  # there is no news of it
    other = Leases(engine, WorkerRow(uuid4(), "there", 2, "local", 1), 10.0)
    other.renew()
    assert other.acquire([stream_id]) == []
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE tailrace.workers SET expires_at = now() WHERE id = :id"), {"id": leases.worker_id}
        )
    committer = Committer(engine, leases.worker_id)
    assert committer.commit([flush_of(stream, batch(0, b"1"))]) == {stream_id}
    (taken,) = other.acquire([stream_id])
    assert taken.checkpoint.last_index == 0
    assert committer.commit([flush_of(stream, batch(1, b"2"))]) == set()
    assert leases.calls([stream_id]) == [(stream_id, False, False)]


def test_claiming_hints_once_and_prefers_v1(engine: sa.Engine, leases: Leases) -> None:
    ids = [new_stream(engine, key) for key in ("a", "b")]
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE tailrace.streams SET wire = 'v1' WHERE id = :id"), {"id": ids[1]})
        connection.execute(sa.text("UPDATE tailrace.streams SET wire = 'v2' WHERE id = :id"), {"id": ids[0]})
    choosing = Choosing(engine, leases.worker_id)
    assert choosing.claim(["default"], 1, 30) == [ids[1]]
    assert choosing.claim(["default"], 9, 30) == [ids[0]]
    assert choosing.claim(["default"], 9, 30) == []
    choosing.unhint(ids)
    assert sorted(choosing.claim(["default"], 9, 30)) == sorted(ids)


def test_what_is_wrong_stands_in_the_row_while_the_reader_stays(engine: sa.Engine, leases: Leases) -> None:
    (stream,) = leases.acquire([new_stream(engine)])
    committer = Committer(engine, leases.worker_id)
    wrong = flush_of(stream)
    wrong.error, wrong.attempt = "upstream answered with 'text/html'", 2
    assert committer.commit([wrong]) == {stream.id}
    look = "SELECT state, last_error, attempt, worker_id IS NOT NULL FROM tailrace.streams"
    assert rows(engine, look) == [("active", "upstream answered with 'text/html'", 2, True)]
    right = flush_of(stream, batch(0, b"1"))
    right.rev += 1
    assert committer.commit([right]) == {stream.id}
    assert rows(engine, look) == [("active", None, 0, True)]
    balanced(engine)


def test_what_no_column_can_hold_is_refused_before_it_is_sent(engine: sa.Engine, leases: Leases) -> None:
    """So that it is its own stream's fault; the Writer would send the others' chunks in vain with it for ever."""
    (stream,) = leases.acquire([new_stream(engine)])
    late = batch(0, b"1")
    late.emitted_ms = [2**63]
    committer = Committer(engine, leases.worker_id)
    with pytest.raises(FlushRefused):
        committer.commit([flush_of(stream, late)])
    outcome = Outcome(StreamState.FAILED, error="said \ud800 and \0")
    assert committer.commit([flush_of(stream, outcome=outcome)]) == {stream.id}
    assert rows(engine, "SELECT last_error FROM tailrace.streams") == [("said ? and \ufffd",)]


def test_one_stream_that_can_not_be_sent_holds_up_no_other(engine: sa.Engine, leases: Leases) -> None:
    bad, good = leases.acquire([new_stream(engine, key) for key in ("bad", "good")])
    writer = Writer(Committer(engine, leases.worker_id), WriterLimits(), random=lambda: 0.5)
    late = batch(0, b"1")
    late.emitted_ms = [2**63]
    sinks = [writer.open(stream, BatchLimits()) for stream in (bad, good)]
    sinks[0].put(late, Wire.V2)
    sinks[1].put(batch(0, b"2"), Wire.V2)
    writer.start()  # only now: both go into one flush
    sinks[1].flush()
    with pytest.raises(LeaseLost):
        sinks[0].flush()
    writer.stop(5)
    assert rows(
        engine, "SELECT stream_key, state, chunk_count, last_error IS NULL FROM tailrace.streams ORDER BY 1"
    ) == [
        ("bad", "parked", 0, False),
        ("good", "active", 1, True),
    ]
    balanced(engine)


@pytest.mark.parametrize(
    ("attempt", "troubled_s", "state"), [(19, 600.0, "failed"), (18, 600.0, "parked"), (19, 599.0, "parked")]
)
def test_a_stream_whose_data_is_refused_fails_when_that_is_believed(
    engine: sa.Engine, leases: Leases, attempt: int, troubled_s: float, state: str
) -> None:
    """Twenty times in a row, over ten minutes: a trigger or a constraint of somebody's may refuse it for a while."""
    (stream,) = leases.acquire([new_stream(engine)])
    writer = Writer(Committer(engine, leases.worker_id), WriterLimits(), random=lambda: 0.5)
    late = batch(0, b"1")
    late.emitted_ms = [2**63]
    sink = writer.open(replace(stream, attempt=attempt, troubled_s=troubled_s), BatchLimits())
    sink.put(late, Wire.V2)
    writer.start()
    with pytest.raises(LeaseLost):
        sink.flush()
    writer.stop(5)
    assert rows(engine, "SELECT state, attempt, verdict = 'failed' FROM tailrace.streams") == [
        (state, attempt + 1, state == "failed")
    ]
    (again,) = leases.acquire([stream.id]) or [None]
    assert (again is None) == (state == "failed")
    if again is not None:
        assert (again.attempt, again.troubled_s >= 0) == (attempt + 1, True)


def test_whoever_holds_the_same_token_without_the_lease_writes_nothing(engine: sa.Engine, leases: Leases) -> None:
    """A standby without the last transactions took over: it gives the token out a second time."""
    stream_id = new_stream(engine)
    (stream,) = leases.acquire([stream_id])
    old, now = Committer(engine, leases.worker_id), Leases(engine, WorkerRow(uuid4(), "there", 2, "local", 1), 10.0)
    assert old.commit([flush_of(stream, batch(0, *[b"1"] * 5))]) == {stream_id}
    before = (
        "token = 0, rev = 0, state = 'pending', worker_id = NULL, last_chunk_index = -1, cursor = NULL, chunk_count = 0"
    )
    with engine.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        connection.execute(sa.text("DELETE FROM tailrace.segments"))
        connection.execute(sa.text(f"UPDATE tailrace.streams SET {before}, byte_count = 0, wire = NULL"))
    now.renew()
    (again,) = now.acquire([stream_id])
    assert again.token == stream.token
    committer = Committer(engine, now.worker_id)
    assert committer.commit([flush_of(again, batch(0, b"1"))]) == {stream_id}
    stale = Flush(stream.id, stream.token, stream.rev + 1, Wire.V2, Checkpoint(0, 9), [batch(5, *[b"1"] * 5)])
    assert old.commit([stale]) == set()
    assert not old.fates([stream_id]).of[stream_id].ours
    last = Flush(again.id, again.token, again.rev + 1, Wire.V2, Checkpoint(0, 0), outcome=Outcome(StreamState.PARKED))
    assert committer.commit([last]) == {stream_id}
    assert committer.fates([stream_id]).of[stream_id] == (again.token, True, (again.rev + 2, 0, 0)), (
        "it was ours to the end"
    )
    assert not old.fates([stream_id]).of[stream_id].ours
    balanced(engine)


@pytest.mark.parametrize("days", [0, 40])
def test_a_partition_that_is_gone_is_made_and_the_flush_sent_again(
    engine: sa.Engine, leases: Leases, days: int
) -> None:
    with engine.begin() as connection:
        run = connection.execute(sa.text("SELECT tailrace.request_ingest('run_1')")).scalar_one()
        stream_id = connection.execute(
            sa.text(
                "INSERT INTO tailrace.streams (id, run, stream_key)"
                " VALUES (tailrace.stream_id_at(now() - :days * interval '1 day') + 7, :run, 'ai') RETURNING id"
            ),
            {"run": run, "days": days},
        ).scalar_one()
        day = connection.execute(
            sa.text("SELECT to_char((now() - :days * interval '1 day') AT TIME ZONE 'UTC', 'YYYYMMDD')"), {"days": days}
        ).scalar_one()
        connection.execute(sa.text(f"DROP TABLE IF EXISTS tailrace.segments_{day}"))
    (stream,) = leases.acquire([stream_id])
    writer = Writer(Committer(engine, leases.worker_id), WriterLimits(), random=lambda: 0.5)
    sink = writer.open(stream, BatchLimits())
    with capture_logs() as logs:
        writer.start()
        sink.put(batch(0, b"1"), Wire.V2)
        sink.flush()
        writer.stop(5)
    assert [line["event"] for line in logs] == ["flush_failed"]
    assert rows(engine, "SELECT state, chunk_count, attempt FROM tailrace.streams") == [("active", 1, 0)]
    balanced(engine)


def test_a_row_that_stays_locked_is_asked_for_less_and_less(engine: sa.Engine, leases: Leases) -> None:
    """Each time, all that is in flight of it is sent again."""
    (stream,) = leases.acquire([new_stream(engine)])
    sent: list[float] = []

    class Counting(Committer):
        def commit(self, flushes: list[Flush]) -> set[int]:
            sent.append(time.monotonic())
            return super().commit(flushes)

    writer = Writer(Counting(engine, leases.worker_id), WriterLimits(), random=lambda: 0.5)
    sink = writer.open(stream, BatchLimits(max_age_s=0.01))
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT FROM tailrace.streams FOR UPDATE"))
        writer.start()
        sink.put(batch(0, b"1"), Wire.V2)
        give_up = time.monotonic() + 30
        while len(sent) < 6:
            assert time.monotonic() < give_up
            time.sleep(0.01)
    sink.flush()
    writer.stop(5)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent[:6])]
    assert all(pause >= 0.9 * LOCKED_PAUSE_S * 2**at for at, pause in enumerate(pauses)), pauses
