"""The Celery app. Importing it reads no setting, opens nothing and patches nothing: callers of ``.delay`` import it.

Our own queue, task names and broker settings; never the current app of its importer.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from celery import Celery

from tailrace.config.urls import redis_master, redis_url
from tailrace.errors import BadSettings
from tailrace.tasks.signing import signs

QUEUE = "tailrace"
VISIBILITY_TIMEOUT_S = 3_600
SCHEDULE_HEADER, EVERY_HEADER = "tailrace_schedule", "tailrace_every_s"
"""What a beat's messages carry: the entry of its schedule that sent them, and how often that is to come, in seconds."""


class TailraceCelery(Celery):
    """Celery that never guesses a broker: without a URL it would try an AMQP server on this machine."""

    task_cls = "tailrace.tasks.checked:CheckedTask"
    amqp_cls = "tailrace.tasks.transport:CheckedAMQP"

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        signs()  # raises before a message is taken, or sent without its signature
        return super().connection_for_read(url or self.conf.broker_read_url or _broker(), **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        signs()
        return super().connection_for_write(url or self.conf.broker_write_url or _broker(), **kwargs)


def _broker() -> str:
    return redis_url(os.environ)


def _configuration() -> dict[str, Any]:
    """Read when the configuration is first needed, not when this is imported."""
    broker: str | None = None
    signed = True
    with contextlib.suppress(BadSettings):  # said by whoever wants a connection; looking at a task needs none
        broker = _broker()
    with contextlib.suppress(BadSettings):
        signed = signs()
    return {
        "broker_url": broker,
        # Messages are hints: what a task did is in Postgres, so nothing is kept in Redis.
        "task_ignore_result": True,
        "result_backend": None,
        "result_backend_thread_safe": True,  # else each greenlet makes one of its own, of nothing
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": QUEUE,
        "task_default_routing_key": QUEUE,
        "task_routes": {"tailrace.*": {"queue": QUEUE}},
        # A request is acknowledged when it is a row; a worker that dies before leaves it to the next.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # One message in the worker's hand for each slot: more would wait there while others are free.
        "worker_prefetch_multiplier": 1,
        # A message that nobody acknowledged is given out again after this long. Tasks end far earlier (SLICE_SECONDS),
        # and one that is given out twice finds its stream leased.
        "broker_transport_options": {
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "socket_keepalive": True,
            # A Redis that hangs must not hang the control loop, nor a caller of .delay. Blocking reads take 1 s.
            "socket_timeout": 5,
            "socket_connect_timeout": 4,
            # How often a connection is tried again before the caller is told; kombu's own default is for ever.
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.2,
            "interval_max": 0.5,
            "master_name": redis_master(os.environ),
        },
        # Nobody signs what `celery control` says, so nobody listens.
        "worker_enable_remote_control": not signed,
        # A message that can't be read must not end the worker.
        "worker_consumer": "tailrace.tasks.consumer:CheckedConsumer",
        # The broker's loss interrupts no reader: they do not need it.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # A caller of .delay whose Redis is away learns it within seconds.
        "broker_connection_timeout": 4,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 1},
        # Logging is ours (worker/tailrace/telemetry.py).
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        # SIGTERM: readers are told to leave at once and need about a second; this is how long they may take.
        "worker_soft_shutdown_timeout": 0.0,
        "worker_enable_soft_shutdown_on_idle": False,
        "task_track_started": False,
        "worker_send_task_events": False,
        "enable_utc": True,
        "timezone": "UTC",
    }


app = TailraceCelery(
    "tailrace",
    set_as_current=False,
    include=["tailrace.tasks.ingest", "tailrace.tasks.maintenance", "tailrace.tasks.signals"],
)
app.add_defaults(_configuration)
