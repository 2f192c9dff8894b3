"""The steps of the demonstration, in order. Every figure comes from the database and the recordings."""

from __future__ import annotations

import fcntl
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tailrace.devtools.demo.children import Child
from tailrace.devtools.demo.comparison import compare, total
from tailrace.devtools.demo.recordings import DemoRun, prepare
from tailrace.devtools.recordings import bundled_recordings
from tailrace.devtools.servers import Endpoints, up
from tailrace.errors import TerminalError
from tailrace.store.engine import create_engine
from tailrace.store.migrate import upgrade
from tailrace.store.queries import Archive, RunStatus, StreamStatus

KILL_AT = 0.35
"""The first worker dies when this much of the answer is committed."""
QUIET_S = 2
WATCH_S = 1
CONTROL_S = 1
PATIENCE_S = 100.0
"""Of all the waiting together. The recordings take 20 seconds, a takeover up to 15."""
POLL_S = 0.1
FOREIGN = ("TRIGGER_", "TAILRACE_", "CELERY_", "PG")
FOREIGN_NAMES = frozenset({"DATABASE_URL", "REDIS_URL", "VERCEL_GIT_COMMIT_REF"})


class DemoFailed(TerminalError):
    """The demonstration did not get as far as it should."""


class Show(Protocol):
    """Tells the person at the terminal what goes on."""

    def step(self, text: str) -> None:
        """A step begins."""

    def fact(self, text: str) -> None:
        """Something about the step."""

    def progress(self, streams: list[tuple[RunStatus, StreamStatus, int]]) -> None:
        """How far each stream is, and how many chunks it will have; called several times a second."""

    def paused(self) -> None:
        """No more progress for now."""

    def query(self, statement: str, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
        """A query and its answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the demonstration found. ``resumed_at``: the index of the answer's first chunk after the kill;
    ``environment``: under which name the archive has it."""

    environment: str
    runs: int
    streams: int
    chunks: int
    lost: int
    duplicated: int
    out_of_order: int
    resumed_at: int
    sealed: int
    expected: tuple[int, int, int]

    @property
    def good(self) -> bool:
        """Everything that was sent is there, once, in order, and sealed; and the kill came in the middle."""
        return (
            (self.runs, self.streams, self.chunks) == self.expected
            and self.sealed == self.streams
            and (self.lost, self.duplicated, self.out_of_order) == (0, 0, 0)
            and self.resumed_at > 0
        )


def tell(home: Path, environ: Mapping[str, str], ask: Callable[[str, str], None], show: Show) -> Result:
    """Run the demonstration with the servers of ``home``, which stay up afterwards.

    Args:
        ask: asks for a run: broker's URL, run id.

    Raises:
        WorkerError: it could not be carried through; the message says where.
    """
    show.step(f"Starting a Postgres and a Valkey in {home}")
    endpoints = up(home)
    upgrade(endpoints.database_url)
    show.fact("both answer, and the archive's tables are there")
    with _directory(home) as directory:
        return _Demo(directory, endpoints, environ, ask, show).run()


class _Demo:
    def __init__(
        self,
        directory: Path,
        endpoints: Endpoints,
        environ: Mapping[str, str],
        ask: Callable[[str, str], None],
        show: Show,
    ) -> None:
        self._directory = directory
        self._ask = ask
        self._show = show
        self._archive = Archive(create_engine(endpoints.database_url, application_name="tailrace demo"))
        self._until = time.monotonic() + PATIENCE_S
        number = self._number()
        suffix = "" if number == 1 else f"_{number}"
        self._environment = f"demo{suffix}"
        self._runs = prepare(bundled_recordings(), directory, suffix)
        self._answer, self._key = max(
            ((run, key) for run in self._runs for key in run.chunks), key=lambda each: len(each[0].chunks[each[1]])
        )
        # Another database of the same server: a worker that runs for this home must not take the demo's requests.
        self._redis_url = endpoints.redis_url.removesuffix("/0") + "/1"
        self._environ = {
            **{name: value for name, value in environ.items() if not _is_ours(name)},
            "TAILRACE_DATABASE_URL": endpoints.database_url,
            "TAILRACE_REDIS_URL": self._redis_url,
            "TAILRACE_ENVIRONMENT": self._environment,
            "TAILRACE_SEAL_QUIET_SECONDS": str(QUIET_S),
            "TAILRACE_WATCH_SECONDS": str(WATCH_S),
            "TAILRACE_CONTROL_SECONDS": str(CONTROL_S),
            "TAILRACE_LOG_FORMAT": "json",
            "TRIGGER_SECRET_KEY": f"tr_dev_{secrets.token_hex(12)}",
        }

    def run(self) -> Result:
        show = self._show
        with ExitStack() as started:
            show.step("Starting a stand-in for Trigger.dev that plays two recorded runs at their own pace")
            upstream = started.enter_context(self._start_upstream())
            self._environ["TRIGGER_API_URL"] = upstream.first_line(20.0)
            show.fact(f"{self._environ['TRIGGER_API_URL']} (pid {upstream.pid})")

            show.step("Starting a worker and asking for both runs: ingest_run.delay(run_id)")
            first = started.enter_context(self._start_worker(1))
            for run in self._runs:
                self._ask(self._redis_url, run.run_id)
                show.fact(f"{run.run_id}: {', '.join(run.chunks)}")
            sent = len(self._answer.chunks[self._key])
            self._wait(first, lambda: self._stored() >= KILL_AT * sent)
            show.paused()

            show.step(f"Killing the worker (SIGKILL, pid {first.pid}) in the middle of the answer")
            first.kill()
            killed_at = self._value("SELECT clock_timestamp()::text")
            show.fact(f"{self._stored()} of {sent} chunks of {self._key} are committed")

            show.step("Starting another worker: it takes over when the dead one's lease has run out")
            second = started.enter_context(self._start_worker(2))
            asked = time.monotonic()
            self._wait(second, lambda: self._resumed_at(killed_at) is not None)
            resumed_at = self._resumed_at(killed_at)
            show.paused()
            show.fact(f"went on at chunk {resumed_at} after {time.monotonic() - asked:.1f} s")

            show.step(
                f"Reading to the end. Here a stream is sealed after {QUIET_S} s of silence (60 s by default), "
                f"and runs are looked at every {WATCH_S} s (5 s)"
            )
            self._wait(second, self._settled)
            show.paused()
        show.step("Looking at the archive with SQL")
        self._look()
        show.step("Comparing every chunk with the recordings, byte for byte")
        return self._compare(resumed_at or 0)

    # --- processes

    def _start_upstream(self) -> Child:
        recordings = [argument for run in self._runs for argument in ("--recording", str(run.path))]
        return Child("replay", [*recordings, "--port", "0"], self._environ, self._directory / "replay.log")

    def _start_worker(self, number: int) -> Child:
        return Child("worker", ["--slots", "50"], self._environ, self._directory / f"worker-{number}.log")

    def _wait(self, worker: Child, done: Callable[[], bool]) -> None:
        while not done():
            worker.check()
            if time.monotonic() > self._until:
                raise DemoFailed(f"It takes too long. The worker's log is {worker.log}.")
            self._report()
            time.sleep(POLL_S)
        self._report()

    def _report(self) -> None:
        sent = {run.run_id: run.chunks for run in self._runs}
        self._show.progress(
            [
                (run, stream, len(sent[run.run_id].get(stream.stream_key, ())))
                for run in self._statuses()
                for stream in self._archive.streams(run.id)
            ]
        )

    # --- what the archive says

    def _number(self) -> int:
        """The how-manieth demonstration in this archive: run ids must be new."""
        runs = self._value("SELECT count(*) FROM tailrace.runs WHERE run_id ~ '^run_demo_ai(_[0-9]+)?$'")
        return int(runs) + 1

    def _statuses(self) -> list[RunStatus]:
        return [status for run in self._runs for status in self._archive.runs_named(run.run_id, self._environment)]

    def _stored(self) -> int:
        for run in self._archive.runs_named(self._answer.run_id, self._environment):
            for stream in self._archive.streams(run.id):
                if stream.stream_key == self._key:
                    return stream.chunks
        return 0

    def _settled(self) -> bool:
        statuses = self._statuses()
        return len(statuses) == len(self._runs) and all(run.state in ("sealed", "failed") for run in statuses)

    def _resumed_at(self, killed_at: str) -> int | None:
        """The first index of the answer that was committed after the kill, by the database's clock."""
        found = self._value(
            f"""
            SELECT min(g.first_index)
            FROM tailrace.segments g
            JOIN tailrace.streams s ON s.id = g.stream_id
            JOIN tailrace.runs r ON r.id = s.run
            WHERE r.run_id = '{self._answer.run_id}' AND s.stream_key = '{self._key}'
              AND g.committed_at > '{killed_at}'::timestamptz
            """
        )
        return None if found is None else int(found)

    def _look(self) -> None:
        for statement in queries(self._answer.run_id, self._key):
            with self._archive.query(statement, 10.0) as answer:
                self._show.query(statement, answer.columns, list(answer.rows))

    def _compare(self, resumed_at: int) -> Result:
        found, chunks, streams, sealed = [], 0, 0, 0
        statuses = {status.run_id: status for status in self._statuses()}
        for run in self._runs:
            rows = {each.stream_key: each for each in self._archive.streams(statuses[run.run_id].id)}
            streams += len(rows)
            sealed += sum(each.state == "sealed" for each in rows.values())
            for key in sorted(run.chunks.keys() | rows.keys()):
                archived = [chunk.text for chunk in self._archive.chunks(rows[key].id)] if key in rows else []
                chunks += len(archived)
                found.append(compare(run.chunks.get(key, []), archived))
                same = "the same bytes" if archived == run.chunks.get(key, []) else "NOT the same"
                self._show.fact(f"{run.run_id} {key}: {len(archived)} chunks, {same}")
        sent = [texts for run in self._runs for texts in run.chunks.values()]
        expected = (len(self._runs), len(sent), sum(len(texts) for texts in sent))
        return Result(
            self._environment,
            len(statuses),
            streams,
            chunks,
            *total(found),
            resumed_at=resumed_at,
            sealed=sealed,
            expected=expected,
        )

    def _value(self, statement: str) -> Any:
        with self._archive.query(statement, 10.0) as answer:
            return next(answer.rows)[0]


def queries(run_id: str, key: str) -> Iterator[str]:
    """Return the queries that are shown: each can be copied to `tailrace sql`."""
    yield f"""\
SELECT stream_key, count(*) AS chunks,
       round(count(*) / extract(epoch FROM max(emitted_at) - min(emitted_at)), 1) AS chunks_per_s
FROM tailrace.chunks WHERE run_id = '{run_id}' GROUP BY stream_key"""
    yield f"""\
SELECT min(c.emitted_at) - r.started_at AS time_to_first_chunk,
       min(c.emitted_at) FILTER (WHERE c.text_delta <> '') - r.started_at AS time_to_first_text
FROM tailrace.chunks c JOIN tailrace.runs r USING (run_id)
WHERE c.run_id = '{run_id}' AND c.stream_key = '{key}' GROUP BY r.started_at"""
    yield f"""\
SELECT length(text) AS characters, left(text, 260) AS begins
FROM tailrace.stream_text WHERE run_id = '{run_id}' AND stream_key = '{key}'"""


def _is_ours(name: str) -> bool:
    """Whatever is set for the real Tailrace must not reach the demonstration."""
    return name in FOREIGN_NAMES or name.startswith(FOREIGN)


@contextmanager
def _directory(home: Path) -> Iterator[Path]:
    """Return the directory of recordings and logs, for one demonstration at a time."""
    directory = home.resolve() / "demo"
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(f"Another demonstration runs in {home}.") from None
        for old in (*directory.glob("*.log"), *directory.glob("*.jsonl")):
            old.unlink()
        yield directory


__all__ = ["DemoFailed", "DemoRun", "Result", "Show", "queries", "tell"]
