"""Which runs the list and the feed of many runs show, and how the list is cut into pages (protocol §4, §5). Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tailrace.serve.statuses import api_status
from tailrace.serve.store import Run

EPOCH = datetime.fromtimestamp(0, UTC)
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
_DURATION = re.compile(r"(\d+)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NO_TAG = re.compile(r'[\x00-\x1f\x7f\\"]')


class BadQuery(Exception):
    """A parameter that upstream refuses with 400; the text is its detail."""


@dataclass(slots=True)
class Index:
    """The index behind the list, which is not the database: runs show up in it ``lag_s`` after their creation.

    It may be changed while the server runs.
    """

    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page. ``next`` and ``previous`` are absent (None) when there is none; a page can be empty and have a next."""

    runs: list[Run]
    next: str | None
    previous: str | None


@dataclass(frozen=True, slots=True)
class FeedWindow:
    """Which runs the feed is asked for: created ``since``, having all of ``tags``."""

    since: datetime
    tags: frozenset[str]

    def of(self, runs: Iterable[Run]) -> list[Run]:
        """The runs in it, newest first."""
        shown = (run for run in runs if run.created_at >= self.since and self.tags <= set(run.tags))
        return sorted(shown, key=_order, reverse=True)


def feed_window(query: Mapping[str, str], now: datetime) -> FeedWindow:
    """Read ``createdAt`` and ``tags``.

    Raises:
        BadQuery: a tag that cannot be put into an array literal.
    """
    tags = frozenset(tag for tag in query.get("tags", "").split(",") if tag)
    if any(_NO_TAG.search(tag) for tag in tags):
        raise BadQuery("tags")
    return FeedWindow(now - min(_duration(query.get("createdAt", "24h")) or FEED_MAX_AGE, FEED_MAX_AGE), tags)


def list_page(runs: Iterable[Run], query: Mapping[str, str], now: datetime, index: Index) -> ListPage:
    """One page of the list, newest first.

    Ids come from the index, rows from the database, and the status filter is applied again to the rows: here it is
    applied to them only, so that pages come out short and empty more often than upstream's, never in another way.

    Raises:
        BadQuery: as upstream's 400.
    """
    size = _size(query.get("page[size]", "25"))
    wanted = _words(query.get("filter[status]"))
    if wanted is not None and not wanted <= _STATUSES:
        raise BadQuery("filter[status]")
    since, until = _window(query, now)
    visible = now - timedelta(seconds=index.lag_s)
    tasks, tags = _words(query.get("filter[taskIdentifier]")), _words(query.get("filter[tag]"))
    found = [
        run
        for run in sorted(runs, key=_order, reverse=True)
        if run.created_at <= visible
        and since <= run.created_at
        and (until is None or run.created_at <= until)
        and (tasks is None or run.task_identifier in tasks)
        and (tags is None or tags & set(run.tags))
    ]
    page, following, preceding = _cut(found, size, query)
    shown = [run for run in page if wanted is None or api_status(run.status, "2025-07-16") in wanted]
    return ListPage(
        shown, _cursor(page[-1]) if page and following else None, _cursor(page[0]) if page and preceding else None
    )


def _cut(found: Sequence[Run], size: int, query: Mapping[str, str]) -> tuple[Sequence[Run], bool, bool]:
    if after := query.get("page[after]"):
        position = _position(after)
        rest = [run for run in found if _order(run) < position]
        return rest[:size], len(rest) > size, len(rest) < len(found)
    if before := query.get("page[before]"):
        position = _position(before)
        rest = [run for run in found if _order(run) > position]
        return rest[-size:], len(rest) < len(found), len(rest) > size
    return found[:size], len(found) > size, False


def _order(run: Run) -> tuple[int, str]:
    return (round(run.created_at.timestamp() * 1000), run.run_id)


def _cursor(run: Run) -> str:
    created_ms, run_id = _order(run)
    return base64.urlsafe_b64encode(f"{created_ms}:{run_id}".encode()).decode()


def _position(cursor: str) -> tuple[int, str]:
    try:
        created_ms, _, run_id = base64.urlsafe_b64decode(cursor.encode()).decode().partition(":")
        return (int(created_ms), run_id)
    except (ValueError, binascii.Error):
        raise BadQuery("page[after]") from None


def _size(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise BadQuery("page[size]")
    return int(text)


def _words(text: str | None) -> set[str] | None:
    return None if text is None else {word for word in text.split(",") if word}


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
