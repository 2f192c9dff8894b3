"""The environments that a process serves: what it does for each of them besides reading streams.

An `Environment` is one key: when the key changes, another object takes its place, and the old one is retired.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from tailrace.config.keys import Access, KeysFile, accesses, meant
from tailrace.config.settings import Settings
from tailrace.errors import (
    BadSettings,
    NotFound,
    StoreUnavailable,
    Unauthorized,
    WorkerError,
)
from tailrace.ingest.late import has_more
from tailrace.model import Wire
from tailrace.room import Room
from tailrace.service.bad_rows import BadRows
from tailrace.service.key_check import KeyCheck
from tailrace.service.reach import Reach
from tailrace.service.watching import Watching
from tailrace.source.client import Endpoint, Upstream
from tailrace.source.connection import Tail
from tailrace.store.backfills import ListedRuns
from tailrace.store.keeping.late import LateChecks, LateRun, LateStream
from tailrace.store.runs import Runs
from tailrace.wire.keeping import V1_FORGETTING_S

if TYPE_CHECKING:
    from uuid import UUID

    import sqlalchemy as sa

log = structlog.get_logger("tailrace")

LATE_CLAIM_S = 3_600.0
"""When a late check that failed is made again."""
LATE_GIVE_UP_S = 86_400.0
"""A late check that has failed for so long is not made."""


def upstream_of(access: Access, settings: Settings) -> Upstream:
    """Return the upstream of an environment. Opens nothing."""
    return Upstream(
        Endpoint(
            api_url=access.api_url,
            key=access.key.get_secret_value,
            preview_branch=access.preview_branch,
            connect_timeout_s=settings.connect_timeout_seconds,
            read_timeout_s=settings.read_timeout_seconds,
        )
    )


class Environment:
    """One environment, with one key. Thread-safe.

    ``retired`` is set when it is served no more, or with another key: then nobody begins anything with this one.
    """

    def __init__(
        self,
        access: Access,
        settings: Settings,
        engine: sa.Engine,
        room: Room,
        worker: UUID,
    ) -> None:
        """``room``: for what late checks hold. ``worker``: who watches, if it is for this process."""
        self.access = access
        self.name = access.name
        self.settings = settings
        self._room = room
        self.retired = threading.Event()
        self.upstream = upstream_of(access, settings)
        self.runs = Runs(engine, access.name)
        self.key = KeyCheck(self.upstream, self.runs, self.retired)
        self.late = LateChecks(engine, access.name)
        self.listed_runs = ListedRuns(engine, access.name)
        self.bad_rows = BadRows(access.name)
        self.reach = Reach(environment=access.name)
        self.watching = Watching(self.runs, self.upstream, self.reach, self.key, self.bad_rows, settings, worker)

    def enrol(self) -> None:
        """Make the environment's row; a key that was refused gets a new chance."""
        self.runs.enrol(self.access.api_url)

    # --- runs

    def watch(self, limit: int, run: int | None = None, at_once: int = 1) -> tuple[int, int]:
        """Look at runs that are due, as `Watching.turn` does."""
        return self.watching.turn(limit, run, at_once)

    def check_late(self, limit: int) -> int:
        """Look once more at sealed runs that are due, reopen those that have more; return the number looked at.

        While the environment is halted, ask now and then whether its key is taken again instead.
        """
        self.key.probe()
        if self.reach.away:
            return 0
        due = self.late.claim(limit, LATE_CLAIM_S)
        for run in due:
            self._check_late(run)
        return len(due)

    def _check_late(self, run: LateRun) -> None:
        try:
            view = self.upstream.run(run.run_id)
            new_keys = run.wants_all and not run.keys.issuperset(view.stream_keys)
            more = [stream.id for stream in self.late.streams(run) if self._has_more(stream, run.over_for_s)]
        except NotFound:  # upstream has forgotten it
            self.late.done(run)
        except Unauthorized as error:
            self.key.refused(error)
        except StoreUnavailable:
            raise
        except WorkerError as error:
            if run.sealed_for_s > self.settings.late_check_seconds + LATE_GIVE_UP_S:
                log.warning("late_check_given_up", environment=self.name, run_id=run.run_id, error=str(error))
                self.late.done(run)
        else:
            if not (new_keys or more):
                self.late.done(run)
            elif self.late.reopen(run, more):
                log.info("run_reopened", environment=self.name, run_id=run.run_id, streams=len(more))

    def _has_more(self, stream: LateStream, over_for_s: float) -> bool:
        if stream.wire is Wire.V1 and over_for_s > V1_FORGETTING_S:
            return False
        with self.upstream.stream(stream.ref) as source:
            tail = Tail(source, self.settings.event_max_bytes, self._room.share())
            return has_more(tail, stream.wire, stream.checkpoint)


