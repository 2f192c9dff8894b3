"""`tailrace verify` of a whole archive: in steps, by several connections, on from where it was cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.service.verifying import NAME, TERM_S, Shown, Verifying, VerifyingElsewhere
from tailrace.store.engine import create_engine
from tailrace.store.keeping import verification
from tailrace.store.keeping.mismatches import Mismatches
from tailrace.store.keeping.progress import Progress
from tailrace.store.keeping.verification import Step, Verification
from tests.integration.schema_rows import Archive
from tests.integration.verified_archive import change, day, fill


class Interrupted(BaseException):
    """As Ctrl-C is."""


class Watched(Verification):
    """Notes from which id each step was taken."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self.looked_at: list[int] = []

    def check(self, first: int, end: int) -> Step:
        step = super().check(first, end)
        if step.checked.streams:
            self.looked_at.append(first)
        return step


def verifying(engine: sa.Engine, *, connections: int = 2, **how: object) -> tuple[Verifying, Watched]:
    watched = Watched(engine)
    progress = Progress(engine, NAME, uuid.uuid4())
    return Verifying(watched, Mismatches(engine), progress, connections=connections, **how), watched  # type: ignore[arg-type]


def interrupting(after_streams: int) -> Callable[[Shown], None]:
    def show(shown: Shown) -> None:
        if shown.streams >= after_streams:
            raise Interrupted

    return show


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "STREAMS_A_STEP", 1)


@pytest.mark.parametrize(
    ("name", "limit", "steps"), [("STREAMS_A_STEP", 2, 3), ("BYTES_A_STEP", 25, 3), ("SEGMENTS_A_STEP", 2, 3)]
)
def test_steps_are_small_and_leave_nothing_out(
    archive: Archive, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, steps: int
) -> None:
    fill(archive, {3: 5})  # each is 10 bytes and one segment
    monkeypatch.setattr(verification, name, limit)
    at = Verification(engine)
    (today,) = [each for each in at.days() if each.day == day(3)]
    ends = [today.first_id]
    while ends[-1] < today.end_id:
        ends.append(at.step_end(ends[-1], today.end_id))
    assert [at.streams_from(first, end) for first, end in pairwise(ends)] == [2, 2, 1]
    assert len(ends) == steps + 1


