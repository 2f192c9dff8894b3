"""A run as upstream's database holds it, and the questions about many runs that a `store.Store` answers. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tailrace.model import Wire
from tailrace.wire.statuses import api_status

EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Run:
    """A run as upstream's database holds it. Times are aware UTC; ``status`` is the database's name.

    ``stream_keys`` are in the order in which they were opened and can hold one twice, as upstream's list can.
    ``updated_at`` grows with every change, by a millisecond at least. ``metadata`` is JSON text.
    """

    run_id: str
    wire: Wire
    status: str
    task_identifier: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    tags: tuple[str, ...] = ()
    stream_keys: tuple[str, ...] = ()
    metadata: str | None = None
    row_id: str = ""

    def __post_init__(self) -> None:
        if not self.row_id:
            digest = hashlib.sha256(self.run_id.encode()).hexdigest()
            object.__setattr__(self, "row_id", f"cm{digest[:23]}")


class RunPlace(NamedTuple):
    """Where a run stands among all: by its creation, in microseconds since 1970, and then by its id."""

    created_us: int
    run_id: str

    @property
    def created_at(self) -> datetime:
        return EPOCH + timedelta(microseconds=self.created_us)


def place_of(run: Run) -> RunPlace:
    """Return where a run stands."""
    return RunPlace((run.created_at - EPOCH) // timedelta(microseconds=1), run.run_id)


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs are asked for; what is None asks for nothing. At most ``limit`` of them, the newest of those that fit.

    ``since`` and ``until``: created within. ``any_tag``: has one of these; ``all_tags``: has each. ``statuses``: by the
    API's names. ``older_than``: only what stands behind that place; ``newer_than``: only what stands before it, and of
    that what stands next to it. Not both.
    """

    since: datetime | None = None
    until: datetime | None = None
    tasks: frozenset[str] | None = None
    any_tag: frozenset[str] | None = None
    all_tags: frozenset[str] = frozenset()
    statuses: frozenset[str] | None = None
    older_than: RunPlace | None = None
    newer_than: RunPlace | None = None
    limit: int | None = None

    def asks_for(self, run: Run) -> bool:
        """Return whether a run fits, wherever it stands."""
        return (
            (self.since is None or self.since <= run.created_at)
            and (self.until is None or run.created_at <= self.until)
            and (self.tasks is None or run.task_identifier in self.tasks)
            and (self.any_tag is None or not self.any_tag.isdisjoint(run.tags))
            and self.all_tags <= set(run.tags)
            and (self.statuses is None or api_status(run.status) in self.statuses)
        )


class FoundRuns(NamedTuple):
    """Runs that were asked for, the newest first. ``newer``, ``older``: others that fit stand before or behind them."""

    runs: Sequence[Run]
    newer: bool
    older: bool


def find_runs(runs: Iterable[Run], query: RunQuery) -> FoundRuns:
    """Answer a query from runs in memory, in no order."""
    fitting = sorted((run for run in runs if query.asks_for(run)), key=place_of, reverse=True)
    limit = len(fitting) if query.limit is None else query.limit
    if (place := query.older_than) is not None:
        rest = [run for run in fitting if place_of(run) < place]
        return FoundRuns(rest[:limit], newer=len(rest) < len(fitting), older=len(rest) > limit)
    if (place := query.newer_than) is not None:
        rest = [run for run in fitting if place_of(run) > place]
        return FoundRuns(rest[-limit:], newer=len(rest) > limit, older=len(rest) < len(fitting))
    return FoundRuns(fitting[:limit], newer=False, older=len(fitting) > limit)
