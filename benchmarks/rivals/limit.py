"""The limit: the same bytes by ``COPY``, and decoding alone."""

from __future__ import annotations

import sys
import time

import psycopg

from benchmarks import rivals
from benchmarks.texts import chunks
from tailrace.ingest.order import order_for
from tailrace.model import Checkpoint, Wire
from tailrace.serve.entries import Entry, V1Id
from tailrace.serve.logs import RecordLog
from tailrace.serve.records import batch_event, data_draft
from tailrace.wire.events import Framer
from tailrace.wire.v1 import V1Decoder
from tailrace.wire.v2 import V2Decoder

PER_SEGMENT = 500
BLOCK_BYTES = 65_536
MAX_EVENT_CHARS = 1 << 24
NOW_MS = 1_700_000_000_000


def copy(url: str, count: int) -> rivals.Found:
    """Segments of 500 chunks into a table like the archive's, by one ``COPY`` on one connection, one commit."""
    command, environ = rivals.ours("benchmarks.rivals.limit", url, str(count))
    return rivals.measure(command, count, environ=environ)


def main(url: str, count: int) -> None:
    """`copy` in this process, and report."""
    texts = list(chunks(count))
    rows = []
    for first in range(0, count, PER_SEGMENT):
        piece = texts[first : first + PER_SEGMENT]
        emitted = list(range(NOW_MS + first, NOW_MS + first + len(piece)))
        data = (b"[" + b",".join(piece) + b"]").decode()
        rows.append((1, 0, first, first + len(piece) - 1, len(piece), data, emitted))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS limit_segments")
        connection.execute("CREATE TABLE limit_segments (LIKE tailrace.segments INCLUDING ALL)")
        with (
            rivals.reported(),
            connection.cursor() as cursor,
            cursor.copy(
                "COPY limit_segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)"
                " FROM STDIN (FORMAT binary)"
            ) as into,
        ):
            into.set_types(["int8", "int4", "int8", "int8", "int4", "json", "int8[]"])
            for row in rows:
                into.write_row((*row[:5], _Json(row[5]), row[6]))
        connection.execute("DROP TABLE limit_segments")


class _Json(psycopg.types.json.Json):
    """A text that is JSON already."""

    def __init__(self, text: str) -> None:
        super().__init__(text, dumps=lambda value: value)


def decode(wire: str, count: int) -> tuple[float, float]:
    """Framing, decoding and ordering of the same stream from memory; nothing is read and nothing written."""
    body = blocks(wire, count)
    framer = Framer(MAX_EVENT_CHARS)
    decoder = V2Decoder() if wire == "v2" else V1Decoder()
    sequence = order_for(Wire(wire), Checkpoint(), []) if wire == "v2" else order_for(Wire.V1, Checkpoint(), [])
    sequence.resume()
    sequence.opened(None)
    found = 0
    began, cpu = time.perf_counter(), time.process_time()
    for block in body:
        for arrival in decoder.decode(framer.feed(block)):
            for first in range(0, len(arrival.records), 200):
                found += len(sequence.admit(arrival.records[first : first + 200]).texts)
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    if found != count:
        raise AssertionError(f"{found} of {count} chunks were decoded")
    return count / took_s, 1e6 * cpu_s / count


def blocks(wire: str, count: int) -> list[str]:
    """The body of the stream's response in blocks as a socket gives them."""
    texts = chunks(count)
    if wire == "v1":
        body = b"".join(
            Entry(V1Id(NOW_MS + at // 3, at % 3), text + b"\n").wire or b"" for at, text in enumerate(texts)
        )
    else:
        log = RecordLog()
        for at, text in enumerate(texts):
            log.append(data_draft(text, f"a{at:06d}"), NOW_MS + at)
        records = log.records
        body = b"".join(batch_event(records[at : at + 200], at, at, None) for at in range(0, count, 200))
    text_body = body.decode()
    return [text_body[at : at + BLOCK_BYTES] for at in range(0, len(text_body), BLOCK_BYTES)]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
