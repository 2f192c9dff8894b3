"""`tailrace up`: start the embedded servers of this folder."""

from __future__ import annotations

from tailrace.cli import servers
from tailrace.cli.output import say


def up() -> None:
    """Start a Postgres and a Valkey of our own in .tailrace (TAILRACE_HOME), and migrate.

    For development. They keep their data and run on when this command ends; commands in this folder use them whenever
    DATABASE_URL and REDIS_URL are not set. Needs the extra "embedded".
    """
    from tailrace.devtools.servers import up as start
    from tailrace.store.migrate import upgrade

    home = servers.home()
    endpoints = start(home)
    upgrade(endpoints.database_url)
    say(f"Postgres and Valkey run in {home}, and the archive is ready.")
    say("Commands in this folder use them when DATABASE_URL and REDIS_URL are not set; `tailrace down` stops them.")
