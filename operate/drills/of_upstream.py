"""Incidents of upstream, and of what it sends."""

from __future__ import annotations

import time

from drills.drill import Drill, healthy
from drills.figures import Share, Still
from drills.fleet import RUNS, Fleet
from drills.upstream import NEW_KEY

BAD_RUN = "run_drill_1"
TROUBLE = ("archive_troubled_streams", "archive_leased_streams")


def _each_run(fleet: Fleet, do: str) -> None:
    for run in fleet.upstream.store.written.values():
        getattr(run, do)()


def _lose(fleet: Fleet) -> None:
    fleet.kill_workers()
    endless = [run for run in fleet.upstream.store.written.values() if run.records is None]
    enough = {run.run_id: run.count + 4 for run in endless}
    while any(run.count < enough[run.run_id] for run in endless):  # that nobody has read
        time.sleep(0.1)
    _each_run(fleet, "trim")
    fleet.start_worker()


def _forget_soon(fleet: Fleet) -> None:
    fleet.kill_workers()
    fleet.until_row("SELECT 1 FROM tailrace.workers HAVING count(*) FILTER (WHERE expires_at > now()) = 0")
    fleet.execute(
        "UPDATE tailrace.streams SET last_chunk_at = now() - interval '6 days 22 hours', "
        "next_attempt_at = now() - interval '2 minutes' WHERE state IN ('pending', 'active', 'parked')"
    )


def _fail(fleet: Fleet) -> None:
    fleet.stop_workers()
    fleet.upstream.refused.add(BAD_RUN)
    fleet.execute(
        "UPDATE tailrace.streams s SET attempt = 25, troubled_at = now() - interval '11 minutes', "
        "last_error = 'upstream calls the request wrong' FROM tailrace.runs r WHERE r.id = s.run AND r.run_id = %s",
        BAD_RUN,
    )
    fleet.start_worker()


def _retry(fleet: Fleet) -> None:
    fleet.upstream.refused.clear()
    fleet.tailrace("retry", BAD_RUN)


def _refuse_list(fleet: Fleet) -> None:
    fleet.upstream.refuses_list = True


def _list(fleet: Fleet) -> None:
    fleet.upstream.refuses_list = False


def _find_nothing(fleet: Fleet) -> None:
    fleet.until_row("SELECT 1 FROM tailrace.discoveries")
    _refuse_list(fleet)
    fleet.execute("UPDATE tailrace.discoveries SET covered_to = now() - interval '40 minutes'")


def _begin_backfill(fleet: Fleet) -> None:
    _refuse_list(fleet)
    fleet.tailrace("backfill", "--since", "7d", "--detach")


def _slow(fleet: Fleet, slow: bool) -> None:
    fleet.upstream.store.slow = slow


def _fail_each(fleet: Fleet, so_many: int) -> None:
    fleet.upstream.fails_each = so_many


def _misdate(fleet: Fleet, run_id: str | None) -> None:
    fleet.upstream.misdated = run_id


_quiet = Still("upstream_answers_failed", 20)

DISCOVERS = {
    "TAILRACE_DISCOVER": "all",
    "TAILRACE_DISCOVER_SECONDS": "2",
    "TAILRACE_DISCOVER_SCAN_SECONDS": "5",
}

