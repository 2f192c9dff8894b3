"""`tailrace doctor`: look at everything Tailrace needs, and say what to do. What it looks at is in `cli/checks`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from tailrace.cli import servers
from tailrace.cli.arguments import AsJson
from tailrace.cli.checks import broker, configuration, database, fleet, schema, upstream
from tailrace.cli.checks.finding import Finding, Severity, made
from tailrace.cli.exits import BrokerUnavailable, Exit
from tailrace.cli.output import shown, stdout, write_json
from tailrace.errors import BrokerIsCluster

if TYPE_CHECKING:
    from tailrace.config.keys import Access
    from tailrace.config.settings import Settings
    from tailrace.store.diagnosis import Diagnosis
    from tailrace.store.queries import Archive

LEGIBLE = (schema.LACKING.code,)
"""What can be wrong with an archive that can be read all the same."""
ANSWER_S = 2.0
"""How long a worker may take to say what it listens to; a busy one looks for messages several times a second."""


def doctor(as_json: AsJson = False) -> None:
    """Check settings, machine, database, broker, workers, upstream and key; say what to do about each problem.

    Ends with the exit code of the first problem. Writes nothing but a key in Redis that it removes. docs/doctor.md has
    a table of all that it can find.
    """
    findings = list(examined())
    if as_json:
        write_json({"findings": findings})
    else:
        _show(findings)
    first = next((each for each in findings if each.severity is Severity.PROBLEM), None)
    raise typer.Exit(first.exit_code if first else Exit.OK)


def examined() -> Iterator[Finding]:
    """Look at everything. What can't be looked at because of something else is left out."""
    yield from configuration.variables(os.environ)
    yield from configuration.settings(os.environ)
    settings = _settings()
    if settings is not None:
        yield from configuration.open_files(settings.slots)
    of_database = list(made("database", _database))
    yield from of_database
    answers = any(each.code == database.ANSWERS.code for each in of_database)
    archive_url = servers.database() if answers else None
    yield from made("broker", lambda: _broker(archive_url))
    if settings is not None:
        yield from made("upstream", lambda: _upstream(settings, archive_url))


def _settings() -> Settings | None:
    from tailrace.config.settings import load
    from tailrace.errors import BadSettings

    with suppress(BadSettings):  # has been told
        return load(os.environ)
    return None


@contextmanager
def _asking(url: str) -> Iterator[tuple[Diagnosis, Archive]]:
    from tailrace.store.diagnosis import Diagnosis
    from tailrace.store.engine import create_engine, end
    from tailrace.store.queries import Archive

    engine = create_engine(url, pool_size=2, application_name="tailrace doctor")
    try:
        yield Diagnosis(engine), Archive(engine)
    finally:
        end(engine)


def _database() -> Iterator[Finding]:
    from tailrace.errors import BadSettings, StoreUnavailable

    try:
        url = servers.database()
    except BadSettings as error:
        yield database.URL_WRONG.found(reason=error)
        return
    with _asking(url) as (diagnosis, archive):
        try:
            found = diagnosis.server()
        except StoreUnavailable as error:
            yield database.why_away(error)
            return
        yield from database.server(diagnosis, found)
        yield from made("pooler", lambda: database.pooler(url))
        yield from _archive(diagnosis, archive)


def _archive(diagnosis: Diagnosis, archive: Archive) -> Iterator[Finding]:
    for check in (schema.rights, schema.revision):
        problems = list(check(diagnosis))
        yield from problems
        if any(each.code not in LEGIBLE for each in problems):
            return
    yield from schema.partitions(diagnosis, str(diagnosis.revision()))
    yield from schema.server(diagnosis)
    yield from fleet.halted(archive)
    yield from fleet.workers(diagnosis.fleet(fleet.OVERDUE_S))
    yield from fleet.beat(diagnosis)


def _broker(archive_url: str | None) -> Iterator[Finding]:
    """Look at the broker. ``archive_url``: of the database that says how many workers there are; None: it is away."""
    from tailrace.cli.broker import connected
    from tailrace.errors import BadSettings

    try:
        url = servers.broker()
    except BadSettings as error:
        yield broker.URL_WRONG.found(reason=error)
        return
    try:
        with connected(url) as asked:
            findings = list(broker.server(asked))
            yield from findings
            if any(each.code == broker.ANSWERS.code for each in findings):
                yield from broker.strays(asked)
                if archive_url is not None and (workers := _workers(archive_url)):
                    yield from broker.listeners(asked.listeners(ANSWER_S), workers, ANSWER_S)
    except BrokerIsCluster:
        yield broker.CLUSTER.found()
    except BrokerUnavailable as error:
        yield broker.why_away(error)


def _workers(archive_url: str) -> int:
    """Count the workers that the database knows of; none when there is no archive, which has been told."""
    from tailrace.errors import WorkerError

    with suppress(WorkerError), _asking(archive_url) as (diagnosis, _):
        return diagnosis.fleet(fleet.OVERDUE_S).workers
    return 0


def _upstream(settings: Settings, archive_url: str | None) -> Iterator[Finding]:
    """Look at the upstream of each environment. ``archive_url``: of the database whose runs it is asked for, if any."""
    from tailrace.config.keys import accesses
    from tailrace.errors import BadSettings

    if settings.secret_key is None and settings.keys_file is None:
        yield upstream.NO_KEY.found()
        return
    try:
        found = accesses(settings)
    except BadSettings:  # has been told
        return
    for access in found.values():
        yield from _environment(access, settings, archive_url, f"{access.name}: " if len(found) > 1 else "")


def _environment(access: Access, settings: Settings, archive_url: str | None, whose: str) -> Iterator[Finding]:
    from tailrace.errors import WorkerError
    from tailrace.service.environments import upstream_of

    yield from upstream.address(access, whose)
    yield from upstream.kind_of_key(access)
    asked = upstream_of(access, settings)
    try:
        findings = list(upstream.answers(access, asked, whose))
        yield from findings
        if all(each.code != upstream.TAKES_KEY.code for each in findings):
            return
        if archive_url is None:
            return
        with suppress(WorkerError), _asking(archive_url) as (diagnosis, _):  # without an archive there are no runs
            yield from upstream.whose_runs(access, asked, diagnosis)
    finally:
        asked.close()


def _show(findings: list[Finding]) -> None:
    from rich.text import Text

    signs = {Severity.OK: ("✓", "green"), Severity.NOTE: ("!", "yellow"), Severity.PROBLEM: ("✗", "bold red")}
    width = max(len(each.name) for each in findings)
    for each in findings:
        sign, style = signs[each.severity]
        stdout().print(Text.assemble((sign, style), f" {each.name:<{width}} {shown(each.says)}"))
        if each.todo:
            stdout().print(Text(f"  {'':<{width}} → {each.todo}"))
