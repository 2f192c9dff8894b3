"""Incidents of the archive and its Postgres."""

from __future__ import annotations

from drills.drill import Drill, healthy
from drills.figures import Figures, Share, Still
from drills.fleet import SHORT, Fleet
from drills.sessions import END, FORGOTTEN, SEALS_SOON, end_forgotten

LOCKED_S = 4
AGAIN = (("forget", SHORT, "--yes"), ("forget", SHORT, "--allow-again"), ("ingest", SHORT, "--wait"))
"""Read a run again that upstream still has."""


def _use_up_sessions(fleet: Fleet) -> None:
    most, used = fleet.execute(
        "SELECT current_setting('max_connections')::int, (SELECT count(*) FROM pg_stat_activity)::int"
    )[0]
    assert isinstance(most, int)
    assert isinstance(used, int)
    for _ in range(round(most * 0.93) - used):
        fleet.open_session(FORGOTTEN)


def _lock_again_and_again(fleet: Fleet) -> None:
    fleet.open_loop(
        FORGOTTEN,
        "LOCK TABLE tailrace.segments IN SHARE MODE; "
        f"PERFORM pg_sleep({LOCKED_S}); COMMIT; PERFORM pg_sleep({LOCKED_S});",
    )


def _damage(fleet: Fleet) -> None:
    fleet.execute("SELECT tailrace.request_ingest(%s)", SHORT)
    kept = (
        "FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run "
        "WHERE r.run_id = %s AND s.indexed_at IS NOT NULL"  # with compaction, before it, the digest is taken
    )
    fleet.until_row(f"SELECT 1 {kept}", SHORT)
    fleet.execute(
        "UPDATE tailrace.segments SET data = replace(data::text, '\"token\":1}', '\"token\":7}')::json "
        f"WHERE stream_id = (SELECT s.id {kept})",
        SHORT,
    )
    fleet.tailrace("verify", SHORT)


def _read_again(fleet: Fleet) -> None:
    for command in AGAIN:
        fleet.tailrace(*command)


def _stored(figures: Figures) -> bool:
    return figures.get("uncommitted_streams") == 0 and healthy(figures)


_still = Still("commits_slow", 3 * LOCKED_S)

DRILLS = {
    "archive-away": Drill(
        says="Postgres stops as in a power cut.",
        alerts=("TailraceArchiveAway",),
        strike=Fleet.stop_database,
        shown=("archive_up", "archive_workers", "archive_leased_streams", "uncommitted_streams"),
        seen=lambda figures: figures.get("archive_up") == 0,
        todo=("tailrace doctor", "tailrace up"),
        mend=Fleet.start_servers,
        over=healthy,
    ),
    "commits-failing": Drill(
        says="Somebody's open transaction keeps everybody from writing chunks.",
        alerts=("TailraceCommitsFailing",),
        strike=lambda fleet: fleet.open_session(FORGOTTEN, "LOCK TABLE tailrace.segments IN SHARE MODE"),
        shown=("uncommitted_streams", "buffer_bytes", "archive_leased_streams"),
        seen=lambda figures: figures.get("uncommitted_streams", 0) > 0,
        todo=("tailrace doctor", END),
        mend=end_forgotten,
        over=_stored,
    ),
    "commits-slow": Drill(
        says=f"Somebody's program locks the chunks against writing for {LOCKED_S} seconds, again and again.",
        alerts=("TailraceCommitsSlow",),
        strike=_lock_again_and_again,
        shown=("commits_slow", "uncommitted_streams", "archive_leased_streams"),
        seen=Share("commits_slow", "commits", above=0.01),
        todo=("tailrace doctor", END),
        mend=end_forgotten,
        over=lambda figures: _still(figures) and _stored(figures),
        page="commits-failing",
    ),
    "postgres-sessions": Drill(
        says="An application opens one session of Postgres after the other, and closes none.",
        alerts=("TailracePostgresSessions",),
        strike=_use_up_sessions,
        shown=("archive_postgres_sessions", "archive_postgres_sessions_limit"),
        seen=lambda figures: _sessions(figures) > 0.85,
        todo=("tailrace doctor", END),
        mend=end_forgotten,
        over=lambda figures: 0 < _sessions(figures) < 0.8,
    ),
    "mismatch": Drill(
        says="A row of a sealed stream is changed by hand, and somebody verifies that run.",
        alerts=("TailraceMismatch",),
        strike=_damage,
        shown=("archive_mismatched_streams", "archive_closed_streams_sealed"),
        seen=lambda figures: figures.get("archive_mismatched_streams", 0) > 0,
        todo=(f"tailrace verify {SHORT}", *(f"tailrace {' '.join(command)}" for command in AGAIN)),
        mend=_read_again,
        over=lambda figures: figures.get("archive_mismatched_streams") == 0,
        settings=SEALS_SOON,
    ),
}


def _sessions(figures: Figures) -> float:
    return figures.get("archive_postgres_sessions", 0) / figures.get("archive_postgres_sessions_limit", 1)
