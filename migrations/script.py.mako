"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

Before you ship this:

- migrations/schema/ says the same: a test compares it with an upgraded database. The SQL stands here a second time,
  frozen: this never reads migrations/schema/, which goes on changing. A changed view or function stands here whole.
- It must work while the previous release still runs: add, fill and only then use. Removing or renaming a column takes
  two releases: the first stops using it, the second drops it.
- Every name is written with its schema (`tailrace.`): the session has no search_path.
- It waits at most a few seconds for a lock (migrations/env.py). A statement that locks a busy table for longer than a
  moment needs another way: constraints NOT VALID first and VALIDATE later, defaults that do not rewrite the table.
  Several tables are locked in the order in which readers and the Writer lock them (runs, streams, segments), and views
  change in a migration of their own: whoever reads one holds it and waits for the tables.
- An index on a table in use is built with worker/tailrace/store/indexes.py, inside
  `with op.get_context().autocommit_block(), patient(op.get_bind()):`, and plainly when `context.is_offline_mode()`.
- `segments` is partitioned, and `tailrace.ensure_partitions()` must go on making partitions that equal the parent.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}

UPGRADE = r"""
"""

DOWNGRADE = r"""
"""


def upgrade() -> None:
    _run(UPGRADE)


def downgrade() -> None:
    _run(DOWNGRADE)


def _run(statements: str) -> None:
    """Run statements as they are: no colon in them is a parameter."""
    op.execute(sa.text(statements.replace(":", "\\:")))
