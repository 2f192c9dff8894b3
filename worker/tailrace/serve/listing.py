"""Which runs the list and the feed of many runs ask for, and what a page of the list shows (protocol §4, §5). Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tailrace.serve.retrieve import SHOWN_VERSION
from tailrace.serve.runs import EPOCH, FoundRuns, Run, RunPlace, RunQuery, place_of
from tailrace.serve.statuses import api_status

FEED_MAX_RUNS = 1_000
"""More than this the feed silently leaves out."""
FEED_MAX_AGE = timedelta(hours=24)
LIST_DEFAULT_AGE = timedelta(days=7)

_STATUSES = frozenset(
    {
        *("PENDING_VERSION", "QUEUED", "DEQUEUED", "EXECUTING", "WAITING", "COMPLETED", "CANCELED", "FAILED"),
        *("CRASHED", "SYSTEM_FAILURE", "DELAYED", "EXPIRED", "TIMED_OUT"),
    },
)
_UNKNOWN = ("schedule", "batch", "bulkAction", "queue", "machine", "region", "error")
"""Filters by what no run here says of itself: no run fits. To leave them out would show runs that nobody asked for."""
_DURATION = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NO_TAG = re.compile(r'[\x00-\x1f\x7f\\"]')


class BadQuery(Exception):
    """A parameter that upstream refuses with 400; the text is its detail."""


@dataclass(slots=True)
class Index:
    """The index behind the list, which is not the database: runs show up in it ``lag_s`` after their creation.

    ``by_status``: it knows statuses, as those of the rows are. It may be changed while the server runs.
    """

    lag_s: float = 0.0
    by_status: bool = False


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. ``next`` and ``previous`` are absent (None) when there is none; a page can be empty and have a next."""

    runs: list[Run]
    next: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What the list is asked for: of these ``runs``, those with one of these ``statuses``; None: with any."""

    runs: RunQuery
    statuses: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class FeedWindow:
    """Which runs the feed is asked for: at most so old when the window is made, having all of ``tags``."""

    age: timedelta
    tags: frozenset[str]

    def since(self, now: datetime) -> datetime:
        """What a window reaches back to that is made now."""
        return now - self.age

    def query(self, since: datetime) -> RunQuery:
        """The question for its runs."""
        return RunQuery(since=since, all_tags=self.tags, limit=FEED_MAX_RUNS)


def feed_window(query: Mapping[str, str]) -> FeedWindow:
    """Read ``createdAt`` and ``tags``.

    Raises:
        BadQuery: a tag that cannot be put into an array literal.
    """
    tags = frozenset(tag for tag in query.get("tags", "").split(",") if tag)
    if any(_NO_TAG.search(tag) for tag in tags):
        raise BadQuery("tags")
    return FeedWindow(min(_duration(query.get("createdAt", "24h")) or FEED_MAX_AGE, FEED_MAX_AGE), tags)


def list_query(query: Mapping[str, str], now: datetime, index: Index) -> ListQuery:
    """Read what the list is asked for.

    Raises:
        BadQuery: as upstream's 400.
    """
    size = _size(query.get("page[size]", "25"))
    statuses = _words(query.get("filter[status]"))
    if statuses is not None and not statuses <= _STATUSES:
        raise BadQuery("filter[status]")
    since, until = _window(query, now)
    visible = now - timedelta(seconds=index.lag_s)
    tests = query.get("filter[isTest]", "")
    if tests not in ("", "true", "false"):
        raise BadQuery("filter[isTest]")
    versions = _words(query.get("filter[version]") or None)
    none = tests == "true" or any(query.get(f"filter[{name}]") for name in _UNKNOWN)
    if none or (versions is not None and SHOWN_VERSION not in versions):
        return ListQuery(RunQuery(tasks=frozenset(), limit=size), statuses)
    # The client goes a page back from one that it came to by its cursor with both; upstream takes the second.
    after, before = query.get("page[after]"), query.get("page[before]")
    runs = RunQuery(
        since=since,
        until=visible if until is None else min(until, visible),
        tasks=_words(query.get("filter[taskIdentifier]")),
        any_tag=_words(query.get("filter[tag]")),
        statuses=statuses if index.by_status else None,
        older_than=_place(after) if after and not before else None,
        newer_than=_place(before) if before else None,
        limit=size,
    )
    return ListQuery(runs, statuses)


def list_page(found: FoundRuns, statuses: frozenset[str] | None) -> ListPage:
    """One page of the list, newest first.

    Ids come from the index, rows from the database, and the status filter is applied again to the rows: by an `Index`
    that does not know it is applied to them only, so that pages come out short and empty more often than upstream's,
    never in another way.
    """
    page = found.runs
    shown = [run for run in page if statuses is None or api_status(run.status, "2025-07-16") in statuses]
    return ListPage(
        shown,
        _cursor(page[-1]) if page and found.older else None,
        _cursor(page[0]) if page and found.newer else None,
    )


def _cursor(run: Run) -> str:
    created_us, run_id = place_of(run)
    return base64.urlsafe_b64encode(f"{created_us}:{run_id}".encode()).decode()


def _place(cursor: str) -> RunPlace:
    try:
        created_us, _, run_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        place = RunPlace(int(created_us), run_id)
        _ = place.created_at
    except (ValueError, OverflowError, binascii.Error):
        raise BadQuery("page[after]") from None
    return place


def _size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise BadQuery("page[size]")
    return int(text)


def _words(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(word for word in text.split(",") if word)


def _window(query: Mapping[str, str], now: datetime) -> tuple[datetime, datetime | None]:
    period = query.get("filter[createdAt][period]")
    if period is not None:
        length = _duration(period)
        if length is None:
            raise BadQuery("filter[createdAt][period]")
        return now - length, None
    since, until = (_moment(query.get(f"filter[createdAt][{end}]")) for end in ("from", "to"))
    if since == EPOCH:  # upstream asks `if (from)`
        since = None
    if since is None and until is None:
        return now - LIST_DEFAULT_AGE, None
    return since or EPOCH, until


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        if text.lstrip("-").isdecimal():
            return EPOCH + timedelta(milliseconds=int(text))
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadQuery("filter[createdAt]") from None


def _duration(text: str) -> timedelta | None:
    match = _DURATION.fullmatch(text)
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
