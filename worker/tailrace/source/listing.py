"""Ask upstream about many runs: their feed (status and stream keys) and the list (everything that ever ran).

Facts (protocol §4, §5): the feed shows runs of the last 24 h and silently no more than 1 000; the list comes from an
index that is late, its pages can be short or empty while there is a next one, and only the list counts against the rate
limit. A 429 has no ``Retry-After``: ``x-ratelimit-reset`` says when, in milliseconds since 1970.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from tailrace.errors import MalformedRecord, SourceUnavailable
from tailrace.model import RunView
from tailrace.redaction import excerpt
from tailrace.source.answers import json_of, refuse
from tailrace.source.client import Upstream
from tailrace.source.feed import FeedCursor
from tailrace.wire.feed import readable
from tailrace.wire.run_fields import BadRow, moment, run_id, status, tags, text
from tailrace.wire.statuses import is_terminal

PAGE_SIZE = 100
"""The most that upstream takes."""
FEED_WINDOWS = {"1h": 3_600.0, "6h": 21_600.0, "24h": 86_400.0}
"""What is asked for as ``createdAt``: few different values, because each is a log of its own upstream."""
BEGIN_ANEW_S = 600.0
"""A followed feed goes on telling of runs that have left its window, and what one answer lost stays lost: so it is
begun anew now and then."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What an answer said of the rate limit. ``reset_s``: seconds until there is more."""

    limit: int
    remaining: int
    reset_s: float


@dataclass(frozen=True, slots=True)
class ListedPage:
    """One page of the list. ``next`` is the cursor of the one after it, None when this is the last.

    ``changed_at``: by its id, when a run was last changed, in upstream's words; to be compared, not to be read.
    """

    runs: list[RunView]
    next: str | None
    rate: Rate | None
    malformed: list[BadRow] = field(default_factory=list)
    changed_at: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Which runs the list is asked for; None is any. Statuses are the API's names."""

    since: datetime
    until: datetime | None = None
    tasks: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    statuses: tuple[str, ...] | None = None

    def query(self) -> dict[str, str]:
        """Return the parameters. Without a window upstream would take the last seven days."""
        found = {"page[size]": str(PAGE_SIZE), "filter[createdAt][from]": str(_ms(self.since))}
        if self.until is not None:
            found["filter[createdAt][to]"] = str(_ms(self.until))
        for name, words in (("taskIdentifier", self.tasks), ("tag", self.tags), ("status", self.statuses)):
            if words is not None:
                found[f"filter[{name}]"] = ",".join(words)
        return found


