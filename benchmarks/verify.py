"""How fast `tailrace verify` looks at short streams: sealed ones of ten chunks in one segment, made by SQL.

    python -m benchmarks.verify                      # 100 000 of them on a throwaway embedded Postgres
    python -m benchmarks.verify --streams 300000

Prints a JSON object for each number of connections: streams a second, and how long the longest step took.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psycopg

from tailrace.service.verifying import NAME, Verifying
from tailrace.store.engine import create_engine
from tailrace.store.keeping.mismatches import Mismatches
from tailrace.store.keeping.progress import Progress
from tailrace.store.keeping.verification import Step, Verification
from tailrace.store.migrate import upgrade
from tests.throwaway import ephemeral_postgres

DAYS = 3
CONNECTIONS = (1, 2)

MAKE = (
    f"SELECT tailrace.ensure_partitions(14, {DAYS + 1})",
    "INSERT INTO tailrace.environments (name, api_url) VALUES ('default', '') ON CONFLICT DO NOTHING",
    """
    INSERT INTO tailrace.runs (id, environment_id, run_id, state, status)
    SELECT tailrace.stream_id_at(date_trunc('day', now(), 'UTC') - %(days)s * interval '1 day' * (1 - n::float8 / %(streams)s))
               | (n & 1048575), e.id, 'run_' || n, 'sealed', 'COMPLETED'
    FROM generate_series(0, %(streams)s - 1) n CROSS JOIN tailrace.environments e
    """,
    """
    INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
    SELECT r.id, 0, 0, 9, 10, ('[' || string_agg(
               '{"type":"text-delta","id":"0","delta":"word ' || (r.id / 1048576 + n) % 4096 || ' of some "}', ',' ORDER BY n
           ) || ']')::json, array_agg((r.id >> 20) + n ORDER BY n)
    FROM tailrace.runs r CROSS JOIN generate_series(0, 9) n GROUP BY r.id
    """,
    """
    INSERT INTO tailrace.streams (id, run, stream_key, wire, last_chunk_index, state, verdict, chunk_count, byte_count,
                                  sealed_at, compacted_at, indexed_at, digest)
    SELECT g.stream_id, g.stream_id, 'ai', 'v2', 9, 'sealed', 'complete', 10, octet_length(g.data::text) - 11,
           now(), now(), now(), tailrace.stream_digest(g.stream_id)
    FROM tailrace.segments g
    """,
    "VACUUM ANALYZE",
)


class Timed(Verification):
    """Notes how long the longest step took."""

    longest_s = 0.0

    def check(self, first: int, end: int) -> Step:
        began = time.monotonic()
        step = super().check(first, end)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        return step


def make(url: str, streams: int) -> None:
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        for statement in MAKE:
            connection.execute(statement, {"streams": streams, "days": DAYS} if "%(" in statement else None)  # type: ignore[arg-type]


def measure(url: str, connections: int) -> dict[str, float]:
    engine = create_engine(url, pool_size=connections + 2)
    timed = Timed(engine)
    verifying = Verifying(timed, Mismatches(engine), Progress(engine, NAME, uuid.uuid4()), connections=connections)
    began = time.monotonic()
    verified = verifying.run(None)
    took_s = time.monotonic() - began
    engine.dispose()
    assert not verified.violations, verified.violations[:3]
    return {
        "connections": connections,
        "streams": verified.streams,
        "streams_per_s": round(verified.streams / took_s),
        "longest_step_s": round(timed.longest_s, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ephemeral_postgres(Path(place) / "postgres") as server:
        url = server.url("postgres")
        upgrade(url)
        make(url, given.streams)
        for connections in CONNECTIONS:
            sys.stdout.write(json.dumps(measure(url, connections)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
