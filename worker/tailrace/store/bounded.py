"""One statement that takes no longer than it is given, and can write nothing: what people and monitors ask with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tailrace.store.statements import refusing

__all__ = ["ask"]

# Of this transaction only: through a pooler the session is everybody's.
_LIMITS = sa.text(
    "SELECT set_config('statement_timeout', :limit, true), set_config('transaction_read_only', 'on', true)"
)


def ask(engine: sa.Engine, limit_s: float, statement: str, parameters: dict[str, Any]) -> Sequence[sa.Row[Any]]:
    """Return the rows of a statement with ``:name`` parameters.

    Raises:
        StoreUnavailable: Postgres did not answer.
        NotMigrated, QueryRefused: it refused, or took longer than ``limit_s``.
    """
    with refusing(), engine.begin() as connection:
        connection.execute(_LIMITS, {"limit": f"{max(1, round(limit_s * 1000))}ms"})
        return connection.execute(sa.text(statement), parameters).all()
