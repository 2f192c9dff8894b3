"""Watching in virtual time: the real `Watching` of several processes, on a model of the rows of runs and one of upstream.
Upstream shows a run in one of feed and list only, or in neither.

Wherever the real one would talk to somebody, time passes: another process, or another thread of the same, has its turn in
between; the process dies, is suspended, an answer is lost, or Postgres goes back to what it was seconds ago. A seed
decides everything.
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import httpx
import structlog

from tailrace.config.settings import Settings
from tailrace.errors import NotFound, SourceUnavailable, StoreUnavailable
from tailrace.model import RunView
from tailrace.service import watch_list, watching
from tailrace.service.bad_rows import BadRows
from tailrace.service.watching import Watching
from tailrace.store.runs import Seen, Standing, WatchedRun

QUIET_S = 10.0
TERM_S = 6.0
FAULTS_S = 120.0
LIMIT_S = 600.0
EPOCH = datetime(2026, 11, 1, tzinfo=UTC)
PAGE = 3
WHOLE = {"x-ratelimit-limit": "750", "x-ratelimit-remaining": "749", "x-ratelimit-reset": "0"}
SETTINGS = {
    "seal_quiet_seconds": QUIET_S,
    "watch_seconds": 2.0,
    "control_seconds": 1.0,
    "unknown_run_seconds": 3_600.0,
    "late_check_seconds": 0.0,
    "retry_cap_seconds": 5.0,
}


class Died(BaseException):
    """The process is gone. Nothing in the code under test may catch it."""


@dataclass
class Truth:
    """A run upstream: when it begins, when it shows which keys, when it ends. ``in_feed_s``, ``in_list_s``: from when until
    when the feed of many tells of it, and the list of running runs."""

    id: int
    begins: float
    keys: dict[str, float]
    ends: float
    in_feed_s: tuple[float, float]
    in_list_s: tuple[float, float]

    @property
    def run_id(self) -> str:
        return f"run_{self.id}"

    def view(self, now: float) -> RunView:
        over = self.ends <= now
        return RunView(
            self.run_id,
            "COMPLETED" if over else "EXECUTING",
            over,
            tuple(key for key, at in self.keys.items() if at <= now),
            created_at=moment(self.begins),
            finished_at=moment(self.ends) if over else None,
        )


@dataclass
class Row:
    """A row of runs, as far as watching needs it, and the keys of its streams."""

    id: int
    state: str = "requested"
    status: str | None = None
    finished_at: datetime | None = None
    terminal_at: float | None = None
    keys_read_at: float | None = None
    next_watch_at: float | None = 0.0
    attempt: int = 0
    requested_at: float = 0.0
    keys: dict[str, float] = field(default_factory=dict)  # when the row of each was made
    not_before: dict[str, float] = field(default_factory=dict)
    sealed_at: float | None = None

    def settles_at(self) -> float | None:
        return None if self.terminal_at is None else self.terminal_at + QUIET_S

    def settled(self) -> bool:
        at = self.settles_at()
        return at is not None and self.keys_read_at is not None and self.keys_read_at >= at

    def standing(self, now: float, *, noted: bool = True) -> Standing:
        at = self.settles_at()
        open_ = self.state in ("requested", "watched")
        read_at = None if self.keys_read_at is None else moment(self.keys_read_at)
        return Standing(
            self.id, f"run_{self.id}", open_, None if at is None else at - now, self.settled(), read_at, noted
        )


def moment(at: float) -> datetime:
    return EPOCH + timedelta(seconds=at)


class World:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self.now = 0.0
        self.faulty = True
        self.p_die, self.p_lost, self.p_locked = (dice.choice((0.0, p)) for p in (0.003, 0.05, 0.1))
        self.p_slow, self.p_upstream = (dice.choice((0.0, p)) for p in (0.05, 0.05))
        self.database_up = True
        self.deaths = self.outages = self.restores = self.shared = self.listed = 0
        self.truths = {number: self._truth(number) for number in range(dice.randint(1, 12))}
        self.rows: dict[int, Row] = {}
        self.watched_by: UUID | None = None
        self.expires: dict[UUID, float] = {}
        self.workers = [Worker(self, number) for number in range(dice.randint(1, 3))]
        self._names = len(self.workers)
        self._depth = 0
        self.found: list[str] = []

    def _truth(self, number: int) -> Truth:
        dice = self.dice
        begins = dice.uniform(-20.0, 60.0)
        ends = begins + dice.choice((0.1, 5.0, 40.0, 90.0))
        late = dice.choice((0.0, 0.0, 0.8 * QUIET_S))  # upstream may show a key some seconds after it was opened
        keys = {f"key_{at}": dice.uniform(begins, ends + late) for at in range(dice.randint(0, 3))}
        seen = dice.choice(((-1e9, 1e9), (-1e9, 1e9), (1e9, 1e9), (-1e9, dice.uniform(0, 100)), (begins + 3.0, 1e9)))
        listed = dice.choice(((-1e9, 1e9), (begins + 3.0, 1e9), (1e9, 1e9), (-1e9, dice.uniform(0, 100))))
        return Truth(number, begins, keys, ends, seen, listed)

    def play(self) -> None:
        """Until all is sealed, or time is up."""
        dice = self.dice
        while self.now < LIMIT_S and not self.done():
            self.pass_time(dice.uniform(0.05, 0.6))
            for truth in self.truths.values():
                if truth.id not in self.rows and truth.begins <= self.now:
                    self.rows[truth.id] = Row(truth.id, next_watch_at=self.now, requested_at=self.now)
                    if dice.random() < 0.5:
                        self.run(dice.choice(self.workers), soon=truth)
            if self.faulty:
                self._befall()
            self.run(dice.choice(self.workers))
        self.found = list(self.violations())

    def _befall(self) -> None:
        what = self.dice.random()
        if what < 0.005:
            self.outages += 1
            self.database_up = False
        elif what < 0.05:
            self.database_up = True
        elif what < 0.055:
            before = copy.deepcopy((self.rows, self.watched_by, self.expires))
            asked = set(self.rows)
            self.pass_time(self.dice.uniform(0.1, 3.0))
            for _ in range(3):
                self.run(self.dice.choice(self.workers))
            self.restores += 1
            self.rows, self.watched_by, self.expires = before
            for run in self.truths.keys() & asked - self.rows.keys():  # asked for once more, by whoever wants it
                self.rows[run] = Row(run, next_watch_at=self.now, requested_at=self.now)

    def run(self, worker: Worker, soon: Truth | None = None) -> None:
        """Let a process have a turn, within that of another or not."""
        if worker.busy_until > self.now:
            return
        self._depth += 1
        try:
            worker.turn(soon)
        except StoreUnavailable:
            pass
        except Died:
            self.deaths += 1
            self._names += 1
            if worker in self.workers:
                self.workers[self.workers.index(worker)] = Worker(self, self._names)
        finally:
            self._depth -= 1

    def talk(self, worker: Worker) -> None:
        """Somebody is asked something: time passes, and others do their work."""
        dice = self.dice
        if worker.gone:
            raise Died
        self.pass_time(dice.uniform(0.0, 0.05))
        if self.faulty and dice.random() < self.p_die:
            worker.gone = True
            raise Died
        if self.faulty and dice.random() < self.p_slow:
            self.pass_time(dice.choice((1.0, TERM_S + 3.0, QUIET_S + 5.0)))
        if self._depth < 3 and dice.random() < 0.3:
            self.run(dice.choice(self.workers))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= FAULTS_S:
            self.faulty, self.database_up = False, True

    def done(self) -> bool:
        return len(self.rows) == len(self.truths) and all(row.state == "sealed" for row in self.rows.values())

    # --- what must hold

    def violations(self) -> Iterator[str]:
        for truth in self.truths.values():
            row = self.rows.get(truth.id)
            if row is None or row.state != "sealed":
                yield f"run {truth.id} is {row.state if row else 'not there'}: {truth} {row}"
                continue
            if row.sealed_at is not None and row.sealed_at < truth.ends:
                yield f"run {truth.id} was sealed before its end"
            if missing := truth.keys.keys() - row.keys.keys():
                yield f"run {truth.id} was sealed without {sorted(missing)}"
            for key, at in row.not_before.items():
                if at > truth.keys[key] + 1e-6:
                    yield f"run {truth.id}, {key}: said to be younger than {at}, and was there at {truth.keys[key]}"


class Store:
    """The statements of `store.runs`, each at once; questions and answers are lost."""

    environment = "default"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._world = worker.world

    @contextlib.contextmanager
    def _statement(self) -> Iterator[World]:
        world = self._world
        world.talk(self._worker)
        if not world.database_up or (world.faulty and world.dice.random() < world.p_lost):
            raise StoreUnavailable("no question came through")
        yield world
        if world.faulty and world.dice.random() < world.p_lost:
            raise StoreUnavailable("no answer came back")
        world.talk(self._worker)

    def now(self) -> float:
        with self._statement() as world:
            return world.now

    def hold_watch(self, worker: UUID) -> bool:
        with self._statement() as world:
            world.expires[worker] = world.now + TERM_S
            if world.watched_by != worker and world.expires.get(world.watched_by, -1.0) <= world.now:  # type: ignore[arg-type]
                world.watched_by = worker
            return world.watched_by == worker

    def due(self, limit: int, sought: int, run: int | None = None, busy: Sequence[int] = ()) -> list[WatchedRun]:
        with self._statement() as world:
            return [
                WatchedRun(
                    row.id, f"run_{row.id}", row.state == "watched", row.terminal_at is not None,
                    world.now - row.requested_at, row.attempt, 0, 0.0, row.next_watch_at,
                )
                for row in world.rows.values()
                if row.state in ("requested", "watched") and row.next_watch_at is not None
                and row.next_watch_at <= world.now and row.id not in busy
            ]  # fmt: skip

    def standing(self, quiet_s: float, run: int | None = None) -> list[Standing]:
        with self._statement() as world:
            return [
                row.standing(world.now)
                for row in world.rows.values()
                if row.state in ("requested", "watched") and row.next_watch_at is None
            ]

    def observe(self, seen: Mapping[int, Seen], quiet_s: float, worker: UUID) -> tuple[list[Standing], int]:
        standings: list[Standing] = []
        new = 0
        with self._statement() as world:
            for run, each in seen.items():
                row = world.rows.get(run)
                if row is None:
                    continue
                noted = True
                if self._differs(row, each):
                    older = row.keys_read_at is not None and row.keys_read_at > each.asked_at
                    locked = world.faulty and world.dice.random() < world.p_locked
                    noted = not (older or locked)
                    if noted:
                        new += self._note(row, each, worker)
                standings.append(row.standing(world.now, noted=noted))
        return standings, new

    def _differs(self, row: Row, each: Seen) -> bool:
        asked_at, view = min(self._world.now, each.asked_at), each.view
        settles_at = row.settles_at()
        return row.state in ("requested", "watched") and (
            row.next_watch_at is not None
            or row.state == "requested"
            or (row.status, row.finished_at) != (view.status, view.finished_at)
            or (row.terminal_at is not None) != view.terminal
            or (settles_at is not None and row.keys_read_at is not None and row.keys_read_at < settles_at <= asked_at)
            or any(key not in row.keys for key in view.stream_keys)
        )

    def _note(self, row: Row, each: Seen, worker: UUID) -> int:
        now, view = self._world.now, each.view
        asked_at = min(now, each.asked_at)
        created = (view.created_at - EPOCH).total_seconds() if view.created_at else -1e9
        before = created if row.keys_read_at is None else row.keys_read_at
        if row.keys_read_at is not None and each.row_read_at == moment(row.keys_read_at) and each.read_at is not None:
            before = max(before, each.read_at)
        row.state, row.status, row.finished_at = "watched", view.status, view.finished_at
        row.terminal_at = (row.terminal_at if row.terminal_at is not None else now) if view.terminal else None
        row.keys_read_at, row.attempt = asked_at, 0
        watcher = self._world.watched_by
        elsewhere = watcher not in (None, worker) and self._world.expires.get(watcher, -1.0) > now  # type: ignore[arg-type]
        row.next_watch_at = now if elsewhere else None
        new = [key for key in view.stream_keys if key not in row.keys]
        for key in new:
            row.keys[key], row.not_before[key] = now, before
        return len(new)

    def seal(self, runs: Collection[int], quiet_s: float, late_check_s: float = 0.0) -> list[int]:
        sealed = []
        with self._statement() as world:
            for run in runs:
                row = world.rows.get(run)
                if row is not None and row.state == "watched" and row.settled():
                    row.state, row.sealed_at = "sealed", world.now
                    sealed.append(run)
        return sealed

    def postpone(self, run: WatchedRun, error: str, delay_s: float, *, refused: bool = False) -> None:
        with self._statement() as world:
            row = world.rows.get(run.id)
            if row is not None and row.state in ("requested", "watched"):
                row.attempt += 1
                row.next_watch_at = world.now + delay_s

    def fail(self, run: WatchedRun, error: str) -> None:
        raise AssertionError(f"nothing fails here: {error}")

    unserved = fail


class SimUpstream:
    """The feed of one run."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def run(self, run_id: str) -> RunView:
        world = self._worker.world
        truth = world.truths[int(run_id.removeprefix("run_"))]
        world.talk(self._worker)
        if world.faulty and world.dice.random() < world.p_upstream:
            raise NotFound(run_id) if world.dice.random() < 0.3 else SourceUnavailable("away")
        view = truth.view(world.now)
        world.talk(self._worker)
        return view

    def get(self, path: str, query: Mapping[str, str]) -> tuple[httpx.Response, str]:
        """A page of the list of running runs: when each was last changed."""
        world = self._worker.world
        world.talk(self._worker)
        if world.faulty and world.dice.random() < world.p_upstream:
            raise SourceUnavailable("away")
        now, at = world.now, int(query.get("page[after]", 0))
        shown = [
            {
                "id": truth.run_id,
                "status": "EXECUTING",
                "taskIdentifier": "t",
                "createdAt": moment(truth.begins).isoformat(),
                "updatedAt": str(max([truth.begins, *(at for at in truth.keys.values() if at <= now)])),
            }
            for truth in world.truths.values()
            if truth.begins <= now < truth.ends and truth.in_list_s[0] <= now < truth.in_list_s[1]
        ]
        world.listed += len(shown)
        world.talk(self._worker)
        following = {"next": str(at + PAGE)} if at + PAGE < len(shown) else {}
        return httpx.Response(200, headers=WHOLE), json.dumps({"data": shown[at : at + PAGE], "pagination": following})


