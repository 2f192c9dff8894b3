"""What the tasks of this process work with. Callers of ``.delay`` import it: it imports nothing that reads streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tailrace.errors import BadSettings

if TYPE_CHECKING:
    from tailrace.config.settings import Settings
    from tailrace.service.runtime import Runtime


class WorkerProcess(Protocol):
    """What tasks and signals need of their process; `tasks.process.Process` is one."""

    @property
    def runtime(self) -> Runtime: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def slots(self) -> int: ...

    def start_reading(self) -> None: ...
    def start_choosing(self, queue: str) -> None: ...
    def ingest_soon(self, run: int, run_id: str, environment: str | None) -> None: ...
    def discover(self) -> None: ...
    def compact(self) -> None: ...
    def prune(self) -> None: ...
    def schedule_came(self, name: str, every_s: float) -> None: ...
    def hint_arrived(self, stream_id: int) -> None: ...
    def close(self) -> None: ...
    def leave(self, *, at_once: bool) -> None: ...
    def stop(self, timeout_s: float) -> None: ...


process: WorkerProcess | None = None
"""Set by `signals` when the worker starts."""


def current() -> WorkerProcess:
    """Return this process's parts.

    Raises:
        BadSettings: asked outside a worker.
    """
    if process is None:
        raise BadSettings("This task runs in a Tailrace worker only; start one with `tailrace worker`.")
    return process
