"""Which alarms the archive's figures give cause for, with what to do: those of operate/prometheus/alerts.yml that need
no history, with the same limits (a test holds both together). Pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tailrace.amounts import count, span
from tailrace.store.figures import BackfillState, Chores, EnvironmentState, Fleet, Open
from tailrace.store.keeping.verification import Coverage

__all__ = ["ALARMS", "Alarm", "Known", "alarms"]

_LESS = {"<": operator.lt, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Known:
    """The figures, as they are now. ``leased``: streams that are read, of every environment. ``lag_s``: for how long
    the worst stream of each environment has been behind."""

    fleet: Fleet
    leased: int
    open: Sequence[Open]
    open_runs: int
    environments: Sequence[EnvironmentState]
    lag_s: dict[str, float]
    backfills: Sequence[BackfillState]
    chores: Chores
    coverage: Coverage
    lives: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lives", self.fleet.workers > 0)


class Alarm(NamedTuple):
    """Something that somebody should look at. ``environment`` None: it is about all of them. ``page``: now, not this
    week. ``runbook``: a page of the documentation."""

    name: str
    page: bool
    environment: str | None
    said: str
    todo: str
    runbook: str


class _Rule(NamedTuple):
    """Figures, each with whose it is, and the limit beyond which they are an alarm."""

    name: str
    page: bool
    figures: Callable[[Known], Iterable[tuple[str | None, float | None]]]
    compare: str
    limit: float
    said: str
    todo: str
    runbook: str


def _one(figure: Callable[[Known], float | None]) -> Callable[[Known], list[tuple[str | None, float | None]]]:
    return lambda known: [(None, figure(known))]


def _forgotten(known: Known) -> list[tuple[str | None, float | None]]:
    """Of each environment the stream that is forgotten first."""
    soonest: dict[str | None, float] = {}
    for each in known.open:
        if each.forgotten_in_s is not None:
            soonest[each.environment] = min(each.forgotten_in_s, soonest.get(each.environment, each.forgotten_in_s))
    return list(soonest.items())


def _reading(known: Known) -> bool:
    return known.open_runs > 0 or any(each.streams for each in known.open)


ALARMS: Final = (
    _Rule(
        "TailraceNoWorker",
        True,
        _one(lambda known: known.fleet.workers if _reading(known) else None),
        "==",
        0,
        "No worker lives, and there are runs and streams to read.",
        "Start workers; `tailrace doctor` where they run says what keeps them from it.",
        "no-worker",
    ),
    _Rule(
        "TailraceKeyRefused",
        True,
        lambda known: [(each.environment, each.halted_s) for each in known.environments],
        ">",
        60,
        "Upstream has refused the key for {span}. Nothing of the environment is read.",
        "Give the workers a good key: TAILRACE_KEYS_FILE is read again by itself, TRIGGER_SECRET_KEY needs a restart.",
        "key-refused",
    ),
    _Rule(
        "TailraceForgetsSoon",
        True,
        _forgotten,
        "<",
        4 * 3600,
        "A stream is not being read as it should, and upstream may forget it in {span}.",
        "Look at its last error below, and mend what keeps it from being read.",
        "upstream-forgets",
    ),
    _Rule(
        "TailraceSlotsFull",
        True,
        _one(lambda known: known.leased / known.fleet.slots if known.fleet.slots else None),
        ">=",
        0.95,
        "{share} of all slots are taken: streams wait for their turn.",
        "Start more workers, or raise TAILRACE_SLOTS where the core has room.",
        "slots-full",
    ),
    _Rule(
        "TailracePartitionsEnded",
        True,
        _one(lambda known: known.chores.partitions_ahead_s),
        "<",
        2 * 86400,
        "There is room for new streams for {span} only.",
        "Workers make room by themselves: see whether their maintenance runs.",
        "partitions-ending",
    ),
    _Rule(
        "TailraceDiscoveryStopped",
        True,
        lambda known: [(each.environment, each.discovery_lag_s) for each in known.environments],
        ">",
        6 * 3600,
        "New runs have been found up to {span} ago only.",
        "See whether a worker serves the environment, and what `tailrace doctor` says of its key.",
        "discovery-behind",
    ),
    _Rule(
        "TailraceMismatch",
        True,
        _one(lambda known: known.coverage.mismatches),
        ">",
        0,
        "{count} streams are not as they were stored: something else than Tailrace changed or lost rows.",
        "`tailrace verify` names them. Look at disks and backups before anything else.",
        "mismatch",
    ),
    _Rule(
        "TailraceStreamStuck",
        False,
        lambda known: [(each.environment, each.stuck) for each in known.open],
        ">",
        0,
        "{count} streams have a reader, and get nothing although there is more.",
        "See what upstream serves of them; the run's page says what shows it.",
        "stream-stuck",
    ),
    _Rule(
        "TailraceBehind",
        False,
        lambda known: list(known.lag_s.items()),
        ">",
        900,
        "The worst stream has been behind upstream for {span}.",
        "More workers, or fewer other things for them to do; the list below names it.",
        "lag-growing",
    ),
    _Rule(
        "TailraceBackfillFailing",
        False,
        lambda known: [(each.environment, each.failing) for each in known.backfills],
        ">",
        0,
        "{count} backfills can't read their next page.",
        "`tailrace backfill list` says why.",
        "backfill-failing",
    ),
    _Rule(
        "TailraceMessagesUnsent",
        False,
        _one(lambda known: known.chores.unsent_age_s),
        ">",
        900,
        "Messages about settled runs have waited for {span}.",
        "See whether the broker can be reached.",
        "messages-unsent",
    ),
    _Rule(
        "TailraceTalliesStale",
        False,
        _one(lambda known: known.chores.tally_age_s if known.lives else None),
        ">",
        3600,
        "The archive has not been counted for {span}, though workers live.",
        "Their maintenance does not run: their logs say why.",
        "maintenance-behind",
    ),
    _Rule(
        "TailraceCompactionBehind",
        False,
        _one(lambda known: known.chores.uncompacted),
        ">",
        5000,
        "{count} sealed streams and more wait to be compacted or made searchable.",
        "`tailrace compact` helps them along.",
        "maintenance-behind",
    ),
    _Rule(
        "TailracePostgresSessions",
        False,
        _one(
            lambda known: known.chores.sessions / known.chores.sessions_limit if known.chores.sessions_limit else None
        ),
        ">",
        0.85,
        "{share} of Postgres' sessions are in use, by whomever.",
        "A pooler before Postgres, or fewer processes that connect.",
        "postgres-sessions",
    ),
)


def alarms(known: Known) -> list[Alarm]:
    """Return what somebody should look at, the most urgent first."""
    found = [
        Alarm(
            rule.name, rule.page, environment, _said(rule.said, figure), rule.todo, f"docs/runbooks/{rule.runbook}.md"
        )
        for rule in ALARMS
        for environment, figure in _summed(rule.figures(known))
        if figure is not None and _LESS[rule.compare](figure, rule.limit)
    ]
    return sorted(found, key=lambda each: not each.page)


def _summed(figures: Iterable[tuple[str | None, float | None]]) -> list[tuple[str | None, float | None]]:
    """Put together what is told of an environment by state."""
    found: dict[str | None, float | None] = {}
    for environment, figure in figures:
        known = found.get(environment)
        found[environment] = figure if known is None else known if figure is None else known + figure
    return list(found.items())


def _said(words: str, figure: float) -> str:
    return words.format(span=span(max(0.0, figure)), count=count(round(figure)), share=f"{figure:.0%}")
