"""Hints that end with their sender, a limit for the fleet, the outbox, cancel and retry.

Revision ID: 0002
Revises: 0001
Create Date: 2026-11-22

The statements stand as SQL in migrations/sql/0002. Columns have defaults and functions take what they took before, so the
previous release works on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

SQL = Path(__file__).parent.parent / "sql" / "0002"


def upgrade() -> None:
    _run("hints.sql")
    _run("outbox.sql")
    _run("requests.sql")


def downgrade() -> None:
    _run("drop.sql")


def _run(name: str) -> None:
    """Run a file as it is: no colon in it is a parameter."""
    op.execute(sa.text(SQL.joinpath(name).read_text(encoding="utf-8").replace(":", "\\:")))