class SimFeed:
    """The feed of many runs: says once what has changed, to each who asks; fits `source.listing.ManyRunsFeed`."""

    def __init__(self, worker: Worker, wanted: Any) -> None:
        self._worker = worker
        self._wanted = wanted
        self._rows: dict[str, RunView] | None = None

    @property
    def told_of(self) -> Collection[str]:
        return () if self._rows is None else self._rows.keys()

    def view(self, run_id: str) -> RunView:
        assert self._rows is not None
        return self._rows[run_id]

    def changes(self) -> tuple[list[RunView], list[Any]]:
        world = self._worker.world
        before, self._rows = self._rows or {}, None
        world.talk(self._worker)
        if world.faulty and world.dice.random() < world.p_upstream:
            raise SourceUnavailable("away")
        now = world.now
        told = {
            truth.run_id: truth.view(now)
            for truth in world.truths.values()
            if truth.begins <= now and truth.in_feed_s[0] <= now < truth.in_feed_s[1]
        }
        changed = [view for run_id, view in told.items() if before.get(run_id) != view]
        world.talk(self._worker)
        # Of a run that is over when it is told of and that nobody here watches, nothing is kept.
        self._rows = {
            run_id: view
            for run_id, view in told.items()
            if not view.terminal or run_id in before or self._wanted(run_id)
        }
        world.shared += bool(changed)
        return [view for view in changed if view.run_id in self._rows], []


