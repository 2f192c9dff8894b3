"""Postgres: that it answers, may be written to, keeps what is sent to it, and ends nothing too early."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailrace.cli.checks.finding import Finding, Kind, fine, note, problem
from tailrace.cli.exits import Exit

if TYPE_CHECKING:
    from tailrace.errors import StoreUnavailable
    from tailrace.store.diagnosis import Diagnosis, Server

OLDEST = 150_000
"""As ``server_version_num``: PostgreSQL 15, the oldest that the tests know."""
FEW_CONNECTIONS = 5
"""A worker process that starts takes as many within its first seconds."""
COMMIT_NEEDS_S = 10.0
"""A commit takes milliseconds, and seconds while a disk is busy or a checkpoint writes."""
CLOCK_S = 5.0
"""Clocks that are kept are milliseconds off."""

_VARIABLES = "DATABASE_URL (or TAILRACE_DATABASE_URL)"

ANSWERS = fine("database-answers", "database", "Postgres {version} answers")
URL_WRONG = problem(
    "database-url",
    "database",
    "{reason}",
    "No URL is set, or it is none of Postgres', or two readers of URLs would read it differently.",
    f"Set {_VARIABLES}; special characters in user and password are percent-encoded (@ as %40, / as %2F, # as %23).",
    Exit.USAGE,
)
HOST = problem(
    "database-host",
    "database",
    "the database's host is not known here: {reason}",
    "No name server knows the host that the URL names.",
    f"Correct the host in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
REFUSED = problem(
    "database-refused",
    "database",
    "nobody listens where the database should be: {reason}",
    "The host answers, and no Postgres at that port: it does not run, or has another port.",
    f"Start Postgres, or correct host and port in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
SILENT = problem(
    "database-silent",
    "database",
    "the database's host does not answer: {reason}",
    "A firewall drops what is sent, or the host is away.",
    f"Let this machine reach it, or correct host and port in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
PASSWORD = problem(
    "database-password",
    "database",
    "Postgres does not take the user or password: {reason}",
    "The password is another, the role does not exist or may not log in, or pg_hba.conf allows it from elsewhere only.",
    f"Correct user and password in {_VARIABLES}; special characters in them are percent-encoded.",
    Exit.UNREACHABLE,
)
TLS = problem(
    "database-tls",
    "database",
    "no secure connection to Postgres: {reason}",
    "One side wants TLS and the other does not have it, or the server's certificate is not trusted here.",
    f"Correct sslmode, sslrootcert and the host in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
MISSING = problem(
    "database-missing",
    "database",
    "there is no such database: {reason}",
    "The server is right and the name behind its / is not.",
    f"Create it (createdb --encoding UTF8), or correct the name in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
NO_CONNECTION_LEFT = problem(
    "database-full",
    "database",
    "Postgres takes no more connections: {reason}",
    "All that the server, the database or the role is allowed are in use.",
    "Close some, raise the limit, or put PgBouncer in between.",
    Exit.UNREACHABLE,
)
UNREACHABLE = problem(
    "database-away",
    "database",
    "{reason}",
    "Postgres does not answer for another reason, which is its own words.",
    f"Check {_VARIABLES}, and that Postgres runs.",
    Exit.UNREACHABLE,
)
OLD = problem(
    "database-old",
    "database",
    "Postgres {version} is too old",
    "Tailrace needs PostgreSQL 15 or newer.",
    "Upgrade the server.",
)
STANDBY = problem(
    "database-standby",
    "database",
    "nothing can be written: the server is a standby",
    "A replica repeats what its primary writes and takes nothing else.",
    f"Give {_VARIABLES} of the primary.",
)
READ_ONLY = problem(
    "database-read-only",
    "database",
    "nothing can be written: it is read-only (default_transaction_read_only)",
    "The server, the database or the role is set so: managed servers do that when the disk is full.",
    f"Give {_VARIABLES} of a server, database and role that may write; make room if the disk is full.",
)
ENCODING = problem(
    "database-encoding",
    "encoding",
    "the database's encoding is {encoding}: not every chunk can be stored in it",
    "Chunks are kept byte for byte as UTF-8.",
    "Make a database WITH ENCODING 'UTF8'.",
)
CONNECTIONS = problem(
    "database-connections",
    "database",
    "{used} of the {allowed} connections that {limit} is allowed are in use",
    "A worker that starts, or one more of your application's processes, may get none.",
    "Close some, raise the limit (max_connections; ALTER DATABASE or ROLE ... CONNECTION LIMIT), or use PgBouncer.",
)
TIMEOUT = problem(
    "database-timeout",
    "database",
    "{setting} is {seconds:g} s, shorter than a commit may need",
    "While a disk is busy a commit takes seconds. It would be ended, sent again and ended again.",
    "ALTER ROLE {role} SET {setting} = '60s' (or 0), or the same for the database.",
)
CLOCK = problem(
    "clock-database",
    "clock",
    "this machine's clock is {off} the database's",
    "Leases go by the database's clock. What goes by this machine's (--since, logs, schedules) is wrong by as much.",
    "Have both keep their time (NTP).",
)

SESSION_POOLED = note(
    "pooler-session",
    "pooler",
    "a pooler in session mode stands before Postgres",
    "Each connection of a worker keeps one of the server's for as long as it is open: nothing is saved, nothing is "
    "wrong. A pooler in transaction mode that is very busy can be taken for one.",
)
TRANSACTION_POOLED = note(
    "pooler-transaction",
    "pooler",
    "a pooler in transaction mode stands before Postgres",
    "Workers are made for it: they keep nothing in a session and prepare no statements. A migration holds a lock for "
    "as long as its session lives, and must go past it.",
    "Give `tailrace migrate` the URL of the server itself.",
)
STATEMENT_POOLED = problem(
    "pooler-statement",
    "pooler",
    "a pooler in statement mode stands before Postgres",
    "It refuses every transaction of more than one statement, so nobody of ours can even connect.",
    f"Set pool_mode = transaction for this database, or give {_VARIABLES} of the server itself.",
    Exit.UNREACHABLE,
)

_SAID: tuple[tuple[Kind, str], ...] = (
    (STATEMENT_POOLED, "statement pooling mode"),
    (HOST, "could not translate host name|failed to resolve host|name or service not known"),
    (NO_CONNECTION_LEFT, "too many clients|too many connections|connection slots|no more connections"),
    (MISSING, "database \\S* does not exist|no such database"),
    (PASSWORD, "authentication failed|no password supplied|no pg_hba.conf entry|role \\S* does not exist"),
    (PASSWORD, "is not permitted to log in|no such user|wrong password|permission denied for database"),
    (TLS, "ssl error|not support ssl|ssl negotiation|certificate verify failed|(root|server) certificate"),
    (REFUSED, "connection refused|no such file or directory"),
    (SILENT, "timeout expired|timed out|no route to host|network is unreachable"),
)
"""Postgres', libpq's and PgBouncer's words in English, the first that fits; in another language it is `UNREACHABLE`."""


