"""What the control loop and `tailrace status --watch` ask costs by what is open, and not by what is done already: the plans of
the very statements."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from tailrace.model import RunView
from tailrace.store.backfills import ListedRuns
from tailrace.store.choosing import Choosing
from tailrace.store.engine import create_engine
from tailrace.store.figures import Figures
from tailrace.store.keeping.late import LateChecks
from tailrace.store.leases import Leases, WorkerRow
from tailrace.store.overview import Overview
from tailrace.store.runs import Runs, Seen
from tailrace.store.serving import RunsAsked, Serving
from tailrace.store.streams import RecentRecords, RunEnds
from tests.integration.schema_rows import Archive

DONE, OPEN = 100_000, 50
PAGES = 1_500
"""As many as fifty open runs need, with room; those that are done fill many thousands."""


class Asked:
    """An archive in which much is done, and the statements that were sent to it."""

    def __init__(self, url: str) -> None:
        self.archive = Archive(url)
        self.archive.run(
            "SET session_replication_role = replica"
        )  # no triggers, no foreign keys: in a tenth of the time
        self.archive.run(
            """INSERT INTO tailrace.runs (environment_id, run_id, state, next_watch_at, terminal_at, finished_at, sealed_at,
                                          keys_read_at, priority, status, task_identifier, created_at)
               SELECT e.id, 'done_' || n, 'sealed', NULL, now(), now(), now(), now(), n %% 2, 'COMPLETED', 'done',
                      '2026-01-01'::timestamptz + n * interval '5 minutes'
               FROM generate_series(1, %s) n, tailrace.environments e WHERE e.name = 'default'""",
            DONE,
        )
        self.archive.run(
            "INSERT INTO tailrace.streams (run, stream_key, state, verdict)"
            " SELECT r.id, 'ai', 'sealed', 'complete' FROM tailrace.runs r"
        )
        self.archive.run("RESET session_replication_role")
        for number in range(OPEN):
            self.archive.stream(f"run_{number}")
        self.archive.run("ANALYZE")
        self.engine = create_engine(url)
        self._sent: list[tuple[str, Any]] = []
        sa.event.listen(self.engine, "before_cursor_execute", self._note)

    def _note(self, _connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        self._sent.append((statement, values))

    def plan_of(self, ask: Callable[[], object]) -> str:
        """Return Postgres' plan of what is sent, as it is carried out once more."""
        self._sent.clear()
        ask()
        sent = [each for each in self._sent if "tailrace." in each[0]]
        assert sent
        rows: list[str] = []
        with self.engine.connect() as connection:
            for statement, values in sent:
                plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", values)
                rows += [str(row[0]) for row in plan]
            connection.rollback()
        return "\n".join(rows)


def leases(asked: Asked) -> Leases:
    made = Leases(asked.engine, WorkerRow(uuid4(), "here", 1, "local", 1_000), 10.0)
    made.renew()
    return made


def statements(asked: Asked) -> Iterator[tuple[str, Callable[[], object]]]:
    runs, listed = Runs(asked.engine, "default"), ListedRuns(asked.engine, "default")
    ours, late = leases(asked), LateChecks(asked.engine, "default")
    choosing = Choosing(asked.engine, ours.worker_id)
    streams = [stream for (stream,) in asked.archive.rows("SELECT id FROM tailrace.streams WHERE state = 'pending'")]
    ids = {
        int(run): str(run_id)
        for run, run_id in asked.archive.rows("SELECT id, run_id FROM tailrace.runs WHERE state = 'requested'")
    }
    seen = {run: Seen(RunView(run_id, "EXECUTING", False, ("ai", "more")), time.time()) for run, run_id in ids.items()}
    yield "which runs are due", lambda: runs.due(1_000, 10)
    yield "what is noted of them", lambda: runs.observe(seen, 60.0, uuid4())
    yield "which are left to the watcher", lambda: runs.standing(60.0)
    yield "which can be sealed", lambda: runs.seal(list(ids), 60.0)
    yield "which are due for a late check", lambda: late.claim(10, 60.0)
    yield "how many a backfill is reading", lambda: listed.being_read(1_000)
    yield "how the work is shared", lambda: choosing.balance(["default"], 5.0)
    yield "which streams wait", lambda: choosing.waiting(["default"], 100)
    yield "which streams to read", lambda: choosing.claim(["default"], 1_000, 30.0)
    yield "which leases to take", lambda: ours.acquire(streams)
    yield "what readers ask of their runs", lambda: RunEnds(asked.engine).of(streams)
    yield (
        "what they ask of what is held",
        lambda: RecentRecords(asked.engine, 5_000).of([(each, 0) for each in streams]),
    )
    yield "which readers to call", lambda: ours.calls(streams)
    yield "which leases have no reader", lambda: ours.orphans(streams)
    figures = Figures(asked.engine)
    for name in ("held", "open", "lag_seconds", "runs", "fleet", "environments", "backfills", "chores"):
        yield f"the exporter's figures: {name}", getattr(figures, name)
    seen = Overview(asked.engine)
    yield "how the fleet is", seen.fleet
    yield "how the newest runs go", lambda: seen.newest_progress(50, None)
    yield "how those of an environment go", lambda: seen.newest_progress(50, "default")
    yield "how those of one go that has none", lambda: seen.newest_progress(50, "other")
    serving = Serving(asked.engine)
    yield "what changed of the runs that somebody reads", lambda: serving.noted_lately(["default"])
    yield "which runs changed since", lambda: serving.runs_noted_since("default", datetime(2026, 1, 1, tzinfo=UTC))
    yield "whether these runs changed", lambda: serving.run_versions(list(ids))
    yield "how these streams are", lambda: serving.streams_now(streams)
    yield "how far their rows are", lambda: serving.checkpoints(streams)
    yield "the newest runs", lambda: serving.runs("default", RunsAsked(limit=25))
    yield (
        "older ones of a task",
        lambda: serving.runs(
            "default", RunsAsked(tasks=["done"], beyond=(datetime(2026, 6, 1, tzinfo=UTC), "run"), limit=25)
        ),
    )
    run = min(ids)
    yield "how a run's streams go", lambda: seen.streams_progress(run)


