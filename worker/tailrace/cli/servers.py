"""Where this command's servers are: what the environment says, else the embedded ones that run in this folder."""

from __future__ import annotations

import os
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
    found = _embedded(DATABASE_VARIABLES)
    if found is not None:
        os.environ[DATABASE_VARIABLES[0]] = found.database_url  # for the worker that this process may become
    return database_url(os.environ)


def broker() -> str:
    """Return the broker's URL, as `database` does. The Celery app of this process reads it from the environment."""
    found = _embedded(REDIS_VARIABLES)
    if found is not None:
        os.environ[REDIS_VARIABLES[0]] = found.redis_url
    return redis_url(os.environ)


def _embedded(variables: tuple[str, ...]) -> Endpoints | None:
    """Return where the embedded servers of this folder answer; None when none run, or a variable says otherwise."""
    found = None if first_set(os.environ, variables) else find(home())
    if found is not None:
        _say_embedded()
    return found


def _say_embedded() -> None:
    """Say once that the embedded servers are used: nobody should take them for the real ones."""
    place = home()
    if place not in _said:
        _said.add(place)
        say(f"tailrace: using the embedded servers in {place}")
