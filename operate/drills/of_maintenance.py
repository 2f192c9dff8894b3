"""Incidents of what workers do besides reading: counting, compacting, verifying, making room."""

from __future__ import annotations

from datetime import date

from drills.drill import Drill
from drills.figures import Figures
from drills.fleet import SHORT, Fleet
from drills.sessions import END, FORGOTTEN, SEALS_SOON, end_forgotten

DAY_S = 86_400
COPIES = 7_000
UNVERIFIED_DAYS = 40
COPY = """
WITH copied AS (
    INSERT INTO tailrace.streams (
        id, run, stream_key, wire, last_chunk_index, state, verdict, chunk_count, byte_count, first_chunk_at,
        last_chunk_at, sealed_at, digest
    )
    SELECT
        CASE WHEN %(days)s > 0 THEN tailrace.stream_id_at(now() - %(days)s * interval '1 day') + copy
             ELSE tailrace.next_id() END,
        s.run, s.stream_key || '-copy-' || copy, s.wire, s.last_chunk_index, s.state, s.verdict, s.chunk_count,
        s.byte_count, s.first_chunk_at, s.last_chunk_at, s.sealed_at, s.digest
    FROM tailrace.streams s CROSS JOIN generate_series(1, %(copies)s) AS copy WHERE s.id = %(stream)s
    RETURNING id
)
INSERT INTO tailrace.segments (
    stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms, index_offsets, odd, fingerprints
)
SELECT c.id, g.generation, g.first_index, g.last_index, g.chunk_count, g.data, g.emitted_ms, g.index_offsets, g.odd,
       g.fingerprints
FROM copied c CROSS JOIN tailrace.segments g WHERE g.stream_id = %(stream)s
"""
"""Copies of a sealed stream, with all that it holds; found now, or so many days ago."""


def _copy_sealed(fleet: Fleet, copies: int, days_ago: int) -> None:
    fleet.execute("SELECT tailrace.request_ingest(%s)", SHORT)
    sealed = (
        "SELECT s.id FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run "
        "WHERE r.run_id = %s AND s.indexed_at IS NOT NULL"
    )
    stream = fleet.until_row(sealed, SHORT)[0][0]
    fleet.execute("SELECT tailrace.ensure_partition((now() AT TIME ZONE 'UTC')::date - %s::int)", days_ago)
    fleet.execute(COPY, copies=copies, days=days_ago, stream=stream)


def _count_nothing(fleet: Fleet) -> None:
    # In one transaction with the lock: nothing is counted in between.
    fleet.until_row("SELECT 1 FROM tailrace.tallied WHERE taken_at > now() - interval '1 hour'")
    fleet.execute(
        "UPDATE tailrace.tallied SET taken_at = now() - interval '2 hours' WHERE taken_at > now() - interval '1 hour'"
    )
    fleet.open_session(FORGOTTEN, "LOCK TABLE tailrace.tallied IN SHARE MODE")


def _verify_nothing(fleet: Fleet) -> None:
    fleet.open_session(FORGOTTEN, "LOCK TABLE tailrace.verified_days IN SHARE MODE")
    _copy_sealed(fleet, 1, UNVERIFIED_DAYS)
    fleet.stop_workers()  # one that comes looks at once whether there is something to verify
    fleet.start_worker()


def _verify(fleet: Fleet) -> None:
    end_forgotten(fleet)
    fleet.tailrace("verify")


def _make_no_room(fleet: Fleet, days_left: int) -> None:
    fleet.kill_workers()
    today = fleet.execute("SELECT (now() AT TIME ZONE 'UTC')::date")[0][0]
    for day, name in fleet.execute("SELECT day, name FROM tailrace.partition_days()"):
        assert isinstance(day, date)
        assert isinstance(today, date)
        if (day - today).days > days_left:
            fleet.execute(f"DROP TABLE tailrace.{name}")


