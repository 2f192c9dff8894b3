"""An archive at work that tests operate by docs/operate.md: its servers, its upstream, its workers, and who types the commands."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tailrace.devtools.servers.postgres import Postgres
from tailrace.model import Wire
from tailrace.store.migrate import upgrade
from tests.accounts import assert_balanced
from tests.chaos.fleet import QUICK, Archive, Fleet, scene, wait_for
from tests.leaks import lasting
from tests.operating import OF_A_PRIMARY, Operator, blocks, operator_of, settle
from tests.throwaway import ephemeral_postgres, in_memory
from tests.upstream import LiveStore, RunningServer

WAIT_S = 60.0
RUNS = {"run_v1": Wire.V1, "run_v2": Wire.V2}
COUNT_ON = "DO 'BEGIN FOR n IN 1..9999 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END'"
"""Ten thousand transactions."""

_names = itertools.count(1)


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with ephemeral_postgres(in_memory() or tmp_path_factory.mktemp("primary"), OF_A_PRIMARY) as server:
        upgrade(server.url())
        settle(server)
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute(COUNT_ON)  # long at work: it has counted further than a new one
        with lasting(str(server.directory)):  # a test has it crash and starts it again
            yield server


@contextmanager
def a_database(server: Postgres, template: str = "template0") -> Iterator[str]:
    name = f"operated_{next(_names)}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")  # type: ignore[call-overload]
    yield server.url(name)  # the server goes too when a test fails
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")  # type: ignore[call-overload]


@dataclass(slots=True)
class Scene:
    """An archive at work, its upstream, and who operates it."""

    operator: Operator
    fleet: Fleet
    store: LiveStore
    upstream: RunningServer
    written: dict[str, list[str]]
    backups: Path

    @property
    def archive(self) -> Archive:
        return self.fleet.archive

    def walk(self, heading: str, *numbers: int) -> str:
        """Run blocks of the page under a heading, all if none is named; return what they printed."""
        chosen = [each for each in blocks(heading) if each.language == "sh"]
        assert chosen
        return "".join(self.operator.run(chosen[number]) for number in numbers or range(len(chosen)))

    def write(self, count: int = 5, text: str = "") -> None:
        """Have each run write so many chunks, each with a number of its own."""
        for run_id, texts in self.written.items():
            more = [f'{{"n":{len(texts) + n},"text":"{text}"}}' for n in range(count)]
            self.store.append_chunks(run_id, "ai", more)
            texts.extend(more)

    def stored(self, archive: Archive | None = None) -> bool:
        """Whether all that was written is in the archive, once and in order."""
        with contextlib.suppress(psycopg.OperationalError):
            return all((archive or self.archive).texts(run, "ai") == texts for run, texts in self.written.items())
        return False

    def begin(self) -> None:
        for run_id, wire in RUNS.items():
            self.store.create_run(run_id, wire)
            self.written[run_id] = []
        self.write()
        for run_id in RUNS:
            self.archive.request(run_id)
        wait_for(self.stored, WAIT_S, "what was written is stored")

    def now_at(self, url: str) -> Archive:
        """Have new workers work on another database."""
        self.fleet.archive.close()
        self.fleet.database_url, self.fleet.archive = url, Archive(url)
        return self.fleet.archive

    def finish(self) -> None:
        """End all runs; all is there once, in order, byte for byte, and sealed as complete."""
        for run_id in self.written:
            self.store.finish_run(run_id)
        wait_for(lambda: self.archive.all_sealed(len(self.written)), WAIT_S, "all is sealed")
        assert self.stored()
        assert {verdict for (verdict,) in self.archive.rows("SELECT verdict FROM tailrace.streams")} == {"complete"}
        assert_balanced(self.archive.url)


@pytest.fixture
def at_work(primary: Postgres, tmp_path: Path, redis_url: str) -> Iterator[Scene]:
    """An archive in which nobody is at work yet."""
    with a_database(primary, "tailrace") as url, made(primary, tmp_path, url, redis_url) as found:
        yield found


@contextmanager
def made(server: Postgres, place: Path, url: str, redis_url: str) -> Iterator[Scene]:
    store = LiveStore(v1_max_entries=None)
    with scene(place, url, redis_url, store, **QUICK) as (fleet, upstream):
        operator = operator_of(server, DATABASE_URL=url, REDIS_URL=redis_url, TRIGGER_API_URL=upstream.url)
        backups = operator.directory(f"backups_{next(_names)}")
        operator.variables["BACKUPS"] = str(backups)
        yield Scene(operator, fleet, store, upstream, {}, backups)
        shutil.rmtree(backups)


def changes(url: str, cursor: int) -> list[tuple[int, str, str]]:
    """Return what somebody gets who follows the archive: the change, the run and the text of each chunk."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT change_id, run_id, data_text FROM tailrace.changes_since(%s)", [cursor]
        ).fetchall()
