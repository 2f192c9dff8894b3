"""Exit codes, and which one an error ends with."""

from __future__ import annotations

import sys
from enum import IntEnum

from tailrace.errors import (
    BadArgument,
    BadSettings,
    MalformedRecord,
    NotFound,
    RequestRefused,
    SourceUnavailable,
    StoreUnavailable,
    StreamStalled,
    TerminalError,
    TransientError,
    Unauthorized,
    WorkerError,
)


class Exit(IntEnum):
    """What a command ends with."""

    OK = 0
    FAILED = 1
    USAGE = 2
    INGEST_FAILED = 3
    KEY_REFUSED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "something is wrong, or another failure",
    Exit.USAGE: "wrong usage, or a setting is missing or wrong",
    Exit.INGEST_FAILED: "the run or one of its streams failed",
    Exit.KEY_REFUSED: "upstream refuses the key (401, 403)",
    Exit.UNREACHABLE: "upstream, the database or the broker can't be reached",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
}


GOOD_KEY = "a good TRIGGER_SECRET_KEY and a restart, or a good key in TAILRACE_KEYS_FILE"
"""What workers need whose key is refused."""


EXTRAS = {
    "typer": "worker",
    "rich": "worker",
    "gevent": "worker",
    "starlette": "serve",
    "uvicorn": "serve",
    "jwt": "serve",
    "jinja2": "serve",
}
"""Which extra brings a package that a command imports when it runs."""


class MissingExtra(TerminalError):
    """Something that a command needs is not installed."""


def missing_extra(error: BaseException) -> MissingExtra | None:
    """Return what to install, if an import failed for want of an extra; None when it is another error."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package not in EXTRAS:
        return None
    return MissingExtra(f"{package} is not installed, which this needs: pip install 'tailrace[{EXTRAS[package]}]'")


class BrokerUnavailable(TransientError):
    """Redis did not answer."""


def expected(error: Exception) -> WorkerError | None:
    """Return the error that ends a command in our own words; None for one that nobody expected."""
    if isinstance(error, WorkerError):
        return error
    if (missing := missing_extra(error)) is not None:
        return missing
    if "sqlalchemy" not in sys.modules:
        return None
    from sqlalchemy.exc import DBAPIError

    from tailrace.store.statements import refusal

    # A database that is not migrated, or a role that may not: what Postgres said is all there is to know.
    return refusal(error.orig or error) if isinstance(error, DBAPIError) else None


def exit_for(error: Exception) -> Exit:
    """Choose the exit code for an error that ends a command."""
    if isinstance(error, BadSettings | BadArgument):
        return Exit.USAGE
    if isinstance(error, Unauthorized):
        return Exit.KEY_REFUSED
    if isinstance(error, SourceUnavailable | StreamStalled | StoreUnavailable | BrokerUnavailable):
        return Exit.UNREACHABLE
    if isinstance(error, NotFound | RequestRefused | MalformedRecord):
        return Exit.INGEST_FAILED
    return Exit.FAILED


def advice_for(error: Exception) -> str | None:
    """Return which variable to look at, where the error itself does not."""
    if isinstance(error, BrokerUnavailable):
        return "Check REDIS_URL (or TAILRACE_REDIS_URL), and that Redis runs."
    if isinstance(error, StoreUnavailable):
        return "Check DATABASE_URL (or TAILRACE_DATABASE_URL), and that Postgres runs."
    if isinstance(error, SourceUnavailable | StreamStalled):
        return "Check TRIGGER_API_URL, and that this machine reaches it."
    return None
