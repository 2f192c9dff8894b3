"""What one worker process has: a runtime, loops, and a queue of its own for hints. Imported by workers only."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Sequence

import structlog
from celery.worker import state

from tailrace import metrics
from tailrace.config.keys import readable_by_others
from tailrace.config.settings import Settings
from tailrace.config.urls import database_url
from tailrace.errors import StoreUnavailable, WorkerError
from tailrace.service.control import ControlLoop
from tailrace.service.endpoint import Endpoint
from tailrace.service.health import Health
from tailrace.service.loops import Loop
from tailrace.service.maintenance import Maintenance, discovery_of
from tailrace.service.runtime import Runtime
from tailrace.service.sharing import Sharing
from tailrace.store.schedules import Schedules
from tailrace.tasks.announce import CeleryAnnouncer
from tailrace.tasks.app import app
from tailrace.tasks.ingest import ingest_stream
from tailrace.telemetry import Failing

log = structlog.get_logger("tailrace")

SHORT_SLICE_S = 15.0
"""How long a reader keeps its slot at most where slots are few (prefork, solo): streams must take turns."""
FEW_SLOTS = frozenset({"prefork", "solo", "processes"})
FEW_PROCESSES = frozenset({"prefork", "processes"})
GROWING = frozenset({"prefork", "processes", "gevent"})
"""Celery's pools that `--autoscale` can make larger."""
OWN_THREADS = frozenset({"gevent", "threads"})
"""Pools whose slots are what `threading.Thread` makes."""
BROKER_PAUSE_S = 5.0
"""How long the broker is not tried again after it failed: each try can take seconds."""
BROKER_SILENT_S = 5.0
"""So long without an answer, and it counts as away. It is asked at each turn of the control loop."""
READERS_SHARE = 0.6
"""Of the time to drain: what readers and their last commits may take."""
EXIT_AT_ONCE = 1
HINTS_AT_ONCE = 10
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
        url = database_url(os.environ)
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
        self._hinting = Failing("hinting", traced=False)
        self._announcer: CeleryAnnouncer | None = None
        self._endpoint: Endpoint | None = None
        threading.Thread(target=self._leave_when_told, name="tailrace-drain", daemon=True).start()

    def start_reading(self) -> None:
        # Decoding makes tens of thousands of objects that die at once, without cycles. Looking for cycles after every
        # 700 of them, through all that lives, cost a fifth of the time of a chunk.
        gc.freeze()
        gc.set_threshold(GC_OBJECTS, 20, 20)
        self.runtime.start(slice_max_s=SHORT_SLICE_S if self.pool in FEW_SLOTS else None)

    def start_choosing(self, queue: str) -> None:
        self.queue = queue
        keys_file = self.settings.keys_file
        if keys_file is not None and readable_by_others(keys_file):
            log.warning("keys_file_exposed", path=str(keys_file), reason="anybody on this machine may read it")
        try:
            self.runtime.environments.enrol()
        except StoreUnavailable as error:  # the control loop goes on trying
            log.warning("environments_not_enrolled", error=str(error))
        if self.pool in FEW_PROCESSES:
            self.runtime.start_choosing()
        self._announcer = CeleryAnnouncer(app, self.settings.on_sealed, self.hints_lost)
        self.control = ControlLoop(
            self.runtime,
            self.free_slots,
            self.hint,
            every_s=self.settings.control_seconds,
            announcer=self._announcer,
            # Where slots are processes, nobody knows which of them are whose.
            sharing=None if self.pool in FEW_PROCESSES else Sharing(self.slots),
        )
        self.control.start()
        self.maintenance = Maintenance(self.runtime)
        self.maintenance.start()
        metrics.slots.set(self.slots)
        metrics.connections_limit.set(self.settings.max_connections or 0)
        metrics.scrub_within.set(self.settings.scrub_days * 86_400 if self.settings.scrub_load > 0 else 0)
        if self.settings.metrics_port is not None:
            shown = metrics.shown_registry()
            health = Health(self.runtime, self._loops, shown)
            self._endpoint = Endpoint(
                self.settings.metrics_host,
                self.settings.metrics_port,
                shown,
                health.not_live,
                health.not_ready,
                health.notes,
            )
            self._endpoint.start()

    def _loops(self) -> list[Loop]:
        """Return those whose standing still is the process's end. Maintenance may take as long as it takes."""
        return [*self.runtime.loops, *(self.control.loops if self.control is not None else ())]

    def ingest_soon(self, run: int, run_id: str, environment: str | None) -> None:
        """Look at a run that was just asked for, without waiting for the control loop's next turn."""
        self.runtime.look_soon(run, run_id, environment)
        if self.control is not None:
            self.control.wake()

    # --- what schedules ask for, besides what maintenance does by itself

    def discover(self) -> None:
        """Look for new runs in each environment where it is asked for and time."""
        for environment in self.runtime.environments.all():
            discovery = discovery_of(environment)
            if discovery is not None:
                discovery.step()

    def compact(self) -> None:
        """Compact some of the streams that wait for it."""
        Maintenance(self.runtime).keep()

    def prune(self) -> None:
        """Drop the days that retention no longer keeps."""
        Maintenance(self.runtime).prune()

    def schedule_came(self, name: str, every_s: float) -> None:
        """Note that a beat's schedule has sent something.

        Raises:
            StoreUnavailable
        """
        Schedules(self.runtime.engine).came(name, every_s)

    # --- slots and hints

    def free_slots(self) -> int:
        """Return how many more streams fit: slots less readers at work, less hints on their way."""
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
            self._hinting.failed(error)
            self._broker_away_until = time.monotonic() + BROKER_PAUSE_S
            self._read_here(left)
        else:
            self._hinting.succeeded()

    def _broker_is_away(self) -> bool:
        """Decide by its last failure, and by when it last answered: to ask one that hangs takes seconds."""
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
            log.warning("reader_failed", stream_id=stream_id, error=str(error))
        except Exception as error:
            log.exception("reader_failed", stream_id=stream_id, error=str(error))

    def hints_lost(self) -> None:
        """The broker has lost its memory, and with it every hint that was on its way."""
        with self._lock:
            lost = list(self._hinted)
            self._hinted.clear()
        if lost:
            self.runtime.choosing.unhint(lost)
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

    def close(self) -> None:
        """Have every reader leave: Celery shuts down, after a signal or without one."""
        if self.pool not in FEW_PROCESSES:
            self._leaving.set()

    def _leave_when_told(self) -> None:
        self._leaving.wait()
        log.info("drain_began", reading=len(self.runtime.readers))
        until = time.monotonic() + self.settings.drain_seconds
        # Some of the time is for giving the leases back and for Celery's own end.
        self.stop(self.settings.drain_seconds * READERS_SHARE)
        time.sleep(max(0.0, until - time.monotonic()))
        # Celery waits for its tasks and for the broker as long as it takes. All that mattered is done.
        log.info("worker_left", reason="Celery did not end in time")
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
            if self._endpoint is not None:
                self._endpoint.stop()
                metrics.end()
            log.info("worker_stopped", pool=self.pool)
