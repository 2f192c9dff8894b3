"""Ingest in this process, step by step, with the real parts; time passes in the database when a test says so.

Nothing here waits for a clock: what would happen a minute later happens after `Ingestion.pass_time`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from tailrace.config.settings import Settings
from tailrace.model import Wire
from tailrace.serve import Timing
from tailrace.serve.app import DEFAULT_KEY
from tailrace.service.runtime import Runtime
from tests.upstream import LiveStore, RunningServer, create_app, running

TIMING = replace(Timing().scaled(0.02), second_s=0.15, ping_s=0.05)
"""A second is 150 ms long, a v1 block 100 ms; a ping comes before an idle close, and proves the last line whole."""

SETTINGS: dict[str, Any] = {
    "secret_key": DEFAULT_KEY,
    "batch_max_age_ms": 5,
    "retry_base_ms": 1,
    "retry_cap_ms": 20,
    "wait_seconds": 1,
    "park_after_seconds": 0.1,
    "drain_seconds": 5.0,
}

LATER = [
    (
        "runs",
        (
            *(
                "terminal_at",
                "keys_read_at",
                "listed_at",
                "next_watch_at",
                "requested_at",
                "sealed_at",
                "late_check_at",
            ),
            "troubled_at",
        ),
    ),
    (
        "streams",
        ("swept_at", "troubled_at", "next_attempt_at", "hinted_until", "last_chunk_at", "created_at", "sealed_at"),
    ),
]


class Ingestion:
    """A runtime, and the database behind it."""

    def __init__(self, database_url: str, upstream_url: str, **settings: Any) -> None:
        self.database_url = database_url
        self.settings = Settings(**{**SETTINGS, "api_url": upstream_url, **settings})
        self.connection = psycopg.connect(database_url, autocommit=True)
        self.runtime = Runtime(self.settings, database_url, slots=64)
        self.runtime.environments.enrol()
        self.runtime.start()

    def close(self) -> None:
        self.runtime.stop(5.0)
        self.connection.close()

    def restart(self) -> None:
        """Another worker in the place of this one, which has left in good order."""
        self.runtime.stop(5.0)
        self.runtime = Runtime(self.settings, self.database_url, slots=64)
        self.runtime.start()

    # --- what happens

    def request(self, run_id: str, *streams: str) -> int:
        return self.runtime.request(run_id, streams or None, {})

    def watch(self) -> None:
        """Look at every run that is due."""
        self.run("UPDATE tailrace.runs SET next_watch_at = now() WHERE state IN ('requested', 'watched')")
        self.runtime.watch(100)

    def read(self) -> list[int]:
        """Read every stream that is due until it is left; return their ids."""
        chosen = self.runtime.claim(64)
        for stream_id in chosen:
            self.runtime.ingest_stream(stream_id)
        return chosen

    def pass_time(self, seconds: float) -> None:
        """Let all that the database knows of have happened so much earlier."""
        for table, columns in LATER:
            moved = ", ".join(f"{column} = {column} - make_interval(secs => {seconds})" for column in columns)
            self.run(f"UPDATE tailrace.{table} SET {moved}")

    def turn(self) -> None:
        """Look at runs, read what is due, and wait a minute."""
        self.watch()
        self.read()
        self.pass_time(61.0)

    def until_sealed(self, *runs: str, turns: int = 30) -> None:
        """Go on until these runs are sealed; all of them, if none is named."""
        for _ in range(turns):
            self.turn()
            states = dict(self.rows("SELECT run_id, state FROM tailrace.runs"))
            if all(states[name] == "sealed" for name in (runs or states)):
                return
        raise AssertionError(f"not sealed: {self.rows('SELECT state, verdict, last_error FROM tailrace.streams')}")

    # --- what the archive says

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(query, values or None).fetchall()  # type: ignore[arg-type]

    def run(self, statement: str) -> None:
        self.connection.execute(statement)  # type: ignore[arg-type]

    def value(self, query: str, *values: object) -> Any:
        ((value,),) = self.rows(query, *values)
        return value

    def texts(self, run_id: str, key: str = "ai") -> list[bytes]:
        """The chunks of a stream as they were sent, in order."""
        found = self.rows(
            "SELECT data_text FROM tailrace.chunks WHERE run_id = %s AND stream_key = %s"
            " ORDER BY generation, chunk_index",
            run_id,
            key,
        )
        return [text.encode() for (text,) in found]

    def verdict(self, run_id: str, key: str = "ai") -> str:
        verdict: str = self.value(
            "SELECT s.verdict FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = %s AND s.stream_key = %s",
            run_id,
            key,
        )
        return verdict

    def state(self, run_id: str, key: str = "ai") -> str:
        state: str = self.value(
            "SELECT s.state FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = %s AND s.stream_key = %s",
            run_id,
            key,
        )
        return state

    def holes(self) -> list[tuple[int, int, int | None, str]]:
        return self.rows(  # type: ignore[return-value]
            "SELECT generation, first_index, last_index, reason FROM tailrace.holes ORDER BY 1, 2, 4"
        )

    def quarantine(self) -> list[tuple[str, bytes]]:
        found = self.rows("SELECT reason, raw FROM tailrace.quarantine ORDER BY stream_id, generation, chunk_index, id")
        return [(reason, bytes(raw)) for reason, raw in found]


@contextmanager
def ingesting(
    database_url: str, store: LiveStore, *, timing: Timing = TIMING, app: dict[str, Any] | None = None, **settings: Any
) -> Iterator[tuple[Ingestion, RunningServer]]:
    """Serve ``store``, and ingest from it."""
    with running(create_app(store, timing=timing, **(app or {}))) as server:
        ingestion = Ingestion(database_url, server.url, **settings)
        try:
            with structlog.testing.capture_logs() as logs:
                ingestion.logs = logs  # type: ignore[attr-defined]
                yield ingestion, server
        finally:
            ingestion.close()


def store_with(wire: Wire, texts: list[str], *, run_id: str = "run_1", key: str = "ai", over: bool = True) -> LiveStore:
    """A run with one stream, all of it written."""
    store = LiveStore()
    store.create_run(run_id, wire)
    if texts:
        store.append_chunks(run_id, key, texts)
    else:
        store.open_stream(run_id, key)
    if over:
        store.finish_run(run_id)
    return store


def numbered(count: int) -> list[str]:
    return [json.dumps({"n": n}) for n in range(count)]
