"""Find and keep, the tables: changes, facts, search, tombstones, exports, backfills, discoveries.

Revision ID: 0003
Revises: 0002
Create Date: 2026-11-22

Works while the previous release's code runs: columns are added without a rewrite. Apart from the views (0004): whoever
reads one holds it and waits for the tables, so one transaction that locks both in the other order is a deadlock (seen
in a test). The statements stand as SQL in migrations/sql/0003; indexes on tables in use are 0006.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    _run(SQL.joinpath("0003", "tables.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    _run(SQL.joinpath("0003", "drop.sql").read_text(encoding="utf-8"))
    views = SQL.joinpath("0001", "views.sql").read_text(encoding="utf-8")
    _run(views[views.index("CREATE VIEW tailrace.chunks AS") :])
    moves = SQL.joinpath("0001", "tables.sql").read_text(encoding="utf-8")
    start = moves.index("CREATE FUNCTION tailrace.check_stream_move()")
    _run("CREATE OR REPLACE" + moves[start + len("CREATE") : moves.index("$$;", start) + 3])


def _run(statements: str) -> None:
    """Run statements as they are: no colon in them is a parameter."""
    op.execute(sa.text(statements.replace(":", "\\:")))
