"""The owner migrates, the runtime archives, everybody else has one errand: each role does its work and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from tailrace.config.own_keys import hashed, new_key
from tailrace.model import Wire
from tailrace.requests import request_ingest
from tailrace.serve.archive import Archive as Served
from tailrace.serve.archive import ArchiveStore
from tailrace.serve.entries import V1Id
from tailrace.serve.runs import EPOCH, RunQuery
from tailrace.service.exporter import ArchiveCollector
from tailrace.service.verifying import Verifying
from tailrace.store import migrate, roles
from tailrace.store.access_keys import AccessKeys
from tailrace.store.engine import create_engine
from tailrace.store.figures import Figures
from tailrace.store.keeping.compaction import Compacted, Compaction
from tailrace.store.keeping.export import Export, ExportFormat
from tailrace.store.keeping.forget import Forgetting
from tailrace.store.keeping.mismatches import Mismatches
from tailrace.store.keeping.progress import Progress
from tailrace.store.keeping.retention import Retention
from tailrace.store.keeping.verification import Verification
from tailrace.store.queries import Archive as Queries
from tests import consoles
from tests.chaos.fleet import QUICK, scene, wait_for
from tests.integration.schema_rows import Archive
from tests.upstream import LiveStore

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
LETTERS = {"SELECT": "S", "INSERT": "I", "UPDATE": "U", "DELETE": "D"}
OTHERS = ("TRUNCATE", "REFERENCES", "TRIGGER")

_numbers = itertools.count(1)


class Database:
    def __init__(self, url: str) -> None:
        self.url = url
        self.archive = Archive(url)
        n = next(_numbers)
        self.runtime, self.reader, self.enqueuer = f"tr_runtime_{n}", f"tr_reader_{n}", f"tr_enqueuer_{n}"
        self.monitor, self.maintenance, self.server = f"tr_monitor_{n}", f"tr_maintenance_{n}", f"tr_server_{n}"

    @property
    def roles(self) -> dict[str, str]:
        """Each role by the word that the documentation has for it."""
        return {
            "runtime": self.runtime,
            "maintenance": self.maintenance,
            "monitor": self.monitor,
            "enqueuer": self.enqueuer,
            "reader": self.reader,
            "server": self.server,
        }

    def set_up(self) -> roles.RoleSetup:
        rest = {
            "enqueuer": self.enqueuer,
            "monitor": self.monitor,
            "maintenance": self.maintenance,
            "server": self.server,
        }
        return roles.set_up(self.url, self.runtime, self.reader, **rest, timeout_s=7)

    def url_of(self, role: str) -> str:
        return make_url(self.url).set(username=role, password="x").render_as_string(hide_password=False)

    def as_(self, role: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url_of(role), autocommit=True)

    @contextmanager
    def engine_of(self, role: str) -> Iterator[sa.Engine]:
        engine = create_engine(self.url_of(role))
        try:
            yield engine
        finally:
            engine.dispose()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    done = database.set_up()
    assert done.refused is None
    for role in database.roles.values():
        database.archive.run(f"ALTER ROLE {role} LOGIN PASSWORD 'x'")
    yield database
    for role in database.roles.values():
        database.archive.run(f"DROP OWNED BY {role}")
        database.archive.run(f"DROP ROLE {role}")
    database.archive.connection.close()


# --- what the documentation says of them


def test_the_documentation_has_the_rights_of_each_role_as_they_are(database: Database) -> None:
    """When this fails, put the rows into docs/security.md as they are shown."""
    relations = database.archive.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = 'tailrace'::regnamespace AND relkind IN ('r', 'p', 'v')"
        " AND NOT relispartition ORDER BY relkind = 'v', relname"
    )
    expected = [f"| | {' | '.join(f'`tailrace_{word}`' for word in database.roles)} |"]
    for (name,) in relations:
        cells = []
        for role in database.roles.values():
            may = {
                right: database.archive.value("SELECT has_table_privilege(%s, %s, %s)", role, f"tailrace.{name}", right)
                for right in (*LETTERS, *OTHERS)
            }
            assert not [right for right in OTHERS if may[right]]
            cells.append("".join(letter for right, letter in LETTERS.items() if may[right]))
        expected.append(f"| `{name}` | {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    functions = database.archive.rows(
        "SELECT oid::regprocedure::text, proname FROM pg_proc WHERE pronamespace = 'tailrace'::regnamespace"
        " AND prosecdef ORDER BY 2, 1"
    )
    by_name: dict[str, set[tuple[bool, ...]]] = {}
    for signature, name in functions:
        may_call = tuple(
            database.archive.value("SELECT has_function_privilege(%s, %s, 'EXECUTE')", role, signature)
            for role in database.roles.values()
        )
        by_name.setdefault(name, set()).add(may_call)
    for name, kinds in by_name.items():
        (kind,) = kinds
        cells = ["yes" if may_call else "" for may_call in kind]
        expected.append(f"| `{name}()` | {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    documented = [
        line
        for line in PAGE.splitlines()
        if re.match(r"\| (\| `tailrace_runtime`|`\w+(\(\))?` \| (|[SIUD]+|yes) ?\|)", line)
    ]
    assert documented == expected, "\n".join(expected)


def blocks(heading: str) -> list[str]:
    """The SQL below a heading of the documentation."""
    section = re.split(r"\n##", PAGE.partition(f"\n{heading}\n")[2])[0]
    return re.findall(r"```sql\n(.*?)```", section, re.S)


def test_the_sql_to_paste_makes_accounts_that_do_their_work(empty_database_url: str) -> None:
    """As it stands in the documentation, from an empty database on; a migrator owns the archive and nothing else."""
    owner, accounts = blocks("### The owner"), blocks("### Accounts")
    assert len(owner) == len(accounts) == 1
    name = make_url(empty_database_url).database
    n = next(_numbers)
    made = re.compile(r"(?<=ROLE )(\w+)(?= LOGIN)")
    names = [*made.findall(owner[0]), *made.findall(accounts[0])]
    groups = [roles.RUNTIME, roles.READER, roles.ENQUEUER, roles.MONITOR, roles.MAINTENANCE, roles.SERVER]
    assert len(names) == 7

    def pasted(text: str) -> str:
        text = re.sub(r"\bmydb\b", f'"{name}"', text).replace("'...'", "'x'")
        return re.sub(rf"\b({'|'.join([*names, *groups])})\b", rf"\1_{n}", text)

    def url_of(role: str) -> str:
        url = make_url(empty_database_url).set(username=f"{role}_{n}", password="x")
        return url.render_as_string(hide_password=False)

    with psycopg.connect(empty_database_url, autocommit=True) as admin:
        admin.execute(pasted(owner[0]))  # type: ignore[arg-type]
        migrate.upgrade(url_of(names[0]))
        runtime, reader, *rest = (f"{group}_{n}" for group in groups)
        done = roles.set_up(url_of(names[0]), runtime, reader)
        assert done.refused is not None  # it may not make roles
        script = roles.statements(
            runtime, reader, enqueuer=rest[0], monitor=rest[1], maintenance=rest[2], server=rest[3], connection=admin
        )
        for statement in script:
            admin.execute(statement)  # type: ignore[arg-type]
        admin.execute(pasted(accounts[0]))  # type: ignore[arg-type]
        try:
            admin.execute(f'REVOKE CREATE ON DATABASE "{name}" FROM "{names[0]}_{n}"')  # type: ignore[arg-type]
            migrate.upgrade(url_of(names[0]))
            with psycopg.connect(url_of(names[0]), autocommit=True) as owner_:
                for beyond in (
                    "CREATE SCHEMA mine",
                    "CREATE ROLE mine",
                    "CREATE DATABASE mine",
                    "CREATE TABLE public.x ()",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        owner_.execute(beyond)  # type: ignore[arg-type]
            works = {
                names[1]: "SELECT tailrace.ensure_partitions()",
                names[2]: "SELECT tailrace.request_ingest('run_1')",
                names[3]: "SELECT * FROM tailrace.chunks",
                names[4]: "SELECT * FROM tailrace.streams_now",
                names[5]: "SELECT tailrace.forget_run('default', 'run_1')",
                names[6]: "SELECT * FROM tailrace.access_keys",
            }
            for role, statement in works.items():
                with psycopg.connect(url_of(role), autocommit=True) as connection:
                    connection.execute(statement)  # type: ignore[arg-type]
                    if role in (names[3], names[4]):
                        assert connection.execute("SHOW statement_timeout").fetchone() == ("1min",)
        finally:
            for role in (*(f"{each}_{n}" for each in names[1:]), runtime, reader, *rest, f"{names[0]}_{n}"):
                admin.execute(f'DROP OWNED BY "{role}" CASCADE; DROP ROLE "{role}"')  # type: ignore[arg-type]


# --- each does its work and nothing else


def test_a_reader_sees_every_view_and_function_of_the_contract(database: Database) -> None:
    stream = database.archive.whole_stream(
        ['"one"', '{"type":"text-start","id":"0"}', '{"type":"start","messageId":"m"}', '"two"']
    )
    database.archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
    with database.as_(database.reader) as connection:
        for view in roles.VIEWS:
            connection.execute(f"SELECT * FROM tailrace.{view}").fetchall()  # type: ignore[arg-type]
        assert connection.execute("SELECT count(*) FROM tailrace.chunks").fetchone() == (4,)
        assert connection.execute("SELECT text FROM tailrace.stream_text").fetchone() == ("two",)
        assert connection.execute("SELECT longest_stall_s FROM tailrace.stream_stats").fetchone() == (0.001,)
        for call in (
            "chunks_range('run_1', 'ai', 0, 1)",
            "changes_since(-1)",
            "search_text('one')",
            f"parts_of_stream({stream})",
            f"parts_of_stream({stream}, '{{text}}')",
            "stream_id_at(now())",
        ):
            connection.execute(f"SELECT * FROM tailrace.{call}").fetchall()  # type: ignore[arg-type]


def test_a_server_notes_that_a_key_is_used_and_gives_none(database: Database) -> None:
    with database.engine_of(database.maintenance) as engine:
        AccessKeys(engine).add("web", "default", hashed(new_key()))
    with database.engine_of(database.server) as engine:
        keys = AccessKeys(engine)
        keys.note_use([each.id for each in keys.valid()])
        assert keys.all()[0].last_used_at is not None
    for change in (
        "INSERT INTO tailrace.access_keys (environment_id, name, key_hash) SELECT id, 'x', '' FROM tailrace.environments",
        "UPDATE tailrace.access_keys SET revoked_at = NULL",
        "UPDATE tailrace.access_keys SET key_hash = sha256('x')",
        "DELETE FROM tailrace.access_keys",
    ):
        refused(database, database.server, change)
    for role in (database.reader, database.monitor, database.enqueuer):
        refused(database, role, "SELECT * FROM tailrace.access_keys")
    for role in (database.runtime, database.reader, database.monitor, database.enqueuer):
        refused(database, role, "UPDATE tailrace.access_keys SET last_used_at = now()")


CHANGES = [
    "SELECT tailrace.retry_run('run_1')",
    "SELECT tailrace.compact_stream(1)",
    "SELECT tailrace.forget_run('default', 'run_1')",
    "SELECT tailrace.clear_day('2026-01-01')",
    "SELECT tailrace.drop_day('2026-01-01')",
    "SELECT tailrace.ensure_partitions()",
    "CREATE TABLE tailrace.mine (x int)",
    "DELETE FROM tailrace.chunks",
    "UPDATE tailrace.runs SET state = 'cancelled'",
    "DELETE FROM tailrace.alembic_version",
]
"""What nobody may do who reads or asks. Of one row that is there, so that a right that is missing is missed."""
READS = [
    "SELECT * FROM tailrace.chunks",
    "SELECT * FROM tailrace.segments",
    "SELECT * FROM tailrace.quarantine",
    "SELECT * FROM tailrace.changes_since(-1)",
    "SELECT * FROM tailrace.chunks_range('run_1', 'ai', 0, 1)",
    "SELECT * FROM tailrace.search_text('one')",
    "SELECT * FROM tailrace.text_of_stream(1)",
    "SELECT * FROM tailrace.parts_of_stream(1)",
    "SELECT * FROM tailrace.facts_of_stream(1)",
]
"""What shows something of a stream."""


def refused(database: Database, role: str, statement: str) -> None:
    with database.as_(role) as connection:
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
            connection.execute(statement)  # type: ignore[arg-type]


def test_who_serves_readers_reads_all_that_it_serves(database: Database) -> None:
    stream = database.archive.whole_stream(['"one"'])
    database.archive.run("UPDATE tailrace.streams SET wire = 'v2', state = 'active' WHERE id = %s", stream)
    database.archive.run("UPDATE tailrace.runs SET status = 'EXECUTING', created_at = now(), keys_read_at = now()")

    async def go() -> None:
        serving = Served(database.url_of(database.server))
        try:
            store = ArchiveStore(serving, "default")
            run = await store.run("run_1")
            assert run is not None
            assert list((await store.runs(RunQuery())).runs) == [run]
            assert list(await store.runs_changed(EPOCH, 1)) == [run]
            assert await store.run_changed("run_1", run.updated_at, 0.3) is None
            assert not await store.is_forgotten("run_1")
            reader = await store.v2_stream("run_1", "ai")
            assert len((await reader.since(0, 1)).records) == 1
            assert not (await reader.since(1, 0.2)).records  # followed meanwhile
            assert len(await (await store.v1_stream("run_1", "ai")).after(V1Id(1, 0), 0)) == 1
        finally:
            await serving.close()

    asyncio.run(go())


def test_who_serves_the_console_shows_all_of_it_and_has_runs_asked_for_and_stopped(database: Database) -> None:
    stream = database.archive.whole_stream(
        ['{"type":"text-start","id":"1"}', '{"type":"text-delta","id":"1","delta":"one"}']
    )
    database.archive.quarantine(stream, 5)
    database.archive.settle(stream, 1, ["one"])
    database.archive.run("UPDATE tailrace.streams SET state = 'active', lag = 5, attempt = 1")

    async def go() -> None:
        with database.engine_of(database.maintenance) as engine:
            key = consoles.key(engine, acts=True)
        with database.engine_of(database.server) as engine:
            app, console = consoles.application(engine, database.url_of(database.server))
            async with consoles.asking(app, console, key) as client:
                run = "/console/runs/default/run_1"
                views = [f"{run}?view={view}" for view in ("text", "parts", "chunks", "arrivals")]
                for at in ("/", "/?q=one", "/console/fleet", *views, f"{run}/news", f"{run}/download"):
                    answer = await client.get(at)
                    assert answer.status_code == 200, answer.text
                    assert "too large" not in answer.text
                for action in ("cancel", "retry", "ingest"):
                    form = consoles.hidden(await client.get(f"{run}/{action}"))
                    answer = await client.post(f"{run}/{action}", data=form, headers=consoles.SAME)
                    assert answer.status_code == 303, answer.text

    asyncio.run(go())
    assert database.archive.value("SELECT count(*) FROM tailrace.audit WHERE outcome IS NOT NULL") == 3
    for change in (
        "DELETE FROM tailrace.audit",
        "UPDATE tailrace.audit SET who = 'somebody else'",
        "UPDATE tailrace.runs SET state = 'cancelled'",
        "DELETE FROM tailrace.streams",
        "SELECT tailrace.forget_run('default', 'run_1')",
    ):
        refused(database, database.server, change)


def test_a_reader_changes_nothing(database: Database) -> None:
    database.archive.whole_stream(['"one"'])
    for statement in (*CHANGES, "SELECT tailrace.request_ingest('run_2')", "SELECT tailrace.cancel_run('run_1')"):
        refused(database, database.reader, statement)


def test_an_enqueuer_asks_and_cancels_and_sees_nothing(database: Database) -> None:
    database.archive.whole_stream(['"one"'])
    with database.engine_of(database.enqueuer) as engine, engine.begin() as connection:
        assert request_ingest(connection, "run_2", ["ai"], then="app.done") > 0
    with database.as_(database.enqueuer) as connection_:
        assert connection_.execute("SELECT tailrace.cancel_run('run_2')").fetchone() == (0,)
        with pytest.raises(psycopg.errors.NoDataFound):
            connection_.execute("SELECT tailrace.request_ingest('run_2', NULL, 'nowhere')")
    for statement in (*CHANGES, *READS, "SELECT * FROM tailrace.runs", "SELECT * FROM tailrace.stored_after(1, 0, 0)"):
        refused(database, database.enqueuer, statement)


def test_a_forgotten_run_stays_so_whoever_asks(database: Database) -> None:
    """Who asks has the owner's rights for it, and the tombstone counts all the same."""
    database.archive.run("SELECT tailrace.forget_run('default', 'run_1')")
    with database.as_(database.enqueuer) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("SELECT tailrace.request_ingest('run_1')")


