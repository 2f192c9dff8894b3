"""Undo two slips of Celery's under gevent, where it runs without an event loop.

Parts of kombu are imported while gevent is patching, and keep what blocks: gevent looks at every object there is, and
Celery's lazy ones answer by importing kombu, before `time` is patched. From then on kombu waits for a lost broker with
the real ``sleep``, which stops every reader of the process, the Writer and the leases.

A message that a killed worker held is never delivered again: kombu looks for such messages when nothing is readable,
and each blocking read that brings nothing is readable, and raises before it looks (kombu issue 1025, seen in 5.7).
"""

from __future__ import annotations

import functools
import sys
from queue import Empty
from typing import Any

FAMILY = ("amqp", "billiard", "celery", "kombu", "redis", "vine")


def mend() -> list[str]:
    """Mend both. Returns what was mended; nothing the second time."""
    return [*_return_what_is_patched(), *_look_for_what_was_held()]


def say_to_terminals_only() -> None:
    """Keep Celery from telling of signals on a stdout that is no terminal: a program reads it, and our log says it too.

    What it says on stderr stays: somebody has asked for it (SIGUSR1: where each thread is).
    """
    worker: Any = sys.modules.get("celery.apps.worker")
    if worker is None or hasattr(worker.safe_say, "__wrapped__"):
        return
    say = worker.safe_say

    @functools.wraps(say)
    def safe_say(message: str, file: Any = sys.__stderr__) -> None:
        if file is not sys.__stdout__ or (file is not None and file.isatty()):
            say(message, file)

    worker.safe_say = safe_say


def _return_what_is_patched() -> list[str]:
    """Return those packages what gevent has patched, wherever they hold the original."""
    from gevent import monkey

    patched = {
        id(original): (original, getattr(sys.modules[module], name))
        for module, names in monkey.saved.items()
        if module in sys.modules
        for name, original in names.items()
        if callable(original) and hasattr(sys.modules[module], name)
    }
    mended = []
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] not in FAMILY:
            continue
        for name, value in list(vars(module).items()):
            original, replacement = patched.get(id(value), (None, None))
            if original is not None and original is value and replacement is not value:
                setattr(module, name, replacement)
                mended.append(f"{module_name}.{name}")
    return sorted(mended)


def _look_for_what_was_held() -> list[str]:
    """Have kombu look after each read that brought nothing, once a second; it asks Redis at every tenth."""
    from kombu.transport.redis import MultiChannelPoller

    get: Any = MultiChannelPoller.get
    if hasattr(get, "__wrapped__"):
        return []

    @functools.wraps(get)
    def get_or_look(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return get(self, *arguments, **options)
        except Empty:
            self.maybe_restore_messages()
            raise

    setattr(MultiChannelPoller, "get", get_or_look)  # noqa: B010  mypy takes no assignment to a method
    return ["kombu.transport.redis.MultiChannelPoller.get"]
