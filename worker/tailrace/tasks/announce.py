"""Notify others of settled runs, through the broker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from celery import Celery

from tailrace.store.outbox import Message

EPOCH_KEY = "tailrace:epoch"
"""A key that nothing but this reads. When it is gone, the broker has lost its memory, and what was queued with it."""
DEFAULT_QUEUE = "celery"
"""What Celery calls the queue of an app that says nothing else."""


class CeleryAnnouncer:
    """Fits `control.Announcer`. ``configured`` is told of every run; others are named by the runs' requests.

    ``forgotten`` is called when the broker has lost its memory.
    """

    def __init__(self, app: Celery, configured: str | None, forgotten: Callable[[], None]) -> None:
        self._app = app
        self._configured = configured
        self._forgotten = forgotten
        self._epoch = ""
        self.answered_at = time.monotonic()

    def epoch(self) -> str:
        """Return the broker's epoch; a broker without one gets one. Raises when the broker is away."""
        with self._app.producer_or_acquire() as producer:
            redis = producer.connection.default_channel.client
            redis.set(EPOCH_KEY, uuid.uuid4().hex, nx=True)
            found = redis.get(EPOCH_KEY)
        epoch = found.decode() if isinstance(found, bytes) else str(found)
        if self._epoch and epoch != self._epoch:
            self._forgotten()
        self._epoch = epoch
        self.answered_at = time.monotonic()
        return epoch

    def tell(self, message: Message) -> bool:
        """Call each task once: with run_id, event, environment and verdicts (a dict by stream key).

        False: there is none.
        """
        names = dict.fromkeys(filter(None, (self._configured, *message.tasks)))
        for name in names:
            task, _, queue = name.partition("@")
            self._app.send_task(
                task,
                kwargs={
                    "run_id": message.run_id,
                    "event": message.event,
                    "environment": message.environment,
                    "verdicts": message.streams,
                },
                queue=queue or DEFAULT_QUEUE,
                # The same each time it is sent: whoever must not act twice can tell.
                task_id=f"tailrace-{message.id}-{task}",
                retry=False,
            )
        return bool(names)