def test_a_monitor_sees_how_the_archive_does_and_no_chunk(database: Database) -> None:
    database.archive.whole_stream(['"one"', '"two"'])
    with database.engine_of(database.monitor) as engine:
        archive = Queries(engine)
        (run,) = archive.newest_runs(10, None)
        assert [stream.chunks for stream in archive.streams(run.id)] == [2]
        assert (archive.live_workers(), archive.halted()) == (0, [])
        samples = list(ArchiveCollector(Figures(engine)).collect())  # all that the exporter asks
        assert samples[0].samples[0].value == 1, "the archive could be read"
    with database.as_(database.monitor) as connection:
        for name in roles.WATCHED:
            connection.execute(f"SELECT * FROM tailrace.{name}").fetchall()  # type: ignore[arg-type]
        connection.execute("SELECT pg_total_relation_size('tailrace.segments')").fetchall()
        assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
    for statement in (*CHANGES, *READS, "SELECT tailrace.request_ingest('run_2')"):
        refused(database, database.monitor, statement)


def test_maintenance_keeps_the_archive_and_adds_no_chunk(database: Database, tmp_path: Path) -> None:
    first = database.archive.whole_stream(['"one"', '"two"'])
    second = database.archive.whole_stream(['"three"'], run_id="run_2")
    for state in ("active", "sealed"):
        database.archive.run("UPDATE tailrace.streams SET state = %s", state)
    with database.engine_of(database.maintenance) as engine:
        compaction = Compaction(engine)
        assert compaction.compact(first) == Compacted(1, 1)
        assert compaction.index(first) == 1
        verified = Verifying(Verification(engine), Mismatches(engine), Progress(engine, "all", uuid.uuid4())).run(None)
        assert (verified.streams, verified.violations) == (2, [])
        assert compaction.compact(second) == Compacted(1, 1)
        export = Export(engine, str(tmp_path), ExportFormat.PARQUET)
        assert [each.streams for each in export.run()] == [2]
        assert [each.wrong for each in export.verify()] == [[]]
        forgetting = Forgetting(engine)
        assert forgetting.forget("default", "run_1").archived
        assert not forgetting.forget("default", "run_never").archived
        forgetting.allow_again("default", "run_1")
        Retention(engine).prune(1)
    with database.as_(database.maintenance) as connection:
        for call in ("ensure_partitions()", "retry_run('run_2')", "cancel_run('run_2')", "clear_day('2020-01-01')"):
            connection.execute(f"SELECT tailrace.{call}")  # type: ignore[arg-type]
        assert connection.execute("SELECT tailrace.drop_day('2020-01-01')").fetchone() == (False,)
        for forbidden in (
            "INSERT INTO tailrace.segments SELECT * FROM tailrace.segments",
            "INSERT INTO tailrace.streams (run, stream_key) SELECT run, 'mine' FROM tailrace.streams",
            "INSERT INTO tailrace.quarantine DEFAULT VALUES",
            "UPDATE tailrace.environments SET api_url = 'https://elsewhere'",
            "TRUNCATE tailrace.segments",
            "DROP TABLE tailrace.segments",
            "DELETE FROM tailrace.alembic_version",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)  # type: ignore[arg-type]


