"""Rules that the schema itself keeps: ids, states, leases, segments, partitions."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tailrace.model import MOVES, OPEN_STATES, StreamState
from tests.integration.schema_rows import Archive
from tests.optioncases import OPTIONS

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


# ------------------------------------------------------------------------------------------------------------- ids


def test_ids_are_unique_ordered_and_tell_their_time(archive: Archive) -> None:
    before = archive.value("SELECT clock_timestamp()")
    ids = [row[0] for row in archive.rows("SELECT tailrace.next_id() FROM generate_series(1, 20000)")]
    after = archive.value("SELECT clock_timestamp()")
    assert len(set(ids)) == len(ids)
    assert [value >> 20 for value in ids] == sorted(value >> 20 for value in ids)
    low, high = archive.row("SELECT tailrace.stream_id_at(%s), tailrace.stream_id_at(%s)", before, after)
    assert low <= min(ids)
    assert max(ids) < high + (1 << 20)


# ---------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("old", list(StreamState))
def test_a_stream_moves_as_the_table_in_code_says(archive: Archive, old: StreamState) -> None:
    stream = archive.stream()
    for new in StreamState:
        archive.run("ALTER TABLE tailrace.streams DISABLE TRIGGER streams_moves")
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", old, stream)
        archive.run("ALTER TABLE tailrace.streams ENABLE TRIGGER streams_moves")
        if new is old or new in MOVES[old]:
            archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", new, stream)
        else:
            with pytest.raises(psycopg.errors.CheckViolation, match=f"cannot move from {old} to {new}"):
                archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", new, stream)


@pytest.mark.parametrize("state", sorted(set(StreamState) - OPEN_STATES))
def test_a_closed_stream_holds_no_lease(archive: Archive, state: StreamState) -> None:
    stream = archive.stream()
    archive.run("UPDATE tailrace.streams SET state = 'active', worker_id = gen_random_uuid() WHERE id = %s", stream)
    with pytest.raises(psycopg.errors.CheckViolation, match="streams_lease_check"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.run("UPDATE tailrace.streams SET state = %s, worker_id = NULL WHERE id = %s", state, stream)


FLUSHED = {
    *("rev", "last_chunk_index", "cursor", "generation", "wire", "lag", "attempt", "last_error", "digest"),
    *("chunk_count", "byte_count", "hole_count", "lost_count", "quarantine_count", "first_chunk_at", "last_chunk_at"),
}


def test_no_index_holds_what_a_flush_changes(archive: Archive) -> None:
    indexed = archive.rows(
        """SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
           WHERE i.indrelid = 'tailrace.streams'::regclass"""
    )
    assert FLUSHED.isdisjoint(row[0] for row in indexed)


def test_flushes_of_a_stream_are_hot_updates(archive: Archive) -> None:
    """The row has the same state and due time after it: no index gets a new entry."""
    stream = archive.stream()
    with archive.connection.transaction():
        for _ in range(10):
            archive.run(
                """UPDATE tailrace.streams SET rev = rev + 1, last_chunk_index = last_chunk_index + 1, cursor = '{}',
                   chunk_count = chunk_count + 1, byte_count = byte_count + 9, last_chunk_at = now(), lag = 3,
                   state = coalesce(NULL, state), next_attempt_at = next_attempt_at WHERE id = %s""",
                stream,
            )
        hot = archive.value("SELECT pg_stat_get_xact_tuples_hot_updated('tailrace.streams'::regclass)")
    assert hot == 10


def test_finding_due_streams_reads_no_sealed_ones(archive: Archive) -> None:
    run = archive.value("SELECT tailrace.request_ingest('run_1')")
    archive.run(
        """INSERT INTO tailrace.streams (run, stream_key, state)
           SELECT %s, n::text, CASE WHEN n %% 1000 = 0 THEN 'parked' ELSE 'sealed' END
           FROM generate_series(1, 20000) n""",
        run,
    )
    archive.run("VACUUM ANALYZE tailrace.streams")
    plan = "\n".join(
        row[0]
        for row in archive.rows(
            """EXPLAIN SELECT id FROM tailrace.streams
               WHERE state IN ('pending', 'active', 'parked') AND worker_id IS NULL AND next_attempt_at <= now()
               ORDER BY next_attempt_at"""
        )
    )
    assert "streams_open_idx" in plan


def test_deleting_a_run_deletes_its_streams(archive: Archive) -> None:
    archive.stream()
    archive.run("DELETE FROM tailrace.runs")
    assert archive.value("SELECT count(*) FROM tailrace.streams") == 0


# --------------------------------------------------------------------------------------------------------- segments

SEGMENT: dict[str, Any] = {
    "generation": 0,
    "first_index": 10,
    "last_index": 12,
    "chunk_count": 3,
    "data": "[1,2,3]",
    "emitted_ms": [1, 2, 3],
    "index_offsets": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"last_index": 13},
        {"last_index": 9},
        {"chunk_count": 2},
        {"chunk_count": 0, "data": "[]", "emitted_ms": []},
        {"data": "[1,2]"},
        {"data": "[1,2,3,4]"},
        {"data": '{"a":1}'},
        {"data": "1"},
        {"emitted_ms": [1, 2]},
        {"emitted_ms": [1, None, 3]},
        {"index_offsets": [0, 1]},
        {"index_offsets": [1, 2, 3]},
        {"index_offsets": [0, 1, 3]},
        {"first_index": -1, "last_index": 1},
        {"generation": -1},
        {"chunk_count": 2001, "data": "[" + "1," * 2000 + "1]", "emitted_ms": [1] * 2001, "last_index": 2010},
    ],
    ids=str,
)
def test_a_segment_that_does_not_add_up_is_refused(archive: Archive, change: dict[str, Any]) -> None:
    stream = archive.stream()
    insert = """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data,
                                               emitted_ms, index_offsets)
                VALUES (%s, %s, %s, %s, %s, %s, %s::bigint[], %s::int[])"""
    archive.run(insert, stream, *SEGMENT.values())
    archive.run("DELETE FROM tailrace.segments")
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InvalidParameterValue)):
        archive.run(insert, stream, *{**SEGMENT, **change}.values())


# ------------------------------------------------------------------------------------------------------- partitions


def partitions(archive: Archive) -> list[str]:
    return [
        row[0]
        for row in archive.rows(
            """SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = 'tailrace.segments'::regclass ORDER BY 1"""
        )
    ]


def days(first: int, last: int) -> list[str]:
    return [f"segments_{TODAY + timedelta(days=day):%Y%m%d}" for day in range(first, last + 1)]


def test_the_coming_days_have_partitions(archive: Archive) -> None:
    assert partitions(archive) == days(-1, 14)


def test_missing_partitions_are_made_and_others_left_alone(archive: Archive) -> None:
    archive.run(f"DROP TABLE tailrace.{days(3, 3)[0]}")
    assert archive.value("SELECT tailrace.ensure_partitions()") == 1
    assert archive.value("SELECT tailrace.ensure_partitions()") == 0
    assert archive.value("SELECT tailrace.ensure_partitions(20, 3)") == 8
    assert partitions(archive) == days(-3, 20)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Auckland", "America/Los_Angeles"])
def test_a_partition_is_a_day_of_utc_in_every_time_zone(archive: Archive, zone: str) -> None:
    archive.run("SELECT set_config('timezone', %s, false)", zone)
    archive.value("SELECT tailrace.ensure_partitions(17)")
    assert partitions(archive)[-1] == days(17, 17)[0]
    day = TODAY + timedelta(days=17)
    for moment in (day, day + timedelta(days=1, milliseconds=-1)):
        first = archive.value("SELECT tailrace.stream_id_at(%s)", moment)
        for stream in (first, first + (1 << 20) - 1):
            archive.segment(stream, ["1"])
    assert archive.rows("SELECT DISTINCT tableoid::regclass::text FROM tailrace.segments") == [
        (f"tailrace.{days(17, 17)[0]}",)
    ]


def test_no_partition_takes_what_has_none(archive: Archive) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        archive.segment(archive.value("SELECT tailrace.stream_id_at(%s)", TODAY + timedelta(days=30)), ["1"])


def test_partitions_made_later_equal_the_others(archive: Archive) -> None:
    archive.value("SELECT tailrace.ensure_partitions(15)")
    described = archive.rows(
        """SELECT array_agg(DISTINCT (SELECT array_agg((attname, atttypid, attnotnull, attcompression) ORDER BY attnum)
                                      FROM pg_attribute WHERE attrelid = i.inhrelid AND attnum > 0)::text),
                  array_agg(DISTINCT (SELECT array_agg((conname, pg_get_constraintdef(oid)) ORDER BY conname)
                                      FROM pg_constraint WHERE conrelid = i.inhrelid AND contype = 'c')::text),
                  array_agg(DISTINCT (SELECT count(*) FROM pg_index WHERE indrelid = i.inhrelid AND indisprimary))
           FROM pg_inherits i WHERE i.inhparent = 'tailrace.segments'::regclass"""
    )
    ((columns, checks, primary_keys),) = described
    assert len(columns) == len(checks) == 1
    assert primary_keys == [1]
    assert "segments_data_check" in checks[0]


def test_partitions_are_made_while_somebody_writes_and_somebody_reads(archive: Archive, database_url: str) -> None:
    stream = archive.stream()
    with psycopg.connect(database_url) as writer, psycopg.connect(database_url) as reader:
        writer.execute(
            """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data,
               emitted_ms) VALUES (%s, 0, 0, 0, 1, '[1]', '{1}')""",
            [stream],
        )
        reader.execute("SELECT count(*) FROM tailrace.segments").fetchone()
        archive.run("SET lock_timeout = '2s'")
        assert archive.value("SELECT tailrace.ensure_partitions(18)") == 4


def test_eight_at_once_make_each_partition_once(database_url: str, archive: Archive) -> None:
    made: list[int] = []

    def make() -> None:
        with psycopg.connect(database_url) as connection:
            row = connection.execute("SELECT tailrace.ensure_partitions(30, 5)").fetchone()
            made.append(row[0] if row else -1)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(made) == [0] * 7 + [20]
    assert partitions(archive) == days(-5, 30)


def test_an_old_partition_can_be_dropped_and_is_not_missed(archive: Archive) -> None:
    (yesterday,) = days(-1, -1)
    archive.run(f"ALTER TABLE tailrace.segments DETACH PARTITION tailrace.{yesterday} CONCURRENTLY")
    archive.run(f"DROP TABLE tailrace.{yesterday}")
    archive.whole_stream(["1"])
    assert archive.value("SELECT count(*) FROM tailrace.chunks") == 1
    assert archive.value("SELECT tailrace.ensure_partitions(14, 0)") == 0


@pytest.mark.parametrize(("ahead", "back"), [(-1, 1), (1000, 1), (14, -1)])
def test_absurd_numbers_of_days_are_refused(archive: Archive, ahead: int, back: int) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        archive.value("SELECT tailrace.ensure_partitions(%s, %s)", ahead, back)


# --------------------------------------------------------------------------------------------------------- requests


def request(archive: Archive, *arguments: object) -> dict[str, Any]:
    """Ask, and return the run's row."""
    fingerprints = ", ".join(["%s"] * len(arguments))
    run = archive.value(f"SELECT tailrace.request_ingest({fingerprints})", *arguments)
    cursor = archive.connection.execute("SELECT * FROM tailrace.runs WHERE id = %s", [run])
    (row,) = cursor.fetchall()
    return dict(zip([column.name for column in cursor.description or ()], row, strict=True))


