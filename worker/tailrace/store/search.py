"""Runs that a person looks for, newest first, a page at a time. However large the archive is, a page costs a bounded
look: what is not found in it is looked for in the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from tailrace.store.bounded import ask

__all__ = ["LOOKED_AT", "STATEMENT_S", "FoundPage", "FoundRun", "RunSearch", "Wanted"]

STATEMENT_S: Final = 5.0
LOOKED_AT: Final = 20_000
"""A page looks at so many rows of runs: some hundredths of a second. To work out the verdict of each of them, from the
rows of their streams, takes some tenths."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; None: whatever it is. All that is said must hold.

    ``since``, ``until``: when the run was first asked for. ``text``: words that follow each other in the text of a
    sealed stream. ``before``: the place where the last page ended (`FoundPage.more`).
    """

    environment: str | None = None
    run_id: str | None = None
    tag: str | None = None
    task: str | None = None
    status: str | None = None
    verdict: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    before: int | None = None


class FoundRun(NamedTuple):
    """A row of view run_overview, as far as a list shows it."""

    run: int
    environment: str
    run_id: str
    task_identifier: str | None
    status: str | None
    tags: list[str]
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    state: str
    verdict: str
    streams: int
    chunks: int
    bytes: int
    gaps: int
    quarantined: int
    lag: int | None
    requested_at: datetime
    last_error: str | None


class FoundPage(NamedTuple):
    """``more``: what `Wanted.before` must be for the next page; None: there is none. It can be there although the page
    is not full, or empty: further back there may be more."""

    runs: list[FoundRun]
    more: int | None


class RunSearch:
    """Asks one archive. Thread-safe.

    Raises, whatever is asked:
        StoreUnavailable: Postgres did not answer.
        NotMigrated, QueryRefused: it refused, or took longer than `STATEMENT_S`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def page(self, wanted: Wanted, most: int) -> FoundPage:
        """Read the newest runs that are wanted, ``most`` at most."""
        where, order, parameters = _narrowed(wanted)
        judged = most + 1 if wanted.verdict is None else LOOKED_AT
        rows = ask(
            self._engine,
            STATEMENT_S,
            f"""
            WITH looked AS MATERIALIZED (
                SELECT r.id, r.task_identifier, r.status FROM tailrace.runs r
                WHERE {where} ORDER BY {order} LIMIT :looked_at
            ), judged AS MATERIALIZED (
                SELECT l.id FROM looked l
                WHERE (CAST(:task AS text) IS NULL OR l.task_identifier = :task)
                  AND (CAST(:status AS text) IS NULL OR l.status = :status)
                ORDER BY l.id DESC LIMIT :judged
            )
            SELECT
                (SELECT count(*) FROM looked) AS looked, (SELECT min(id) FROM looked) AS looked_to,
                (SELECT count(*) FROM judged) AS judged, (SELECT min(id) FROM judged) AS judged_to, o.*
            FROM (SELECT) once
            LEFT JOIN (
                SELECT {", ".join(f"v.{name}" for name in FoundRun._fields)}
                FROM judged j JOIN tailrace.run_overview v ON v.run = j.id
                WHERE CAST(:verdict AS text) IS NULL OR v.verdict = :verdict
                ORDER BY j.id DESC LIMIT :most
            ) o ON true
            ORDER BY o.run DESC
            """,
            {
                **parameters,
                "task": wanted.task,
                "status": wanted.status,
                "verdict": wanted.verdict,
                "looked_at": LOOKED_AT,
                "judged": judged,
                "most": most + 1,
            },
        )
        found = [FoundRun._make(row[4:]) for row in rows if row.run is not None]
        if len(found) > most:
            return FoundPage(found[:most], found[most - 1].run)
        if rows[0].judged == judged:
            return FoundPage(found, rows[0].judged_to)
        return FoundPage(found, rows[0].looked_to if rows[0].looked == LOOKED_AT else None)


def _narrowed(wanted: Wanted) -> tuple[str, str, dict[str, Any]]:
    """Return which rows are looked at, in which order, and what these name. Pure."""
    said: list[tuple[str, str, Any]] = [
        ("before", "r.id < :before", wanted.before),
        ("run_id", "r.run_id = :run_id", wanted.run_id),
        ("tag", "r.tags @> ARRAY[CAST(:tag AS text)]", wanted.tag),
        ("since", "r.id >= tailrace.stream_id_at(:since)", wanted.since),
        ("until", "r.id < tailrace.stream_id_at(:until)", wanted.until),
        (
            "text",
            "r.id IN (SELECT s.run FROM tailrace.search_text(:text) f JOIN tailrace.streams s ON s.id = f.stream_id)",
            wanted.text,
        ),
    ]
    conditions = [condition for _, condition, value in said if value is not None]
    parameters = {name: value for name, _, value in said if value is not None}
    order = "r.id DESC"
    if wanted.environment is not None:
        # As in Archive.newest_runs: with an equals sign Postgres may go through the runs of all environments.
        its_id = "(SELECT id FROM tailrace.environments WHERE name = :environment)"
        conditions.append(f"r.environment_id BETWEEN {its_id} AND {its_id}")
        parameters["environment"] = wanted.environment
        order = "r.environment_id DESC, r.id DESC"
    return " AND ".join(conditions) or "true", order, parameters