class Environments:
    """Those that this process serves, by name. Thread-safe, but for `look`, which one thread calls."""

    def __init__(self, settings: Settings, make: Callable[[Access], Environment]) -> None:
        """``make`` gives the environment for an access.

        Raises:
            BadSettings: there is no key, or the file with the keys can't be used.
        """
        self._settings = settings
        self._make = make
        self._keys = KeysFile(settings.keys_file, settings) if settings.keys_file is not None else None
        found = self._keys.first() if self._keys is not None else accesses(settings)
        self._served = {name: make(access) for name, access in found.items()}  # replaced, never changed
        self._lock = threading.Lock()
        self._followers: list[Callable[[Environment], None]] = []
        self._gone: list[Environment] = []
        self._not_enrolled: set[str] = set()

    @property
    def may_change(self) -> bool:
        """Somebody has to `look` now and then."""
        return self._keys is not None

    def names(self) -> list[str]:
        return list(self._served)

    def all(self) -> list[Environment]:
        return list(self._served.values())

    def get(self, name: str) -> Environment | None:
        """Return an environment; None when it is not served (any more)."""
        return self._served.get(name)

    def meant(self) -> str:
        """Return the name of the one that is meant by who names none.

        Raises:
            BadSettings: there are several, and the settings choose none.
        """
        return meant(self._settings, self._served)

    @property
    def default(self) -> Environment:
        """The one that is meant by who names none.

        Raises:
            BadSettings: it can't be told, or is not served any more.
        """
        name = self.meant()
        found = self.get(name)
        if found is None:
            raise BadSettings(f"Environment {name!r} is not served: TAILRACE_KEYS_FILE does not name it.")
        return found

    def follow(self, each: Callable[[Environment], None]) -> None:
        """Call ``each`` with every environment, now and when another comes. Its ``retired`` says when it is over."""
        with self._lock:
            self._followers.append(each)
            served = self.all()
        for environment in served:
            each(environment)

    def enrol(self) -> None:
        """Make the rows of all; keys that were refused get a new chance.

        Raises:
            StoreUnavailable: `enrol_missed` makes those that are left.
        """
        self._not_enrolled = set(self._served)
        self.enrol_missed()

    def look(self) -> list[str]:
        """Take up what has changed in the file with the keys; return the environments that changed or went.

        Raises:
            BadSettings: the file is wrong, and not known to be. Nothing changes.
        """
        found = self._keys.look() if self._keys is not None else None
        return [] if found is None else self._take(found)

    def enrol_missed(self) -> None:
        """Make the rows that could not be made: Postgres was away at the start, or when a `look` found something new.

        Raises:
            StoreUnavailable
        """
        self._not_enrolled &= self._served.keys()
        self._enrol(self._served)

    def _enrol(self, among: dict[str, Environment]) -> None:
        for name in sorted(self._not_enrolled & among.keys()):
            among[name].enrol()
            self._not_enrolled.discard(name)

    def _take(self, found: dict[str, Access]) -> list[str]:
        before = self._served
        kept = {name: each for name, each in before.items() if found.get(name) == each.access}
        new = {name: self._make(access) for name, access in found.items() if name not in kept}
        over = [each for name, each in before.items() if name not in kept]
        # In this order, an old key that is refused halts nothing any more, and a new one does not stay halted for it.
        for each in over:
            each.retired.set()
        self._gone += over  # others may be using their connections: these are closed with the process
        self._not_enrolled |= new.keys()
        with contextlib.suppress(StoreUnavailable):
            self._enrol(new)
        with self._lock:
            self._served = {name: (kept | new)[name] for name in found}
            followers = list(self._followers)
        log.info(
            "keys_file_read",
            environments=sorted(found),
            new=sorted(new.keys() - before.keys()),
            changed=sorted(new.keys() & before.keys()),
            removed=sorted(before.keys() - found.keys()),
        )
        for follower in followers:
            for environment in new.values():
                follower(environment)
        return [each.name for each in over]

    def close(self) -> None:
        for environment in (*self.all(), *self._gone):
            environment.upstream.close()
