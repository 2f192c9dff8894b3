"""The migrations make the schema that tables.py pictures, on any database, beside anybody, and take it away again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from tailrace.errors import BadSettings, StoreUnavailable
from tailrace.store import migrate
from tailrace.store.engine import create_engine
from tailrace.store.tables import SCHEMA, metadata

ROOT = Path(__file__).parents[2]

# What makes up the tables of the schema, daily partitions and Alembic's own table aside.
CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
               pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND {ours}""",
    "constraints": """
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE {ours}""",
    "indexes": """
        SELECT c.relname, pg_get_indexdef(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE {ours}""",
    "options": """
        SELECT c.relname, c.relkind, c.reloptions, pg_get_partkeydef(c.oid)
        FROM pg_class c WHERE c.relkind IN ('r', 'p') AND {ours}""",
}
OURS = """
    c.relnamespace = 'tailrace'::regnamespace AND c.relname !~ '^segments_[0-9]+' AND c.relname <> 'alembic_version'"""

EVERYTHING = """
    SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = 'tailrace'::regnamespace AND relkind <> 'i'
    UNION ALL SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = 'tailrace'::regnamespace
    UNION ALL SELECT 'type', typname::text FROM pg_type
              WHERE typnamespace = 'tailrace'::regnamespace AND typrelid = 0 AND typelem = 0
    ORDER BY 1, 2"""


