"""One stream that always fails slows no other, and says what is wrong with it in a row."""

from __future__ import annotations

import time
from pathlib import Path

from tailrace.model import Wire
from tailrace.serve.records import Draft
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.upstream import LiveStore

GOOD = 20


def test_bad_streams_beside_good_ones(tmp_path: Path, database_url: str, redis_url: str) -> None:
    store = LiveStore()
    store.create_run("run_good", Wire.V2)
    store.create_run("run_bad", Wire.V2)
    for number in range(GOOD):
        store.append_chunk("run_good", f"k{number}", "0")
    for key in ("refused", "broken", "odd", "postgres", "hanging"):
        store.append_chunk("run_bad", key, '"fine"')
    # Bodies that are no envelope, and chunks that are no JSON.
    store.append_records("run_bad", "odd", [Draft(b"no envelope"), Draft(b'{"data":NaN,"id":"aaaaaaa"}')])
    store.append_chunk("run_bad", "odd", '"after"')
    settings = QUICK | {"TAILRACE_READ_TIMEOUT_SECONDS": "2"}
    with scene(tmp_path, database_url, redis_url, store, **settings) as (workers, upstream):
        archive = workers.archive
        upstream.faults.stream("run_bad", "refused").answer(400, body=b"no such thing", times=10_000)
        upstream.faults.stream("run_bad", "broken").answer(200, body=b"<html>", times=10_000)
        upstream.faults.stream("run_bad", "hanging").silence(times=10_000)
        # Postgres itself refuses one stream's rows: only theirs.
        archive.request("run_bad")
        archive.rows(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.data::text LIKE '%poison%' THEN RAISE EXCEPTION 'refused' USING ERRCODE = '22000'; END IF;"
            " RETURN NEW; END $$"
        )
        archive.rows(
            "CREATE TRIGGER refuse BEFORE INSERT ON tailrace.segments FOR EACH ROW EXECUTE FUNCTION public.refuse()"
        )
        store.append_chunk("run_bad", "postgres", '"poison"')
        workers.started()
        # The reason is there while the reader goes on trying.
        (error,) = wait_for(
            lambda: archive.rows(
                "SELECT last_error FROM tailrace.streams WHERE stream_key = 'broken' AND attempt > 0 AND state = 'active'"
            ),
            20,
        )[0]
        assert "instead of an event stream" in error
        archive.request("run_good")
        wait_for(lambda: archive.value(
            "SELECT count(*) = %s FROM tailrace.streams_now WHERE chunk_count > 0 AND stream_key LIKE 'k%%'", GOOD), 20)  # fmt: skip
        slowest = 0.0
        for number in range(1, 11):
            began = time.monotonic()
            for key in range(GOOD):
                store.append_chunk("run_good", f"k{key}", str(number))
            wait_for(lambda number=number: archive.value(  # type: ignore[misc]
                "SELECT min(chunk_count) FROM tailrace.streams_now WHERE stream_key LIKE 'k%'") == number + 1, 10)  # fmt: skip
            slowest = max(slowest, time.monotonic() - began)
        print(f"good streams beside bad ones: slowest round {slowest:.2f} s")
        assert slowest < 3
        for run_id in ("run_good", "run_bad"):
            store.finish_run(run_id)
        wait_for(lambda: archive.value("SELECT count(*) FROM tailrace.streams WHERE state = 'sealed'") >= GOOD + 1, 30)
        # So far nothing is given up; what goes on for ten minutes is.
        bad = "stream_key IN ('refused', 'postgres')"
        wait_for(lambda: archive.value(f"SELECT count(*) = 2 FROM tailrace.streams WHERE {bad} AND attempt > 2"), 30)
        assert archive.value("SELECT count(*) FROM tailrace.streams WHERE state = 'failed'") == 0
        parked = f"UPDATE tailrace.streams SET attempt = 30, troubled_at = now() - interval '11 minutes' WHERE {bad}"

        def all_failed() -> bool:
            archive.rows(f"{parked} AND state = 'parked' RETURNING 1")
            return bool(archive.value(f"SELECT count(*) = 2 FROM tailrace.streams WHERE {bad} AND state = 'failed'"))

        wait_for(all_failed, 60)
        rows = {
            key: (state, error)
            for key, state, error in archive.rows(
                "SELECT stream_key, s.state, s.last_error FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
                " WHERE run_id = 'run_bad'"
            )
        }
        assert rows["refused"][0] == "failed"
        assert "400" in rows["refused"][1]
        assert "instead of an event stream" in rows["broken"][1]
        assert rows["odd"] == ("sealed", None)
        assert archive.texts("run_bad", "odd") == ['"fine"', '"after"']
        assert {reason for (reason,) in archive.rows("SELECT reason FROM tailrace.quarantine")} >= {"not_an_envelope"}
        assert rows["postgres"][0] == "failed"
        assert "refused" in rows["postgres"][1]
        assert archive.violations() == []
        # The failed ones are taken up again when asked.
        upstream.faults.clear()
        archive.rows("DROP TRIGGER refuse ON tailrace.segments")
        assert archive.value("SELECT tailrace.retry_run('run_bad')") >= 2
        wait_for(lambda: archive.texts("run_bad", "refused") == ['"fine"'], 20)
        wait_for(lambda: archive.texts("run_bad", "postgres") == ['"fine"', '"poison"'], 20)
        wait_for(lambda: archive.all_sealed(2), 60)
        assert archive.violations() == []
