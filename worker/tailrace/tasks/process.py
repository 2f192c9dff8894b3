"""The life of a Celery worker process: what starts with it, what it listens to, how it ends.

Imported by workers only.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any

import structlog
from celery import signals
from celery.worker import state
from sqlalchemy.exc import DBAPIError

from tailrace.config.keys import readable_by_others
from tailrace.config.settings import Settings, load
from tailrace.config.urls import database_url, home_database_url
from tailrace.errors import BadSettings, StoreUnavailable, WorkerError
from tailrace.service.control import ControlLoop
from tailrace.service.maintenance import Maintenance
from tailrace.service.runtime import Runtime
from tailrace.store.statements import refusal
from tailrace.tasks.announce import CeleryAnnouncer
from tailrace.tasks.app import app
from tailrace.tasks.ingest import ingest_stream
from tailrace.tasks.patching import mend
from tailrace.telemetry import configure

log = structlog.get_logger("tailrace")

SHORT_SLICE_S = 15.0
"""How long a reader keeps its slot where slots are few (prefork, solo): streams must take turns."""
FEW_SLOTS = frozenset({"prefork", "solo", "processes"})
FEW_PROCESSES = frozenset({"prefork", "processes"})
OWN_THREADS = frozenset({"gevent", "threads"})
"""Pools whose slots are what `threading.Thread` makes."""
BROKER_PAUSE_S = 5.0
"""How long the broker is not tried again after it failed: each try can take seconds."""
BROKER_SILENT_S = 5.0
"""So long without an answer, and it counts as away. It is asked at each turn of the control loop."""
READERS_SHARE = 0.6
"""Of the time to drain: what readers and their last commits may take."""
EXIT_AT_ONCE = 1
HINTS_AT_ONCE = 100
"""A message to ourselves and back costs 2.7 ms of CPU, more than opening the stream: 13 s for 5 000 streams."""
GC_OBJECTS = 50_000
"""New objects alive before cycles are looked for. httpx leaves a few dozen objects in cycles per connection."""


class Process:
    """What one worker process has. Under prefork the parent chooses and each child reads; else one does both."""

    def __init__(self, settings: Settings, pool: str, concurrency: int) -> None:
        self.settings = settings
        self.pool = pool
        reserve = min(settings.reserve_slots, concurrency // 2)
        self.slots = max(1, concurrency - reserve)
        url = database_url(os.environ, fallback=home_database_url(os.environ))
        self.runtime = Runtime(settings, url, pool=pool, slots=self.slots)
        self.control: ControlLoop | None = None
        self.maintenance: Maintenance | None = None
        self.queue = ""
        self._hinted: dict[int, float] = {}
        self._lock = threading.Lock()
        self._leaving = threading.Event()
        self._stopping = threading.Lock()
        self._stopped = False
        self._broker_away_until = 0.0
        self._announcer: CeleryAnnouncer | None = None
        threading.Thread(target=self._leave_when_told, name="tailrace-drain", daemon=True).start()

    def start_reading(self) -> None:
        # Decoding makes tens of thousands of objects that die at once, without cycles. Looking for cycles after every
        # 700 of them, through all that lives, cost a fifth of the time of a chunk.
        gc.freeze()
        gc.set_threshold(GC_OBJECTS, 20, 20)
        self.runtime.start(slice_s=SHORT_SLICE_S if self.pool in FEW_SLOTS else None)

    def start_choosing(self, queue: str) -> None:
        self.queue = queue
        keys_file = self.settings.keys_file
        if keys_file is not None and readable_by_others(keys_file):
            log.warning("keys_file_readable", path=str(keys_file), reason="anybody on this machine may read it")
        try:
            self.runtime.environments.enrol()
        except StoreUnavailable as error:  # the control loop goes on trying
            log.warning("database_away", error=str(error))
        if self.pool in FEW_PROCESSES:
            self.runtime.start_choosing()
        self._announcer = CeleryAnnouncer(app, self.settings.on_sealed, self.hints_lost)
        self.control = ControlLoop(
            self.runtime,
            self.free_slots,
            self.hint,
            every_s=self.settings.control_seconds,
            announcer=self._announcer,
        )
        self.control.start()
        self.maintenance = Maintenance(self.runtime)
        self.maintenance.start()

    def ingest_soon(self, run: int) -> None:
        """Look at a run that was just asked for, without waiting for the control loop's next turn."""
        self.runtime.watch(1, run)
        if self.control is not None:
            self.control.wake()

    def free_slots(self) -> int:
        """How many more streams this process could take: slots less readers at work, less hints on their way."""
        try:
            reserved = sum(1 for request in list(state.reserved_requests) if request.name == ingest_stream.name)
        except RuntimeError:  # it was changed meanwhile, by another thread
            reserved = self.slots
        # Readers that no message started are not among the reserved.
        reading = max(reserved, len(self.runtime.readers))
        now = time.monotonic()
        with self._lock:
            self._hinted = {key: until for key, until in self._hinted.items() if until > now}
            return self.slots - reading - len(self._hinted)

    def hint(self, stream_ids: Sequence[int]) -> None:
        """Send a message for each stream to the queue that only this process listens to.

        While the broker is away, and when very many are due at once (a start, a takeover), streams are read without
        messages, where the pool's threads are like ours.
        """
        left = list(stream_ids)
        if self.pool in OWN_THREADS:
            hinted = 0 if self._broker_is_away() else HINTS_AT_ONCE
            self._read_here(left[hinted:])
            del left[hinted:]
        expires_s = self.settings.hint_seconds
        with self._lock:
            self._hinted.update(dict.fromkeys(left, time.monotonic() + expires_s))
        try:
            with app.producer_or_acquire() as producer:
                while left:
                    ingest_stream.apply_async(
                        (left[-1],), queue=self.queue, expires=expires_s, producer=producer, retry=False
                    )
                    left.pop()
        except Exception as error:
            for stream_id in left:
                self.hint_arrived(stream_id)
            if self.pool not in OWN_THREADS:
                raise
            log.warning("broker_away", error=type(error).__name__, streams=len(left))
            self._broker_away_until = time.monotonic() + BROKER_PAUSE_S
            self._read_here(left)

    def _broker_is_away(self) -> bool:
        """Tell from its last failure, and from when it last answered: to ask one that hangs takes seconds."""
        now = time.monotonic()
        silent = self._announcer is not None and now - self._announcer.answered_at > BROKER_SILENT_S
        return silent or now < self._broker_away_until

    def _read_here(self, stream_ids: Sequence[int]) -> None:
        for stream_id in stream_ids:
            threading.Thread(target=self._read, args=(stream_id,), name=f"tailrace-{stream_id}", daemon=True).start()

    def _read(self, stream_id: int) -> None:
        try:
            self.runtime.ingest_stream(stream_id)
        except WorkerError as error:
            log.warning("reader_failed", error=str(error))
        except Exception:
            log.exception("reader_failed")

    def hints_lost(self) -> None:
        """The broker has lost its memory, and with it every hint that was on its way."""
        with self._lock:
            lost = list(self._hinted)
            self._hinted.clear()
        if lost:
            self.runtime.leases.unhint(lost)
        if self.control is not None:
            self.control.wake()

    def hint_arrived(self, stream_id: int) -> None:
        """Stop counting a hint as on its way."""
        with self._lock:
            self._hinted.pop(stream_id, None)

    def leave(self, *, at_once: bool) -> None:
        """Have every reader leave, from a signal handler: it must not wait, so a thread of ours does the work.

        Asked again, or ``at_once``, the process ends here and now: what is not committed is read again by others.
        """
        if self.pool in FEW_PROCESSES:  # the children read, and Celery ends them
            return
        if at_once or self._leaving.is_set():
            os._exit(EXIT_AT_ONCE)
        self._leaving.set()

    def _leave_when_told(self) -> None:
        self._leaving.wait()
        until = time.monotonic() + self.settings.drain_seconds
        # Some of the time is for giving the leases back and for Celery's own end.
        self.stop(self.settings.drain_seconds * READERS_SHARE)
        time.sleep(max(0.0, until - time.monotonic()))
        # Celery waits for its tasks and for the broker as long as it takes. All that mattered is done.
        log.warning("worker_left", reason="Celery did not end in time")
        os._exit(0)

    def stop(self, timeout_s: float) -> None:
        """Leave every stream, commit and give the leases back; safe to repeat."""
        self.runtime.drain()  # first: the control loop may be waiting for the broker
        with self._stopping:
            if self._stopped:
                return
            self._stopped = True
            if self.maintenance is not None:
                self.maintenance.stop()
            if self.control is not None:
                self.control.stop()
            self.runtime.stop(timeout_s)


