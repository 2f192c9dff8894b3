"""What `tailrace serve` needs for many readers of live streams, and how soon they see what is committed: ``python -m
benchmarks.readers``. A minute or so; Linux.

    python -m benchmarks.readers                              # 2 000 readers of 200 streams, ten commits a second
    python -m benchmarks.readers --readers 200 --seconds 5    # small, to try it out

The server is the real command on a throwaway Postgres; readers are bare sockets of this process. Memory is what the server has
when all readers wait at the end of their streams, above what it had with one reader. A commit is a segment in one statement for some
streams, as workers write them; its delay is from the return of the commit to the bytes at the reader, seen by one clock. The last
line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from benchmarks.usage import cpu_s, memory_mb
from tailrace.config.own_keys import hashed, new_key
from tailrace.serve.server import allow_many_connections
from tailrace.store.migrate import upgrade
from tests.throwaway import ephemeral_postgres

STORED = 50
"""Chunks of each stream before anybody reads it."""
SETTLE_S = 2.0

MAKE = """
WITH r AS (
    INSERT INTO tailrace.runs (environment_id, run_id, state, status, task_identifier, created_at, keys_read_at)
    SELECT e.id, 'run_' || n, 'watched', 'EXECUTING', 'chat', now(), now()
    FROM tailrace.environments e CROSS JOIN generate_series(1, %(streams)s) n WHERE e.name = 'default' RETURNING id
), s AS (
    INSERT INTO tailrace.streams (run, stream_key, wire) SELECT id, 'ai', 'v2' FROM r RETURNING id
)
SELECT id FROM s ORDER BY id
"""
ADD = """
INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms, cursor)
SELECT s, 0, %(first)s, %(first)s + %(count)s - 1, %(count)s,
    ('[' || array_to_string(array_fill(%(text)s::text, ARRAY[%(count)s]), ',') || ']')::json,
    array_fill((extract(epoch FROM now()) * 1000)::bigint, ARRAY[%(count)s]), '{}'
FROM unnest(%(streams)s::bigint[]) s
"""


class Readers:
    """Bare sockets: as little of this process's time as can be."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self._key = key
        self.waiting = 0
        self.seen: list[tuple[int, float]] = []
        """The number of a commit, and when a reader had it."""
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, run: int) -> None:
        self._tasks.append(asyncio.create_task(self._read(run)))

    async def _read(self, run: int) -> None:
        reader, writer = await asyncio.open_connection(*self._address, limit=65_536)
        writer.write(
            f"GET /realtime/v1/streams/run_{run}/ai HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._key}\r\n"
            "Timeout-Seconds: 600\r\n\r\n".encode()
        )
        caught_up = False
        try:
            while line := await reader.readline():
                now = time.monotonic()
                if not caught_up and line.startswith(b"event: ping"):
                    caught_up = True
                    self.waiting += 1
                elif caught_up and (at := line.find(b"committed:")) >= 0:
                    self.seen.append((int(line[at + 10 : line.index(b";", at)]), now))
        finally:
            writer.close()

    async def until_all_wait(self, count: int) -> None:
        while self.waiting < count:
            for task in self._tasks:
                if task.done():
                    task.result()
                    raise RuntimeError("a reader was let go")
            await asyncio.sleep(0.05)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextmanager
def served(database_url: str) -> Iterator[tuple[int, str]]:
    """Start `tailrace serve`; give its pid and URL."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace", "serve", "--port", "0"],
            env={**os.environ, "TAILRACE_DATABASE_URL": database_url},
            cwd=folder,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            yield process.pid, process.stdout.readline().decode().strip()
        finally:
            process.terminate()
            process.wait(30)


async def measure(database_url: str, readers: int, streams: int, seconds: float, per_commit: int) -> dict[str, object]:
    with psycopg.connect(database_url, autocommit=True) as connection, served(database_url) as (pid, url):
        key = new_key()
        connection.execute(
            "INSERT INTO tailrace.access_keys (name, environment_id, key_hash)"
            " SELECT 'bench', id, %s FROM tailrace.environments WHERE name = 'default'",
            (hashed(key),),
        )
        ids = [row[0] for row in connection.execute(MAKE, {"streams": streams})]
        text = json.dumps("some words " * 5)
        connection.execute(ADD, {"first": 0, "count": STORED, "text": text, "streams": ids})
        crowd = Readers(url, key)
        crowd.add(1)
        await crowd.until_all_wait(1)
        await asyncio.sleep(SETTLE_S)
        alone_mb = memory_mb(pid)
        began = time.monotonic()
        for number in range(readers):
            crowd.add(number % streams + 1)
            if number % 100 == 99:  # not more connections at once than a socket queues
                await crowd.until_all_wait(number - 98)
        await crowd.until_all_wait(readers + 1)
        opened_s = time.monotonic() - began
        await asyncio.sleep(SETTLE_S)
        with_all_mb = memory_mb(pid)
        idle_cpu = cpu_s(pid)
        await asyncio.sleep(5)
        idle_cpu = (cpu_s(pid) - idle_cpu) / 5
        busy_cpu, began, commits = cpu_s(pid), time.monotonic(), 0
        committed_at: list[float] = []
        while (now := time.monotonic()) < began + seconds:
            turn = [ids[(commits * per_commit + at) % streams] for at in range(min(per_commit, streams))]
            first = STORED + commits * per_commit // streams  # each stream's turn comes once in a round
            written = json.dumps(f"committed:{commits};")
            await asyncio.to_thread(
                connection.execute, ADD, {"first": first, "count": 1, "text": written, "streams": turn}
            )
            committed_at.append(time.monotonic())
            commits += 1
            await asyncio.sleep(max(0.0, now + 0.1 - time.monotonic()))
        await asyncio.sleep(1)
        busy_cpu = (cpu_s(pid) - busy_cpu) / (time.monotonic() - began)
        await crowd.end()
    delays = sorted(at - committed_at[number] for number, at in crowd.seen)
    expected = commits * per_commit * (readers // streams)
    return {
        "readers": readers,
        "streams": streams,
        "opened_s": round(opened_s, 2),
        "kb_each": round((with_all_mb - alone_mb) * 1024 / readers, 1),
        "peak_mb": round(with_all_mb),
        "idle_cpu": round(idle_cpu, 3),
        "busy_cpu": round(busy_cpu, 3),
        "delivered": len(delays),
        "delivered_at_least": expected,
        "delay_ms": {
            name: round(delays[min(int(len(delays) * share), len(delays) - 1)] * 1000)
            for name, share in (("median", 0.5), ("p99", 0.99), ("most", 1.0))
        }
        if delays
        else {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--readers", type=int, default=2_000)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--per-commit", type=int, default=50, help="streams that a commit adds to")
    given = parser.parse_args()
    allow_many_connections()
    with tempfile.TemporaryDirectory(prefix="tailrace-readers-") as folder, ephemeral_postgres(Path(folder)) as server:
        url = server.url()
        upgrade(url)
        found = asyncio.run(measure(url, given.readers, given.streams, given.seconds, given.per_commit))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
