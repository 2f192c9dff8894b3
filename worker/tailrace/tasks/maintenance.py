"""Tasks for schedules: backfill, discover, compact, prune. Each asks for a step; doubled, lost or late it is harmless.

Workers do all of this by themselves, too (`tailrace.service.maintenance`), but for the backfills that somebody has to
ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tailrace.errors import TransientError
from tailrace.service.when import moment
from tailrace.tasks.app import app

if TYPE_CHECKING:
    from tailrace.tasks.process import Process


@app.task(name="tailrace.backfill", bind=True, max_retries=None)
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
        _process().runtime.begin_backfill(
            moment(since),
            moment(until) if until else datetime.now(UTC),
            {name: sorted(words) for name, words in filters.items() if words},
            environment,
        )
    except TransientError as error:
        raise self.retry(exc=error, countdown=2) from error


@app.task(name="tailrace.discover")
def discover() -> None:
    """Look for new runs now, if it is time and TAILRACE_DISCOVER says which."""
    from tailrace.service.maintenance import discovery_of

    for environment in _process().runtime.environments.all():
        discovery = discovery_of(environment)
        if discovery is not None:
            discovery.step()


@app.task(name="tailrace.compact")
def compact() -> None:
    """Compact some of the streams that wait for it."""
    _maintenance().keep()


@app.task(name="tailrace.prune")
def prune() -> None:
    """Drop the days that TAILRACE_RETENTION_DAYS no longer keeps."""
    _maintenance().prune()


def _maintenance() -> Any:
    from tailrace.service.maintenance import Maintenance

    return Maintenance(_process().runtime)


def _process() -> Process:
    from tailrace.tasks.process import current

    return current()
