"""Every statement of a runbook runs on an archive."""

from __future__ import annotations

import psycopg
import pytest

from tests.operated import RUNBOOKS, commands_in


def statements() -> list[tuple[str, str]]:
    """Return the runbooks' statements with the page that each is on."""
    return [
        (page.stem, command[2])
        for page in sorted(RUNBOOKS.glob("*.md"))
        for command in commands_in(page.read_text())
        if command[:2] == ("tailrace", "sql")
    ]


def test_every_statement_of_a_runbook_runs_and_reads_only(database_url: str) -> None:
    wrong = {}
    with psycopg.connect(database_url) as connection:
        for page, statement in statements():
            try:
                connection.execute("SET TRANSACTION READ ONLY")
                connection.execute(statement)  # type: ignore[call-overload]
            except psycopg.Error as error:
                wrong[page] = f"{statement}: {error}"
            connection.rollback()
    assert wrong == {}


@pytest.mark.parametrize("page", ["no-worker", "losses", "stream-stuck"])
def test_statements_are_found(page: str) -> None:
    assert page in {name for name, _ in statements()}