def test_a_step_holds_one_stream_at_least(archive: Archive, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    (stream,) = fill(archive, {3: 1})[3]
    for first in range(2, 8):
        archive.segment(stream, ["1"], first=first)
    for name in ("STREAMS_A_STEP", "BYTES_A_STEP", "SEGMENTS_A_STEP"):
        monkeypatch.setattr(verification, name, 1)
    assert Verification(engine).step_end(stream, stream + 100) in (stream + 1, stream + 100)


def test_days_are_found_with_and_without_partitions(archive: Archive, engine: sa.Engine) -> None:
    fill(archive, {3: 2, 30: 1})
    archive.hole(5, 0, 0, "command")  # of 1970, without a stream
    archive.quarantine(archive.value("SELECT tailrace.stream_id_at('2030-02-03T23:59:59.999Z')"), 0)
    archive.run("DROP TABLE tailrace.segments_" + day(3).strftime("%Y%m%d"))
    days = Verification(engine).days()
    names = [each.day.isoformat() for each in days]
    assert names == sorted(set(names))
    assert (names[0], names[-1]) == ("1970-01-01", "2030-02-03")
    assert {day(3).isoformat(), day(30).isoformat(), day(0).isoformat()} <= set(names)
    assert day(-1).isoformat() not in names  # there is a partition, made ahead, and nothing in it
    assert days[0].first_id <= 5 < days[0].end_id


def test_everything_is_looked_at_once(archive: Archive, engine: sa.Engine, one_by_one: None) -> None:
    made = fill(archive, {9: 3, 2: 4, 0: 1})
    change(archive, made[2][3])
    archive.hole(7, 0, 0, "command")
    run, watched = verifying(engine, connections=3)
    verified = run.run(None)
    assert (verified.streams, verified.resumed, len(watched.looked_at)) == (8, False, 8)
    found = [(each.run_id, each.violation, each.stream_id) for each in verified.violations]
    assert found == [(None, "orphan", 7), ("run_2_3", "digest", made[2][3])]
    rows = archive.rows("SELECT day, streams FROM tailrace.verified_days WHERE streams > 0 ORDER BY 1")
    assert rows == [(day(9), 3), (day(2), 4), (day(0), 1)]
    assert archive.rows("SELECT * FROM tailrace.verifications") == []


def test_days_before_since_are_left_out(archive: Archive, engine: sa.Engine) -> None:
    fill(archive, {9: 3, 2: 4})
    run, _ = verifying(engine)
    assert run.run(day(2)).streams == 4
    assert archive.value("SELECT min(day) FROM tailrace.verified_days") == day(2)


def test_an_interrupted_one_goes_on_where_it_was(archive: Archive, engine: sa.Engine, one_by_one: None) -> None:
    """And tells of what it had found before."""
    made = fill(archive, {9: 3, 2: 4})
    change(archive, made[9][1])
    first, _ = verifying(engine, connections=1)
    with pytest.raises(Interrupted):
        first.run(None, show=interrupting(5))
    reached = archive.value("SELECT reached FROM tailrace.verifications WHERE held_by IS NULL")
    assert made[2][1] < reached <= made[2][2]
    again, seen = verifying(engine)
    verified = again.run(None)
    assert sorted(seen.looked_at) == made[2][2:]  # two at a time
    assert (verified.resumed, verified.streams) == (True, 7)
    assert [(each.stream_id, each.violation) for each in verified.violations] == [(made[9][1], "digest")]
    assert archive.value("SELECT streams FROM tailrace.verified_days WHERE day = %s", day(2)) == 4
    assert not verifying(engine)[0].run(None).resumed


def test_one_of_other_days_and_one_anew_begin_at_the_beginning(
    archive: Archive, engine: sa.Engine, one_by_one: None
) -> None:
    fill(archive, {9: 3, 2: 4})
    for since, anew, streams in ((None, True, 7), (day(5), False, 4)):
        with pytest.raises(Interrupted):
            verifying(engine)[0].run(None, show=interrupting(5))
        verified = verifying(engine)[0].run(since, anew=anew)
        assert (verified.resumed, verified.streams) == (False, streams)


def test_two_at_once_are_refused(archive: Archive, engine: sa.Engine) -> None:
    fill(archive, {2: 1})
    assert Progress(engine, NAME, uuid.uuid4()).take(TERM_S * 100) is not None
    waited: list[float] = []
    run, watched = verifying(engine, clock=lambda: sum(waited), wait=waited.append)
    with pytest.raises(VerifyingElsewhere):
        run.run(None)
    assert watched.looked_at == []
    assert sum(waited) >= TERM_S


def test_what_is_wrong_is_known_until_it_is_mended(archive: Archive, engine: sa.Engine) -> None:
    stream, other = fill(archive, {2: 2})[2]
    mismatches = Mismatches(engine)
    change(archive, stream)
    verifying(engine)[0].run(None)
    (known,) = mismatches.known()
    assert (known.stream_id, known.run_id, known.stream_key) == (stream, "run_2_0", "ai")
    assert (known.violations, known.since == known.seen_at) == (["digest"], True)
    assert known.detail == "the contents are not what they were"
    archive.run("UPDATE tailrace.streams SET chunk_count = 7, lost_count = 1 WHERE id = %s", stream)
    verifying(engine)[0].run(None)
    (again,) = mismatches.known()
    assert (again.since, again.violations) == (known.since, ["count", "digest"])
    assert again.seen_at > known.seen_at
    archive.run("UPDATE tailrace.streams SET chunk_count = 2, lost_count = 0 WHERE id = %s", stream)
    change(archive, stream)
    change(archive, other)
    verifying(engine)[0].run(None)
    assert [each.stream_id for each in mismatches.known()] == [other]
    archive.rows("SELECT * FROM tailrace.forget_run('default', 'run_2_1')")
    assert mismatches.known() == []


def test_the_digest_is_of_what_compaction_finds(archive: Archive, engine: sa.Engine) -> None:
    """Which is why a change before it, of as many chunks and bytes, is not noticed (docs/keeping.md, Compaction)."""
    (stream,) = fill(archive, {2: 1}, compacted=False)[2]
    change(archive, stream)
    verifying(engine)[0].run(None)
    archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
    verifying(engine)[0].run(None)
    assert Mismatches(engine).known() == []
    change(archive, stream)
    verifying(engine)[0].run(None)
    assert [each.violations for each in Mismatches(engine).known()] == [["digest"]]


def test_how_much_is_verified(archive: Archive, engine: sa.Engine) -> None:
    at = Verification(engine)
    assert at.coverage().oldest_at is None
    made = fill(archive, {20: 2, 9: 3, 0: 1})
    never = at.coverage()
    assert (never.days, never.days_never_verified, never.streams, never.mismatches) == (2, 2, 0, 0)
    assert never.oldest_at is not None
    assert never.oldest_at.date() == day(20)
    change(archive, made[9][0])
    verifying(engine)[0].run(day(9))
    one = at.coverage()
    assert (one.days, one.days_never_verified, one.streams, one.mismatches) == (2, 1, 3, 1)
    assert (one.oldest_at, one.mismatched_since is None) == (never.oldest_at, False)
    verified = verifying(engine)[0].run(None)
    both = at.coverage()
    assert (both.days_never_verified, both.streams) == (0, 5)
    assert both.oldest_at is not None
    assert both.oldest_at >= verified.begun_at


def test_an_account_that_may_only_read_notes_nothing(archive: Archive, database_url: str) -> None:
    role = f"reads_{uuid.uuid4().hex}"
    archive.run(f"CREATE ROLE {role}")
    try:
        archive.run(f"GRANT USAGE ON SCHEMA tailrace TO {role}")
        archive.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA tailrace TO {role}")
        for function in ("archived_days()", "stored_after(bigint, int, bigint)"):
            archive.run(f"GRANT EXECUTE ON FUNCTION tailrace.{function} TO {role}")
        separator = "&" if "?" in database_url else "?"
        reader = create_engine(f"{database_url}{separator}options=-crole%3D{role}")
        fill(archive, {5: 2})
        at = Verification(reader)
        assert not at.may_note()
        assert Verifying(at, Mismatches(reader), None).run(None).streams == 2
        reader.dispose()
    finally:
        archive.run(f"DROP OWNED BY {role}")
        archive.run(f"DROP ROLE {role}")
    assert archive.rows("SELECT * FROM tailrace.verified_days") == []


def tailrace(place: Path, database_url: str, *arguments: str) -> subprocess.Popen[str]:
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "NO_COLOR": "1"}
    command = [sys.executable, "-P", "-m", "tailrace", *arguments]
    return subprocess.Popen(command, cwd=place, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


BLOCKED = """
SELECT min(a.xact_start) FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND a.application_name = 'tailrace verify'
HAVING bool_or(a.wait_event_type = 'Lock')
"""


def test_a_killed_one_goes_on_and_no_snapshot_of_it_is_older_than_a_step(
    archive: Archive, database_url: str, tmp_path: Path
) -> None:
    """It is stopped by a lock on its second day, and killed there."""
    made = fill(archive, {9: 3, 2: 4})
    with psycopg.connect(database_url) as blocker:
        blocker.execute(f"LOCK TABLE tailrace.segments_{day(2):%Y%m%d} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
        killed = tailrace(tmp_path, database_url, "verify")
        try:
            until = time.monotonic() + 60
            while not (blocked := archive.rows(BLOCKED)):
                assert killed.poll() is None, killed.communicate()
                assert time.monotonic() < until
                time.sleep(0.02)
            finished = archive.value("SELECT finished_at FROM tailrace.verified_days WHERE day = %s", day(9))
            assert blocked[0][0] > finished
        finally:
            killed.send_signal(signal.SIGKILL)
            killed.communicate(timeout=30)
    change(archive, made[9][0])  # of the day that is done
    change(archive, made[2][0])
    archive.run("UPDATE tailrace.verifications SET held_until = now()")  # as time does
    again = tailrace(tmp_path, database_url, "verify", "--json")
    said, told = again.communicate(timeout=60)
    found = json.loads(said)
    assert (again.returncode, found["streams"]) == (1, 7), told
    assert [each["run_id"] for each in found["violations"]] == ["run_2_0"]
    assert "went on with the verification that was begun at" in told


@pytest.mark.unbalanced
def test_a_database_that_takes_no_writes_is_verified_too(archive: Archive, database_url: str, tmp_path: Path) -> None:
    """A standby, or what a backup was restored to."""
    fill(archive, {9: 1})
    name = database_url.rpartition("/")[2].partition("?")[0]
    archive.run(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    done = tailrace(tmp_path, database_url, "verify", "--connections", "1")
    _, told = done.communicate(timeout=60)
    assert done.returncode == 0, told
    assert "nothing is kept of this" in told
    assert "All is well: 1 streams checked." in told
