"""Whether upstream takes an environment's key. One refusal says little: a firewall on the way answers 403 too.

Before a refusal halts an environment, upstream is asked for something else with the same key. While it is halted,
somebody asks once a minute, and when the key is taken the environment goes on by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from tailrace.errors import NotFound, Unauthorized, WorkerError
from tailrace.source.client import Upstream
from tailrace.store.runs import Runs

log = structlog.get_logger("tailrace")

NO_SUCH_RUN = "run_tailrace_asks_for_its_key"
"""Upstream answers that it does not know it, which it says only to who has a key that it takes."""

BELIEVED_S = 5.0
"""A thousand readers that are refused at once ask once."""

PROBE_EVERY_S = 60.0

TOLD_AGAIN_S = 3_600.0


class KeyCheck:
    """The key of one environment. Thread-safe. ``retired``: another key is used by now."""

    def __init__(
        self,
        upstream: Upstream,
        runs: Runs,
        retired: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._runs = runs
        self._retired = retired or threading.Event()
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: bool | None = None
        self._asked_at = -BELIEVED_S
        self._doubted_at = -TOLD_AGAIN_S

    def refused(self, error: Unauthorized) -> bool:
        """Halt the environment if upstream refuses its key elsewhere too; return whether it does.

        Where it can't be told, nothing is halted: whoever was refused tries again and asks again.

        Raises:
            StoreUnavailable
        """
        with self._lock:
            if self._clock() - self._asked_at >= BELIEVED_S:
                self._taken = self._ask()
                self._asked_at = self._clock()
            taken = self._taken
        if taken is False:
            self.halt(error)
            return True
        self._doubt(error, taken)
        return False

    def halt(self, error: Unauthorized) -> None:
        """Stop everything of this environment, with one alarm. Of no effect when it was an old key that was refused."""
        if not self._retired.is_set() and self._runs.halt(str(error)):
            log.error("environment_halted", environment=self._runs.environment, error=str(error))

    def probe(self) -> bool:
        """Ask with the key of a halted environment if it is time; return whether the environment goes on.

        Raises:
            StoreUnavailable
        """
        if self._retired.is_set() or not self._runs.claim_probe(PROBE_EVERY_S) or not self._ask():
            return False
        self._runs.resume()
        log.info("environment_resumed", environment=self._runs.environment)
        return True

    def _doubt(self, error: Unauthorized, taken: bool | None) -> None:
        """Tell once an hour of refusals that halt nothing: a thousand readers may meet them, again and again."""
        with self._lock:
            if self._clock() - self._doubted_at < TOLD_AGAIN_S:
                return
            self._doubted_at = self._clock()
        log.warning("refusal_doubted", environment=self._runs.environment, taken=taken, error=str(error))

    def _ask(self) -> bool | None:
        """Return whether upstream takes the key; None when it could not be told."""
        try:
            self._upstream.run(NO_SUCH_RUN)
        except NotFound:
            return True
        except Unauthorized:
            return False
        except WorkerError:
            return None
        return True
