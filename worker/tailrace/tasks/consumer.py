"""The part of a worker that takes messages: whatever is wrong with one, it is refused, and the next one is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import structlog
from celery.worker.consumer import Consumer

from tailrace.errors import BadSettings
from tailrace.tasks.envelope import Malformed
from tailrace.tasks.refused import refusals
from tailrace.tasks.transport import broker_errors

__all__ = ["CheckedConsumer"]

BROUGHT: Final = "celery."
"""What the names of the tasks begin with that are in every app."""
log = structlog.get_logger("tailrace")


class CheckedConsumer(Consumer):
    """Celery's consumer (setting ``worker_consumer``), which dies of some messages and logs the bodies of others."""

    def connect(self) -> Any:
        try:
            return super().connect()
        except BadSettings as error:  # a broker that will never do: Celery would log where it was raised, at length
            log.error("worker_refused", error=str(error))
            raise SystemExit(f"tailrace: {error}") from error

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        handle = super().create_task_handler(*args, **kwargs)
        passed_on: tuple[type[Exception], ...] = (*broker_errors(self.connection_errors), MemoryError)

        def on_message(message: Any) -> Any:
            try:
                return handle(message)
            except passed_on:
                raise
            except Exception as error:  # noqa: BLE001  one message must not end the worker
                refusals.refuse(message, error, message.headers.get("task"))

        return on_message

    def update_strategies(self) -> None:
        """Run our own tasks only: what Celery brings (celery.map, celery.chunks) calls them behind their rules."""
        super().update_strategies()
        for name in [name for name in self.strategies if name.startswith(BROUGHT)]:
            del self.strategies[name]

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        refusals.refuse(message, Malformed("content", "its body can't be decoded, or is not JSON"))

    def on_unknown_message(self, body: Any, message: Any) -> None:
        refusals.refuse(message, Malformed("task", "it names no task"))

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        named = message.headers.get("task")
        if named is None and isinstance(message.payload, dict):
            named = message.payload.get("task")
        refusals.refuse(message, Malformed("task", "there is no such task here"), named)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        refusals.refuse(message, exc, message.headers.get("task"))
