"""Managed Postgres gives no superuser: migrations, workers and maintenance need no more than each kind of role has.

The roles are made as the vendors' documentation describes theirs; docs/fit-in.md has the sources.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from tailrace.model import Wire
from tailrace.service.maintenance import Maintenance
from tailrace.store import migrate, roles
from tests.ingestion import ingesting, numbered, store_with

_numbers = itertools.count(1)

RUNTIME, READER = "tr_managed_runtime", "tr_managed_reader"
OTHERS = {each: f"tr_managed_{each}" for each in ("enqueuer", "monitor", "maintenance")}
"""Not those that others of the server have made already: an account may change only its own."""
"""Of this file's own: roles belong to the whole server, and only who made one may change it."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """How a vendor sets up the role that a customer gets. ``{role}`` is that role, ``{db}`` its database."""

    before: tuple[str, ...]
    attributes: str
    after: tuple[str, ...] = ()
    owns_database: bool = True
    makes_roles: bool = True


VENDORS = {
    # The master user: a member of rds_superuser, which is none.
    "rds": Vendor(
        ("CREATE ROLE {group} NOLOGIN", "GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO {group} WITH ADMIN OPTION"),
        "CREATEDB CREATEROLE",
        ("GRANT {group} TO {role}",),
    ),
    # `postgres`: a member of cloudsqlsuperuser, which owns the databases.
    "cloud sql": Vendor(
        ("CREATE ROLE {group} NOLOGIN CREATEDB CREATEROLE",),
        "CREATEDB CREATEROLE",
        ("GRANT {group} TO {role}", "ALTER DATABASE {db} OWNER TO {group}"),
        owns_database=False,
    ),
    # A role of the console: a member of neon_superuser, and the owner of its database.
    "neon": Vendor(
        ("CREATE ROLE {group} NOLOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS",
         "GRANT pg_read_all_data, pg_write_all_data, pg_monitor TO {group}"),
        "CREATEDB CREATEROLE REPLICATION BYPASSRLS",
        ("GRANT {group} TO {role}",),
    ),
    # The default credential: the owner of one database, who may look at statistics and end others' sessions.
    "heroku": Vendor(
        (),
        "NOCREATEDB NOCREATEROLE",
        ("REVOKE CONNECT ON DATABASE {db} FROM PUBLIC", "GRANT pg_monitor, pg_signal_backend TO {role}"),
        makes_roles=False,
    ),
    # Somebody else's database, in which an administrator made the schema.
    "a schema only": Vendor(
        (),
        "NOCREATEDB NOCREATEROLE",
        ("REVOKE ALL ON DATABASE {db} FROM PUBLIC", "GRANT CONNECT ON DATABASE {db} TO {role}",
         "CREATE SCHEMA tailrace AUTHORIZATION {role}"),
        owns_database=False,
        makes_roles=False,
    ),
}  # fmt: skip


@pytest.fixture(params=VENDORS)
def customer(request: pytest.FixtureRequest, empty_database_url: str) -> Iterator[tuple[Vendor, str]]:
    """A vendor, and the URL of a customer's empty database, as the role that the customer has."""
    vendor = VENDORS[request.param]
    n = next(_numbers)
    names = {
        "role": sql.Identifier(f"tr_customer_{n}"),
        "group": sql.Identifier(f"tr_vendor_{n}"),
        "db": sql.Identifier(make_url(empty_database_url).database or ""),
    }
    with psycopg.connect(empty_database_url, autocommit=True) as admin:

        def run(*statements: str) -> None:
            for statement in statements:
                admin.execute(sql.SQL(statement).format(**names))  # type: ignore[arg-type]

        run(*vendor.before, f"CREATE ROLE {{role}} LOGIN NOSUPERUSER PASSWORD 'x' {vendor.attributes}")
        if vendor.owns_database:
            run("ALTER DATABASE {db} OWNER TO {role}")
        run(*vendor.after)
        url = make_url(empty_database_url).set(username=f"tr_customer_{n}", password="x")
        yield vendor, url.render_as_string(hide_password=False)
        run("ALTER DATABASE {db} OWNER TO CURRENT_USER")
        for role in (RUNTIME, READER, *OTHERS.values()):
            if admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
        run("DROP OWNED BY {role} CASCADE", "DROP ROLE {role}")
        if vendor.before:
            run("DROP OWNED BY {group}", "DROP ROLE {group}")


def test_it_is_migrated_read_into_and_kept(customer: tuple[Vendor, str]) -> None:
    vendor, url = customer
    migrate.upgrade(url)
    migrate.upgrade(url)
    assert migrate.current(url) == migrate.head()
    with ingesting(url, store_with(Wire.V2, numbered(20)), retention_days=1) as (ingestion, _):
        ingestion.request("run_1")
        ingestion.until_sealed("run_1")
        assert ingestion.texts("run_1") == [text.encode() for text in numbered(20)]
        ingestion.runtime.maintenance()
        upkeep = Maintenance(ingestion.runtime)
        upkeep.keep()
        upkeep.prune()
        assert ingestion.value("SELECT compacted_at IS NOT NULL FROM tailrace.streams")
        assert ingestion.rows("SELECT * FROM tailrace.verify_accounts()") == []
    done = roles.set_up(url, RUNTIME, READER, **OTHERS)
    assert (done.refused is None) == vendor.makes_roles
    if not vendor.makes_roles:
        assert "permission denied" in str(done.refused)
        assert "CREATE ROLE" in done.script


@pytest.mark.parametrize("customer", ["rds"], indirect=True)
def test_a_worker_of_another_account_writes_as_the_runtime_role(customer: tuple[Vendor, str]) -> None:
    _, url = customer
    migrate.upgrade(url)
    assert roles.set_up(url, RUNTIME, READER, **OTHERS).refused is None
    name = f"tr_app_{next(_numbers)}"
    with psycopg.connect(url, autocommit=True) as master:
        master.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE {RUNTIME}")
        app = make_url(url).set(username=name).render_as_string(hide_password=False)
        with ingesting(app, store_with(Wire.V1, numbered(5))) as (ingestion, _):
            ingestion.request("run_1")
            ingestion.turn()
            assert len(ingestion.texts("run_1")) == 5
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ingestion.run("CREATE TABLE tailrace.mine (x int)")
        master.execute(f"DROP ROLE {name}")