def _room_s(figures: Figures) -> float:
    return figures.get("archive_partitions_ahead_seconds", 0.0)


def _promised_s(figures: Figures) -> float:
    return figures.get("scrub_within_seconds", 0.0) + 3 * DAY_S


DRILLS = {
    "maintenance-behind": Drill(
        says="Somebody's open transaction keeps the archive from being counted. The last count is made two hours\n"
        "older in SQL: else you would wait for an hour.",
        alerts=("TailraceTalliesStale",),
        strike=_count_nothing,
        shown=("archive_tally_age_seconds", "archive_uncompacted_streams"),
        seen=lambda figures: figures.get("archive_tally_age_seconds", 0) > 3600,
        todo=("tailrace status", END),
        mend=end_forgotten,
        over=lambda figures: figures.get("archive_tally_age_seconds", 1e9) < 180,
    ),
    "compaction-behind": Drill(
        says=f"More is sealed than is compacted: {COPIES} copies of a sealed stream are made in SQL, as one after a\n"
        "backfill would have them. The worker alone would need ten minutes.",
        alerts=("TailraceCompactionBehind",),
        strike=lambda fleet: _copy_sealed(fleet, COPIES, 0),
        shown=("archive_uncompacted_streams", "archive_closed_streams_sealed"),
        seen=lambda figures: figures.get("archive_uncompacted_streams", 0) > 5000,
        todo=("tailrace compact",),
        mend=lambda fleet: fleet.begin("compact"),  # all of it takes minutes
        over=lambda figures: figures.get("archive_uncompacted_streams", 1e9) < 5000,
        page="maintenance-behind",
        settings=SEALS_SOON,
    ),
    "scrub-behind": Drill(
        says=f"A stream of {UNVERIFIED_DAYS} days ago was never verified: somebody's open transaction keeps the scrub\n"
        "from noting a day. That stream is a copy, made in SQL; the scrub may work at any hour here.",
        alerts=("TailraceScrubBehind",),
        strike=_verify_nothing,
        shown=("archive_verified_age_seconds", "archive_never_verified", "scrub_within_seconds"),
        seen=lambda figures: figures.get("archive_verified_age_seconds", 0) > _promised_s(figures) > 3 * DAY_S,
        todo=("tailrace doctor", END, "tailrace verify --since 60d"),
        mend=_verify,
        over=lambda figures: figures.get("archive_verified_age_seconds", 1e9) < 2 * DAY_S,
        settings={**SEALS_SOON, "TAILRACE_SCRUB_HOURS": "0-24"},
    ),
    "partitions-ending": Drill(
        says="No worker has run for eleven days: it is killed, and the partitions that it has made for the coming\n"
        "days are dropped.",
        alerts=("TailracePartitionsEnding",),
        strike=lambda fleet: _make_no_room(fleet, 3),
        shown=("archive_partitions_ahead_seconds", "archive_workers"),
        seen=lambda figures: 2 * DAY_S <= _room_s(figures) < 7 * DAY_S,
        todo=("tailrace doctor", "tailrace migrate"),
        mend=lambda fleet: fleet.tailrace("migrate"),
        over=lambda figures: _room_s(figures) > 13 * DAY_S,
    ),
    "partitions-ended": Drill(
        says="No worker has run for two weeks: it is killed, and the partitions that it has made are dropped but for\n"
        "today's. From midnight (UTC) on no new stream could be stored.",
        alerts=("TailracePartitionsEnded",),
        strike=lambda fleet: _make_no_room(fleet, 0),
        shown=("archive_partitions_ahead_seconds", "archive_workers"),
        seen=lambda figures: "archive_partitions_ahead_seconds" in figures and _room_s(figures) < 2 * DAY_S,
        todo=("tailrace doctor", "tailrace migrate", "tailrace worker"),
        mend=lambda fleet: fleet.tailrace("migrate"),
        over=lambda figures: _room_s(figures) > 13 * DAY_S,
        page="partitions-ending",
    ),
}
