"""Make an archive of N chunks and time the queries of docs/sql.md on it.

    python benchmarks/make_archive.py make --chunks 10000000 --database postgresql://...   # migrated; goes on where it was cut off
    python benchmarks/make_archive.py time --database postgresql://...
    python benchmarks/make_archive.py run  --chunks 1000000      # both, on a throwaway embedded Postgres

The chunks are AI SDK UI messages as a chat sends them: runs of about a thousand chunks, most of them text deltas of a
word, some reasoning, a tool call or two (some fail), a usage chunk; over 30 days, five tasks, 200 tags. Segments are made
by SQL in the sizes that the Writer makes, then every stream is compacted and made searchable by the code that workers
use. Timings are the best of three, through psycopg, all rows fetched.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path

import psycopg

ROOT = Path(__file__).parents[1]
CHUNKS_A_RUN = 1_000
RUNS_A_COMMIT = 20
DAYS = 30

RUNS = """
INSERT INTO tailrace.runs (id, environment_id, run_id, state, status, task_identifier, tags, created_at, started_at,
                           finished_at, terminal_at, sealed_at)
SELECT (extract(epoch FROM t.at) * 1000)::bigint << 20 | (n & 1048575), 1, 'run_' || md5(n::text), 'sealed',
       CASE WHEN n %% 20 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, 'task-' || n %% 5, ARRAY['tag-' || n %% 200, 'org-' || n %% 7],
       t.at, t.at + interval '1 second', t.at + interval '90 seconds', t.at + interval '90 seconds', t.at + interval '3 minutes'
FROM generate_series(%(first)s, %(last)s) n
CROSS JOIN LATERAL (SELECT now() - %(days)s * interval '1 day' * (1 - n::float8 / %(runs)s) AS at) t
RETURNING id
"""

STREAMS = """
INSERT INTO tailrace.streams (id, run, stream_key, wire, last_chunk_index, state, verdict, chunk_count, first_chunk_at,
                              last_chunk_at, sealed_at, created_at)
SELECT r.id, r.id, 'ai', 'v2', %(size)s - 1, 'sealed', CASE WHEN r.id %% 101 = 0 THEN 'possibly_truncated' ELSE 'complete' END,
       %(size)s, r.started_at, r.finished_at, r.sealed_at, r.created_at
FROM tailrace.runs r WHERE r.id = ANY (%(ids)s)
"""

# Index 0-2 open the message, 3-40 reason, 41-44 call a tool, the rest is text, the last three close it.
SEGMENTS = """
INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms, committed_at, change_id)
SELECT r.id, 0, min(n), max(n), count(*), ('[' || string_agg(
    CASE
        WHEN n = 0 THEN '{"type":"start","messageId":"msg_' || r.id || '"}'
        WHEN n = 1 THEN '{"type":"start-step"}'
        WHEN n = 2 THEN '{"type":"reasoning-start","id":"r0"}'
        WHEN n < 40 THEN '{"type":"reasoning-delta","id":"r0","delta":"' || w.word || ' "}'
        WHEN n = 40 THEN '{"type":"reasoning-end","id":"r0"}'
        WHEN n = 41 THEN '{"type":"tool-input-start","toolCallId":"call_' || r.id || '","toolName":"search"}'
        WHEN n = 42 THEN '{"type":"tool-input-available","toolCallId":"call_' || r.id || '","toolName":"search","input":{"q":"' || w.word || '"}}'
        WHEN n = 43 AND r.id %% 50 = 0 THEN '{"type":"tool-output-error","toolCallId":"call_' || r.id || '","errorText":"timed out"}'
        WHEN n = 43 THEN '{"type":"tool-output-available","toolCallId":"call_' || r.id || '","output":{"hits":' || (n * 7) || '}}'
        WHEN n = 44 THEN '{"type":"text-start","id":"0"}'
        WHEN n < %(size)s - 3 THEN '{"type":"text-delta","id":"0","delta":"' || w.word || ' "}'
        WHEN n = %(size)s - 3 THEN '{"type":"text-end","id":"0"}'
        WHEN n = %(size)s - 2 THEN '{"type":"finish-step"}'
        ELSE '{"type":"finish","messageMetadata":{"usage":{"inputTokens":' || 500 + (r.id %% 900) || ',"outputTokens":' || %(size)s - 48 || '}}}'
    END, ',' ORDER BY n) || ']')::json,
    array_agg((extract(epoch FROM r.started_at) * 1000)::bigint + 400 + (r.id %% 977) + n * 80
              + CASE WHEN r.id %% 70 = 0 AND n > 600 THEN 14000 ELSE 0 END ORDER BY n),
    r.started_at + min(n) * interval '80 ms',
    -- As a stream is written: its segments by one transaction after the other.
    pg_current_xact_id()::text::bigint - (%(size)s - 1) / 500 + n / 500
FROM tailrace.runs r
CROSS JOIN generate_series(0, %(size)s - 1) n
CROSS JOIN LATERAL (SELECT (%(words)s::text[])[1 + (hashint8(r.id + n * 7919) & 4095)] AS word) w
WHERE r.id = ANY (%(ids)s)
GROUP BY r.id, n / 500
"""

BYTES = """
UPDATE tailrace.streams s SET byte_count = g.bytes
FROM (SELECT g.stream_id, sum(octet_length(g.data::text) - g.chunk_count - 1) AS bytes FROM tailrace.segments g
      WHERE g.stream_id = ANY (%(ids)s) GROUP BY 1) g
