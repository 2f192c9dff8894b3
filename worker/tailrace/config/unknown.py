"""Variables that look like settings and are none: nobody reads them, so nobody would say that they are mistyped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final, NamedTuple

from tailrace.config.settings import variables
from tailrace.config.urls import DATABASE_VARIABLES, REDIS_MASTER_VARIABLE, REDIS_VARIABLES

__all__ = ["Unknown", "unknown_variables"]

PREFIX: Final = "TAILRACE_"
NEAR: Final = 0.75
"""How alike two names must be, of 1."""
OF_A_SERVICE: Final = re.compile(r"(SERVICE_HOST|SERVICE_PORT|PORT)(_.*)?")
"""Kubernetes sets such variables for a service named tailrace."""


class Unknown(NamedTuple):
    """A variable that is no setting, and the setting that was probably meant."""

    name: str
    meant: str | None


def unknown_variables(names: Iterable[str]) -> list[Unknown]:
    """Return those of these variables that begin like settings and are none, by name."""
    known = {name for variable in variables() for name in variable.names}
    known |= {*DATABASE_VARIABLES, *REDIS_VARIABLES, REDIS_MASTER_VARIABLE}
    # Without the prefix, which would make any two alike.
    ends = [name.removeprefix(PREFIX) for name in sorted(known) if name.startswith(PREFIX)]
    found = []
    for name in sorted(names):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            end = name.upper().removeprefix(PREFIX)
            near = [] if OF_A_SERVICE.fullmatch(end) else get_close_matches(end, ends, n=1, cutoff=NEAR)
            found.append(Unknown(name, PREFIX + near[0] if near else None))
    return found