def test_no_question_looks_at_what_is_done(database_url: str) -> None:
    asked = Asked(database_url)
    try:
        for what, ask in statements(asked):
            plan = asked.plan_of(ask)
            looked_at = sum(map(int, re.findall(r"(?:hit|read)=(\d+)", next(filter(_counts, plan.splitlines())))))
            print(f"{what}: {looked_at} pages")
            assert looked_at < PAGES, f"{what}:\n{plan}"
            assert not re.search(r"Seq Scan on (runs|streams)", plan), f"{what}:\n{plan}"
    finally:
        asked.engine.dispose()
        asked.archive.connection.close()


def test_how_fast_a_stream_goes_is_told_by_its_last_segments_only(archive: Archive) -> None:
    """However many there are: a stream may have been written for months."""
    pages = {}
    for many in (200, 5_000):
        stream = archive.stream(key=f"of {many}")
        archive.run(
            """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
               SELECT %s, 0, n, n, 1, json_build_array(repeat('x', 1000)), ARRAY[n] FROM generate_series(1, %s) n""",
            *(stream, many),
        )
        archive.run("ANALYZE tailrace.segments")
        ask = "SELECT * FROM tailrace.recently_stored(%s, 0, 60)"
        assert archive.rows(ask, stream)  # what is asked first looks at the catalogue too
        plan = [str(row[0]) for row in archive.rows(f"EXPLAIN (ANALYZE, BUFFERS) {ask}", stream)]
        pages[many] = sum(map(int, re.findall(r"(?:hit|read)=(\d+)", next(filter(_counts, plan)))))
    assert pages[5_000] < 2 * pages[200] < 500, pages


def test_what_is_committed_is_found_by_how_much_that_is(archive: Archive, database_url: str) -> None:
    """However much there is of the streams that are followed, and of others, and whoever is at work meanwhile."""
    streams = [archive.stream(key=key) for key in ("followed", "other")]
    for stream in streams:
        archive.run(
            """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
               SELECT %s, 0, n, n, 1, '[1]', ARRAY[n] FROM generate_series(1, 8000) n""",
            stream,
        )
    archive.run("ANALYZE tailrace.segments")
    engine = create_engine(database_url)
    sent: list[tuple[str, Any]] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *given: sent.append((given[2], given[3])))
    serving = Serving(engine)
    with engine.connect() as busy:
        busy.exec_driver_sql("SELECT pg_current_xact_id()")
        archive.run("SELECT pg_current_xact_id()")  # a later one that is over
        before = serving.now()
        assert before.in_progress
        archive.segment(streams[0], ["2"], first=40_000)
        archive.segment(streams[1], ["2"], first=40_000)
        sent.clear()
        _, found = serving.committed(before, streams[:1])
        assert [(each.stream_id, each.first_index) for each in found] == [(streams[0], 40_000)]
        statement, values = sent[-1]
        plan = [str(row[0]) for row in busy.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", values)]
        busy.rollback()
    engine.dispose()
    looked_at = sum(map(int, re.findall(r"(?:hit|read)=(\d+)", next(filter(_counts, plan)))))
    assert looked_at < 100, "\n".join(plan)


def _counts(line: str) -> bool:
    return "Buffers: shared" in line
