"""With whose rights the servers of a home run when root starts them, since Postgres refuses to run as root."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from pathlib import Path

from tailrace.errors import BadSettings

SHARED = Path("/var/lib/tailrace")
"""Where root puts what another account must reach: root's own directories, as ``/root``, may be closed to it."""

UNPRIVILEGED = ("postgres", "nobody")  # the first that exists; both are made for programs, neither for people

NOT_AS_ROOT = (
    "Postgres does not run as root, and this place does not let root start it as another account; "
    "run as an ordinary user, or set DATABASE_URL and REDIS_URL to servers that you have"
)


@dataclass(frozen=True, slots=True)
class Account:
    """An account other than our own."""

    uid: int
    gid: int


def unprivileged() -> Account:
    """Return an account of the system that has no rights.

    Raises:
        BadSettings: there is none.
    """
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    raise BadSettings(NOT_AS_ROOT)


def make_shared() -> Path:
    """Return the directory `SHARED`, which root alone may write in and everybody may enter; make it when it is missing.

    Raises:
        OSError: it cannot be made.
    """
    if not SHARED.exists():
        SHARED.mkdir(parents=True, exist_ok=True)
        SHARED.chmod(0o755)  # whatever the umask says
    return SHARED