class SimKey:
    def refused(self, error: Exception) -> None: ...


class Worker:
    """One process, whose threads may watch at once."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.id = UUID(int=number + 1)
        self.gone = False
        self.busy_until = 0.0
        self._began = world.dice.uniform(-1_000.0, 1_000.0)
        settings = Settings.model_construct(**(_defaults() | SETTINGS))
        self.watching = Watching(
            Store(self),  # type: ignore[arg-type]
            SimUpstream(self),  # type: ignore[arg-type]
            AlwaysThere(),  # type: ignore[arg-type]
            SimKey(),  # type: ignore[arg-type]
            BadRows("default"),
            settings,
            self.id,
            self.clock,
        )
        self.watching._feed = SimFeed(self, self.watching._is_watched)  # type: ignore[assignment]

    def clock(self) -> float:
        return self._began + self.world.now

    def turn(self, soon: Truth | None) -> None:
        if soon is not None:
            self.watching.look_soon(soon.id, soon.run_id)
        else:
            self.watching.turn(self.world.dice.choice((1, 3, 10)))


def _defaults() -> dict[str, Any]:
    return {name: field.default for name, field in Settings.model_fields.items()}


class AlwaysThere:
    """Fits `service.reach.Reach`: outages are another test's."""

    away = False

    def may_look(self) -> bool:
        return True

    @contextlib.contextmanager
    def asking(self, whose: object) -> Iterator[None]:
        yield


def play(seed: int) -> World:
    """Run one schedule; what is wrong at its end is in ``found``."""
    world = World(seed)
    rare = patch.multiple(watching, ALONE_PER_S=1.0), patch.multiple(watch_list, ALONE_PER_S=1.0)  # few are many here
    with structlog.testing.capture_logs(), rare[0], rare[1]:
        world.play()
    return world


def wrong(seeds: Collection[int]) -> list[tuple[int, list[str]]]:
    return [(seed, found) for seed in seeds if (found := play(seed).found)]


def first_wrong(seeds: Collection[int]) -> int | None:
    """The first seed that shows a violation."""
    return next((seed for seed in seeds if play(seed).found), None)
