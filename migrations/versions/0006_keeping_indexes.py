"""Indexes for what 0003 and 0004 made, built while everybody writes on.

Revision ID: 0006
Revises: 0005
Create Date: 2026-11-22

Apart from them because each is built outside a transaction. One that was broken off is removed and built again, so this
migration can be repeated at any point.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op

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

EXISTING = """
    SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE c.relnamespace = 'tailrace'::regnamespace"""
PARTITIONS = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'tailrace.segments'::regclass ORDER BY 1"""

ATTACHED = f"""
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'tailrace.{CHANGES}'::regclass"""


def upgrade() -> None:
    if context.is_offline_mode():  # there is nobody to ask for the partitions
        for name, where in INDEXES.items():
            op.execute(f"CREATE INDEX {name} {where}")
        op.execute(f"CREATE INDEX {CHANGES} ON tailrace.segments (change_id)")
        return
    with op.get_context().autocommit_block():
        op.execute(
            "SET statement_timeout = 0"
        )  # building waits for every open transaction, and takes no lock meanwhile
        op.execute("SET lock_timeout = 0")
        existing = _existing()
        for name, where in INDEXES.items():
            _build(name, where, existing)
        if CHANGES not in existing:
            # Only a definition; it becomes valid with the last part. Partitions made from here on have theirs.
            op.execute(f"CREATE INDEX {CHANGES} ON ONLY tailrace.segments (change_id)")
        attached = {row[0] for row in op.get_bind().execute(sa.text(ATTACHED))}
        for (partition,) in op.get_bind().execute(sa.text(PARTITIONS)).all():
            part = f"{partition}_change_id_idx"
            _build(part, f"ON tailrace.{partition} (change_id)", existing)
            if part not in attached:
                op.execute(f"ALTER INDEX tailrace.{CHANGES} ATTACH PARTITION tailrace.{part}")


def _existing() -> dict[str, bool]:
    """Name of each index of the schema → whether it is valid."""
    return {row.relname: row.indisvalid for row in op.get_bind().execute(sa.text(EXISTING))}


def _build(name: str, where: str, existing: dict[str, bool]) -> None:
    if existing.get(name) is False:
        op.execute(f"DROP INDEX CONCURRENTLY tailrace.{name}")
    if not existing.get(name):
        op.execute(f"CREATE INDEX CONCURRENTLY {name} {where}")


def downgrade() -> None:
    for name in (CHANGES, *INDEXES):
        op.execute(f"DROP INDEX tailrace.{name}")