_current: Process | None = None
_main_pid = 0
_own_queue = f"tailrace.{uuid.uuid4().hex[:12]}"


def current() -> Process:
    """Return this process's parts.

    Raises:
        BadSettings: asked outside a worker.
    """
    if _current is None:
        raise BadSettings("This task runs in a Tailrace worker only; start one with `tailrace worker`.")
    return _current


@signals.setup_logging.connect
def _logging(**_: Any) -> None:
    settings = load(os.environ)
    configure(settings.log_format, settings.log_level)


@signals.celeryd_after_setup.connect
def _listen_to_own_queue(instance: Any, **_: Any) -> None:
    """Consume a queue of our own too: hints go to the process that has the free slot."""
    if instance.app.main == app.main:
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


@signals.worker_ready.connect
def _start(sender: Any, **_: Any) -> None:
    global _current
    pool = _pool(sender.controller if hasattr(sender, "controller") else sender)
    controller = sender.controller if hasattr(sender, "controller") else sender
    try:
        if _current is None:
            _current = Process(load(os.environ), pool, controller.concurrency)
        if pool not in ("prefork", "processes"):
            _current.start_reading()
        _current.start_choosing(_own_queue)
    except (WorkerError, DBAPIError) as error:
        # An error that ends no process would leave a worker that takes messages and does nothing: Celery only logs it.
        reason = error if isinstance(error, WorkerError) else refusal(error.orig or error)
        _current = None  # has nothing to give back
        log.error("worker_refused", reason=str(reason))
        raise SystemExit(f"tailrace: {reason}") from error
    if pool not in FEW_PROCESSES:
        # Celery's own handler of SIGQUIT waits for the pool, which gevent does not allow in a signal handler: it fails.
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(EXIT_AT_ONCE))
    log.info("worker_ready", pool=pool, slots=_current.slots)


