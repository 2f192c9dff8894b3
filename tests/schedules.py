"""How many random schedules, or texts, a test tries: all of them with `make soak` (``SOAK`` is set), a quarter with `make test`."""

from __future__ import annotations

import os


def schedules(count: int) -> int:
    """Return ``count``, or a quarter of it where the run is no soak."""
    return count if os.environ.get("SOAK") else count // 4