def test_a_worker_needs_no_more_than_the_runtime_has(database: Database, tmp_path: Path, redis_url: str) -> None:
    """From a request until its run is sealed, compacted and can be searched."""
    store = LiveStore()
    store.create_run("run_1", Wire.V2)
    for text in ('"one"', '{"not": json', '"two"'):
        store.append_chunk("run_1", "ai", text)
    store.finish_run("run_1")
    url = database.url_of(database.runtime)
    with scene(tmp_path, url, redis_url, store, **QUICK, TAILRACE_RETENTION_DAYS="1") as (workers, _):
        database.archive.run(
            "INSERT INTO tailrace.environments (name, api_url) VALUES ('default', 'x') ON CONFLICT DO NOTHING"
        )
        database.archive.run("SELECT tailrace.request_ingest('run_1')")
        worker = workers.started("threads", 4, direct=True)
        kept = "SELECT count(*) FROM tailrace.streams WHERE compacted_at IS NOT NULL AND indexed_at IS NOT NULL"
        wait_for(lambda: database.archive.value(kept), 60, "it is sealed, compacted and indexed")
        worker.terminate()
        assert worker.wait(30) == 0
        assert database.archive.value("SELECT count(*) FROM tailrace.chunks") == 2
        assert database.archive.value("SELECT count(*) FROM tailrace.quarantine") == 1
        assert "permission denied" not in worker.said()


