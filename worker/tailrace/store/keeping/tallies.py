"""Count what the archive holds, a day at a time: see migrations/schema/tallies.sql."""

from __future__ import annotations

from datetime import date

import sqlalchemy as sa

from tailrace.store.statements import Statements


class Tallies:
    """Keeps the tallies of one archive."""

    def __init__(self, engine: sa.Engine) -> None:
        self._statements = Statements(engine)

    def count(self, fresh_s: float) -> date | None:
        """Count the day that is most due, and return it; None: none is, or somebody else counts it.

        ``fresh_s``: how old the count of a day that is still being written may be.
        """
        day: date | None = self._statements.execute("SELECT tailrace.tally(:fresh_s) AS day", fresh_s=fresh_s)[0].day
        return day