DRILLS = {
    "upstream-away": Drill(
        says="Upstream does not answer any more.",
        alerts=("TailraceUpstreamAway",),
        strike=lambda fleet: fleet.upstream.stop(),
        shown=TROUBLE,
        seen=lambda figures: figures.get("archive_troubled_streams", 0) > 0,
        todo=("tailrace doctor", "tailrace status"),
        mend=lambda fleet: fleet.upstream.start(),
        over=healthy,
        theirs=True,
    ),
    "upstream-errors": Drill(
        says="Upstream answers every fourth request with 500, and cuts each stream after two seconds.",
        alerts=("TailraceUpstreamErrors",),
        strike=lambda fleet: _fail_each(fleet, 4),
        shown=("upstream_answers_failed", *TROUBLE),
        seen=Share("upstream_answers_failed", "upstream_answers_total", above=0.1, under=0.9),
        todo=("tailrace doctor", "tailrace status"),
        mend=lambda fleet: _fail_each(fleet, 0),
        over=lambda figures: _quiet(figures) and healthy(figures),
        page="upstream-away",
        theirs=True,
    ),
    "key-refused": Drill(
        says=f"The key is revoked upstream; a new one is made: {NEW_KEY}",
        alerts=("TailraceKeyRefused",),
        strike=lambda fleet: fleet.upstream.take(NEW_KEY),
        shown=("archive_halted_seconds", *TROUBLE),
        seen=lambda figures: figures.get("archive_halted_seconds", 0) > 0,
        todo=("tailrace status", "Write the new key into the file $TAILRACE_KEYS_FILE."),
        mend=lambda fleet: fleet.write_key(NEW_KEY),
        over=lambda figures: figures.get("archive_halted_seconds") == 0 and healthy(figures),
    ),
    "stream-stuck": Drill(
        says="Upstream's pings say that the streams go on, and no record comes.",
        alerts=("TailraceStreamStuck",),
        strike=lambda fleet: fleet.upstream.withhold(True),
        shown=("archive_stuck_streams", "archive_lag_records", *TROUBLE),
        seen=lambda figures: figures.get("archive_stuck_streams", 0) > 0,
        todo=("tailrace status", f"tailrace status {BAD_RUN}"),
        mend=lambda fleet: fleet.upstream.withhold(False),
        over=lambda figures: figures.get("archive_stuck_streams") == 0 and healthy(figures),
        theirs=True,
    ),
    "upstream-forgets": Drill(
        says="The worker was killed almost a week ago: the time of each stream's last chunk is set back in SQL.",
        alerts=("TailraceForgetsSoon", "TailraceForgets"),
        strike=_forget_soon,
        shown=("archive_forgotten_in_seconds", "archive_workers", *TROUBLE),
        seen=lambda figures: 0 < figures.get("archive_forgotten_in_seconds", 0) < 4 * 3600,
        todo=("tailrace status", "tailrace worker"),
        mend=Fleet.start_worker,
        over=lambda figures: "archive_forgotten_in_seconds" not in figures and healthy(figures),
    ),
    "lag-growing": Drill(
        says="Each run writes fifty records a second, and upstream gives five of them.",
        alerts=("TailraceLagGrowing", "TailraceBehind"),
        strike=lambda fleet: _slow(fleet, True),
        shown=("archive_lag_records", "archive_lag_seconds", "archive_leased_streams"),
        seen=lambda figures: figures.get("archive_lag_records", 0) > 1000,
        todo=("tailrace status", f"tailrace status {BAD_RUN}"),
        mend=lambda fleet: _slow(fleet, False),
        over=lambda figures: figures.get("archive_lag_records", 0) < 500,
        theirs=True,
        every_s=0.02,
    ),
    "losses": Drill(
        says="The worker is killed, streams go on for a second, upstream trims all that is there, and a worker comes.",
        alerts=("TailraceLosses", "TailraceLosing"),
        strike=_lose,
        shown=("gaps_total", "lost_records_total", *TROUBLE),
        seen=lambda figures: figures.get("gaps_total", 0) >= RUNS,
        todo=(f"tailrace status {BAD_RUN}", "Find out which runs have lost something, and why."),
        mend=lambda fleet: None,
        over=Still("gaps_total", 10),
        theirs=True,
    ),
    "quarantine": Drill(
        says="Whoever writes the streams writes what is no chunk from now on.",
        alerts=("TailraceQuarantine",),
        strike=lambda fleet: _each_run(fleet, "spoil"),
        shown=("quarantined_records_total", *TROUBLE),
        seen=lambda figures: figures.get("quarantined_records_total", 0) > 0,
        todo=(f"tailrace status {BAD_RUN}", "Find out what it is."),
        mend=lambda fleet: _each_run(fleet, "write_well"),
        over=Still("quarantined_records_total", 10),
        theirs=True,
    ),
    "malformed-rows": Drill(
        says=f"In what upstream tells of {BAD_RUN} stands a date that is none.",
        alerts=("TailraceMalformedRows",),
        strike=lambda fleet: _misdate(fleet, BAD_RUN),
        shown=("malformed_rows_total", *TROUBLE),
        seen=lambda figures: figures.get("malformed_rows_total", 0) > 0,
        todo=("tailrace doctor", "Find the row in the worker's log, worker.log in $TAILRACE_HOME."),
        mend=lambda fleet: _misdate(fleet, None),
        over=Still("malformed_rows_total", 15),
        theirs=True,
    ),
    "streams-failed": Drill(
        says=f"Upstream answers 400 for the stream of {BAD_RUN}. That it has done so 25 times in eleven minutes is\n"
        "written in SQL: so long it takes to be believed.",
        alerts=("TailraceStreamsFailed",),
        strike=_fail,
        shown=("archive_closed_streams_failed", *TROUBLE),
        seen=lambda figures: figures.get("archive_closed_streams_failed", 0) > 0,
        todo=(
            f"tailrace status {BAD_RUN}",
            f"Once upstream answers again: tailrace retry {BAD_RUN}",
        ),
        mend=_retry,
        over=lambda figures: figures.get("archive_closed_streams_failed", 0) == 0 and healthy(figures),
        theirs=True,
    ),
    "discovery-behind": Drill(
        says="Upstream does not answer for the list of runs. That it was last read 40 minutes ago is written in SQL.",
        alerts=("TailraceDiscoveryBehind", "TailraceDiscoveryStopped"),
        strike=_find_nothing,
        shown=("archive_discovery_lag_seconds",),
        seen=lambda figures: figures.get("archive_discovery_lag_seconds", 0) > 1800,
        todo=("tailrace doctor", "tailrace status"),
        mend=_list,
        over=lambda figures: figures.get("archive_discovery_lag_seconds", 1e9) < 60,
        theirs=True,
        settings=DISCOVERS,
    ),
    "backfill-failing": Drill(
        says="A backfill is begun, and upstream does not answer for the list of runs.",
        alerts=("TailraceBackfillFailing",),
        strike=_begin_backfill,
        shown=("archive_backfills", "archive_failing_backfills", "archive_backfill_seen_runs"),
        seen=lambda figures: figures.get("archive_failing_backfills", 0) > 0,
        todo=("tailrace doctor", "tailrace status"),
        mend=_list,
        over=lambda figures: figures.get("archive_up") == 1 and figures.get("archive_failing_backfills", 0) == 0,
        theirs=True,
    ),
}
