"""Messages that can't be tasks: gone from the queue, counted, told. Nothing of a body is told: it may hold secrets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed, DecodeError

from tailrace import metrics
from tailrace.errors import BadArgument
from tailrace.redaction import excerpt
from tailrace.tasks.envelope import Malformed

__all__ = ["Refusals", "refusals"]

log = structlog.get_logger("tailrace")

TOLD_AGAIN_S: Final = 3_600.0
SHOWN_CHARACTERS: Final = 100
KINDS: Final = frozenset({"arguments", "body", "content", "envelope", "fault", "headers", "signature", "task"})
for _kind in KINDS:
    metrics.refused_messages.labels(_kind)  # shown as 0 from the start: the first one is an increase then


class Refusals:
    """Counts each refused message by its kind, and tells of each kind once an hour: there may be very many."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def refuse(self, message: Any, error: Exception, task: object = None) -> None:
        """Reject a message that was taken from the queue, for good. Raises when the broker is away.

        ``message`` None: it never became one, and is gone. ``task``: the name in it, which anybody may have written.
        """
        if message is not None and not message.acknowledged:
            message.reject(requeue=False)
        kind, reason = what_is_wrong(error)
        metrics.refused_messages.labels(kind).inc()
        if self._is_new(kind):
            named = task if task is not None else getattr(error, "task", None)
            log.warning("message_refused", kind=kind, reason=reason, task=_shown(named))

    def tolerate(self, task: object) -> None:
        """Tell of a message that has no signature and is taken all the same (TAILRACE_UNSIGNED_MESSAGES)."""
        if self._is_new("unsigned"):
            log.warning("message_unsigned", task=_shown(task))

    def _is_new(self, kind: str) -> bool:
        """Return whether this is to be told: it was not within the last hour."""
        now = self._clock()
        if now - self._told.get(kind, -TOLD_AGAIN_S) < TOLD_AGAIN_S:
            return False
        self._told[kind] = now
        return True


def what_is_wrong(error: Exception) -> tuple[str, str]:
    """Return one of `KINDS` and a reason, in words of ours: those of an error may repeat what it met."""
    if isinstance(error, Malformed):
        return error.kind, error.reason
    if isinstance(error, BadArgument):
        return "arguments", str(error)
    if isinstance(error, ContentDisallowed | DecodeError | UnicodeError | json.JSONDecodeError):
        return "content", "its body can't be decoded, or is not JSON"
    if isinstance(error, InvalidTaskError):
        return "headers", "Celery can't read them"
    return "fault", type(error).__name__


def _shown(task: object) -> str | None:
    if not isinstance(task, str):
        return None
    return excerpt(task.encode(errors="replace").decode(), SHOWN_CHARACTERS)


refusals: Final = Refusals()
"""This process's own."""
