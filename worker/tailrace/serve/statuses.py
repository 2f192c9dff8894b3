"""A run's status as upstream's API names it, by the version that is asked for, and its ``is…`` fields. Pure."""

from __future__ import annotations

from tailrace.wire.statuses import API_STATUS

CURRENT_API_VERSION = "2025-07-16"
"""The value of ``x-trigger-api-version`` that asks for today's names."""

_LEGACY = {
    "COMPLETED_SUCCESSFULLY": "COMPLETED",
    "COMPLETED_WITH_ERRORS": "FAILED",
    "PENDING": "QUEUED",
    "PAUSED": "FROZEN",
    "WAITING_TO_RESUME": "FROZEN",
    "RETRYING_AFTER_FAILURE": "REATTEMPTING",
    "DEQUEUED": "EXECUTING",
}

_COMPLETED = frozenset({"COMPLETED", "CANCELED", "FAILED", "CRASHED", "INTERRUPTED", "SYSTEM_FAILURE"})


def api_status(status: str, api_version: str | None) -> str:
    """Return the API's name for a database status; a name that is the same in both is not in the tables."""
    return (API_STATUS if api_version == CURRENT_API_VERSION else _LEGACY).get(status, status)


def api_flags(api_name: str) -> dict[str, bool]:
    """Return the ``is…`` fields of the API. ``isCompleted`` is false for EXPIRED and TIMED_OUT: upstream's, kept."""
    completed = api_name in _COMPLETED
    return {
        "isQueued": api_name in ("QUEUED", "DELAYED", "PENDING_VERSION", "WAITING_FOR_DEPLOY"),
        "isExecuting": api_name in ("EXECUTING", "DEQUEUED", "REATTEMPTING", "FROZEN"),
        "isCompleted": completed,
        "isFailed": completed and api_name != "COMPLETED",
        "isSuccess": api_name == "COMPLETED",
        "isCancelled": api_name == "CANCELED",
        "isWaiting": api_name == "WAITING",
    }