class ManyRunsFeed:
    """Follows the feed of many runs of one environment. Not thread-safe.

    After its first answer it asks for what changed only (handle and offset): the first answer comes from caches that
    can be minutes old.
    """

    def __init__(
        self,
        upstream: Upstream,
        reach_s: float,
        wanted: Callable[[str], bool] = lambda run_id: False,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``reach_s``: how long ago the runs were created at most, where the feed reaches so far back. ``wanted`` says
        of a run by its id whether it is told of after its end."""
        self._upstream = upstream
        self._window = next((name for name, length_s in FEED_WINDOWS.items() if length_s >= reach_s), "24h")
        self._wanted = wanted
        self._clock_s = clock_s
        self._followed: FeedCursor | None = None
        self._begun_s = 0.0

    @property
    def told_of(self) -> Collection[str]:
        """The ids of the runs that it tells of. None after an error: who wants to know of one has to ask for it."""
        return () if self._followed is None else self._followed.told_of

    def view(self, run_id: str) -> RunView:
        """Return a run of `told_of`, as it was when last asked."""
        assert self._followed is not None
        return self._followed.view(run_id)

    def begin_anew(self) -> None:
        """Have the next answer tell of all runs: what the last one said was lost."""
        self._followed = None

    def changes(self) -> tuple[list[RunView], list[BadRow]]:
        """Ask what has changed; the first time, for all.

        Returns:
            The runs, and the rows that could not be read.

        Raises:
            Unauthorized, RequestRefused, MalformedRecord, SourceUnavailable.
        """
        cursor, self._followed = self._followed, None
        if cursor is None or self._clock_s() - self._begun_s > BEGIN_ANEW_S:
            cursor = self._beginning()
        fresh = cursor.begun
        while True:
            if not self._upstream.ask(cursor):
                if not cursor.begun:  # it was told to begin anew
                    self._begun_s, fresh = self._clock_s(), False
                continue
            if fresh or not cursor.begun:
                self._followed = cursor
                return cursor.changes()
            fresh = True  # a first answer may be an old one: ask what came after it

    def _beginning(self) -> FeedCursor:
        self._begun_s = self._clock_s()
        return FeedCursor("/realtime/v1/runs", "the feed of runs", {"createdAt": self._window}, self._wanted)


def list_runs(upstream: Upstream, wanted: ListFilter, cursor: str | None) -> ListedPage:
    """Ask for one page of the list, newest first; counts against the rate limit.

    Raises:
        SourceUnavailable: with ``retry_after_s`` when the rate limit is used up.
        Unauthorized, RequestRefused (a filter or a cursor that upstream does not take).
        MalformedRecord: it is no page. A row that can't be read is no error: it is told in the page.
    """
    query = wanted.query() | ({"page[after]": cursor} if cursor else {})
    response, body = upstream.get("/api/v1/runs", query)
    rate = rate_of(response.headers)
    if response.status_code == 429:
        raise SourceUnavailable(
            "the rate limit is used up", status=429, retry_after_s=rate.reset_s if rate else _reset_of(body)
        )
    refuse(response.status_code, body, "the list of runs")
    answer = json_of(body, "the list of runs")
    pagination = answer.get("pagination", {}) if isinstance(answer, dict) else None
    following = pagination.get("next") if isinstance(pagination, dict) else False
    if not isinstance(following, str | None) or not isinstance(answer.get("data"), list):
        raise MalformedRecord(f"the list of runs is not the documented shape: {excerpt(body, 200)!r}")
    runs, malformed = readable(answer["data"], "id", listed_run)
    changed_at = {item["id"]: str(item.get("updatedAt")) for item in answer["data"] if _has_id(item)}
    return ListedPage(runs, following or None, rate, malformed, changed_at)


def _has_id(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("id"), str)


def listed_run(item: dict[str, Any]) -> RunView:
    """Read one run of the list. It has no stream keys.

    Raises:
        MalformedRecord: not the documented shape.
    """
    named = status(item, "status")
    return RunView(
        run_id=run_id(item, "id"),
        status=named,
        terminal=is_terminal(named),
        stream_keys=(),
        task_identifier=text(item, "taskIdentifier"),
        tags=tags([] if item.get("tags") is None else item["tags"], "tags"),
        created_at=moment(item, "createdAt"),
        started_at=moment(item, "startedAt"),
        finished_at=moment(item, "finishedAt"),
    )


def rate_of(headers: Mapping[str, str], now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Rate | None:
    """Read the rate-limit headers, None when they are not there. The wait is by the server's clock if it says it."""
    try:
        limit, remaining = int(headers["x-ratelimit-limit"]), int(headers["x-ratelimit-remaining"])
        reset_ms = int(headers["x-ratelimit-reset"])
    except (KeyError, ValueError):
        return None
    now_at = now()
    if "date" in headers:
        with contextlib.suppress(ValueError):
            now_at = parsedate_to_datetime(headers["date"])
    return Rate(limit, remaining, min(max(0.0, reset_ms / 1000 - now_at.timestamp()), 120.0))


def _reset_of(body: str) -> float | None:
    try:
        return float(json.loads(body)["secondsUntilReset"])
    except (ValueError, KeyError, TypeError):
        return None


def _ms(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)
