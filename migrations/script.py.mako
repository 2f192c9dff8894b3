"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}

Before you ship this:

- It must work while the previous release still runs: add, fill and only then use. Removing or renaming a column takes
  two releases: the first stops using it, the second drops it.
- Every name is written with its schema (`tailrace.`): the session has no search_path.
- It waits at most a few seconds for a lock (migrations/env.py). A statement that locks a busy table for longer than a
  moment needs another way: constraints NOT VALID first and VALIDATE later, defaults that do not rewrite the table.
- An index on a table in use is built with worker/tailrace/store/indexes.py, inside
  `with op.get_context().autocommit_block(), patient(op.get_bind()):`; 0006 and 0007 are models.
- `segments` is partitioned, and `tailrace.ensure_partitions()` must go on making partitions that equal the parent.
- worker/tailrace/store/tables.py changes with it, and a changed view or function stands whole in migrations/sql/<revision>/.
"""

from __future__ import annotations

from collections.abc import Sequence

from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
