"""What a worker does with a message for one of our tasks: what can't be meant is refused before it is a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.strategy import default

from tailrace.tasks.checked import CheckedTask
from tailrace.tasks.envelope import Malformed, asked_by
from tailrace.tasks.refused import refusals
from tailrace.tasks.transport import broker_errors

__all__ = ["checked"]


def checked(task: CheckedTask, app: Any, consumer: Any) -> Callable[..., Any]:
    """Return Celery's own handler of messages behind a check. Fits `celery.Task.Strategy`."""
    handle = default(task, app, consumer)
    passed_on: tuple[type[Exception], ...] = (*broker_errors(consumer.connection_errors), MemoryError)

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **rest: Any) -> Any:
        try:
            asked = asked_by(message.headers, message.payload, first_protocol=body is not None)
            try:
                task.check(asked.args, asked.kwargs)
            except TypeError:
                raise Malformed("arguments", "they do not fit the task") from None
            return handle(message, body, ack, reject, callbacks, **rest)
        except passed_on:
            raise
        except Exception as error:  # noqa: BLE001  one message must not end the worker
            refusals.refuse(message, error, task.name)

    return on_message
