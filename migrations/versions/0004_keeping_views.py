"""Find, query and keep: the views and functions.

Revision ID: 0004
Revises: 0003
Create Date: 2026-11-22

Works while the previous release's code runs: views get columns at their end only, and the functions that it calls stay
as they are. The statements stand as SQL in migrations/sql/0004.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    for name in ("views", "compaction", "keeping"):
        _run(SQL.joinpath("0004", f"{name}.sql").read_text(encoding="utf-8"))


def downgrade() -> None:
    _run(SQL.joinpath("0004", "drop.sql").read_text(encoding="utf-8"))
    views = SQL.joinpath("0001", "views.sql").read_text(encoding="utf-8")
    _run(views[views.index("CREATE VIEW tailrace.chunks AS") :])


def _run(statements: str) -> None:
    """Run statements as they are: no colon in them is a parameter."""
    op.execute(sa.text(statements.replace(":", "\\:")))
