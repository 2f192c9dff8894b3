"""The control loop: timer threads in every worker process. They decide what is read next; nothing else does.

They need neither a slot of the pool, nor beat, nor the broker to decide: with all slots taken by long tasks,
maintenance *tasks* never ran (measured). One thread chooses as many streams as its own process has free slots for
(new ones, parked ones, those of workers that died) and has them dispatched; when streams wait and no slot is free,
readers that have had their turn leave. Some others, of each environment, look at runs that are due: they wait for
upstream, and a feed that hangs must not delay a rescue, nor another environment. One tells whoever wants to know of
runs that are settled.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from tailrace.retry import backoff
from tailrace.service.environments import Environment
from tailrace.service.loops import Loop
from tailrace.service.runtime import Runtime
from tailrace.service.sharing import Sharing
from tailrace.store.choosing import Balance
from tailrace.store.outbox import Message
from tailrace.telemetry import Failing

log = structlog.get_logger("tailrace")

WATCHERS = 4
LATE_CHECKERS = 4
LATE_EVERY_S = 30.0
RUNS_PER_LOOK = 10
LOOKS_AT_ONCE = 4
"""Of each watcher, when many runs wait: an answer takes some 20 ms, and hundreds a second are to be looked at."""
SOON_S = 0.3
MAINTENANCE_S = 3_600.0
MAINTENANCE_RETRY_S = 60.0
EXPIRY_MARGIN_S = 0.02
TURN_PAUSE_S = 0.25
"""Until the places of readers that leave are looked for, while streams wait for them."""
MESSAGES_PER_TURN = 100
TELL_CAP_S = 60.0
OVERDUE_TURNS = 2.5
"""A stream that has waited for so many turns is taken by whoever has a slot, whatever its share."""


class Announcer(Protocol):
    """Whoever can tell others of runs."""

    def epoch(self) -> str:
        """Return the broker's epoch, one that is lost when the broker loses its memory. Raises when it is away."""

    def tell(self, message: Message) -> bool:
        """Send a message; False when it is for nobody. Raises when it could not be sent."""


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
        sharing: Sharing | None = None,
    ) -> None:
        """``sharing``: how the work is shared with other processes; None: this one takes what it has slots for."""
        self._runtime = runtime
        self._free_slots = free_slots
        self._dispatch = dispatch
        self._every_s = every_s
        self._run = run
        self._announcer = announcer
        self._sharing = sharing
        self._balance: Balance | None = None
        self._balanced_at = self._made_room_at = -math.inf
        self._ended = threading.Event()
        self._maintain_at = 0.0
        self._more = False  # as many streams as could be chosen were: others wait for the next places
        self._turns = 0  # readers that were just asked to leave for others
        self._known = ""  # the broker's mark
        self._maintaining = Failing("maintenance")  # mostly there is nothing to do: that is no recovery
        self._loops = [self._loop("control", self._choose, lambda: every_s, what="control_turn")]
        if announcer is not None:
            self._loops.append(self._loop("outbox", self._announce, lambda: every_s, what="announcing"))

    @property
    def loops(self) -> list[Loop]:
        """All that are to move."""
        return list(self._loops)

    def start(self) -> None:
        for loop in self._loops:
            loop.start()
        self._runtime.environments.follow(self._attend)

    def wake(self) -> None:
        """Take a turn now: there is something new."""
        self._loops[0].wake()

    def stop(self) -> None:
        """End the loop. Streams already dispatched are not touched."""
        self._ended.set()
        for loop in list(self._loops):
            loop.stop()
        self._loops[0].stop(5.0)  # the others may be waiting for upstream; they change nothing any more

    def fill(self) -> None:
        """Choose streams for the free slots, and dispatch them.

        Raises:
            WorkerError: the database is away; the next turn tries again.
        """
        free = self._free_slots()
        most = self._share(free)
        chosen = self._runtime.claim(most, self._run)
        if most > 0:
            self._more = most <= len(chosen)
        if not chosen:
            self._make_room(free)
            return
        try:
            self._dispatch(chosen)
        except Exception:
            # Usually the broker is away. The rows keep the truth; somebody whose broker works may take them.
            self._runtime.choosing.unhint(chosen)
            raise

    def _make_room(self, free: int) -> None:
        """Have readers leave that have had their turn, if streams wait and there is no place for them."""
        now = time.monotonic()
        limited = self._runtime.settings.max_connections is not None
        if (free <= 0 or limited) and now - self._made_room_at >= self._every_s / 2:
            self._made_room_at = now
            self._turns = self._runtime.give_turns()

    def _share(self, free: int) -> int:
        """Return how many of the free slots are for streams at present, and now and then give up what is too much."""
        if self._sharing is None:
            return free
        now = time.monotonic()
        if now - self._balanced_at >= self._every_s / 2:
            self._balanced_at = now
            self._balance = self._runtime.balance(OVERDUE_TURNS * self._every_s)
            self._runtime.readers.shed(self._sharing.gives_up(free, self._balance))
        assert self._balance is not None
        return self._sharing.may_take(free, self._balance)

    # --- the loops

    def _attend(self, environment: Environment) -> None:
        """Look after one environment until it is retired, in threads of its own: one that hangs delays no other."""
        watch, late = partial(self._watch, environment), partial(self._check_late, environment)
        for number in range(WATCHERS):
            self._begin(self._loop(f"watch-{number}", watch, self._pause_s, environment, what="watching"))
        for number in range(LATE_CHECKERS if self._run is None else 0):
            self._begin(self._loop(f"late-{number}", late, _late_pause_s, environment, what="late_check"))

    def _begin(self, loop: Loop) -> None:
        self._loops.append(loop)
        loop.start()

    def _loop(
        self,
        name: str,
        turn: Callable[[], float],
        retry_s: Callable[[], float],
        environment: Environment | None = None,
        *,
        what: str,
    ) -> Loop:
        def goes_on() -> bool:
            return not self._ended.is_set() if environment is None else self._serves(environment)

        whose = {} if environment is None else {"environment": environment.name}
        return Loop(name, turn, what=what, retry_s=retry_s, goes_on=goes_on, **whose)

    def _pause_s(self) -> float:
        return self._every_s * (0.75 + random.random() / 2)

    def _serves(self, environment: Environment) -> bool:
        return not (self._ended.is_set() or environment.retired.is_set())

    def _choose(self) -> float:
        """One turn: fill, then maintenance. The next comes after a while, when called, or when a lease runs out."""
        try:
            self._turns = 0
            self._runtime.environments.enrol_missed()
            self.fill()
            wait_s = TURN_PAUSE_S if self._turns or self._more else self._every_s
            expiry_s = self._runtime.leases.soonest_expiry_s()
            return wait_s if expiry_s is None else min(wait_s, expiry_s + EXPIRY_MARGIN_S)
        finally:
            with self._maintaining:
                self._maintain()

    def _maintain(self) -> None:
        if time.monotonic() >= self._maintain_at:
            self._maintain_at = time.monotonic() + MAINTENANCE_RETRY_S
            self._runtime.maintenance()
            self._maintain_at = time.monotonic() + MAINTENANCE_S

    def _watch(self, environment: Environment) -> float:
        looked, found = environment.watch(RUNS_PER_LOOK, self._run, LOOKS_AT_ONCE)
        if found:
            self.wake()
        if looked >= RUNS_PER_LOOK:
            return 0.0
        return SOON_S if looked else self._pause_s()  # where one run was due, others may be

    def _check_late(self, environment: Environment) -> float:
        looked = environment.check_late(RUNS_PER_LOOK)
        return 0.0 if looked >= RUNS_PER_LOOK else _late_pause_s()

    def _announce(self) -> float:
        assert self._announcer is not None
        epoch = self._announcer.epoch()
        if epoch != self._known:
            repeated = self._runtime.outbox.repeat_lost(epoch)
            if repeated:
                log.warning("broker_lost_its_memory", repeated=repeated)
            self._known = epoch
        return 0.0 if self._tell(self._announcer, epoch) >= MESSAGES_PER_TURN else self._every_s

    def _tell(self, announcer: Announcer, epoch: str) -> int:
        outbox = self._runtime.outbox
        messages = outbox.claim(MESSAGES_PER_TURN)
        for_nobody: list[int] = []
        try:
            for message in messages:
                try:
                    told = announcer.tell(message)
                except Exception as error:
                    delay_s = backoff(message.attempt, self._every_s, TELL_CAP_S, random.random)
                    outbox.postpone(message.id, type(error).__name__, delay_s)
                    raise
                if told:
                    outbox.sent([message.id], epoch)  # at once: whoever dies has told one twice, and no more
                else:
                    for_nobody.append(message.id)
        finally:
            if for_nobody:
                outbox.sent(for_nobody, epoch)
        return len(messages)


def _late_pause_s() -> float:
    return LATE_EVERY_S * (0.75 + random.random() / 2)
