"""A run's status under its two names: the database's, which the run feed shows, and the API's (protocol §3). Pure."""

from __future__ import annotations

API_STATUS = {
    "COMPLETED_SUCCESSFULLY": "COMPLETED",
    "COMPLETED_WITH_ERRORS": "FAILED",
    "INTERRUPTED": "FAILED",
    "PENDING": "QUEUED",
    "WAITING_FOR_DEPLOY": "PENDING_VERSION",
    "PAUSED": "WAITING",
    "WAITING_TO_RESUME": "WAITING",
    "RETRYING_AFTER_FAILURE": "EXECUTING",
}
"""Database name → API name (``x-trigger-api-version: 2025-07-16``). Names that are not here are the same in both."""

DATABASE_STATUS = {
    "COMPLETED": "COMPLETED_SUCCESSFULLY",
    "FAILED": "COMPLETED_WITH_ERRORS",
    "QUEUED": "PENDING",
    "WAITING": "WAITING_TO_RESUME",
}
"""API name → database name: where several have the API's name, the one that upstream uses today."""

TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELED", "CRASHED", "SYSTEM_FAILURE", "EXPIRED", "TIMED_OUT"})
"""API names that a run ends with. A name nobody has heard of is not terminal."""

RUNNING = frozenset({"DEQUEUED", "EXECUTING", "WAITING"})
"""API names of a run that has begun and not ended: one that waits to begin has no stream."""


def api_status(name: str) -> str:
    """Return the API's name for a status of either kind."""
    return API_STATUS.get(name, name)


def database_status(name: str) -> str:
    """Return a database name for a status by its API name: one that the API shows by that name."""
    return DATABASE_STATUS.get(name, name)


def is_terminal(name: str) -> bool:
    """Return whether a run does not go on after this status, of either kind."""
    return api_status(name) in TERMINAL
