"""Sessions of Postgres that somebody has left open, and how they are ended."""

from __future__ import annotations

import shlex

from drills.fleet import Fleet

FORGOTTEN = "somebody"
"""The name under which they are open."""
END = f"tailrace sql \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{FORGOTTEN}'\""


def end_forgotten(fleet: Fleet) -> None:
    """End them as a person would."""
    fleet.tailrace(*shlex.split(END)[1:])
