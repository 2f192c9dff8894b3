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

from tailrace.config.access import (
    API_URL_VARIABLE,
    BRANCH_VARIABLES,
    DEFAULT_API_URL,
    KEY_VARIABLES,
    NotAllowed,
    Refused,
    checked_api_url,
    checked_branch,
    checked_key,
    lacks_branch,
    without_no_branch,
)
from tailrace.errors import BadSettings
from tailrace.source.client import Endpoint
from tailrace.streams.errors import NotConfigured
from tailrace.streams.timing import Timing

if TYPE_CHECKING:
    from tailrace.streams.archive import ArchiveReader

__all__ = ["Client", "Servers", "configure", "default_client"]

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
class Servers:
    """What one call found out: where to read. Nothing is open yet.

    ``endpoint``, ``archive`` and ``database`` raise NotConfigured when what they need is not set. ``database`` gives
    its URL, and which of its environments is meant, None for whichever has the run.
    """

    endpoint: Callable[[], Endpoint]
    tls: Callable[[], ssl.SSLContext | None]
    archive: Callable[[], ArchiveReader]
    database: Callable[[], tuple[str, str | None]]
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

    def servers(self) -> Servers:
        """Look at the environment now."""
        environ = dict(os.environ)
        return Servers(
            endpoint=functools.partial(self._endpoint, environ),
            tls=functools.partial(_tls_for, self._url(environ)),
            archive=functools.partial(self._archive, environ),
            database=functools.partial(self._database, environ),
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
        given = self._key() if self._key is not None else _first(environ, KEY_VARIABLES)
        if given is None:
            raise NotConfigured("No key: set TRIGGER_SECRET_KEY to a secret key of the run's environment (tr_...)")
        key = _checked("TRIGGER_SECRET_KEY", checked_key, given)
        branch = self._branch(environ)
        if lacks_branch(key, branch):
            raise NotConfigured("TRIGGER_SECRET_KEY is a key of preview environments: set TRIGGER_PREVIEW_BRANCH too")
        return Endpoint(
            api_url=self._url(environ),
            key=_Secret(key),
            preview_branch=branch,
            connect_timeout_s=self._timing.connect_timeout_s,
            read_timeout_s=self._timing.read_timeout_s,
        )

    def _url(self, environ: Mapping[str, str]) -> str:
        given = self._api_url or _first(environ, (API_URL_VARIABLE,)) or DEFAULT_API_URL
        return _checked(API_URL_VARIABLE, checked_api_url, given)

    def _branch(self, environ: Mapping[str, str]) -> str | None:
        given = self._preview_branch
        if given is None:
            given = _first(without_no_branch(environ), BRANCH_VARIABLES)
        return None if given is None else _checked("TRIGGER_PREVIEW_BRANCH", checked_branch, given)

    def _archive(self, environ: Mapping[str, str]) -> ArchiveReader:
        # Only who reads the archive needs SQLAlchemy and psycopg installed.
        archive = importlib.import_module("tailrace.streams.archive")
        try:
            return self._archive_at(archive, *self._database(environ))
        except BadSettings as error:
            raise NotConfigured(str(error)) from error

    def _database(self, environ: Mapping[str, str]) -> tuple[str, str | None]:
        urls = importlib.import_module("tailrace.config.urls")
        try:
            url = urls.database_url(environ) if self._database_url is None else self._database_url()
        except BadSettings as error:
            raise NotConfigured(str(error)) from error
        return url, self._environment or environ.get("TAILRACE_ENVIRONMENT") or None

    def _archive_at(self, archive: ModuleType, url: str, environment: str | None) -> ArchiveReader:
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


def _checked(name: str, check: Callable[[str], str], given: str) -> str:
    try:
        return check(given)
    except Refused as error:
        problem = f"{name} {error}"
    except NotAllowed as error:
        problem = f"{name} must be {error}"
    raise NotConfigured(problem)
