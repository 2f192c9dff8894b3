"""The archive, as migrations/schema/ pictures it.

Revision ID: 0001
Revises:
Create Date: 2026-11-27

Until the first release this runs the picture itself: a change edits migrations/schema/ and nothing else, and an archive
from before it is made anew. With the first release its files are copied to migrations/versions/0001/, `SCHEMA` points
there, and this migration is never changed again; from then on each change adds a version (script.py.mako).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SCHEMA = Path(__file__).parent.parent / "schema"

# By name and without CASCADE: what somebody else built on the archive is not ours to drop, and then stops this.
DROP = """
DROP FUNCTION tailrace.suspects(bigint, bigint), tailrace.archived_days(), tailrace.day_of(bigint);
DROP FUNCTION tailrace.verify_accounts(bigint);
DROP FUNCTION tailrace.follow_clock();
DROP FUNCTION tailrace.note_backfill_page(bigint, bigint, json, text, double precision),
    tailrace.request_listed(text, json, int);
DROP FUNCTION tailrace.forget_run(text, text), tailrace.traces_of(text, text, bigint[]);
DROP FUNCTION tailrace.clear_day(date, int), tailrace.drop_day(date);
DROP FUNCTION tailrace.compact_stream(bigint), tailrace.merge_segments(bigint, int, bigint, bigint),
    tailrace.stream_digest(bigint);
DROP FUNCTION tailrace.request_ingest(text, text[], text, int, text, json, text), tailrace.cancel_run(text, text),
    tailrace.retry_run(text, text);
DROP FUNCTION tailrace.changes_since(bigint, int), tailrace.changes_until(), tailrace.follow_server(boolean);
DROP FUNCTION tailrace.search_text(text), tailrace.index_text(bigint);
DROP FUNCTION tailrace.chunks_range(text, text, bigint, bigint);
DROP VIEW tailrace.chunks, tailrace.stream_text, tailrace.stream_stats, tailrace.run_overview, tailrace.message_parts,
    tailrace.gaps, tailrace.quarantined;
DROP FUNCTION tailrace.run_reason(text, text, text),
    tailrace.verdict_reason(text, text, text, bigint, text), tailrace.doubt_reason(text, text);
DROP VIEW tailrace.streams_now;
DROP FUNCTION tailrace.stored_after(bigint, int, bigint),
    tailrace.recently_stored(bigint, int, double precision);
DROP FUNCTION tailrace.parts_of_stream(bigint), tailrace.parts_of_stream(bigint, text[]),
    tailrace.facts_of_stream(bigint), tailrace.text_of_stream(bigint);
DROP FUNCTION tailrace.unpack(bigint, json, bigint[], int[], boolean),
    tailrace.unpack(bigint, json, bigint[], int[], boolean, timestamptz, timestamptz[], bigint, bigint[]);
DROP FUNCTION tailrace.text_delta_of(json), tailrace.text_of_shape(json), tailrace.type_of(json),
    tailrace.partial_json(text),
    tailrace.rejoined(text), tailrace.with_halves(text), tailrace.mended(text), tailrace.is_odd(text),
    tailrace.fits_jsonb(text);
DROP FUNCTION tailrace.connections_left(int, boolean);
DROP FUNCTION tailrace.tally(double precision);
DROP FUNCTION tailrace.partition_days(), tailrace.ensure_partitions(int, int),
    tailrace.ensure_partition(date);
DROP TABLE tailrace.counted_on, tailrace.schedules, tailrace.tallied, tailrace.tallies, tailrace.mismatches, tailrace.verifications, tailrace.verified_days, tailrace.discoveries,
    tailrace.backfills, tailrace.forgotten, tailrace.exporting, tailrace.exported, tailrace.search, tailrace.facts,
    tailrace.outbox, tailrace.quarantine, tailrace.holes, tailrace.segments, tailrace.streams, tailrace.runs,
    tailrace.workers, tailrace.access_keys, tailrace.audit, tailrace.environments;
DROP FUNCTION tailrace.changes_base();
DROP FUNCTION tailrace.options_problem(json), tailrace.is_traceparent(text), tailrace.check_not_forgotten(), tailrace.run_hash(text), tailrace.note_run_event(),
    tailrace.check_stream_move(), tailrace.span_of_changes(bigint[]);
DROP FUNCTION tailrace.stream_id_at(timestamptz), tailrace.next_id();
DROP SEQUENCE tailrace.id_bits;
"""


def upgrade() -> None:
    for line in SCHEMA.joinpath("schema.sql").read_text(encoding="utf-8").splitlines():
        command, _, name = line.partition(" ")
        if command == "\\ir":
            _run(SCHEMA.joinpath(name).read_text(encoding="utf-8"))


def downgrade() -> None:
    _run(DROP)


def _run(statements: str) -> None:
    """Run statements as they are: no colon in them is a parameter."""
    op.execute(sa.text(statements.replace(":", "\\:")))
