"""docs/operate.md, walked through where an archive is copied: restored, taken back to a moment, promoted, moved."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from tailrace.devtools.servers.postgres import Postgres
from tailrace.model import Wire
from tests.accounts import assert_balanced
from tests.chaos.fleet import Archive, wait_for
from tests.integration.operated import COUNT_ON, WAIT_S, Scene, a_database, at_work, changes, primary
from tests.operating import OF_A_PRIMARY, at_port, blocks, copied
from tests.throwaway import ephemeral_postgres, in_memory

__all__ = ["at_work", "primary"]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Another cluster: a new one, with nothing in it."""
    with ephemeral_postgres(in_memory() or tmp_path_factory.mktemp("other"), OF_A_PRIMARY) as server:
        yield server


# --- back up, restore


def test_a_dump_is_restored_into_another_cluster_and_goes_on(at_work: Scene, other: Postgres) -> None:
    """What upstream has is there once; what it trimmed meanwhile is a gap that is told; changes can be followed on."""
    place = at_work
    place.store.create_run("run_trimmed", Wire.V1)
    place.store.append_chunks("run_trimmed", "ai", ['"0"', '"1"'])
    place.archive.request("run_trimmed")
    worker = place.fleet.started(direct=True)
    place.begin()
    wait_for(lambda: place.archive.texts("run_trimmed", "ai") == ['"0"', '"1"'], WAIT_S)
    place.walk("Back up and restore", 0)
    assert "tailrace" in (place.backups / "roles.sql").read_text()
    followed = changes(place.archive.url, -1)
    assert len(followed) == 12
    # Work goes on after the dump, and then that machine is gone.
    place.write()
    wait_for(place.stored, WAIT_S, "what came after the dump is stored, too")
    cursor = max(change for change, _, _ in changes(place.archive.url, -1))  # a follower has seen that
    worker.kill()
    place.store.append_chunks("run_trimmed", "ai", [f'"{n}"' for n in range(2, 210)])
    place.store.trim_entries("run_trimmed", "ai", 100)  # the first hundred go
    place.write()
    with a_database(other) as url:
        place.operator.variables["NEW_DATABASE_URL"] = url
        said = place.walk("Back up and restore", 1)
        assert "✗" not in said
        archive = place.now_at(url)
        assert changes(url, -1) == followed
        place.fleet.started(direct=True)
        wait_for(place.stored, WAIT_S, "all is read again")
        place.store.finish_run("run_trimmed")
        place.store.finish_run("run_v1")
        place.store.finish_run("run_v2")
        wait_for(lambda: archive.all_sealed(3), WAIT_S, "all is sealed")
        assert place.stored()
        assert archive.texts("run_trimmed", "ai") == [f'"{n}"' for n in (0, 1, *range(100, 210))]
        verdicts = dict(archive.rows("SELECT run_id, verdict FROM tailrace.stream_stats"))
        assert verdicts == {"run_v1": "complete", "run_v2": "complete", "run_trimmed": "complete_with_gaps"}
        assert archive.value("SELECT count(*) FROM tailrace.gaps") == 1
        assert_balanced(url)
        # The follower gets what it has not had, and what was read again.
        wait_for(lambda: len(changes(url, cursor)) == 10 + 10 + 110, WAIT_S, "the follower sees what came")
        place.fleet.close()


def test_going_back_to_a_moment(at_work: Scene) -> None:
    place, url = at_work, at_work.archive.url
    worker = place.fleet.started(direct=True)
    place.begin()
    place.walk("Go back to a moment", 0, 1)
    place.write()
    wait_for(place.stored, WAIT_S, "what came after the copy is stored")
    moment = place.archive.value("SELECT clock_timestamp()")
    place.archive.rows("DELETE FROM tailrace.segments")
    place.archive.rows(COUNT_ON)
    cursor = place.archive.value("SELECT tailrace.changes_until()")  # somebody has followed up to there
    last = place.archive.value("SELECT pg_walfile_name(pg_switch_wal())")
    worker.kill()
    place.write()
    wait_for(lambda: (place.backups / "wal" / last).exists(), WAIT_S, "the log of it is archived")
    place.archive.rows("ALTER SYSTEM SET archive_command = ''")
    place.archive.rows("SELECT pg_reload_conf()")
    with copied(place.operator, "NEW_PGDATA") as (_, port):
        place.operator.variables |= {"MOMENT": str(moment), "NEW_DATABASE_URL": at_port(url, port)}
        place.walk("Go back to a moment", 2)
        archive = place.now_at(at_port(url, port))
        assert len(archive.texts("run_v2", "ai")) == 10
        place.walk("Go back to a moment", 3)
        assert archive.violations() == []
        place.fleet.started(direct=True)
        wait_for(place.stored, WAIT_S, "workers go on by themselves")
        place.finish()
        seen = [text for _, _, text in changes(at_port(url, port), cursor)]
        assert sorted(seen) == sorted(place.written["run_v1"][10:] + place.written["run_v2"][10:])
        place.fleet.close()


