"""Each migration keeps what the release before it uses: tables, views and functions as that code knows them.

Of the second migration on: what 0001 makes is what the first release uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic.script import ScriptDirectory

from tailrace.store import migrate

ROOT = Path(__file__).parents[2]

COLUMNS = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND c.relkind <> 'v'
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0
      AND NOT a.attisdropped AND c.relname !~ '^segments_[0-9]' AND c.relname <> 'alembic_version'
    ORDER BY c.relname, a.attnum"""
FUNCTIONS = """
    SELECT proname, proargtypes::regtype[]::text[], pronargs - pronargdefaults, pg_get_function_result(oid)
    FROM pg_proc WHERE pronamespace = 'tailrace'::regnamespace"""


@dataclass(frozen=True, slots=True)
class Function:
    """What a call must look like; ``required``: how many arguments have no default."""

    name: str
    arguments: tuple[str, ...]
    required: int
    result: str

    def takes_calls_of(self, old: Function) -> bool:
        """Whether every call of the old one is one of this, and gives the same."""
        return (
            (self.name, self.result) == (old.name, old.result)
            and self.arguments[: len(old.arguments)] == old.arguments
            and self.required <= old.required
        )


@dataclass(frozen=True, slots=True)
class Surface:
    """What code of a release can see of the schema. ``required``: columns that every INSERT must name."""

    columns: dict[str, list[tuple[str, str]]]
    required: set[tuple[str, str]]
    functions: list[Function]


def surface(url: str) -> Surface:
    with psycopg.connect(url) as connection:
        columns: dict[str, list[tuple[str, str]]] = {}
        required = set()
        for relation, name, kind, needed in connection.execute(COLUMNS):
            columns.setdefault(relation, []).append((name, kind))
            if needed:
                required.add((relation, name))
        functions = [
            Function(name, tuple(arguments), needed, result)
            for name, arguments, needed, result in connection.execute(FUNCTIONS)
        ]
    return Surface(columns, required, functions)


def test_what_the_previous_release_uses_stays(empty_database_url: str) -> None:
    """Columns keep their name, type and place; none becomes one that an INSERT must name; calls find their function."""
    revisions = [r.revision for r in ScriptDirectory(str(ROOT / "migrations")).walk_revisions()][::-1]
    migrate.upgrade(empty_database_url, revisions[0])
    before = surface(empty_database_url)
    assert before.functions
    for revision in revisions[1:]:
        migrate.upgrade(empty_database_url, revision)
        after = surface(empty_database_url)
        for relation, columns in before.columns.items():
            assert after.columns.get(relation, [])[: len(columns)] == columns, (revision, relation)
        new = {each for each in after.required - before.required if each[0] in before.columns}
        assert new == set(), revision
        for old in before.functions:
            assert any(each.takes_calls_of(old) for each in after.functions), (revision, old)
        before = after
