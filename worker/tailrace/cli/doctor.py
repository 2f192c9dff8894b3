"""`tailrace doctor`: look at everything Tailrace needs, and say what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import AsJson
from tailrace.cli.exits import GOOD_KEY, Exit, advice_for, exit_for
from tailrace.cli.output import shown, stdout, write_json
from tailrace.errors import NotFound, Unauthorized, WorkerError

if TYPE_CHECKING:
    from tailrace.config.keys import Access
    from tailrace.config.settings import Settings

"""Upstream answers 404 when it takes the key and serves the feed: everything that can be asked without a run."""
DAYS_AHEAD = 3
"""Partitions for fewer days than this: nobody has made new ones for long."""


class Severity(StrEnum):
    """How one finding is."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``todo``: what to do about it. ``exit_code``: what a problem ends with."""

    name: str
    severity: Severity
    says: str
    todo: str | None = None
    exit_code: int = Exit.OK


def doctor(as_json: AsJson = False) -> None:
    """Check settings, database, broker, upstream and key; say what to do about each problem.

    Ends with the exit code of the first problem. Writes nothing but a key in Redis that it removes.
    """
    findings: list[Finding] = []
    for check in (_variables, _settings, _database, _broker, _upstream):
        findings += _made(check)
    if as_json:
        write_json({"findings": findings})
    else:
        _show(findings)
    first = next((each for each in findings if each.severity is Severity.PROBLEM), None)
    raise typer.Exit(first.exit_code if first else Exit.OK)


def _made(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Return the findings of a check; its error is one too, and ends it."""
    name = check.__name__.strip("_")
    try:
        yield from check()
    except WorkerError as error:
        yield Finding(name, Severity.PROBLEM, str(error), advice_for(error), exit_for(error))


def _variables() -> Iterator[Finding]:
    from tailrace.config.unknown import unknown_variables

    for name, meant in unknown_variables(os.environ):
        says = f"{shown(name)} is no setting, so nothing follows it"
        if meant is None:
            yield Finding("settings", Severity.NOTE, says)
        else:
            yield Finding("settings", Severity.PROBLEM, says, f"Did you mean {meant}?", Exit.USAGE)


def _settings() -> Iterator[Finding]:
    from tailrace.config.keys import accesses, readable_by_others
    from tailrace.config.settings import load

    settings = load(os.environ)
    names = sorted(accesses(settings))
    if settings.keys_file is None:
        yield Finding("settings", Severity.OK, f"a key is set; environment {names[0]}")
        return
    yield Finding("settings", Severity.OK, f"{settings.keys_file} has the keys of {len(names)}: {', '.join(names)}")
    if readable_by_others(settings.keys_file):
        says = f"anybody on this machine may read {settings.keys_file}"
        yield Finding("settings", Severity.NOTE, says, "Take that from others (chmod o-r), unless it is a container's.")


def _database() -> Iterator[Finding]:
    from tailrace.cli.archives import open_archive
    from tailrace.store.migrate import current, head

    archive = open_archive()
    version, encoding = archive.server()
    yield Finding("database", Severity.OK, f"Postgres {version} answers")
    if (reason := archive.refuses_writes()) is not None:
        todo = "Give DATABASE_URL (or TAILRACE_DATABASE_URL) of a server, database and role that may write."
        yield Finding("database", Severity.PROBLEM, f"nothing can be written: {reason}", todo, Exit.FAILED)
    if encoding != "UTF8":
        says = f"the database's encoding is {encoding}: not every chunk can be stored in it"
        yield Finding("encoding", Severity.PROBLEM, says, "Make a database WITH ENCODING 'UTF8'.", Exit.FAILED)
    revision, newest = current(servers.database()), head()
    if revision != newest:
        says = (
            f"the schema is at revision {revision}, this version needs {newest}" if revision else "there is no archive"
        )
        yield Finding("schema", Severity.PROBLEM, says, "Run `tailrace migrate`.", Exit.FAILED)
        return
    days = archive.partitioned_days()
    if days <= 0:
        says = "there is no partition for new streams"
        yield Finding("schema", Severity.PROBLEM, says, "Run `tailrace migrate`.", Exit.FAILED)
    elif days < DAYS_AHEAD:
        says = f"revision {revision}; partitions for {days:.0f} more days only"
        yield Finding("schema", Severity.NOTE, says, "Running workers make new ones; so does `tailrace migrate`.")
    else:
        yield Finding("schema", Severity.OK, f"revision {revision}, partitions for {days:.0f} more days")
    for halted in archive.halted():
        yield Finding(
            "key",
            Severity.PROBLEM,
            f"environment {halted.environment} is halted since {halted.since:%Y-%m-%d %H:%M:%S %Z}: {halted.reason}",
            f"Give the workers {GOOD_KEY}.",
            Exit.KEY_REFUSED,
        )
    workers = archive.live_workers()
    if workers:
        yield Finding("workers", Severity.OK, f"{workers} running")
    else:
        yield Finding("workers", Severity.NOTE, "none runs", "Start one with `tailrace worker`; requests wait for it.")


def _broker() -> Iterator[Finding]:
    from tailrace.cli.broker import check_broker, evicting

    servers.broker()
    check_broker()
    yield Finding("broker", Severity.OK, "Redis answers and takes what is written")
    found = evicting()
    if found is None:
        return
    todo = "Set maxmemory-policy to noeviction, or give Celery a Redis of its own."
    if found.limited:
        says = f"when its memory is full, Redis drops keys (maxmemory-policy {found.policy}): queued requests are lost"
        yield Finding("broker", Severity.PROBLEM, says, todo, Exit.FAILED)
    else:
        says = f"with a limit of memory, Redis would drop queued requests (maxmemory-policy {found.policy})"
        yield Finding("broker", Severity.NOTE, says, todo)


def _upstream() -> Iterator[Finding]:
    from tailrace.config.keys import accesses
    from tailrace.config.settings import load

    settings = load(os.environ)
    if settings.secret_key is None and settings.keys_file is None:
        yield Finding("upstream", Severity.NOTE, "not asked, because no key is set")
        return
    found = accesses(settings)
    for access in found.values():
        whose = f"{access.name}: " if len(found) > 1 else ""
        yield from _answers(access, settings, whose)


def _answers(access: Access, settings: Settings, whose: str) -> Iterator[Finding]:
    """Ask the upstream of one environment, and return what it says of the key."""
    from tailrace.service.environments import upstream_of
    from tailrace.service.key_check import NO_SUCH_RUN

    upstream = upstream_of(access, settings)
    try:
        upstream.run(NO_SUCH_RUN)
    except NotFound:
        yield Finding("upstream", Severity.OK, f"{whose}{access.api_url} answers and takes the key")
    except Unauthorized as error:
        yield Finding("upstream", Severity.OK, f"{whose}{access.api_url} answers")
        yield Finding("key", Severity.PROBLEM, f"{whose}{error}", None, Exit.KEY_REFUSED)
    except WorkerError as error:  # the others are asked all the same
        yield Finding("upstream", Severity.PROBLEM, f"{whose}{error}", advice_for(error), exit_for(error))
    finally:
        upstream.close()


def _show(findings: list[Finding]) -> None:
    from rich.text import Text

    signs = {Severity.OK: ("✓", "green"), Severity.NOTE: ("!", "yellow"), Severity.PROBLEM: ("✗", "bold red")}
    for each in findings:
        sign, style = signs[each.severity]
        stdout().print(Text.assemble((sign, style), f" {each.name:<9} {shown(each.says)}"))
        if each.todo:
            stdout().print(Text(f"  {'':<9} → {each.todo}"))
