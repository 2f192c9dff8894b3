"""Keep the leases of a process: renew its row, and call readers whose run is over or whose lease is gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from tailrace.errors import StoreUnavailable
from tailrace.service.loops import Loop
from tailrace.service.readers import Readers
from tailrace.store.leases import Leases

if TYPE_CHECKING:
    from tailrace.config.settings import Settings

log = structlog.get_logger("tailrace")

ORPHANS_S = 3.0
"""How often it is looked for leases of this process that no reader has."""


class LeaseKeeper:
    """Keeps the leases of one process, in a thread of its own."""

    def __init__(
        self, settings: Settings, leases: Leases, readers: Readers, each_turn: Callable[[], None] = lambda: None
    ) -> None:
        """``each_turn`` is called at the end of each turn, whether leases could be renewed or not."""
        self._settings = settings
        self._leases = leases
        self._readers = readers
        self._orphans: dict[int, int] = {}
        self._orphans_at = 0.0
        self._renewed_at = time.monotonic()
        self._each_turn = each_turn
        self.loop = Loop("leases", self._keep, what="lease_renewal", retry_s=lambda: 1.0)

    def start(self) -> None:
        """Make this process's row, and keep it alive from now on."""
        try:
            self._leases.renew()
        except StoreUnavailable as error:  # the thread goes on trying
            log.warning("lease_renewal_failed", error=str(error))
        self._renewed_at = time.monotonic()
        self.loop.start()

    def unrenewed_s(self) -> float:
        """Return how long ago this process's row was last renewed."""
        return time.monotonic() - self._renewed_at

    def wake(self) -> None:
        """Renew now: what the row says of this process has changed."""
        self.loop.wake()

    def stop(self) -> None:
        """Leave the row to others."""
        self.loop.stop(1.0)

    def _keep(self) -> float:
        """Renew this process's row, and call readers whose run is over or whose lease is gone.

        While that fails, the leases live on until somebody takes them, which needs the same database.
        """
        asked_at = time.monotonic()
        try:
            expired = self._leases.renew()
            self._renewed_at = asked_at
            self.call_readers()
            if expired:
                self._readers.shed(self._leases.excess())
            self._release_orphans()
        finally:
            limited = self._settings.max_connections is not None
            if limited and time.monotonic() - self._renewed_at >= self._settings.lease_seconds:
                # Others may count our places as free. What the readers have is committed when Postgres is back.
                self._readers.leave(self._readers.leased_ids())
            self._each_turn()
        return min(self._settings.lease_renew_seconds, self._settings.control_seconds)

    def call_readers(self) -> None:
        """Call the readers whose run is over, to look again, and those whose lease is gone, to leave."""
        reading = self._readers.leased_ids()
        if not reading:
            return
        calls = self._leases.calls(reading)
        self._readers.look_again([stream_id for stream_id, over, ours in calls if over and ours])
        self._readers.leave([stream_id for stream_id, _, ours in calls if not ours])

    def _release_orphans(self) -> None:
        """Give back leases that no reader has: the answer to an acquire was lost, or a reader died of a fault.

        Only those that were already so at the last look: a reader begins before its lease is there.
        """
        if time.monotonic() - self._orphans_at < ORPHANS_S:
            return
        self._orphans_at = time.monotonic()
        found = self._leases.orphans(self._readers.begun_ids())
        again = {stream_id: token for stream_id, token in found.items() if self._orphans.get(stream_id) == token}
        self._orphans = found
        if again:
            self._leases.give_back(again)
            log.warning("stray_leases_returned", streams=len(again))
