"""The archive's schema: that the role may use it, that it is of this version, that new streams have a place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailrace.cli.checks.finding import Finding, fine, note, problem

if TYPE_CHECKING:
    from tailrace.store.diagnosis import Diagnosis

DAYS_AHEAD = 3
"""Partitions for fewer days than this: nobody has made new ones for long."""
LACKING_SHOWN = 300
"""Characters: with more tables than these the point is made."""

NO_ARCHIVE = problem(
    "archive-missing",
    "schema",
    "there is no archive",
    "Nobody has made the tables in this database. Or it is not the database that was meant.",
    "Run `tailrace migrate`.",
)
MAY_NOT_CREATE = problem(
    "archive-missing-rights",
    "schema",
    "there is no archive, and role {role} may not make one",
    "It may not create a schema in this database.",
    "Run `tailrace migrate` as the database's owner, or GRANT CREATE ON DATABASE ... TO {role}.",
)
MAY_NOT_USE = problem(
    "rights-schema",
    "rights",
    "role {role} may not use the schema tailrace",
    "The archive belongs to another role, and nothing in it is granted to this one.",
    "As its owner run `tailrace roles`, then GRANT tailrace_runtime TO {role}.",
)
LACKING = problem(
    "rights-lacking",
    "rights",
    "role {role} lacks {lacking}",
    "A worker needs these; with fewer it fails at its first statement, or when it prunes. A role that only reads lacks "
    "them rightly, and no worker should log in as it.",
    "As the archive's owner run `tailrace roles` (after each migration), then GRANT tailrace_runtime TO {role}.",
)
OLDER = problem(
    "schema-older",
    "schema",
    "the schema is at revision {revision}, this version needs {newest}",
    "This Tailrace is newer than the archive.",
    "Run `tailrace migrate`.",
)
NEWER = problem(
    "schema-newer",
    "schema",
    "the schema is at revision {revision}, which this version does not know: it was made by a newer one",
    "This Tailrace is older than the archive. The version before a migration goes on working beside it; older ones may "
    "not.",
    "Upgrade this Tailrace (pip install --upgrade tailrace).",
)
NO_PARTITION = problem(
    "partitions-none",
    "schema",
    "there is no partition for new streams",
    "A new stream can't be stored.",
    "Run `tailrace migrate`.",
)
FEW_PARTITIONS = note(
    "partitions-ending",
    "schema",
    "revision {revision}; partitions for {days:.0f} more days only",
    "Workers make them 14 days ahead: none has done so for long.",
    "Running workers make new ones; so does `tailrace migrate`.",
)
FROM_ANOTHER_SERVER = problem(
    "server-changed",
    "schema",
    "the archive came from another server, and was not migrated since",
    "Changes are numbered by a server's transactions. Who follows changes_since() misses what is archived from now on.",
    "Run `tailrace migrate`, before workers start.",
)
UP_TO_DATE = fine("schema-right", "schema", "revision {revision}, partitions for {days:.0f} more days")


def rights(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Compare what the role may do with what a worker needs."""
    found = diagnosis.rights()
    if not found.schema:
        yield NO_ARCHIVE.found() if found.may_create else MAY_NOT_CREATE.found(role=found.role)
    elif not found.may_use:
        yield MAY_NOT_USE.found(role=found.role)
    elif found.lacking:
        lacking = "; ".join(found.lacking)
        if len(lacking) > LACKING_SHOWN:
            lacking = f"{lacking[:LACKING_SHOWN].rpartition(',')[0]} and more"
        yield LACKING.found(role=found.role, lacking=lacking)


def revision(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Compare the archive's revision with the newest that this version knows; find nothing when they are the same."""
    from tailrace.store.migrate import head, is_known

    found, newest = diagnosis.revision(), head()
    if found is None:
        yield NO_ARCHIVE.found()
    elif not is_known(found):
        yield NEWER.found(revision=found)
    elif found != newest:
        yield OLDER.found(revision=found, newest=newest)


def partitions(diagnosis: Diagnosis, revision: str) -> Iterator[Finding]:
    """Look for how long new streams have a place."""
    days = diagnosis.partitioned_days()
    if days <= 0:
        yield NO_PARTITION.found()
    elif days < DAYS_AHEAD:
        yield FEW_PARTITIONS.found(revision=revision, days=days)
    else:
        yield UP_TO_DATE.found(revision=revision, days=days)


def server(diagnosis: Diagnosis) -> Iterator[Finding]:
    """Look whether changes are numbered for this server."""
    if diagnosis.came_from_elsewhere():
        yield FROM_ANOTHER_SERVER.found()
