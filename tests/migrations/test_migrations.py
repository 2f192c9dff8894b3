"""The migrations make the schema that migrations/schema/ pictures, on any database, beside anybody, and take it away again."""

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
from tests.migrations.catalog import describe

ROOT = Path(__file__).parents[2]

PICTURE = ROOT / "migrations" / "schema"

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


def pictured() -> list[str]:
    """The names of the files that schema.sql takes in, in its order."""
    lines = PICTURE.joinpath("schema.sql").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("\\ir ") for line in lines if line.startswith("\\ir ")]


def test_empty_to_head_equals_the_picture(database_url: str, empty_database_url: str) -> None:
    with connected(empty_database_url) as connection:
        connection.execute("CREATE SCHEMA tailrace; SET search_path = ''")
        for name in pictured():
            connection.execute(PICTURE.joinpath(name).read_text(encoding="utf-8"))  # type: ignore[arg-type]
    migrated, picture = describe(database_url), describe(empty_database_url)
    for part in picture:
        assert migrated[part] == picture[part], part


def test_the_picture_takes_in_each_of_its_files_once() -> None:
    assert sorted([*pictured(), "schema.sql"]) == sorted(path.name for path in PICTURE.iterdir())


def test_down_to_empty_and_up_again(database_url: str) -> None:
    before, described = everything(database_url), describe(database_url)
    migrate.downgrade(database_url, "base")
    assert everything(database_url) == [("relation", "alembic_version")]
    assert migrate.current(database_url) is None
    migrate.upgrade(database_url)
    assert everything(database_url) == before
    assert describe(database_url) == described
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
    assert describe(empty_database_url) == describe(database_url)
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