def why_away(error: StoreUnavailable) -> Finding:
    """Tell which part of the URL is wrong from what was said when nobody could connect: it names host, port, database
    and user."""
    reason = str(error).removeprefix("Postgres did not answer: ")
    for kind, words in _SAID:
        if re.search(words, reason, re.IGNORECASE):
            return kind.found(reason=reason)
    return UNREACHABLE.found(reason=error)


def server(diagnosis: Diagnosis, found: Server) -> Iterator[Finding]:
    """Look at a server that answers."""
    yield ANSWERS.found(version=found.version)
    if found.number < OLDEST:
        yield OLD.found(version=found.version)
    if found.standby:
        yield STANDBY.found()
    elif found.read_only:
        yield READ_ONLY.found()
    if found.encoding != "UTF8":
        yield ENCODING.found(encoding=found.encoding)
    connections = diagnosis.connections()
    if connections.free < FEW_CONNECTIONS:
        yield CONNECTIONS.found(used=connections.used, allowed=connections.allowed, limit=connections.limit)
    for setting, seconds in diagnosis.timeouts().items():
        if seconds < COMMIT_NEEDS_S:
            yield TIMEOUT.found(setting=setting, seconds=seconds, role=diagnosis.rights().role)
    if abs(found.ahead_s) > CLOCK_S:
        yield CLOCK.found(off=off(found.ahead_s))


def off(ahead_s: float) -> str:
    """Say how far this machine's clock is off another one, which is ahead of it by so much."""
    return f"{abs(ahead_s):.0f} s {'behind' if ahead_s > 0 else 'before'}"


def pooler(database_url: str) -> Iterator[Finding]:
    """Find out whether a pooler is in between, and in which mode."""
    from tailrace.store.pooler import Pooling, pooling

    match pooling(database_url):
        case Pooling.SESSION:
            yield SESSION_POOLED.found()
        case Pooling.TRANSACTION:
            yield TRANSACTION_POOLED.found()
        case Pooling.NONE:
            pass
