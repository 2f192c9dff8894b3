"""Tasks for schedules: backfill, discover, compact, prune. Each asks for a step; doubled, lost or late it is harmless.

Workers do all of this by themselves, too (`tailrace.service.maintenance`), but for the backfills that somebody has to
ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from tailrace.arguments import checked_environment, checked_name, checked_names
from tailrace.errors import BadArgument, BadSettings, StoreUnavailable, TransientError
from tailrace.service.when import moment
from tailrace.tasks.app import EVERY_HEADER, SCHEDULE_HEADER, app
from tailrace.tasks.current import current

NAME_MAX_CHARS = 100
MONTH_S = 31 * 86_400.0
"""No schedule of ours is slower; a message can say anything."""


def _a_moment(what: str, given: object) -> None:
    try:
        moment(checked_name(what, given))
    except BadSettings:
        raise BadArgument(f"{what} must be 7d, 12h, 30m or a time like 2026-11-01T12:00:00Z") from None


def _a_backfill(
    since: object,
    until: object = None,
    *,
    tasks: object = None,
    tags: object = None,
    statuses: object = None,
    environment: object = None,
) -> None:
    _a_moment("since", since)
    if until:
        _a_moment("until", until)
    for what, words in (("tasks", tasks), ("tags", tags), ("statuses", statuses)):
        if words is not None and words != []:
            checked_names(what, words)
    if environment is not None:
        checked_environment("environment", environment)


def _note_schedule(task: Any) -> None:
    """Note which entry of a beat's schedule sent the message, if one did: so it shows when a beat has died.

    Last of all: what was asked for is done whether or not this can be.
    """
    name, every_s = (task.request.get(header) for header in (SCHEDULE_HEADER, EVERY_HEADER))
    if isinstance(name, str) and name.isprintable() and type(every_s) in (int, float) and 0 < every_s < MONTH_S:
        with suppress(StoreUnavailable):
            current().schedule_came(name[:NAME_MAX_CHARS], float(every_s))


@app.task(name="tailrace.backfill", bind=True, max_retries=None, rule=staticmethod(_a_backfill))
def backfill(
    self: Any,
    since: str,
    until: str | None = None,
    *,
    tasks: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    statuses: Sequence[str] | None = None,
    environment: str | None = None,
) -> None:
    """Archive the runs created between ``since`` and ``until`` that are not archived yet.

    Args:
        since: ``7d``, ``12h``, ``30m``: so long ago; or a time in ISO 8601.
        until: the same; None is now.
        tasks, tags, statuses: only runs of any of these. Statuses are the API's names (COMPLETED, FAILED, ...).
        environment: the name of one; None is every environment that the worker serves.

    Returns when the backfill is a row: workers take it forward, page by page.
    """
    filters = {"tasks": tasks, "tags": tags, "statuses": statuses}
    try:
        current().runtime.begin_backfill(
            moment(since),
            moment(until) if until else datetime.now(UTC),
            {name: sorted(words) for name, words in filters.items() if words},
            environment,
        )
    except TransientError as error:
        raise self.retry(exc=error, countdown=2) from error
    _note_schedule(self)


@app.task(name="tailrace.discover", bind=True)
def discover(self: Any) -> None:
    """Look for new runs now, if it is time and TAILRACE_DISCOVER says which."""
    current().discover()
    _note_schedule(self)


@app.task(name="tailrace.compact", bind=True)
def compact(self: Any) -> None:
    """Compact some of the streams that wait for it."""
    current().compact()
    _note_schedule(self)


@app.task(name="tailrace.prune", bind=True)
def prune(self: Any) -> None:
    """Drop the days that TAILRACE_RETENTION_DAYS no longer keeps."""
    current().prune()
    _note_schedule(self)
