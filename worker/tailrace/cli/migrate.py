"""`tailrace migrate`: bring the database's schema up to date."""

from __future__ import annotations

from tailrace.cli import servers
from tailrace.cli.output import say


def migrate() -> None:
    """Bring the database up to date with this version of Tailrace. Safe to repeat, and to run twice at once.

    Does what `alembic upgrade head` does, and needs no alembic.ini. Run it before workers of a new version start.
    """
    from tailrace.store.migrate import current, head, upgrade

    url = servers.database()
    before = current(url)
    upgrade(url)
    if before == head():
        say(f"The database is up to date (revision {before}).")
    else:
        say(f"Migrated from {before or 'an empty database'} to revision {head()}.")