class TestRequestIngest:
    def test_a_request_is_a_run_due_now(self, archive: Archive) -> None:
        row = request(archive, "run_1")
        assert (row["state"], row["selection"], row["priority"], row["options"]) == ("requested", None, 0, {})
        assert row["next_watch_at"] <= archive.value("SELECT now()")

    def test_it_takes_effect_with_the_callers_transaction(self, archive: Archive, database_url: str) -> None:
        with psycopg.connect(database_url) as caller:
            caller.execute("SELECT tailrace.request_ingest('run_1')")
            assert archive.value("SELECT count(*) FROM tailrace.runs") == 0
            caller.rollback()
            caller.execute("SELECT tailrace.request_ingest('run_2')")
        assert archive.rows("SELECT run_id FROM tailrace.runs") == [("run_2",)]

    def test_asking_again_widens(self, archive: Archive) -> None:
        assert request(archive, "run_1", ["b", "a", "b"], "default", 1)["selection"] == ["a", "b"]
        row = request(archive, "run_1", ["c", "a"], "default", 0)
        assert (row["selection"], row["priority"]) == (["a", "b", "c"], 0)
        assert request(archive, "run_1", None, "default", 1)["selection"] is None
        row = request(archive, "run_1", ["a"], "default", 1)
        assert (row["selection"], row["priority"]) == (None, 0)
        assert archive.value("SELECT count(*) FROM tailrace.runs") == 1

    @pytest.mark.parametrize(
        ("state", "after", "asked_anew"),
        [
            ("requested", "requested", False),
            ("watched", "watched", False),
            ("sealed", "watched", True),
            ("failed", "requested", True),
            ("cancelled", "requested", True),
        ],
    )
    def test_it_revives(self, archive: Archive, state: str, after: str, asked_anew: bool) -> None:
        run = request(archive, "run_1")["id"]
        archive.run(
            """UPDATE tailrace.runs SET state = %s, sealed_at = CASE WHEN %s THEN now() END, last_error = 'why',
               watch_attempt = 7, next_watch_at = 'infinity', requested_at = 'epoch' WHERE id = %s""",
            state,
            state == "sealed",
            run,
        )
        row = request(archive, "run_1")
        assert (row["id"], row["state"], row["sealed_at"], row["watch_attempt"]) == (run, after, None, 0)
        assert row["next_watch_at"] <= archive.value("SELECT now()")
        assert (row["requested_at"].year > 1970) is asked_anew
        assert row["last_error"] == (None if asked_anew else "why")

    def test_it_revives_the_streams_that_are_asked_for(self, archive: Archive) -> None:
        states = {"f": "failed", "c": "cancelled", "other": "failed", "s": "sealed", "p": "parked"}
        streams = {key: archive.stream(key=key) for key in states}
        archive.run("UPDATE tailrace.streams SET state = 'active'")
        for key, state in states.items():
            archive.run(
                """UPDATE tailrace.streams SET state = %s, next_attempt_at = 'infinity', attempt = 3, last_error = 'x',
                   verdict = 'failed' WHERE id = %s""",
                state,
                streams[key],
            )
        request(archive, "run_1", ["f", "c", "s"])
        rows = archive.rows(
            """SELECT stream_key, state, attempt, last_error, verdict FROM tailrace.streams
               WHERE next_attempt_at <= now() ORDER BY 1"""
        )
        assert rows == [("c", "active", 0, None, "open"), ("f", "active", 0, None, "open")]

    def test_runs_of_two_environments_are_two_runs(self, archive: Archive) -> None:
        archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('staging', 'https://example.com')")
        first, second = request(archive, "run_1"), request(archive, "run_1", None, "staging")
        assert first["id"] != second["id"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((None,), "p_run_id is empty"),
            (("",), "p_run_id is empty"),
            (("run_1", []), "p_streams names no stream"),
            (("run_1", ["a", None]), "p_streams names no stream"),
            (("run_1", None, "nowhere"), 'no environment "nowhere"'),
            (("run_1", None, None), "no environment"),
            (("run_1", None, "default", 5), "runs_priority_check"),
            (("x" * 1_001,), "p_run_id is too long"),
            (("run_1", ["a", ""]), "p_streams names no stream"),
            (("run_1", ["x" * 1_001]), "p_streams names no stream"),
            (("run_1", ["k"] * 10_001), "p_streams names no stream, or too many"),
            *(
                (("run_1", None, "default", 0, then), "p_then is no name")
                for then in ("", " ", "a b", "a@", "@q", "a\nb")
            ),
            (("run_1", None, "default", 0, "x" * 501), "p_then is no name"),
        ],
    )
    def test_a_request_that_makes_no_sense_is_refused(
        self, archive: Archive, arguments: tuple[object, ...], message: str
    ) -> None:
        with pytest.raises(psycopg.Error, match=message):
            request(archive, *arguments)
        assert archive.value("SELECT count(*) FROM tailrace.runs") == 0

    @pytest.mark.parametrize(("options", "problem"), OPTIONS)
    def test_options_are_refused_with_a_hint_and_as_a_row(
        self, archive: Archive, options: str, problem: str | None
    ) -> None:
        row = "INSERT INTO tailrace.runs (environment_id, run_id, options) SELECT 1, 'run_2', %s::json"
        if problem is None:
            request(archive, "run_1", None, "default", 0, None, options)
            archive.run(row, options)
            return
        with pytest.raises(psycopg.errors.InvalidParameterValue) as refusal:
            request(archive, "run_1", None, "default", 0, None, options)
        assert refusal.value.diag.message_primary == f"request_ingest: {problem}"
        assert "batch_max_chunks" in (refusal.value.diag.message_hint or "")
        with pytest.raises(psycopg.errors.CheckViolation, match="runs_options_check"):
            archive.run(row, options)
        assert archive.value("SELECT count(*) FROM tailrace.runs") == 0
