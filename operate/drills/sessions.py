"""What several incidents share: sessions of Postgres that somebody has left open, how they are ended, and a setting."""

from __future__ import annotations

import shlex

from drills.fleet import Fleet

SEALS_SOON = {"TAILRACE_SEAL_QUIET_SECONDS": "2"}
FORGOTTEN = "somebody"
"""The name under which they are open."""
END = f"tailrace sql \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{FORGOTTEN}'\""


def end_forgotten(fleet: Fleet) -> None:
    """End them as a person would."""
    fleet.tailrace(*shlex.split(END)[1:])
