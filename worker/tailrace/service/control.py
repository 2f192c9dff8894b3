"""The control loop: timer threads in every worker process. They decide what is read next; nothing else does.

They need neither a slot of the pool, nor beat, nor the broker to decide: with all slots taken by long tasks,
maintenance *tasks* never ran (measured). One thread chooses as many streams as its own process has free slots for
(new ones, parked ones, those of workers that died) and has them dispatched; when streams wait and no slot is free,
readers that have had their turn leave. Some others, of each environment, look at runs that are due: they wait for
upstream, and a feed that hangs must not delay a rescue, nor another environment. One tells whoever wants to know of
runs that are settled.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from tailrace.errors import WorkerError
from tailrace.retry import backoff
from tailrace.service.environments import Environment
from tailrace.service.runtime import Runtime
from tailrace.store.outbox import Message

log = structlog.get_logger("tailrace")

WATCHERS = 4
LATE_CHECKERS = 4
LATE_EVERY_S = 30.0
RUNS_PER_LOOK = 10
MAINTENANCE_S = 3_600.0
MAINTENANCE_RETRY_S = 60.0
EXPIRY_MARGIN_S = 0.02
TURN_PAUSE_S = 0.25
"""Until the places of readers that were asked to leave are looked for."""
MESSAGES_PER_TURN = 100
TELL_CAP_S = 60.0


class Announcer(Protocol):
    """Whoever can tell others of runs."""

    def epoch(self) -> str:
        """Return the broker's epoch, a word that it loses together with its memory. Raises when it is away."""

    def tell(self, message: Message) -> None:
        """Send a message; raises when that failed."""


