"""Where this command's servers are: what the environment says, else the embedded ones that run in this folder."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace.cli.output import say
from tailrace.config.urls import database_url, home_database_url, home_redis_url, redis_url
from tailrace.devtools.servers.home import home_directory

_said: set[Path] = set()


def home() -> Path:
    """Return the home directory of the embedded servers that belong to this folder."""
    return home_directory(os.environ, Path.cwd())


def database() -> str:
    """Return the database's URL; says so when it is that of the embedded servers.

    Raises:
        BadSettings: there is none, or it is wrong.
    """
    found = home_database_url(os.environ)
    url = database_url(os.environ, fallback=found)
    if found:
        _say_embedded()
    return url


def broker() -> str:
    """Return the broker's URL, as `database` does."""
    found = home_redis_url(os.environ)
    url = redis_url(os.environ, fallback=found)
    if found:
        _say_embedded()
    return url


def _say_embedded() -> None:
    """Say once that the embedded servers are used: nobody should take them for the real ones."""
    place = home()
    if place not in _said:
        _said.add(place)
        say(f"tailrace: using the embedded servers in {place}")