WHERE s.id = g.stream_id
"""

SIZES = {
    "segments (chunks)": "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relname ~ '^segments_[0-9]'",
    "search": "SELECT pg_total_relation_size('tailrace.search')",
    "facts": "SELECT pg_total_relation_size('tailrace.facts')",
    "streams and runs": "SELECT pg_total_relation_size('tailrace.streams') + pg_total_relation_size('tailrace.runs')",
    "JSON text of the chunks": "SELECT sum(byte_count) FROM tailrace.streams",
}


def vocabulary() -> list[str]:
    """4 096 words, short ones often, with one rare phrase that a query looks for."""
    chance = random.Random(1)
    syllables = ["ka", "lo", "mi", "ter", "ra", "sen", "do", "vi", "na", "pol", "stu", "eb", "or", "in", "ge"]
    return ["".join(chance.choices(syllables, k=chance.choice((1, 1, 2, 2, 3, 4)))) for _ in range(4096)]


def make(database: str, chunks: int) -> None:
    """Fill an archive; one that was cut off goes on where it was."""
    runs = max(1, chunks // CHUNKS_A_RUN)
    words = vocabulary()
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("SELECT tailrace.ensure_partitions(14, %s)", [DAYS + 1])
        made = connection.execute("SELECT count(*) FROM tailrace.runs").fetchone()[0]  # type: ignore[index]
        began = time.monotonic()
        for first in range(made, runs, RUNS_A_COMMIT):
            last = min(first + RUNS_A_COMMIT, runs) - 1
            given = {"first": first, "last": last, "runs": runs, "days": DAYS, "size": CHUNKS_A_RUN, "words": words}
            with connection.transaction():
                ids = [row[0] for row in connection.execute(RUNS, given)]
                given["ids"] = ids
                for statement in (STREAMS, SEGMENTS, BYTES):
                    connection.execute(statement, given)
            if first % 2_000 == 0:
                say(f"{(last + 1) * CHUNKS_A_RUN:,} chunks, {time.monotonic() - began:.0f} s")
        say(f"made {(runs - made) * CHUNKS_A_RUN:,} chunks in {time.monotonic() - began:.0f} s")
        connection.execute("VACUUM ANALYZE")
        sizes(connection, "before compaction")
    compact(database)


def compact(database: str) -> None:
    """Compact and index everything, as workers do."""
    from tailrace.store.engine import create_engine
    from tailrace.store.keeping.compaction import Compaction

    compaction = Compaction(create_engine(database))
    for name, work in (("compacted", compaction.compact), ("indexed", compaction.index)):
        began, done = time.monotonic(), 0
        rows: list[int] = []
        with psycopg.connect(database) as connection:
            column = "compacted_at" if name == "compacted" else "indexed_at"
            rows = [
                r[0] for r in connection.execute(f"SELECT id FROM tailrace.streams WHERE {column} IS NULL ORDER BY id")
            ]  # type: ignore[arg-type]
        for stream in rows:
            work(stream)
            done += 1
            if done % 1_000 == 0:
                say(f"{name} {done:,} streams, {time.monotonic() - began:.0f} s")
        took = time.monotonic() - began
        say(f"{name} {done:,} streams in {took:.0f} s ({done * CHUNKS_A_RUN / max(took, 0.001):,.0f} chunks/s)")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        sizes(connection, "after")


def sizes(connection: psycopg.Connection, when: str) -> None:
    chunks = connection.execute("SELECT sum(chunk_count) FROM tailrace.streams").fetchone()[0]  # type: ignore[index]
    for name, query in SIZES.items():
        size = connection.execute(query).fetchone()[0] or 0  # type: ignore[index, arg-type]
        say(f"{when}: {name}: {float(size) / 1e6:,.1f} MB, {float(size) / float(chunks):.1f} B a chunk")


def queries() -> list[tuple[str, str]]:
    """The copy-paste queries of docs/sql.md: their headings and statements."""
    text = ROOT.joinpath("docs", "sql.md").read_text(encoding="utf-8")
    return re.findall(r"^### ([^\n`]+)\n(?:(?!^###).)*?```sql\n(.*?)```", text, re.MULTILINE | re.DOTALL)


def timings(database: str) -> None:
    """Run every query of docs/sql.md three times."""
    with psycopg.connect(database, autocommit=True) as connection:
        run_id = connection.execute("SELECT run_id FROM tailrace.runs ORDER BY id OFFSET 1000 LIMIT 1").fetchone()[0]  # type: ignore[index]
        text = connection.execute("SELECT text FROM tailrace.stream_text WHERE run_id = %s", [run_id]).fetchone()[0]  # type: ignore[index]
        phrase = " ".join(text[2000:2100].split()[1:5])
        for heading, statement in queries():
            bound = statement.replace("'run_1'", f"'{run_id}'").replace("the phrase", phrase)
            best, rows = float("inf"), 0
            for _ in range(3):
                began = time.monotonic()
                rows = len(connection.execute(bound).fetchall())  # type: ignore[arg-type]
                best = min(best, time.monotonic() - began)
            say(json.dumps({"query": heading, "seconds": round(best, 4), "rows": rows}))


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "compact", "time", "run"])
    parser.add_argument("--database")
    parser.add_argument("--chunks", type=int, default=1_000_000)
    given = parser.parse_args()
    if given.what == "run":
        from tailrace.store.migrate import upgrade
        from tests.throwaway import ephemeral_postgres

        with tempfile.TemporaryDirectory() as place, ephemeral_postgres(Path(place) / "postgres") as server:
            url = server.url("postgres")
            upgrade(url)
            make(url, given.chunks)
            timings(url)
    elif given.what == "make":
        make(given.database, given.chunks)
    elif given.what == "compact":
        compact(given.database)
    else:
        timings(given.database)


if __name__ == "__main__":
    main()
