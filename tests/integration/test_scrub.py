"""The scrub: at night a share of the archive, by one process, with the load that it may make, and an alarm."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from tailrace.config.settings import Settings
from tailrace.service.maintenance import Maintenance
from tailrace.service.runtime import Runtime
from tailrace.service.scrub import LOOK_S, NAME, Scrub
from tailrace.store.keeping import verification
from tailrace.store.keeping.mismatches import Mismatches
from tailrace.store.keeping.progress import Progress
from tailrace.store.keeping.verification import Step, Verification
from tests.integration.schema_rows import Archive
from tests.integration.verified_archive import change, day, fill

ALWAYS = (0, 24)


class Clock:
    """A clock that others move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(Verification):
    """Each step takes two seconds of the clock."""

    def __init__(self, engine: sa.Engine, clock: Clock) -> None:
        super().__init__(engine)
        self._clock = clock
        self.looked_at: list[int] = []

    def check(self, first: int, end: int) -> Step:
        self._clock.now += 2.0
        self.looked_at.append(first)
        return super().check(first, end)


def scrub(
    engine: sa.Engine, *, hours: tuple[int, int] = ALWAYS, within_days: int = 1, load: float = 0.1
) -> tuple[Scrub, Slow]:
    clock = Clock()
    slow = Slow(engine, clock)
    progress = Progress(engine, NAME, uuid.uuid4())
    made = Scrub(slow, Mismatches(engine), progress, hours=hours, within_days=within_days, load=load, clock=clock)
    return made, slow


def whole_night(one: Scrub) -> int:
    """Take turns until there is nothing to do; return how many did something."""
    turns = 0
    while one.turn() != LOOK_S:
        turns += 1
    return turns


def verified_days(archive: Archive) -> list[object]:
    return [row[0] for row in archive.rows("SELECT day FROM tailrace.verified_days WHERE streams > 0 ORDER BY 1")]


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "STREAMS_A_STEP", 1)


def test_a_night_looks_at_its_share_least_recently_verified_first(archive: Archive, engine: sa.Engine) -> None:
    """Four days within two: two a night."""
    fill(archive, {20: 1, 15: 1, 10: 1, 5: 1, 0: 1})
    one, _ = scrub(engine, within_days=2)
    nights = []
    for _ in range(3):
        before = archive.value("SELECT now()")
        whole_night(one)
        nights.append(
            [
                row[0]
                for row in archive.rows(
                    "SELECT day FROM tailrace.verified_days WHERE streams > 0 AND verified_at > %s ORDER BY 1", before
                )
            ]
        )
        archive.run("UPDATE tailrace.verified_days SET finished_at = finished_at - interval '1 day'")
    assert nights == [[day(20), day(15)], [day(10), day(5)], [day(20), day(15)]]


def test_a_share_is_one_day_at_least_and_today_is_not_looked_at(archive: Archive, engine: sa.Engine) -> None:
    fill(archive, {5: 1, 4: 1, 0: 1})
    whole_night(scrub(engine, within_days=300)[0])
    assert verified_days(archive) == [day(5)]


def test_it_keeps_to_its_hours(archive: Archive, engine: sa.Engine) -> None:
    fill(archive, {5: 1})
    hour = datetime.now(UTC).hour
    later, _ = scrub(engine, hours=((hour + 2) % 24, (hour + 3) % 24))
    assert later.turn() == LOOK_S
    assert archive.rows("SELECT * FROM tailrace.verifications") == []
    now, slow = scrub(engine, hours=(hour, (hour + 2) % 24))
    assert now.turn() != LOOK_S
    assert slow.looked_at


@pytest.mark.parametrize(("load", "pause"), [(0.1, 18.0), (0.5, 2.0), (1.0, 0.0)])
def test_it_makes_no_more_load_than_it_may(archive: Archive, engine: sa.Engine, load: float, pause: float) -> None:
    """A step takes two seconds."""
    fill(archive, {5: 1})
    assert scrub(engine, load=load)[0].turn() == pytest.approx(pause)


def test_one_process_does_it_and_another_goes_on_when_it_dies(
    archive: Archive, engine: sa.Engine, one_by_one: None
) -> None:
    made = fill(archive, {5: 4})[5]
    (one, seen_one), (two, seen_two) = scrub(engine), scrub(engine)
    while len(seen_one.looked_at) < 2 or archive.value("SELECT day_streams FROM tailrace.verifications") < 2:
        assert one.turn() != LOOK_S
        assert two.turn() == LOOK_S
    assert seen_two.looked_at == []
    archive.run("UPDATE tailrace.verifications SET held_until = now() - interval '1 s'")  # as time does
    assert two.turn() != LOOK_S
    assert one.turn() == LOOK_S
    whole_night(two)
    assert seen_two.looked_at[:2] == made[2:]
    assert archive.rows("SELECT day, streams FROM tailrace.verified_days WHERE streams > 0") == [(day(5), 4)]


def test_an_alarm_when_something_is_wrong_and_a_word_when_it_is_mended(archive: Archive, engine: sa.Engine) -> None:
    stream, _ = fill(archive, {5: 2})[5]
    change(archive, stream)
    one, _ = scrub(engine)
    told = []
    for mended in (False, False, True):
        if mended:
            change(archive, stream)
        with capture_logs() as logs:
            whole_night(one)
        told.append([(each["log_level"], each["event"], each.get("run_id"), each["stream_id"]) for each in logs])
        archive.run("UPDATE tailrace.verified_days SET finished_at = finished_at - interval '1 day'")
        assert [each.stream_id for each in Mismatches(engine).known()] == ([] if mended else [stream])
    assert told == [
        [("error", "mismatch_found", "run_5_0", stream)],
        [],
        [("info", "mismatch_over", None, stream)],
    ]


def test_a_pruned_day_is_forgotten(archive: Archive, engine: sa.Engine) -> None:
    stream = fill(archive, {5: 1})[5][0]
    change(archive, stream)
    whole_night(scrub(engine)[0])
    assert Verification(engine).coverage().mismatches == 1
    while archive.value("SELECT tailrace.clear_day(%s)", day(5)):
        pass
    assert archive.value("SELECT tailrace.drop_day(%s)", day(5))
    coverage = Verification(engine).coverage()
    assert (coverage.days, coverage.mismatches) == (0, 0)
    assert verified_days(archive) == []


@pytest.mark.parametrize("load", [1.0, 0.0])
def test_workers_scrub_unless_they_may_make_no_load(archive: Archive, database_url: str, load: float) -> None:
    fill(archive, {5: 1})
    settings = Settings(secret_key="tr_dev_x", scrub_hours="0-24", scrub_load=load)  # type: ignore[arg-type]
    runtime = Runtime(settings, database_url)
    maintenance = Maintenance(runtime)
    try:
        maintenance.start()
        assert ("tailrace-scrub" in {each.name for each in threading.enumerate()}) is (load > 0)
        until = time.monotonic() + 30
        while load and verified_days(archive) != [day(5)]:
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        maintenance.stop()
        runtime.close()
