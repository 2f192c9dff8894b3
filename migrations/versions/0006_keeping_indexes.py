"""Indexes for what 0003 and 0004 made, built while everybody writes on.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-22

Apart from them because each is built outside a transaction. One that was broken off is removed and built again, so this
migration can be repeated at any point.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import context, op

from tailrace.store.indexes import build_index, build_partitioned_index, patient

revision: str = "0006"
down_revision: str | Sequence[str] | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEXES = {
    # Sealed streams that wait to be compacted or made searchable: nearly none, whatever the archive holds.
    "streams_keep_idx": "ON tailrace.streams (id) WHERE state = 'sealed' AND keep_error IS NULL"
    " AND (compacted_at IS NULL OR indexed_at IS NULL)",
    # Runs of a tag.
    "runs_tags_idx": "ON tailrace.runs USING gin (tags)",
}
CHANGES = "segments_change_id_idx"


def upgrade() -> None:
    if context.is_offline_mode():  # there is nobody to ask for the partitions
        for name, where in INDEXES.items():
            op.execute(f"CREATE INDEX {name} {where}")
        op.execute(f"CREATE INDEX {CHANGES} ON tailrace.segments (change_id)")
        return
    with op.get_context().autocommit_block(), patient(op.get_bind()):
        for name, where in INDEXES.items():
            build_index(op.get_bind(), name, where)
        build_partitioned_index(op.get_bind(), CHANGES, "change_id_idx", "(change_id)")


def downgrade() -> None:
    for name in (CHANGES, *INDEXES):
        op.execute(f"DROP INDEX tailrace.{name}")
