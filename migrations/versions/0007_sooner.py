"""Answer sooner, and forget a run that is being asked for.

Revision ID: 0007
Revises: 0006
Create Date: 2026-11-25

Works while the previous release's code runs: functions take and give what they did. The statements stand as SQL in
migrations/sql/0007. The index is built outside a transaction; one that was broken off is removed and built again, so
this migration can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import context, op

from tailrace.store.indexes import build_partitioned_index, patient

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SQL = Path(__file__).parent.parent / "sql"

INDEX = "segments_changes_idx"
DEFINITION = "USING gist (tailrace.span_of_changes(change_ids)) WHERE change_ids IS NOT NULL"

# What the functions were before, and where.
BEFORE = {
    "chunks_range": "0004/views.sql",
    "parts_of_stream": "0004/views.sql",
    "changes_since": "0004/views.sql",
    "forget_run": "0004/keeping.sql",
}


def upgrade() -> None:
    for name in ("span", "reading", "forgetting"):
        _run(SQL.joinpath("0007", f"{name}.sql").read_text(encoding="utf-8"))
    if context.is_offline_mode():
        op.execute(f"CREATE INDEX {INDEX} ON tailrace.segments {DEFINITION}")
    else:
        with op.get_context().autocommit_block(), patient(op.get_bind()):
            build_partitioned_index(op.get_bind(), INDEX, "span_of_changes_idx", DEFINITION)
    # After the index: without it, it would be slower than before.
    _run(SQL.joinpath("0007", "changes.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    for name, file in BEFORE.items():
        _run(_function(name, SQL.joinpath(file).read_text(encoding="utf-8")))
    _run(SQL.joinpath("0007", "drop.sql").read_text(encoding="utf-8"))


def _function(name: str, text: str) -> str:
    """Cut the definition of a function out of a file."""
    start = text.index(f"FUNCTION tailrace.{name}(")
    ends = [text.find(end, start) for end in ("\nEND;\n", "\n$$;\n")]
    return "CREATE OR REPLACE " + text[start : min(end for end in ends if end >= 0) + 5]


def _run(statements: str) -> None:
    """Run statements as they are: no colon in them is a parameter."""
    op.execute(sa.text(statements.replace(":", "\\:")))
