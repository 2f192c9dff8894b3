"""The home directory: where the servers of one project keep their data, and what only its owner may read.

::

    .tailrace/            0700
      state.json          0600: password and ports
      up.lock             held by whoever starts or stops servers here
      postgres/           data directory        postgres.log   postgres.alive
      valkey/             append-only file      valkey.log     valkey.alive

Root's home holds only a link, ``servers``, to a directory below `account.SHARED` that has all of this: the servers run
as another account then, and that account must reach their files.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tailrace.devtools.servers.account import NOT_AS_ROOT, Account, make_shared, unprivileged
from tailrace.errors import BadSettings

LOCK_TIMEOUT_S = 180.0  # longer than the slowest start that holds it
LOCK_POLL_S = 0.02
LINK = "servers"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the servers of a home answer. Both URLs hold the password, so neither is printed."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)


@dataclass(slots=True)
class State:
    """What a home remembers from one start to the next. ``ports`` maps a server's name to the port it had."""

    password: str = field(repr=False)
    ports: dict[str, int] = field(default_factory=dict)


def home_directory(environ: Mapping[str, str], cwd: Path) -> Path:
    """The home that commands run in ``cwd`` use: ``TAILRACE_HOME``, or ``.tailrace`` there."""
    return cwd / (environ.get("TAILRACE_HOME") or ".tailrace")


class Home:
    """One home directory. Making the object touches nothing.

    The path is resolved: a server is known by the directory on its command line, which must not depend on the way
    somebody came here.
    """

    def __init__(self, path: Path) -> None:
        self._given = path.resolve()

    def __str__(self) -> str:
        return str(self._given)

    @property
    def path(self) -> Path:
        """Where the files are: in the home itself, or where its link says when it is root's own."""
        if self._is_roots():
            try:
                return (self._given / LINK).readlink()
            except OSError:
                pass
        return self._given

    @property
    def account(self) -> Account | None:
        """With whose rights servers run here. None: with ours. Root runs them as the owner of their files."""
        if os.geteuid() != 0:
            return None
        owner = self.path.stat()
        return Account(owner.st_uid, owner.st_gid) if owner.st_uid != 0 else None

    def exists(self) -> bool:
        """Whether servers were ever started here, or are being started.

        Raises:
            BadSettings: it belongs to somebody else and we cannot look inside.
        """
        for path in (self._state_path, self.path / "up.lock"):
            try:
                path.stat()  # unlike exists(), which in newer Pythons says no when it may not look
                return True
            except PermissionError as error:
                raise BadSettings(f"TAILRACE_HOME: {self} belongs to another user; we may not look inside") from error
            except OSError:
                continue
        return False

    def create(self) -> None:
        """Make the directory when it is missing. One that exists keeps its owner and mode, as do all its parents.

        Raises:
            BadSettings: it cannot be made or used, or everybody may write in it.
        """
        try:
            self._given.parent.mkdir(parents=True, exist_ok=True)
            self._given.mkdir(mode=0o700, exist_ok=True)
            found = self._given.stat()
        except OSError as error:
            raise BadSettings(f"TAILRACE_HOME: {self} cannot be made: {error.strerror}") from error
        if found.st_mode & stat.S_IWOTH:
            raise BadSettings(f"TAILRACE_HOME: everybody may write in {self}; give a directory of your own")
        if not os.access(self._given, os.R_OK | os.W_OK | os.X_OK):
            raise BadSettings(f"TAILRACE_HOME: {self} belongs to another user; give a directory of your own")
        if self._is_roots():
            self._move_out()
        with suppress(FileExistsError):  # of another start at the same moment, or the user's own
            descriptor = self.open_private(self._given / ".gitignore", flags=os.O_WRONLY | os.O_EXCL)
            os.write(descriptor, b"*\n")  # the password and the archive have no place in anybody's repository
            os.close(descriptor)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who starts or stops servers here. Waits for another ``up`` or ``down``."""
        descriptor = self.open_private(self.path / "up.lock")
        try:
            deadline = time.monotonic() + LOCK_TIMEOUT_S
            while not try_flock(descriptor):
                if time.monotonic() > deadline:
                    raise BadSettings(f"another command has been starting servers in {self.path} for too long")
                time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)  # which also unlocks

    def load(self) -> State:
        """What this home remembers; a new password when it is new.

        Raises:
            BadSettings: the file cannot be read as ours.
        """
        try:
            found = json.loads(self._state_path.read_text())
            return State(password=str(found["password"]), ports={k: int(v) for k, v in found["ports"].items()})
        except FileNotFoundError:
            return State(password=secrets.token_hex(24))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            hint = "remove the file: the servers get a new password"
            raise BadSettings(f"{self._state_path} cannot be read ({type(error).__name__}); {hint}") from error

    def save(self, state: State) -> None:
        """Remember ``state``, whole or not at all."""
        text = json.dumps({"password": state.password, "ports": state.ports}, indent=1)
        fresh = self.path / "state.json.new"
        self.write_private(fresh, text)
        fresh.replace(self._state_path)

    def make_private_directory(self, path: Path) -> None:
        """Make a directory of this home that only its owner can enter."""
        path.mkdir(mode=0o700)
        self._give_to_owner(path)

    def open_private(self, path: Path, *, flags: int = os.O_RDWR) -> int:
        """Open a file of this home, made 0600 when it is missing, as a descriptor that children do not inherit."""
        descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._give_to_owner(path)
        return descriptor

    def write_private(self, path: Path, text: str) -> None:
        """Write a file of this home that only its owner may read, and see it on the disk."""
        path.unlink(missing_ok=True)  # one that was left behind may have another mode
        with os.fdopen(self.open_private(path, flags=os.O_WRONLY | os.O_EXCL), "w", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _give_to_owner(self, path: Path) -> None:
        """What root makes in somebody's directory must not lock that account out."""
        if os.geteuid() == 0 and (owner := path.parent.stat()).st_uid != 0:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _is_roots(self) -> bool:
        """Whether we are root, in a home of our own."""
        try:
            return os.geteuid() == 0 and self._given.stat().st_uid == 0
        except OSError:
            return False

    def _move_out(self) -> None:
        """Make the directory that the link leads to, owned by the account that the servers will have."""
        link = self._given / LINK
        account = unprivileged()
        try:
            if not link.exists():
                link.unlink(missing_ok=True)  # what it led to was removed
                place = Path(tempfile.mkdtemp(prefix="home-", dir=make_shared()))
                try:
                    os.chown(place, account.uid, account.gid)
                    link.symlink_to(place)
                except OSError:
                    place.rmdir()
                    raise
        except FileExistsError:  # another start was faster
            pass
        except OSError as error:
            raise BadSettings(f"{NOT_AS_ROOT} ({error})") from error
        if not os.access(link, os.R_OK | os.W_OK | os.X_OK):
            raise BadSettings(f"{NOT_AS_ROOT} (root may not use the files of another account here)")

    @property
    def _state_path(self) -> Path:
        return self.path / "state.json"


def try_flock(descriptor: int) -> bool:
    """Take the lock of an open file, without waiting."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