def test_a_reader_has_a_statement_timeout_and_reads_only(database: Database) -> None:
    with database.as_(database.reader) as connection:
        assert connection.execute("SHOW statement_timeout").fetchone() == ("7s",)
        assert connection.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def test_the_runtime_does_all_that_a_worker_does_and_no_more(database: Database) -> None:
    stream = database.archive.whole_stream(['"one"', '"two"'])
    with database.as_(database.runtime) as connection:
        connection.execute("SELECT tailrace.request_ingest('run_2')")
        connection.execute("SELECT tailrace.ensure_partitions()")
        connection.execute("UPDATE tailrace.streams SET state = 'active'")
        connection.execute("UPDATE tailrace.streams SET state = 'sealed'")
        connection.execute("SELECT * FROM tailrace.run_overview").fetchall()
        assert connection.execute("SELECT tailrace.clear_day('2020-01-01')").fetchone() == (0,)
        assert connection.execute("SELECT tailrace.drop_day('2020-01-01')").fetchone() == (False,)
        for refused in ("CREATE TABLE tailrace.mine (x int)", "ALTER TABLE tailrace.runs ADD COLUMN x int"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM tailrace.alembic_version")
    url = make_url(database.url).set(username=database.runtime, password="x").render_as_string(hide_password=False)
    engine = create_engine(url)
    compaction = Compaction(engine)
    assert compaction.compact(stream) == Compacted(1, 1)
    assert compaction.index(stream) == 1
    engine.dispose()
    with database.as_(database.runtime) as connection:
        for refused_ in ("SELECT tailrace.forget_run('default', 'run_1')", "DELETE FROM tailrace.forgotten"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused_)  # type: ignore[arg-type]


def test_it_can_be_repeated_and_takes_back_what_an_earlier_version_granted(database: Database) -> None:
    database.archive.run(f"GRANT DELETE ON ALL TABLES IN SCHEMA tailrace TO {database.runtime}")
    assert database.set_up().refused is None
    assert not database.archive.value("SELECT has_table_privilege(%s, 'tailrace.runs', 'DELETE')", database.runtime)


def test_where_roles_cannot_be_made_the_statements_are_given(database: Database) -> None:
    database.archive.run("CREATE ROLE tr_modest LOGIN PASSWORD 'x'")
    try:
        url = make_url(database.url).set(username="tr_modest", password="x").render_as_string(hide_password=False)
        rest = {"enqueuer": "tr_never_e", "monitor": "tr_never_mo", "maintenance": "tr_never_ma"}
        done = roles.set_up(url, "tr_never_made", "tr_never_made_either", **rest)
        assert done.refused is not None
        assert "permission denied" in done.refused
        assert 'CREATE ROLE "tr_never_made" NOLOGIN' in done.script
        assert database.archive.value("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tr_never%%'") == 0
    finally:
        database.archive.run("DROP ROLE tr_modest")


def test_odd_role_names_are_only_names(database: Database) -> None:
    odd = 'tr "odd"; --'
    rest = {"enqueuer": database.enqueuer, "monitor": database.monitor, "maintenance": database.maintenance}
    assert roles.set_up(database.url, odd, database.reader, **rest).refused is None
    database.archive.run('DROP OWNED BY "tr ""odd""; --"')
    database.archive.run('DROP ROLE "tr ""odd""; --"')
