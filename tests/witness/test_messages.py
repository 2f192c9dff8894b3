"""What the AI SDK makes of streams of messages is what `message_parts` shows, for streams that nobody has seen before."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from tests import messagestreams
from tests.integration.schema_rows import Archive
from tests.witness import reductions

STREAMS = 400 if os.environ.get("SOAK") else 100


def test_the_parts_of_random_streams_are_those_of_the_ai_sdk(official_client: Path, database_url: str) -> None:
    first = random.randrange(1_000_000)
    streams = {seed: messagestreams.random_stream(seed) for seed in range(first, first + STREAMS)}
    answers = reductions.answers(official_client, [messagestreams.last_attempt(each) for each in streams.values()])
    archive = Archive(database_url)
    with archive.connection, archive.connection.cursor(row_factory=dict_row) as cursor:
        for (seed, chunks), answer in zip(streams.items(), answers, strict=True):
            stream = archive.stream(f"run_{seed}")
            archive.segment(stream, [json.dumps(chunk) for chunk in chunks])
            rows = _parts(cursor, stream)
            assert messagestreams.differences(messagestreams.reduced(chunks, answer), rows) == [], f"random {seed}"


def test_the_answers_that_are_kept_are_still_those_of_the_ai_sdk(official_client: Path) -> None:
    kept = messagestreams.known()
    assert {name: each.chunks for name, each in kept.items()} == messagestreams.streams(reductions.KEPT)
    answers = reductions.answers(official_client, [messagestreams.last_attempt(each.chunks) for each in kept.values()])
    for (name, each), answer in zip(kept.items(), answers, strict=True):
        assert messagestreams.reduced(each.chunks, answer) == each, name


def _parts(cursor: psycopg.Cursor[dict[str, object]], stream: int) -> list[dict[str, object]]:
    return cursor.execute("SELECT * FROM tailrace.parts_of_stream(%s) ORDER BY first_index", [stream]).fetchall()