@contextmanager
def connected(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def catalog(url: str) -> dict[str, list[tuple[Any, ...]]]:
    with connected(url) as connection:
        return {
            name: sorted(connection.execute(query.format(ours=OURS)).fetchall(), key=repr)  # type: ignore[arg-type]
            for name, query in CATALOG.items()
        }


def everything(url: str) -> list[tuple[Any, ...]]:
    with connected(url) as connection:
        return connection.execute(EVERYTHING).fetchall()


def alembic(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The `alembic` command as the Procfile runs it, from the project's root."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_empty_to_head_equals_the_tables_in_code(database_url: str, empty_database_url: str) -> None:
    engine = create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        connection.execute(
            sa.text("CREATE FUNCTION tailrace.next_id() RETURNS bigint LANGUAGE sql VOLATILE RETURN 1::bigint")
        )
        connection.execute(
            sa.text(
                "CREATE FUNCTION tailrace.span_of_changes(bigint[]) RETURNS int8range LANGUAGE sql IMMUTABLE"
                " RETURN NULL::int8range"
            )
        )
        metadata.create_all(connection)
    engine.dispose()
    in_database, in_code = catalog(database_url), catalog(empty_database_url)
    for part in CATALOG:
        assert in_database[part] == in_code[part], part


def test_alembic_finds_nothing_to_generate(database_url: str) -> None:
    checked = alembic("check", DATABASE_URL=database_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "No new upgrade operations detected" in checked.stdout + checked.stderr


def test_down_to_empty_and_up_again(database_url: str) -> None:
    before = everything(database_url)
    migrate.downgrade(database_url, "base")
    assert everything(database_url) == [("relation", "alembic_version")]
    assert migrate.current(database_url) is None
    migrate.upgrade(database_url)
    assert everything(database_url) == before
    assert migrate.current(database_url) == migrate.head()


def test_upgrade_changes_nothing_when_there_is_nothing_to_do(database_url: str) -> None:
    before = everything(database_url)
    migrate.upgrade(database_url)
    assert everything(database_url) == before


def test_a_database_never_migrated_has_no_revision(empty_database_url: str) -> None:
    assert migrate.current(empty_database_url) is None


def test_four_at_once_from_empty(empty_database_url: str) -> None:
    program = "import sys; from tailrace.store.migrate import upgrade; upgrade(sys.argv[1])"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_database_url], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in started:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert migrate.current(empty_database_url) == migrate.head()


def test_the_alembic_command_takes_either_variable(empty_database_url: str) -> None:
    done = alembic("upgrade", "head", DATABASE_URL=empty_database_url.replace("postgresql://", "postgres://"))
    assert done.returncode == 0, done.stderr
    assert migrate.current(empty_database_url) == migrate.head()
    done = alembic("downgrade", "base", TAILRACE_DATABASE_URL=empty_database_url, DATABASE_URL="postgres://elsewhere/x")
    assert done.returncode == 0, done.stderr
    assert migrate.current(empty_database_url) is None


def test_without_a_url_the_variable_is_named() -> None:
    failed = alembic("upgrade", "head")
    assert failed.returncode != 0
    assert BadSettings.__name__ in failed.stderr
    assert "DATABASE_URL" in failed.stderr


def test_a_password_with_percent_signs_is_no_format(empty_database_url: str) -> None:
    with connected(empty_database_url) as connection:
        connection.execute("""DO $$ BEGIN
            CREATE ROLE percent LOGIN PASSWORD '50%%(here)s:/@';
            EXECUTE format('GRANT CREATE ON DATABASE %I TO percent', current_database());
        END $$""")
    try:
        url = make_url(empty_database_url).set(username="percent", password="50%%(here)s:/@")
        migrate.upgrade(url.render_as_string(hide_password=False))
        assert migrate.current(empty_database_url) == migrate.head()
    finally:
        drop_role(empty_database_url, "percent")


def test_a_role_that_may_create_nothing_but_in_the_schema(empty_database_url: str) -> None:
    """As on a managed server where somebody else made the schema: no superuser, no right to create schemas."""
    with connected(empty_database_url) as connection:
        connection.execute("CREATE ROLE modest LOGIN PASSWORD 'x'")
        connection.execute("CREATE SCHEMA tailrace AUTHORIZATION modest")
    try:
        url = make_url(empty_database_url).set(username="modest", password="x").render_as_string(hide_password=False)
        migrate.upgrade(url)
        migrate.downgrade(url, "base")
        migrate.upgrade(url)
        assert migrate.current(url) == migrate.head()
    finally:
        drop_role(empty_database_url, "modest")


def drop_role(url: str, role: str) -> None:
    with connected(url) as connection:
        connection.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")  # type: ignore[arg-type]


HOST = """
    CREATE TABLE public.alembic_version (version_num varchar(32) PRIMARY KEY);
    INSERT INTO public.alembic_version VALUES ('host_42');
    CREATE TABLE public.runs (id int PRIMARY KEY, note text);
    CREATE TABLE public.streams (id int PRIMARY KEY);
    INSERT INTO public.runs VALUES (1, 'ours');
    CREATE VIEW public.chunks AS SELECT id FROM public.runs;
    CREATE FUNCTION public.next_id() RETURNS int LANGUAGE sql AS 'SELECT 1'"""

HOST_AFTER = """
    SELECT (SELECT array_agg(version_num) FROM public.alembic_version), (SELECT array_agg(note) FROM public.runs),
           (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace), public.next_id()"""


def test_a_host_application_in_public_is_left_alone(empty_database_url: str) -> None:
    host = sa.MetaData()
    sa.Table("runs", host, sa.Column("id", sa.Integer, primary_key=True), sa.Column("note", sa.Text))
    sa.Table("streams", host, sa.Column("id", sa.Integer, primary_key=True))
    with connected(empty_database_url) as connection:
        connection.execute(HOST)
        before = connection.execute(HOST_AFTER).fetchone()
        migrate.upgrade(empty_database_url)
        checked = alembic("check", DATABASE_URL=empty_database_url)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        with create_engine(empty_database_url).connect() as theirs:
            context = MigrationContext.configure(theirs)
            assert context.get_current_revision() == "host_42"
            assert compare_metadata(context, host) == []
        theirs.engine.dispose()
        migrate.downgrade(empty_database_url, "base")
        assert connection.execute(HOST_AFTER).fetchone() == before


def test_a_search_path_that_leads_elsewhere_does_not_matter(empty_database_url: str) -> None:
    with connected(empty_database_url) as connection:
        connection.execute("""
            CREATE SCHEMA elsewhere;
            CREATE TABLE elsewhere.segments (x int);
            CREATE TABLE elsewhere.alembic_version (version_num varchar(32));
            CREATE FUNCTION elsewhere.clock_timestamp() RETURNS timestamptz
                LANGUAGE sql AS $$ SELECT 'epoch'::timestamptz $$;
            DO $$ BEGIN
                EXECUTE format('ALTER DATABASE %I SET search_path = elsewhere, pg_catalog', current_database());
            END $$""")
    migrate.upgrade(empty_database_url)
    with connected(empty_database_url) as connection:
        connection.execute("SELECT tailrace.request_ingest('run_1')")
        connection.execute("SELECT tailrace.ensure_partitions(20)")
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'elsewhere'").fetchone() == (2,)
        assert connection.execute("SELECT id > 1::bigint << 60 FROM tailrace.runs").fetchone() == (True,)
        assert connection.execute("SELECT * FROM tailrace.verify_accounts()").fetchall() == []


def test_the_statements_can_be_printed_for_somebody_else_to_run(database_url: str, empty_database_url: str) -> None:
    printed = alembic("upgrade", "head", "--sql", DATABASE_URL="postgres://nowhere/x")
    assert printed.returncode == 0, printed.stderr
    with connected(empty_database_url) as connection:
        connection.execute(printed.stdout)  # type: ignore[arg-type]
    assert catalog(empty_database_url) == catalog(database_url)
    assert everything(empty_database_url) == everything(database_url)
    assert migrate.current(empty_database_url) == migrate.head()


def test_a_server_that_does_not_answer_is_unavailable(empty_database_url: str) -> None:
    url = make_url(empty_database_url).set(host="127.0.0.1", port=1)
    with pytest.raises(StoreUnavailable):
        migrate.upgrade(url.render_as_string(hide_password=False))


def test_files_are_in_the_order_of_the_revisions() -> None:
    revisions = list(ScriptDirectory(str(ROOT / "migrations")).walk_revisions())
    names = [Path(revision.path).name for revision in reversed(revisions)]
    assert names == sorted(names)
    for revision in revisions:
        assert Path(revision.path).name.startswith(f"{revision.revision}_")
        assert len(revision.nextrev) <= 1