@signals.worker_process_init.connect
def _start_child(**_: Any) -> None:
    """Under prefork, each child reads with connections of its own."""
    global _current
    if os.getpid() == _main_pid:  # solo sends this signal too, from the one process that it has
        return
    _current = Process(load(os.environ), "prefork", 1)
    _current.start_reading()


@signals.task_received.connect
def _received(request: Any, **_: Any) -> None:
    if _current is not None and request.name == ingest_stream.name and request.args:
        _current.hint_arrived(request.args[0])


@signals.worker_shutting_down.connect
def _drain(how: str = "Warm", **_: Any) -> None:
    """On SIGTERM: readers leave now, and others go on with their streams. On SIGQUIT: the process ends."""
    if _current is not None:
        _current.leave(at_once=how == "Cold")


@signals.worker_shutdown.connect
@signals.worker_process_shutdown.connect
def _stop(**_: Any) -> None:
    global _current
    process, _current = _current, None
    if process is not None:
        process.stop(process.settings.drain_seconds * READERS_SHARE)


def _pool(controller: Any) -> str:
    name = controller.pool_cls if isinstance(controller.pool_cls, str) else controller.pool_cls.__module__
    module = name.rpartition(".")[2]
    return {"processes": "prefork", "thread": "threads"}.get(module, module)  # Celery's modules and its names differ
