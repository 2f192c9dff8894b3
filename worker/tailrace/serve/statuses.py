"""A run's status under its two names: the database's, which the run feed shows, and the API's (protocol §3). Pure."""

from __future__ import annotations

CURRENT_API_VERSION = "2025-07-16"
"""The value of ``x-trigger-api-version`` that asks for today's names."""

TERMINAL = frozenset(
    {
        "CANCELED",
        "INTERRUPTED",
        "COMPLETED_SUCCESSFULLY",
        "COMPLETED_WITH_ERRORS",
        "SYSTEM_FAILURE",
        "CRASHED",
        "EXPIRED",
        "TIMED_OUT",
    },
)
"""Database names after which a run does not go on."""

_CURRENT = {
    "COMPLETED_SUCCESSFULLY": "COMPLETED",
    "COMPLETED_WITH_ERRORS": "FAILED",
    "INTERRUPTED": "FAILED",
    "PENDING": "QUEUED",
    "WAITING_FOR_DEPLOY": "PENDING_VERSION",
    "PAUSED": "WAITING",
    "WAITING_TO_RESUME": "WAITING",
    "RETRYING_AFTER_FAILURE": "EXECUTING",
}

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
    """The API's name for a database status; a name that is the same in both is not in the tables."""
    return (_CURRENT if api_version == CURRENT_API_VERSION else _LEGACY).get(status, status)


def api_flags(api_name: str) -> dict[str, bool]:
    """The ``is…`` fields of the API. ``isCompleted`` is false for EXPIRED and TIMED_OUT: upstream's, kept."""
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
