"""The archive: environments, workers, runs, streams, segments, holes, quarantine, and the views over them.

Revision ID: 0001
Revises:
Create Date: 2026-11-22

The statements stand as SQL in migrations/sql/0001.
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

SQL = Path(__file__).parent.parent / "sql" / "0001"


def upgrade() -> None:
    _run("tables.sql")
    _run("partitions.sql")
    _run("requests.sql")
    _run("views.sql")
    _run("accounts.sql")


def downgrade() -> None:
    _run("drop.sql")


def _run(name: str) -> None:
    """Run a file as it is: no colon in it is a parameter."""
    op.execute(sa.text(SQL.joinpath(name).read_text(encoding="utf-8").replace(":", "\\:")))
