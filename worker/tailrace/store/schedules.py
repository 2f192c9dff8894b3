"""When the entries of a beat's schedule last came: what shows that a beat has died. One function a statement."""

from __future__ import annotations

import sqlalchemy as sa

from tailrace.store.statements import Statements

__all__ = ["Schedules"]


class Schedules:
    """The statements about schedules. Thread-safe."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def came(self, name: str, every_s: float) -> None:
        """Note that an entry of a schedule has come, and how often it is to come.

        Raises:
            StoreUnavailable
        """
        self._statements.execute(
            """
            INSERT INTO tailrace.schedules (name, every_s, last_at) VALUES (:name, :every_s, now())
            ON CONFLICT (name) DO UPDATE SET every_s = EXCLUDED.every_s, last_at = EXCLUDED.last_at
            """,
            name=name,
            every_s=every_s,
        )
