"""Where streams are read from: upstream's address and key, and the archive's database.

What is not said here is taken from the environment, at the moment of a call, never at import.
"""

from __future__ import annotations

import functools
import importlib
import os
import ssl
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tailrace.errors import BadSettings
from tailrace.source.client import Endpoint
from tailrace.streams.errors import NotConfigured
from tailrace.streams.timing import Timing

if TYPE_CHECKING:
    from tailrace.streams.archive import ArchiveReader

__all__ = ["Client", "Places", "configure", "default_client"]

DEFAULT_API_URL = "https://api.trigger.dev"
KEY_VARIABLES = ("TRIGGER_SECRET_KEY", "TRIGGER_ACCESS_TOKEN")
BRANCH_VARIABLES = ("TRIGGER_PREVIEW_BRANCH", "VERCEL_GIT_COMMIT_REF", "TRIGGER_DEV_BRANCH")
NO_BRANCH = "default"  # in the last of them it means none
EVENT_MAX_BYTES = 16 * 1_048_576


class _Secret:
    """A text that does not show."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "'[secret]'"


@dataclass(frozen=True, slots=True)
class Places:
    """What one call found out: where to read. Nothing is open yet.

    ``endpoint`` and ``archive`` raise NotConfigured when what they need is not set.
    """

    endpoint: Callable[[], Endpoint]
    tls: Callable[[], ssl.SSLContext | None]
    archive: Callable[[], ArchiveReader]
    timing: Timing
    event_max_bytes: int


class Client:
    """One Trigger.dev environment and, if there is one, its archive. Thread-safe, and free until it is used.

    Args:
        secret_key: a secret key or a public access token. Default: TRIGGER_SECRET_KEY, else TRIGGER_ACCESS_TOKEN.
        api_url: default TRIGGER_API_URL, else Trigger.dev's cloud.
        preview_branch: default TRIGGER_PREVIEW_BRANCH, VERCEL_GIT_COMMIT_REF or TRIGGER_DEV_BRANCH.
        database_url: the archive's. Default TAILRACE_DATABASE_URL, else DATABASE_URL.
        environment: which environment's runs, when the archive holds several. Default TAILRACE_ENVIRONMENT, else
            whichever has the run.
        pace: how patient reads are.
        event_max_bytes: a larger chunk is not taken in, but is a ChunkTypeError.
    """

    def __init__(
        self,
        secret_key: str | None = None,
        *,
        api_url: str | None = None,
        preview_branch: str | None = None,
        database_url: str | None = None,
        environment: str | None = None,
        timing: Timing | None = None,
        event_max_bytes: int = EVENT_MAX_BYTES,
    ) -> None:
        self._key = None if secret_key is None else _Secret(secret_key)
        self._api_url = api_url
        self._preview_branch = preview_branch
        self._database_url = None if database_url is None else _Secret(database_url)
        self._environment = environment
        self._timing = timing or Timing()
        self._event_max_bytes = event_max_bytes
        self._guard = threading.Lock()
        self._archives: dict[tuple[int, str, str | None], ArchiveReader] = {}

    def __repr__(self) -> str:
        return f"Client(api_url={self._api_url or '(environment)'!r})"

    def places(self) -> Places:
        """Look at the environment now."""
        environ = dict(os.environ)
        return Places(
            endpoint=functools.partial(self._endpoint, environ),
            tls=functools.partial(_tls_for, self._url(environ)),
            archive=functools.partial(self._archive, environ),
            timing=self._timing,
            event_max_bytes=self._event_max_bytes,
        )

    def close(self) -> None:
        """Close connections to the archive, if there are any. A client can be used again after it."""
        with self._guard:
            archives, self._archives = self._archives, {}
        for archive in archives.values():
            archive.close()

    def _endpoint(self, environ: Mapping[str, str]) -> Endpoint:
        key = self._key
        if key is None:
            found = _first(environ, KEY_VARIABLES)
            if found is None:
                raise NotConfigured("No key: set TRIGGER_SECRET_KEY to a secret key of the run's environment (tr_...)")
            key = _Secret(found)
        if not (key().isascii() and key().isprintable() and key().strip() == key() != "" and " " not in key()):
            raise NotConfigured("TRIGGER_SECRET_KEY holds characters that no key has (blanks, line ends or non-ASCII)")
        return Endpoint(
            api_url=self._url(environ),
            key=key,
            preview_branch=self._branch(environ),
            connect_timeout_s=self._timing.connect_timeout_s,
            read_timeout_s=self._timing.read_timeout_s,
        )

    def _url(self, environ: Mapping[str, str]) -> str:
        url = (self._api_url or environ.get("TRIGGER_API_URL") or DEFAULT_API_URL).strip().rstrip("/")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise NotConfigured("TRIGGER_API_URL must look like https://api.trigger.dev, without user and query")
        return url

    def _branch(self, environ: Mapping[str, str]) -> str | None:
        branch = self._preview_branch
        if branch is None:
            ours = {name: environ.get(name, "") for name in BRANCH_VARIABLES}
            if ours[BRANCH_VARIABLES[-1]].strip() == NO_BRANCH:
                del ours[BRANCH_VARIABLES[-1]]
            branch = _first(ours, tuple(ours))
        if branch is not None and not (branch.isascii() and branch.isprintable() and branch.strip()):
            raise NotConfigured("TRIGGER_PREVIEW_BRANCH holds characters that can't be sent (line ends or non-ASCII)")
        return branch

    def _archive(self, environ: Mapping[str, str]) -> ArchiveReader:
        # Only who reads the archive needs SQLAlchemy and psycopg installed.
        archive = importlib.import_module("tailrace.streams.archive")
        urls = importlib.import_module("tailrace.config.urls")
        try:
            url = urls.database_url(environ) if self._database_url is None else self._database_url()
            return self._archive_at(archive, url, environ)
        except BadSettings as error:
            raise NotConfigured(str(error)) from error

    def _archive_at(self, archive: ModuleType, url: str, environ: Mapping[str, str]) -> ArchiveReader:
        environment = self._environment or environ.get("TAILRACE_ENVIRONMENT") or None
        # A connection must not be used by two processes, so a forked one makes its own.
        place = (os.getpid(), url, environment)
        with self._guard:
            reader = self._archives.get(place)
            if reader is None:
                made: ArchiveReader = archive.ArchiveReader(url, environment)
                reader = self._archives[place] = made
                weakref.finalize(self, made.close)
        return reader


_default = Client()


def configure(client: Client | None) -> None:
    """Have every read of this process that names no client use this one; None: the environment again."""
    global _default
    _default = Client() if client is None else client


def default_client() -> Client:
    """Return the client of reads that name none."""
    return _default


@functools.cache
def _shared_tls() -> ssl.SSLContext:
    """Loading the authorities takes longer than opening a stream."""
    return ssl.create_default_context()


def _tls_for(url: str) -> ssl.SSLContext | None:
    return _shared_tls() if url.startswith("https:") else None


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((text for name in names if (text := environ.get(name, "").strip())), None)
