"""For hosts with a Celery app and a beat of their own::

    from tailrace.celery import beat_schedule, register

    register(app)                                  # routes tailrace.* to Tailrace's queue
    app.conf.beat_schedule |= beat_schedule()      # or only the entries you want

The host's beat sends names; Tailrace's own workers (``tailrace worker``) run them. Both must use one broker. Without a
host, ``celery -A tailrace.celery beat`` sends the same schedule. Importing this reads no setting and opens nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery.schedules import crontab

from tailrace.tasks.app import EVERY_HEADER, QUEUE, SCHEDULE_HEADER
from tailrace.tasks.app import app as _tailrace
from tailrace.tasks.signing import signs

__all__ = ["app", "beat_schedule", "register"]

DAY_S = 86_400.0


def beat_schedule(*, backfill_since: str = "2d") -> dict[str, dict[str, Any]]:
    """Return the schedule with its defaults.

    Every entry may come twice, late or never: what it asks for is claimed in the database, reaches back to where the
    last one ended, and is done by the workers themselves too. A message that nobody took expires before the next one.

    Args:
        backfill_since: how far the nightly backfill reaches back.
    """
    return dict(
        [
            # New runs (TAILRACE_DISCOVER). Workers look every 10 s by themselves; a beat makes up for workers that
            # can't (a fleet of prefork children whose parent is busy), and a minute is soon enough for that.
            _entry("tailrace.discover", timedelta(minutes=1)),
            # The safety net under everything else: whatever was created in the last two days and is not archived. Two
            # days survive a missed night, and v1 streams are gone after one. At 03:23: not at the full hour, with all
            # others.
            _entry("tailrace.backfill", crontab(hour="3", minute="23"), 6 * 3_600.0, kwargs={"since": backfill_since}),
            # Sealed streams wait seconds to be compacted; this is for the streams that no worker got to.
            _entry("tailrace.compact", timedelta(minutes=10)),
            # Days end at midnight UTC, so once a day is as often as anything can go.
            _entry("tailrace.prune", crontab(hour="4", minute="41"), 6 * 3_600.0),
        ]
    )


def register(app: Any) -> Any:
    """Make a host's app send ``tailrace.*`` tasks to Tailrace's queue; return the app.

    ``app.send_task("tailrace.ingest_run", ["run_..."])`` works from then on, and is signed if TAILRACE_SIGN_KEY is set.
    Nothing else of the app changes; doing it twice changes nothing.

    Raises:
        BadSettings: TAILRACE_SIGN_KEY can't be meant.
    """
    signs()
    routes = app.conf.task_routes
    mine = {"tailrace.*": {"queue": QUEUE}}
    if not routes:
        app.conf.task_routes = mine
    elif isinstance(routes, dict):
        app.conf.task_routes = {**routes, **mine}
    elif mine not in routes:
        app.conf.task_routes = [mine, *routes]
    return app


def _entry(
    task: str, schedule: Any, expires_s: float | None = None, kwargs: dict[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """Return an entry and its name, which its messages carry too: so a worker can note that a beat still sends it."""
    name = task.replace(".", "-")
    every_s = schedule.total_seconds() if isinstance(schedule, timedelta) else DAY_S
    options = {
        "queue": QUEUE,
        "expires": every_s if expires_s is None else expires_s,
        "headers": {SCHEDULE_HEADER: name, EVERY_HEADER: every_s},
    }
    return name, {"task": task, "schedule": schedule, "kwargs": kwargs or {}, "options": options}


app = _tailrace
"""Tailrace's own app with the schedule: ``celery -A tailrace.celery beat``."""
app.add_defaults({"beat_schedule": beat_schedule()})
