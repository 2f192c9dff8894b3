"""With whose rights the servers of a home run."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from tailrace.errors import BadSettings

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


def account_for(home: Path, data: Path) -> Account | None:
    """The account that runs the servers. None: the one we have.

    Only root chooses: the owner of data that is there already, else the owner of the home, else an unprivileged
    account of the system.

    Raises:
        BadSettings: there is no such account.
    """
    if os.geteuid() != 0:
        return None
    for place in (data, home):
        if place.exists() and (found := place.stat()).st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    raise BadSettings(NOT_AS_ROOT)


def make_private_directory(path: Path, account: Account | None) -> None:
    """Make a directory that only ``account`` (or we) can enter.

    Raises:
        BadSettings: root may not give it away here.
    """
    path.mkdir(mode=0o700)
    if account is not None:
        try:
            os.chown(path, account.uid, account.gid)
        except PermissionError as error:
            path.rmdir()
            raise BadSettings(NOT_AS_ROOT) from error
