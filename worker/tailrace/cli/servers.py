"""Where this command's servers are: what the environment says, else the embedded ones that run in this folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tailrace.cli.output import say
from tailrace.config.urls import DATABASE_VARIABLES, REDIS_VARIABLES, database_url, first_set, redis_url
from tailrace.devtools.servers.home import Endpoints, home_directory
from tailrace.devtools.servers.servers import find

_said: set[Path] = set()


def home() -> Path:
    """Return the home directory of the embedded servers that belong to this folder."""
    return home_directory(os.environ, Path.cwd())


def database() -> str:
    """Return the database's URL; says so when it is that of the embedded servers.

    Raises:
        BadSettings: there is none, or it is wrong.
    """
    _use_embedded(DATABASE_VARIABLES, lambda found: found.database_url)
    return database_url(os.environ)


def broker() -> str:
    """Return the broker's URL, as `database` does."""
    _use_embedded(REDIS_VARIABLES, lambda found: found.redis_url)
    return redis_url(os.environ)


def _use_embedded(variables: tuple[str, ...], url: Callable[[Endpoints], str]) -> None:
    """Have this process, and what it becomes, use the embedded servers of this folder where no variable says else.

    Only a command looks for them: the Celery app and whoever calls ``.delay`` read the variables alone.
    """
    if first_set(os.environ, variables) is not None:
        return
    found = find(home())
    if found is not None:
        os.environ[variables[0]] = url(found)
        _say_embedded()


def _say_embedded() -> None:
    """Say once that the embedded servers are used: nobody should take them for the real ones."""
    place = home()
    if place not in _said:
        _said.add(place)
        say(f"tailrace: using the embedded servers in {place}")
