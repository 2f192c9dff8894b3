"""Whether a worker process lives, and whether it can do its work: two questions, and nobody else is asked for them.

Live: its loops move and the Writer's thread is there; if not, only a restart helps. Ready: leases can be had and
commits succeed. While Postgres is away a worker lives and is not ready: to restart it would help nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry

from tailrace import metrics
from tailrace.service.loops import Loop
from tailrace.service.runtime import Runtime

TURN_MAX_S: Final = 300.0
"""No turn of these takes so long: what it may wait for (Postgres, Redis, upstream) has timeouts of a minute at most."""
FAILING_S: Final = 10.0
"""So long commits may fail: a failover takes some seconds."""


class Health:
    """Of one process. Under prefork, of the one that chooses what its children read."""

    def __init__(
        self, runtime: Runtime, loops: Callable[[], Iterable[Loop]], registry: CollectorRegistry = metrics.registry
    ) -> None:
        """``loops``: those that must move, as they are at the moment of asking. ``registry``: what it shows."""
        self._runtime = runtime
        self._loops = loops
        self._registry = registry

    def not_live(self) -> list[str]:
        """Return what only a restart can mend."""
        wrong = [f"{loop.name} does not move" for loop in self._loops() if not loop.moves(TURN_MAX_S)]
        if self._runtime.writes and not self._runtime.writer.is_alive():
            wrong.append("nothing is committed any more")
        return wrong

    def not_ready(self) -> list[str]:
        """Return why it can't read and store at present, what `not_live` says first."""
        wrong = self.not_live()
        if self._runtime.readers.leaving:
            wrong.append("the worker is leaving")
        unrenewed_s, failing_s = self._runtime.unrenewed_s(), self._runtime.writer.failing_s()
        if unrenewed_s >= self._runtime.settings.lease_seconds:
            wrong.append(f"leases could not be renewed for {unrenewed_s:.0f} s")
        if failing_s >= FAILING_S:
            wrong.append(f"no commit has succeeded for {failing_s:.0f} s")
        return wrong

    def notes(self) -> list[str]:
        """Return what is wrong and not this process's doing: it is ready all the same."""
        stuck = int(self._registry.get_sample_value("tailrace_stuck_streams") or 0)
        return [f"{stuck} streams are stuck: `tailrace status` names them"] if stuck else []
