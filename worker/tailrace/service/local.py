"""Ingest one run in this process, without broker or worker: the same reader, Writer, leases and control loop.

A thread for each stream takes the place of a Celery slot. Whoever else works on the run is met by the leases, as ever.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import structlog

from tailrace.config.settings import Settings
from tailrace.errors import BadSettings, NotFound, WorkerError
from tailrace.service.control import ControlLoop
from tailrace.service.environments import Environment
from tailrace.service.runtime import Runtime

log = structlog.get_logger("tailrace")

MOST_THREADS = 64


class LocalIngestion:
    """The ingestion of one run by this process, from `begin` to `stop`."""

    def __init__(self, settings: Settings, database_url: str, environment: str | None = None) -> None:
        self._settings = settings
        self._slots = min(settings.slots, MOST_THREADS)
        self._runtime = Runtime(settings, database_url, pool="local", slots=self._slots)
        self._environment = environment or self._runtime.environments.meant()
        self._control: ControlLoop | None = None
        self._lock = threading.Lock()
        self._reading: set[int] = set()

    def check_upstream(self, run_id: str) -> None:
        """Ask upstream for the run once, before anything is begun. One that it does not know may still appear.

        Raises:
            Unauthorized: the key is refused.
            SourceUnavailable, StreamStalled: upstream can't be reached.
            BadSettings: there is no key for the environment.
        """
        try:
            self._served().upstream.run(run_id)
        except NotFound:
            return

    def begin(self, run_id: str, streams: Sequence[str] | None) -> int:
        """Make the run's row and begin to read; return the row's id.

        Raises:
            StoreUnavailable: the database can't be reached.
        """
        runtime = self._runtime
        self._served().enrol()
        run = runtime.request(run_id, streams, {}, environment=self._environment)
        runtime.start()
        self._control = ControlLoop(
            runtime, self._free_slots, self._dispatch, every_s=self._settings.control_seconds, run=run
        )
        self._control.start()
        return run

    def stop(self) -> None:
        """Leave every stream and commit what was read, within ``TAILRACE_DRAIN_SECONDS`` or so. Safe to repeat."""
        control, self._control = self._control, None
        if control is None:
            self._runtime.close()
            return
        self._runtime.drain()  # first: the loop may be waiting for upstream
        control.stop()
        self._runtime.stop(self._settings.drain_seconds)

    def _served(self) -> Environment:
        found = self._runtime.environments.get(self._environment)
        if found is None:
            raise BadSettings(f"No key for environment {self._environment!r}.")
        return found

    def _free_slots(self) -> int:
        with self._lock:
            return self._slots - len(self._reading)

    def _dispatch(self, stream_ids: Sequence[int]) -> None:
        for stream_id in stream_ids:
            with self._lock:
                self._reading.add(stream_id)
            threading.Thread(
                target=self._read, args=(stream_id,), name=f"tailrace-read-{stream_id}", daemon=True
            ).start()

    def _read(self, stream_id: int) -> None:
        try:
            self._runtime.ingest_stream(stream_id)
        except WorkerError as error:
            # Whatever it was, the stream's row says where to go on, and the control loop will choose it again.
            log.warning("reader_failed", stream_id=stream_id, error=str(error))
        except Exception as error:
            log.exception("reader_failed", stream_id=stream_id, error=str(error))
        finally:
            with self._lock:
                self._reading.discard(stream_id)
            control = self._control
            if control is not None:
                control.wake()
