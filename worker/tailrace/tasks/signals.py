"""The life of a Celery worker process: what starts with it, what it listens to, how it ends. For workers only."""

from __future__ import annotations

import os
import signal
import uuid
from typing import Any

import structlog
from celery import bootsteps, signals
from sqlalchemy.exc import DBAPIError

from tailrace.config.settings import load
from tailrace.errors import BadSettings, WorkerError
from tailrace.service import trace_export
from tailrace.store.statements import refusal
from tailrace.tasks import current
from tailrace.tasks.app import app
from tailrace.tasks.ingest import ingest_stream
from tailrace.tasks.patching import mend, say_to_terminals_only
from tailrace.tasks.process import EXIT_AT_ONCE, FEW_PROCESSES, GROWING, READERS_SHARE, Process
from tailrace.tasks.refused import refusals
from tailrace.tasks.signing import signatures
from tailrace.telemetry import configure

log = structlog.get_logger("tailrace")

BROKER_CONNECTIONS = 3
"""For sending: hints, news of runs that are sealed, and requests that are tried again. Each is one or two sockets."""

_main_pid = 0
_own_queue = ""


@signals.celeryd_init.connect  # what Celery warns of before it sets logging up
@signals.setup_logging.connect
def _logging(**_: Any) -> None:
    settings = load(os.environ)
    configure(settings.log_format, settings.log_level)
    say_to_terminals_only()


@signals.celeryd_after_setup.connect
def _listen_to_own_queue(instance: Any, **_: Any) -> None:
    """Consume a queue of our own too: hints go to the process that has the free slot."""
    global _own_queue
    if instance.app.main == app.main:
        instance.app.conf.broker_pool_limit = BROKER_CONNECTIONS
        _own_queue = f"tailrace.{uuid.uuid4().hex[:12]}"
        instance.app.amqp.queues.select_add(_own_queue)


@signals.worker_init.connect
def _check_patching(sender: Any, **_: Any) -> None:
    """Refuse to start where every commit would block the whole process."""
    global _main_pid
    _main_pid = os.getpid()
    if _pool(sender) == "gevent":
        mend()
    import psycopg.waiting  # must not be imported before gevent has patched

    if _pool(sender) == "gevent" and psycopg.waiting.wait is getattr(psycopg.waiting, "wait_c", None):
        raise SystemExit(
            "tailrace: psycopg was imported before gevent patched the process, so each commit would stop every reader. "
            "Start the worker with `tailrace worker` or `celery -A tailrace.tasks worker -P gevent`."
        )


@signals.worker_init.connect
def _demand_signatures(**_: Any) -> None:
    settings = load(os.environ)
    signatures.max_age_s = settings.sign_max_age_seconds
    signatures.unsigned = refusals.tolerate if settings.unsigned_messages == "accept" else None


@signals.worker_init.connect
def _demand_spans(**_: Any) -> None:
    try:
        trace_export.check(load(os.environ).traces)
    except BadSettings as error:  # Celery only logs what a signal raises, unless it ends the program
        raise SystemExit(f"tailrace: {error}") from error


@signals.worker_ready.connect
def _start(sender: Any, **_: Any) -> None:
    controller = sender.controller if hasattr(sender, "controller") else sender
    pool = _pool(controller)
    try:
        process = current.process or Process(load(os.environ), pool, _places(controller))
        current.process = process
        if pool not in FEW_PROCESSES:
            process.start_reading()
        process.start_choosing(_own_queue)
    except (WorkerError, DBAPIError) as error:
        # An error that ends no process would leave a worker that takes messages and does nothing: Celery only logs it.
        reason = error if isinstance(error, WorkerError) else refusal(error.orig or error)
        current.process = None  # has nothing to give back
        log.error("worker_refused", error=str(reason))
        raise SystemExit(1) from error
    if pool not in FEW_PROCESSES:
        # Celery's own handler of SIGQUIT waits for the pool, which gevent does not allow in a signal handler: it fails.
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(EXIT_AT_ONCE))
    log.info("worker_ready", pool=pool, slots=process.slots)


@signals.worker_process_init.connect
def _start_child(**_: Any) -> None:
    """Under prefork, each child reads with connections of its own."""
    if os.getpid() == _main_pid:  # solo sends this signal too, from the one process that it has
        return
    process = Process(load(os.environ), "prefork", 1)
    current.process = process
    process.start_reading()


@signals.task_received.connect
def _received(request: Any, **_: Any) -> None:
    if current.process is not None and request.name == ingest_stream.name and request.args:
        current.process.hint_arrived(request.args[0])


@signals.worker_shutting_down.connect
def _drain(how: str = "Warm", **_: Any) -> None:
    """On SIGTERM: readers leave now, and others go on with their streams. On SIGQUIT: the process ends."""
    if current.process is not None:
        current.process.leave(at_once=how == "Cold")


class _Leaving(bootsteps.StartStopStep):
    """For `celery control shutdown`: it sends no signal before it waits for the tasks, so readers would stay."""

    def start(self, parent: Any) -> None: ...

    def stop(self, parent: Any) -> None: ...

    def close(self, parent: Any) -> None:
        """The first thing of any shutdown."""
        if current.process is not None:
            current.process.close()


app.steps["worker"].add(_Leaving)


@signals.worker_shutdown.connect
@signals.worker_process_shutdown.connect
def _stop(**_: Any) -> None:
    process, current.process = current.process, None
    if process is not None:
        process.stop(process.settings.drain_seconds * READERS_SHARE)


def _places(controller: Any) -> int:
    """Return how many tasks the pool takes at most: under ``--autoscale`` it grows with them.

    Raises:
        BadSettings: it is to grow and can't. Celery would log an error for each message, and begin few of them.
    """
    if not controller.autoscale:
        return int(controller.concurrency)
    if _pool(controller) not in GROWING:
        raise BadSettings(f"--autoscale: the pool {_pool(controller)} can't grow; give -c instead.")
    return int(controller.max_concurrency)


def _pool(controller: Any) -> str:
    name = controller.pool_cls if isinstance(controller.pool_cls, str) else controller.pool_cls.__module__
    module = name.rpartition(".")[2]
    return {"processes": "prefork", "thread": "threads"}.get(module, module)  # Celery's modules and its names differ
