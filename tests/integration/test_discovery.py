"""Many runs watched with few calls, and new ones found whatever the list's index does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tailrace.config.settings import Settings
from tailrace.errors import Unauthorized
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.listing import Index
from tailrace.service.discovery import Discovery
from tailrace.service.key_check import NO_SUCH_RUN
from tailrace.service.maintenance import discovery_of
from tailrace.service.runtime import Runtime
from tests.integration.schema_rows import Archive
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore

FEED, LIST = "/realtime/v1/runs", "/api/v1/runs"


class Place:
    """A stand-in upstream, an archive, and runtimes between them."""

    def __init__(self, url: str, server: RunningServer, store: LiveStore, index: Index) -> None:
        self.url, self.server, self.store, self.index = url, server, store, index
        self.archive = Archive(url)
        self.runtimes: list[Runtime] = []
        self._seen = 0

    def runtime(self, key: str = DEFAULT_KEY, **settings: object) -> Runtime:
        given = {"secret_key": key, "api_url": self.server.url, "watch_seconds": 5.0} | settings
        runtime = Runtime(Settings(**given), self.url)
        runtime.environments.enrol()
        self.runtimes.append(runtime)
        return runtime

    def calls(self) -> list[str]:
        """The paths asked for since this was last called."""
        requests = self.server.traffic.requests()
        new, self._seen = requests[self._seen :], len(requests)
        return [request.path for request in new]

    def due(self) -> None:
        """Everything is to be looked at now, and it is time to ask the feed."""
        for runtime in self.runtimes:
            for environment in runtime.environments.all():
                environment.watching._asked_at -= 60.0
        self.archive.run("UPDATE tailrace.runs SET next_watch_at = now()")
        self.archive.run("UPDATE tailrace.discoveries SET next_look_at = now(), next_scan_at = now()")


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    store, index = LiveStore(), Index()
    with running(create_app(store, index=index)) as server:
        place = Place(database_url, server, store, index)
        yield place
        for runtime in place.runtimes:
            runtime.close()
        place.archive.connection.close()


def begin(place: Place, runtime: Runtime, count: int, prefix: str = "run") -> None:
    for n in range(count):
        place.store.create_run(f"{prefix}_{n}", tags=["x"], task_identifier=f"task-{n % 2}")
        runtime.request(f"{prefix}_{n}", None, {})
    place.calls()


# --- watching


def test_a_thousand_open_runs_cost_two_calls_an_interval(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 1_000)
    runtime.watch(10)
    assert place.calls() == [FEED, FEED]  # the second asks what came after the first, which may come from a cache
    assert place.archive.row("SELECT count(*), min(status), min(state) FROM tailrace.runs") == (
        *(1_000, "EXECUTING"),
        "watched",
    )
    for _ in range(3):
        place.due()
        assert runtime.watch(10) == (0, 0)
        assert place.calls() == [FEED]
    assert runtime.watch(10) == (0, 0)
    assert place.calls() == []


def test_no_open_runs_cost_no_call(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    place.archive.run("UPDATE tailrace.runs SET state = 'sealed'")
    place.due()
    assert runtime.watch(10) == (0, 0)
    assert place.calls() == []


def test_new_keys_ends_and_new_attributes_are_noticed(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    runtime.watch(10)
    place.store.open_stream("run_1", 'odd "key", é\\')
    place.store.open_stream("run_1", "b")
    place.store.finish_run("run_3", "COMPLETED_WITH_ERRORS")
    place.due()
    assert runtime.watch(10) == (0, 2)
    assert place.archive.rows("SELECT stream_key FROM tailrace.streams ORDER BY 1") == [("b",), ('odd "key", é\\',)]
    assert place.archive.row(
        """SELECT status, terminal_at IS NOT NULL, finished_at IS NOT NULL, tags
           FROM tailrace.runs WHERE run_id = 'run_3'"""
    ) == ("FAILED", True, True, ["x"])


def test_a_run_that_asks_for_certain_streams_gets_those(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 4)
    runtime.request("run_sel", ["mine", "$trigger.input:x"], {})
    place.store.create_run("run_sel")
    place.store.open_stream("run_sel", "not-mine")
    runtime.watch(10)
    assert place.archive.rows("SELECT stream_key FROM tailrace.streams ORDER BY 1") == [
        ("$trigger.input:x",),
        ("mine",),
    ]


def test_what_the_feed_does_not_name_is_looked_at_alone_and_bounded(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    for n in range(30):
        place.store.create_run(f"run_old_{n}", created_at=datetime.now(UTC) - timedelta(days=2))
        runtime.request(f"run_old_{n}", None, {})
    place.calls()
    assert runtime.watch(10) == (10, 0)
    paths = place.calls()
    assert paths.count(FEED) == 2
    assert len(paths) == 12
    while runtime.watch(10)[0]:
        pass
    assert place.calls().count(FEED) == 0
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE state = 'watched'") == 35


def test_a_run_that_upstream_does_not_know_fails_in_the_end(place: Place) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    runtime.request("run_wrong", None, {})
    runtime.watch(10)
    assert place.archive.value("SELECT state FROM tailrace.runs WHERE run_id = 'run_wrong'") == "requested"
    place.archive.run("UPDATE tailrace.runs SET requested_at = now() - interval '10 min'")
    place.due()
    runtime.watch(10)
    assert place.archive.rows("SELECT run_id, verdict FROM tailrace.run_overview WHERE state = 'failed'") == [
        ("run_wrong", "failed")
    ]


def test_runs_beyond_what_the_feed_names_are_not_forgotten(place: Place) -> None:
    runtime = place.runtime()
    for n in range(12):
        place.store.create_run(f"run_{n}", created_at=datetime.now(UTC) - timedelta(hours=2))
        runtime.request(f"run_{n}", None, {})
    for n in range(1_000):
        place.store.create_run(f"run_newer_{n}")
    while runtime.watch(10)[0]:
        pass
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE state = 'watched'") == 12


@pytest.mark.parametrize("spoil", ["answer", "cut"])
def test_when_the_feed_fails_runs_are_looked_at_alone(place: Place, spoil: str) -> None:
    runtime = place.runtime()
    begin(place, runtime, 5)
    fault = place.server.faults.runs_feed()
    fault.answer(503, times=9) if spoil == "answer" else fault.cut(after_bytes=300, times=9)
    assert runtime.watch(10) == (5, 0)
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE state = 'watched'") == 5


def test_runs_that_are_over_are_sealed_together(place: Place) -> None:
    runtime = place.runtime(seal_quiet_seconds=30.0)
    begin(place, runtime, 20)
    for n in range(20):
        place.store.finish_run(f"run_{n}")
    runtime.watch(10)
    place.archive.run("UPDATE tailrace.runs SET terminal_at = terminal_at - interval '1 minute'")
    place.due()
    runtime.watch(10)
    assert place.archive.value("SELECT count(*) FROM tailrace.runs WHERE state = 'sealed'") == 20
    place.due()
    place.calls()
    runtime.watch(10)
    assert place.calls() == []


# --- finding


def discovery(place: Place, rule: str = "all", **settings: object) -> Discovery:
    runtime = place.runtime(discover=rule, discover_seconds=0.1, discover_scan_seconds=1.0, **settings)
    found = discovery_of(runtime.environments.default)
    assert found is not None
    found.step()
    return found


def archived(place: Place) -> set[str]:
    return {row[0] for row in place.archive.rows("SELECT run_id FROM tailrace.runs")}


HOSTILE = ["nul \0", "half \ud800", "'; DROP TABLE tailrace.runs; --", '{"x":1}', "{a,b}", "%s :x", "x" * 9_000]


def test_hostile_words_of_upstream_keep_no_run_from_being_found(place: Place) -> None:
    """What Postgres refuses in a text (NUL, half a surrogate pair) appears as U+FFFD, whichever way a run is found."""
    finder = discovery(place)
    created = datetime.now(UTC).isoformat()
    listed = [
        {"id": f"run_{n}", "status": "EXECUTING", "taskIdentifier": word, "tags": [word], "createdAt": created}
        for n, word in enumerate(HOSTILE)
    ]
    place.server.faults.run_list().answer(200, body=json.dumps({"data": listed, "pagination": {}}).encode())
    place.due()
    assert finder.step() == len(HOSTILE)
    names = ("friendlyId", "status", "taskIdentifier", "createdAt")
    rows = [dict(zip(names, (f"run_{n}", "EXECUTING", word, created), strict=True)) for n, word in enumerate(HOSTILE)]
    metadata = json.dumps({"$$streams": [*HOSTILE, "fine"]})
    fed = [{"key": r["friendlyId"], "value": r | {"metadata": metadata}, "headers": {}} for r in rows]
    body = json.dumps([*fed, {"headers": {"control": "up-to-date"}}]).encode()
    place.server.faults.runs_feed().answer(200, body=body, times=2)
    place.archive.run("UPDATE tailrace.runs SET task_identifier = NULL")
    place.due()
    place.runtimes[0].watch(10)
    read = [word.replace("\0", "\ufffd").replace("\ud800", "\ufffd") for word in HOSTILE]
    assert place.archive.rows("SELECT task_identifier FROM tailrace.runs ORDER BY run_id") == [(word,) for word in read]
    keys = {row[0] for row in place.archive.rows("SELECT DISTINCT stream_key FROM tailrace.streams")}
    assert keys == {word for word in HOSTILE if word in read and len(word) < 2_000} | {"fine"}


def test_a_feed_that_fails_keeps_the_list_from_nothing(place: Place) -> None:
    finder = discovery(place)
    place.store.create_run("run_1")
    place.server.faults.runs_feed().answer(404, times=99)
    place.due()
    assert finder.step() == 1
    assert place.archive.value("SELECT last_error FROM tailrace.discoveries") is not None


def test_new_runs_are_found_without_being_asked_for(place: Place) -> None:
    finder = discovery(place)
    for n in range(30):
        place.store.create_run(f"run_{n}")
    place.due()
    assert finder.step() == 30
    place.due()
    assert finder.step() == 0
    assert len(archived(place)) == 30
    assert place.archive.row("SELECT priority, status FROM tailrace.runs LIMIT 1") == (0, "EXECUTING")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("tags=red,blue", {"run_0", "run_1"}), ("tasks=t2", {"run_2"}), ("tasks=t0,t1", {"run_0", "run_1"})],
)
def test_only_what_the_rule_wants(place: Place, rule: str, expected: set[str]) -> None:
    finder = discovery(place, rule)
    for n, tags in enumerate((["red"], ["blue", "x"], [])):
        place.store.create_run(f"run_{n}", tags=tags, task_identifier=f"t{n}")
    place.due()
    finder.step()
    assert archived(place) == expected


def test_runs_that_the_feed_leaves_out_are_found_in_the_list(place: Place) -> None:
    finder = discovery(place)
    for n in range(1_300):
        place.store.create_run(f"run_{n}")
    place.due()
    finder.step()
    assert len(archived(place)) == 1_300


def test_a_late_index_hides_no_run_for_good(place: Place) -> None:
    """Runs that the feed missed (a worker was away) and that show up in the list only minutes after their creation."""
    finder = discovery(place)
    created = datetime.now(UTC) - timedelta(hours=2)
    place.archive.run("UPDATE tailrace.discoveries SET covered_to = now() - interval '130 minutes'")
    place.archive.run("UPDATE tailrace.discoveries SET covered_to = now() - interval '30 minutes'")
    place.index.lag_s = 600
    for n in range(5):
        place.store.create_run(f"run_late_{n}", created_at=datetime.now(UTC) - timedelta(minutes=5))
    place.server.faults.runs_feed().answer(503, times=1)
    place.due()
    finder.step()  # the feed fails, and so nothing is covered
    place.server.faults.runs_feed().answer(200, body=b'[{"headers":{"control":"up-to-date"}}]', times=9)
    place.due()
    finder.step()
    assert archived(place) == set()
    covered = place.archive.value("SELECT covered_to FROM tailrace.discoveries")
    assert covered > created
    place.index.lag_s = 0  # now they show up, though created before what is covered
    place.due()
    finder.step()
    assert archived(place) == {f"run_late_{n}" for n in range(5)}


def test_after_a_long_absence_a_backfill_takes_over(place: Place) -> None:
    finder = discovery(place)
    place.archive.run("UPDATE tailrace.discoveries SET covered_to = now() - interval '3 days'")
    place.due()
    finder.step()
    since, until = place.archive.row("SELECT since, until FROM tailrace.backfills")
    assert timedelta(days=3) < until - since < timedelta(days=3, hours=1)
    place.due()
    finder.step()
    assert place.archive.value("SELECT count(*) FROM tailrace.backfills") == 1


def test_forgotten_runs_are_not_found_again(place: Place) -> None:
    finder = discovery(place)
    place.store.create_run("run_gone")
    place.store.create_run("run_kept")
    place.archive.rows("SELECT * FROM tailrace.forget_run('default', 'run_gone')")
    place.due()
    finder.step()
    assert archived(place) == {"run_kept"}


def test_two_processes_look_once(place: Place) -> None:
    one, two = discovery(place), discovery(place)
    place.archive.run("UPDATE tailrace.discoveries SET next_look_at = now()")
    steps: list[Callable[[], int | None]] = [one.step, two.step]
    assert [step() for step in steps].count(None) == 1


def test_a_refused_key_halts_the_environment_and_nothing_more_is_asked(place: Place) -> None:
    finder = discovery(place)
    place.server.faults.runs_feed().answer(401, times=9)
    place.server.faults.feed(NO_SUCH_RUN).answer(401)
    place.due()
    assert finder.step() == 0
    assert place.archive.value("SELECT halted_reason FROM tailrace.environments") is not None
    place.due()
    place.calls()
    assert finder.step() is None
    assert place.calls() == []


@pytest.mark.parametrize("elsewhere", [None, 500])
def test_one_that_is_refused_here_only_halts_nothing(place: Place, elsewhere: int | None) -> None:
    finder = discovery(place)
    place.server.faults.runs_feed().answer(403)
    if elsewhere:  # it can't be told
        place.server.faults.feed(NO_SUCH_RUN).answer(elsewhere)
    place.due()
    assert finder.step() == 0
    assert place.archive.value("SELECT count(*) FROM tailrace.environments WHERE halted_at IS NOT NULL") == 0
    place.due()
    assert finder.step() is not None


def test_halting_is_for_unauthorized_only(place: Place) -> None:
    runtime = place.runtime()
    runtime.environments.default.key.halt(Unauthorized("no"))
    assert runtime.environments.default.runs.halted() == "no"