class ControlLoop:
    """Chooses work for one process.

    ``free_slots`` says how many more streams the process could read; ``dispatch`` has streams read and returns at once.
    It raises when it could not; then the streams are given back. ``announcer`` tells others of settled runs.
    """

    def __init__(
        self,
        runtime: Runtime,
        free_slots: Callable[[], int],
        dispatch: Callable[[Sequence[int]], None],
        *,
        every_s: float,
        run: int | None = None,
        announcer: Announcer | None = None,
    ) -> None:
        self._runtime = runtime
        self._free_slots = free_slots
        self._dispatch = dispatch
        self._every_s = every_s
        self._run = run
        self._announcer = announcer
        self._called = threading.Event()
        self._ended = threading.Event()
        self._maintain_at = 0.0
        self._turns = 0  # readers that were just asked to leave for others
        self._loops = [self._thread("control", self._choose)]
        if announcer is not None:
            self._loops.append(self._thread("outbox", self._announce))

    def start(self) -> None:
        for loop in self._loops:
            loop.start()
        self._runtime.environments.follow(self._attend)

    def wake(self) -> None:
        """Take a turn now: there is something new."""
        self._called.set()

    def stop(self) -> None:
        """End the loop. Streams already dispatched are not touched."""
        self._ended.set()
        self._called.set()
        for loop in self._loops[:1]:  # the others may be waiting for upstream; they change nothing any more
            if loop.is_alive():
                loop.join(5.0)

    def fill(self) -> None:
        """Choose streams for the free slots, and dispatch them.

        Raises:
            WorkerError: the database is away; the next turn tries again.
        """
        free = self._free_slots()
        chosen = self._runtime.claim(free, self._run)
        if not chosen:
            if free <= 0 or self._runtime.settings.max_connections is not None:
                self._turns = self._runtime.give_turns()
            return
        try:
            self._dispatch(chosen)
        except Exception:
            # Usually the broker is away. The rows keep the truth; somebody whose broker works may take them.
            self._runtime.leases.unhint(chosen)
            raise

    # --- the loops

    def _attend(self, environment: Environment) -> None:
        """Look after one environment until it is retired, in threads of its own: one that hangs delays no other."""
        for number in range(WATCHERS):
            self._thread(f"watch-{number}", lambda: self._watch(environment)).start()
        if self._run is None:
            for number in range(LATE_CHECKERS):
                self._thread(f"late-{number}", lambda: self._check_late(environment)).start()

    def _serves(self, environment: Environment) -> bool:
        return not (self._ended.is_set() or environment.retired.is_set())

    def _choose(self) -> None:
        """One turn: maintenance, then fill. The next comes after a while, when called, or when a lease runs out."""
        failing = _Failing("control_turn_failed", "control_recovered")
        maintenance_failing = _Failing(
            "maintenance_failed", "maintenance_recovered"
        )  # mostly there is nothing to do: that is no recovery
        while not self._ended.is_set():
            wait_s = self._every_s
            with failing:
                self._turns = 0
                self._runtime.environments.enrol_missed()
                self.fill()
                if self._turns:
                    wait_s = TURN_PAUSE_S
                expiry_s = self._runtime.leases.soonest_expiry_s()
                if expiry_s is not None:
                    wait_s = min(wait_s, expiry_s + EXPIRY_MARGIN_S)
            with maintenance_failing:
                self._maintain()
            self._called.wait(wait_s)
            self._called.clear()

    def _maintain(self) -> None:
        if time.monotonic() >= self._maintain_at:
            self._maintain_at = time.monotonic() + MAINTENANCE_RETRY_S
            self._runtime.maintenance()
            self._maintain_at = time.monotonic() + MAINTENANCE_S

    def _watch(self, environment: Environment) -> None:
        failing = _Failing("watching_failed", "watching_recovered", environment=environment.name)
        while self._serves(environment):
            looked = 0
            with failing:
                looked, found = environment.watch(RUNS_PER_LOOK, self._run)
                if found:
                    self.wake()
            if looked < RUNS_PER_LOOK:
                self._ended.wait(self._every_s * (0.75 + random.random() / 2))

    def _check_late(self, environment: Environment) -> None:
        failing = _Failing("late_check_failed", "late_check_recovered", environment=environment.name)
        while self._serves(environment):
            looked = 0
            with failing:
                looked = environment.check_late(RUNS_PER_LOOK)
            if looked < RUNS_PER_LOOK:
                self._ended.wait(LATE_EVERY_S * (0.75 + random.random() / 2))

    def _announce(self) -> None:
        assert self._announcer is not None
        failing = _Failing("announcing_failed", "announcing_recovered")
        known = ""
        while not self._ended.is_set():
            told = 0
            with failing:
                epoch = self._announcer.epoch()
                if epoch != known:
                    repeated = self._runtime.outbox.repeat_lost(epoch)
                    if repeated:
                        log.warning("broker_lost_its_memory", repeated=repeated)
                    known = epoch
                told = self._tell(self._announcer, epoch)
            if told < MESSAGES_PER_TURN:
                self._ended.wait(self._every_s)

    def _tell(self, announcer: Announcer, epoch: str) -> int:
        outbox = self._runtime.outbox
        messages = outbox.claim(MESSAGES_PER_TURN)
        for message in messages:
            try:
                announcer.tell(message)
            except Exception as error:
                delay_s = backoff(message.attempt, self._every_s, TELL_CAP_S, random.random)
                outbox.postpone(message.id, type(error).__name__, delay_s)
                raise
            outbox.sent(message.id, epoch)
        return len(messages)

    def _thread(self, name: str, loop: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=loop, name=f"tailrace-{name}", daemon=True)


class _Failing:
    """Swallows what one part of a turn raises: a line in the log when it begins to fail, and one when that is over."""

    def __init__(self, failed: str, recovered: str, **whose: str) -> None:
        self._failed = failed
        self._recovered = recovered
        self._log = log.bind(**whose)
        self._name = ""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None:
            if self._name:
                self._log.info(self._recovered)
            self._name = ""
            return False
        if not isinstance(error, Exception):
            return False
        name = type(error).__name__
        if name != self._name:
            expected = isinstance(error, WorkerError)
            self._log.warning(self._failed, error=str(error) or name, exc_info=not expected)
        self._name = name
        return True
