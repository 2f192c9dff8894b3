"""Proof of completeness: since when a stream can exist, and a late look at sealed runs.

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-22

Works while the previous release's code runs: the columns may be null, and then nothing is claimed. The index is built
outside a transaction; one that was broken off is removed and built again, so this migration can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import context, op

from tailrace.store.indexes import build_index, patient

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLUMNS = """
ALTER TABLE tailrace.runs
    ADD COLUMN IF NOT EXISTS listed_at timestamptz,
    ADD COLUMN IF NOT EXISTS late_check_at timestamptz;
COMMENT ON COLUMN tailrace.runs.listed_at IS
    'When all of the run''s stream keys were last made streams; null: not yet, or only some were asked for.';
COMMENT ON COLUMN tailrace.runs.late_check_at IS
    'When the sealed run is looked at once more; not after sealed_at: that has been done.';

ALTER TABLE tailrace.streams ADD COLUMN IF NOT EXISTS not_before timestamptz;
COMMENT ON COLUMN tailrace.streams.not_before IS
    'Nothing of the stream can have been written before this moment; null: nobody knows.';
UPDATE tailrace.streams s SET not_before = r.created_at
FROM tailrace.runs r WHERE r.id = s.run AND s.state IN ('pending', 'active', 'parked') AND s.not_before IS NULL
"""

INDEX = "runs_late_check_idx"
WHERE = "ON tailrace.runs (late_check_at) WHERE state = 'sealed' AND late_check_at > sealed_at"


def upgrade() -> None:
    op.execute(COLUMNS)
    if context.is_offline_mode():
        op.execute(f"CREATE INDEX {INDEX} {WHERE}")
        return
    with op.get_context().autocommit_block(), patient(op.get_bind()):
        build_index(op.get_bind(), INDEX, WHERE)


def downgrade() -> None:
    op.execute(f"DROP INDEX tailrace.{INDEX}")
    op.execute("ALTER TABLE tailrace.streams DROP COLUMN not_before")
    op.execute("ALTER TABLE tailrace.runs DROP COLUMN listed_at, DROP COLUMN late_check_at")