def test_failing_over_to_a_replica(primary: Postgres, at_work: Scene) -> None:
    """It lacks the last that was committed; that is read from upstream again."""
    place, url = at_work, at_work.archive.url
    with copied(place.operator, "STANDBY_PGDATA") as (_, port):
        place.walk("Fail over to a replica", 0)
        [form] = [each.text for each in blocks("Fail over to a replica") if each.language == "text"]
        both = form.partition("=")[2].strip()
        for ours, theirs in (
            ("USER:PASSWORD", re.split("[/@]", url)[2]),
            ("/tailrace?", f"/{url.rpartition('/')[2]}?"),
            ("host=db-1,db-2", "host=127.0.0.1,127.0.0.1"),
            ("port=5432,5432", f"port={primary.port},{port}"),
        ):
            assert both.count(ours) == 1
            both = both.replace(ours, theirs)
        for _ in range(2):
            place.fleet.started(direct=True, DATABASE_URL=both)
        place.begin()
        assert "streaming" in place.walk("Fail over to a replica", 1)
        replica = Archive(at_port(url, port))
        wait_for(lambda: place.stored(replica), WAIT_S, "the replica has it")
        replica.rows("ALTER SYSTEM SET primary_conninfo = ''")
        replica.rows("SELECT pg_reload_conf()")
        wait_for(lambda: not replica.rows("SELECT FROM pg_stat_wal_receiver"), WAIT_S, "it is cut off")
        place.write()
        wait_for(place.stored, WAIT_S, "the primary has more")
        assert len(replica.texts("run_v2", "ai")) == 5
        replica.close()
        primary.stop_immediate()
        try:
            place.write()
            place.walk("Fail over to a replica", 2)
            place.now_at(at_port(url, port))
            wait_for(place.stored, WAIT_S, "workers found the new primary")
            place.operator.variables["DATABASE_URL"] = both
            place.finish()
        finally:
            place.fleet.close()
            primary.start()
            with psycopg.connect(primary.url("postgres"), autocommit=True) as connection:
                connection.execute("SELECT pg_drop_replication_slot('tailrace_standby')")


# --- move


def test_moving_to_another_database(primary: Postgres, at_work: Scene, other: Postgres) -> None:
    place, url = at_work, at_work.archive.url
    worker = place.fleet.started(direct=True)
    place.begin()
    with a_database(other) as new, psycopg.connect(url, autocommit=True) as forgotten:
        place.operator.variables["NEW_DATABASE_URL"] = new
        place.walk("Move to another database", 0)
        place.write()
        wait_for(place.stored, WAIT_S, "work goes on meanwhile")
        followed = changes(url, -1)
        worker.terminate()
        assert worker.wait(30) == 0
        place.write()
        sequences = place.archive.rows(SEQUENCES)
        place.walk("Move to another database", 1)
        with pytest.raises(psycopg.OperationalError):
            forgotten.execute("SELECT")
        with psycopg.connect(url) as late, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            late.execute("SELECT tailrace.request_ingest('run_late')")
        archive = place.now_at(new)
        assert archive.rows(SEQUENCES) == sequences
        assert changes(new, -1) == followed
        place.fleet.started(direct=True)
        wait_for(place.stored, WAIT_S, "workers go on")
        place.finish()
        cursor = max(change for change, _, _ in followed)
        wait_for(lambda: len(changes(new, cursor)) == 10, WAIT_S, "followers go on")
        place.fleet.close()


SEQUENCES = (
    "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'tailrace' AND last_value > 0 ORDER BY 1"
)
