"""Reading what is archived, from a real Postgres: page by page, over every seam, and what can be wrong with it."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.devtools.servers.postgres import Postgres
from tailrace.model import HoleReason, StreamRef, Wire
from tailrace.streams import ChunkTypeError, Client, NotConfigured, StreamError, read
from tailrace.streams.archive import ArchiveReader
from tailrace.streams.steps import PAGE_BYTES, Chunk, Fetch, Gap
from tests.integration.schema_rows import Archive
from tests.streamcases import FLAVOURS, Flavour, World, running_flavour, running_world, write_v1, write_v2
from tests.unit.streams.test_streams_text import CASES, HALVES, transcript


@pytest.fixture(scope="module")
def world(postgres_server: Postgres, template_database: str) -> Iterator[World]:
    with running_world(postgres_server, template_database) as world:
        yield world


@pytest.fixture(scope="module", params=FLAVOURS)
def api(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    with running_flavour(request.param) as flavour:
        yield flavour


@pytest.fixture
def rows(database_url: str) -> Iterator[Archive]:
    """An archive whose rows a test writes by hand."""
    archive = Archive(database_url)
    with archive.connection:
        yield archive


@pytest.fixture
def reader(database_url: str) -> Iterator[ArchiveReader]:
    reader = ArchiveReader(database_url, None)
    yield reader
    reader.close()


def pages(reader: ArchiveReader, size: int, first: int = 0, run_id: str = "run_1") -> tuple[list[Chunk], list[Gap]]:
    """Everything from an index on, in parts of a size."""
    chunks: list[Chunk] = []
    gaps: list[Gap] = []
    generation = 0
    for _ in range(1_000):
        page = reader.read(StreamRef(run_id, "ai"), Fetch(generation, first, size, recent=False))
        chunks += page.chunks
        gaps += page.gaps
        assert len(page.chunks) <= size
        if page.end is not None:
            return chunks, gaps
        assert (page.next_generation, page.next_index) > (generation, first), "it goes in a circle"
        generation, first = page.next_generation, page.next_index
    raise AssertionError("it has no end")


# --- seams


@pytest.mark.parametrize("wire", list(Wire), ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_no_seam_loses_or_doubles_a_chunk(api: Flavour, world: World, wire: Wire, seed: int) -> None:
    """However much of the stream is archived, from nothing to all of it."""
    for seam in range(15):
        dice = random.Random(seed)
        place = world.place(wire, "auto")
        place.store.open_stream(place.run_id, "ai")
        expected = (write_v1 if wire is Wire.V1 else write_v2)(place, dice)
        place.archive("ai", seam)
        place.finish()
        found: list[Any] = []

        def keep(error: ChunkTypeError, found: list[Any] = found) -> None:
            found.append(error.raw)

        stream = api.streams.read(place.run_id, "ai", on_invalid=keep, **place.options)
        for chunk in api.each(stream):
            found.append(chunk)
        assert found == expected, f"seam {seam}"
        assert stream.gaps == []


@pytest.mark.parametrize("wire", list(Wire), ids=str)
def test_a_worker_that_archives_while_it_is_read_makes_no_difference(api: Flavour, world: World, wire: Wire) -> None:
    for first in (0, 1, 30):
        place = world.place(wire, "auto")
        place.write("ai", [str(number) for number in range(60)])
        place.archive("ai", first)
        stream = api.streams.read(place.run_id, "ai", **place.options)
        found = []
        for number in range(60):
            found.append(api.next(stream))
            if number % 7 == 0:
                place.archive("ai", min(60, first + number + 5))
        place.finish()
        assert found + api.all(stream) == list(range(60))


def test_what_came_after_the_checkpoint_is_not_known_yet(world: World) -> None:
    """Marks of records that are still to be read would make them repeats of themselves."""
    place = world.place(Wire.V2, "auto")
    place.write("ai", [str(number) for number in range(10)])
    place.archive("ai", 4)
    reader = ArchiveReader(world.archiver.url, None)
    with reader._engine.connect() as connection:
        found = reader._find(connection, StreamRef(place.run_id, "ai"))
    assert found is not None
    assert found.stream is not None
    place.archive("ai", 8)
    end = reader._end(found.stream, with_recent=True)
    assert [index for index, _ in end.recent] == [0, 1, 2, 3]
    assert end.checkpoint.last_index == 3
    reader.close()


# --- pages


def test_pages_of_any_size_give_the_same(rows: Archive, reader: ArchiveReader) -> None:
    """Segments with holes in and between them, quarantine, and a second generation."""
    stream = rows.stream()
    rows.segment(stream, ["0", "1", "2"])
    rows.segment(stream, ["4", "6", "7"], first=4, offsets=[0, 2, 3])
    rows.hole(stream, 3, 3, "command")
    rows.hole(stream, 5, 5, "quarantined")
    rows.quarantine(stream, 5, b"odd")
    rows.hole(stream, 8, 1_000_000, "trimmed")
    rows.segment(stream, ["1000001"], first=1_000_001)
    rows.hole(stream, 1_000_002, None, "recreated")
    rows.segment(stream, ['"new"', '"er"'], generation=1)
    rows.settle(stream, 1, generation=1)
    whole, gaps = pages(reader, 10_000)
    assert [(chunk.generation, chunk.chunk_index, chunk.text.decode()) for chunk in whole] == [
        *((0, at, str(at)) for at in (0, 1, 2, 4)),
        (0, 5, "odd"),
        *((0, at, str(at)) for at in (6, 7, 1_000_001)),
        (1, 0, '"new"'),
        (1, 1, '"er"'),
    ]
    assert [chunk.invalid for chunk in whole if chunk.invalid] == ["not JSON"]
    assert gaps == [
        Gap(0, 8, 1_000_000, HoleReason.TRIMMED),
        Gap(0, 1_000_002, None, HoleReason.RECREATED),
    ]
    for size in (1, 2, 3, 5):
        assert pages(reader, size) == (whole, gaps)
        for first in (1, 4, 5, 8, 500_000, 1_000_001):
            assert pages(reader, size, first)[0] == [
                chunk for chunk in whole if chunk.generation or chunk.chunk_index >= first
            ]


def test_a_large_hole_costs_one_page(rows: Archive, reader: ArchiveReader) -> None:
    stream = rows.stream()
    rows.segment(stream, ["1"])
    rows.hole(stream, 1, 10**12, "trimmed")
    rows.segment(stream, ["2"], first=10**12 + 1)
    rows.settle(stream, 10**12 + 1)
    assert [chunk.text for chunk in pages(reader, 10)[0]] == [b"1", b"2"]


def test_a_page_holds_no_more_than_its_bytes_and_one_chunk(rows: Archive, reader: ArchiveReader) -> None:
    """However large chunks are, and what could not be one: a reader's memory is bounded."""
    texts = [json.dumps(f"{number}" + "x" * 300_000) for number in range(12)]
    stream = rows.stream()
    rows.segment(stream, texts[:5])
    rows.hole(stream, 5, 5, "quarantined")
    rows.quarantine(stream, 5, b"odd" * 300_000)
    rows.segment(stream, texts[5:], first=6)
    rows.settle(stream, 12)
    found: list[Chunk] = []
    first, sizes = 0, []
    while True:
        page = reader.read(StreamRef("run_1", "ai"), Fetch(0, first, 1_000, recent=False))
        if page.end is not None:
            break
        sizes.append(sum(len(chunk.text) for chunk in page.chunks))
        found += page.chunks
        first = page.next_index
    assert [chunk.chunk_index for chunk in found] == list(range(13))
    assert [chunk.text.decode() for chunk in found if not chunk.invalid] == texts
    assert max(sizes) < PAGE_BYTES + 900_000


def test_chunks_come_byte_for_byte(rows: Archive, reader: ArchiveReader) -> None:
    texts = ['{"b":1,"a":1.10,"a":2}', '"\\u0000"', '"\\ud83d"', '"\u2028é"', "123456789012345678901234567890"]
    rows.whole_stream(texts)
    assert [chunk.text.decode() for chunk in pages(reader, 2)[0]] == texts


def test_repeats_and_doubts_are_no_chunks(rows: Archive, reader: ArchiveReader) -> None:
    stream = rows.whole_stream(["0", "1"])
    for reason in ("repeat", "unterminated"):
        rows.run(
            """INSERT INTO tailrace.quarantine (stream_id, generation, chunk_index, reason, raw)
               VALUES (%s, 0, 1, %s, 'x')""",
            stream,
            reason,
        )
    assert [chunk.text for chunk in pages(reader, 10)[0]] == [b"0", b"1"]


@pytest.mark.parametrize("name", CASES)
def test_the_text_is_what_postgres_says(rows: Archive, name: str) -> None:
    chunks, text = CASES[name]
    rows.whole_stream([json.dumps(chunk) for chunk in chunks]) if chunks else rows.stream()
    in_postgres = rows.value("SELECT text FROM tailrace.stream_text WHERE run_id = 'run_1'")
    assert (in_postgres or "") == transcript(chunks).text == text


@pytest.mark.parametrize("compacted", [False, True])
def test_characters_that_were_cut_are_whole_in_postgres(rows: Archive, compacted: bool) -> None:
    for number, (name, case) in enumerate(HALVES.items()):
        stream = rows.whole_stream(case["chunks"], run_id=f"run_{number}")
        if compacted:
            rows.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
        assert rows.value("SELECT text FROM tailrace.stream_text WHERE stream_id = %s", stream) == case["text"], name
        chunks = rows.rows("SELECT data_text FROM tailrace.chunks WHERE stream_id = %s ORDER BY chunk_index", stream)
        assert [chunk for (chunk,) in chunks] == case["chunks"], name


def test_a_read_of_a_recreated_stream_has_all_of_it(rows: Archive, database_url: str) -> None:
    stream = rows.stream()
    rows.segment(stream, ['"old"', '"er"'])
    rows.hole(stream, 2, None, "recreated")
    rows.segment(stream, ['"ne"', '"w"'], generation=1)
    rows.settle(stream, 1, generation=1)
    client = Client(database_url=database_url)
    found = read("run_1", "ai", source="archive", client=client)
    assert next(found) == "old"
    assert found.last_event_id == "0"
    assert list(found) == ["er", "ne", "w"]
    assert found.last_event_id == "1.1"
    for seen, rest in (("0", ["er", "ne", "w"]), ("1", ["ne", "w"]), ("1.0", ["w"]), ("1.1", [])):
        assert list(read("run_1", "ai", source="archive", client=client, last_event_id=seen)) == rest
    newest = read("run_1", "ai", source="archive", client=client, start="latest")
    assert (list(newest), newest.gaps) == (["w"], [])
    client.close()


def test_when_the_newest_record_is_no_chunk_there_is_none(rows: Archive, database_url: str) -> None:
    stream = rows.stream()
    rows.segment(stream, ['"a"'])
    rows.hole(stream, 1, 1, "control")
    rows.settle(stream, 1)
    client = Client(database_url=database_url)
    newest = read("run_1", "ai", source="archive", client=client, start="latest")
    assert (list(newest), newest.gaps) == ([], [])
    client.close()


# --- what can be wrong


def test_a_run_in_several_environments_needs_a_name(rows: Archive, database_url: str) -> None:
    for environment in ("default", "other"):
        if environment != "default":
            rows.run("INSERT INTO tailrace.environments (name, api_url) VALUES (%s, 'http://x')", environment)
        stream = rows.stream(environment=environment)
        rows.segment(stream, [json.dumps(environment)])
        rows.settle(stream, 0)
    client = Client(database_url=database_url)
    with pytest.raises(NotConfigured, match=r"default, other.*TAILRACE_ENVIRONMENT"):
        next(read("run_1", "ai", source="archive", client=client))
    client.close()
    for environment in ("default", "other"):
        client = Client(database_url=database_url, environment=environment)
        assert list(read("run_1", "ai", source="archive", client=client)) == [environment]
        client.close()


def test_a_database_without_an_archive(empty_database_url: str) -> None:
    client = Client(database_url=empty_database_url)
    with pytest.raises(NotConfigured, match="tailrace migrate"):
        next(read("run_1", "ai", source="archive", client=client))
    client.close()


def test_an_account_without_rights(rows: Archive, database_url: str) -> None:
    rows.run("DROP ROLE IF EXISTS streams_nobody")
    rows.run("CREATE ROLE streams_nobody LOGIN PASSWORD 'very-secret'")
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    url = f"postgresql://streams_nobody:very-secret@{parts['host']}:{parts['port']}/{parts['dbname']}"
    client = Client(database_url=url)
    with pytest.raises(StreamError) as caught:
        next(read("run_1", "ai", source="archive", client=client, max_retries=0))
    assert "very-secret" not in str(caught.value)
    client.close()
    rows.run("DROP ROLE streams_nobody")


def test_connections_are_few_and_are_closed_with_the_client(rows: Archive, database_url: str) -> None:
    rows.whole_stream(["1", "2"])
    client = Client(database_url=database_url)
    readers = [read("run_1", "ai", source="archive", client=client) for _ in range(20)]
    for each in readers:
        next(each)
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tailrace-streams' AND datname = %s"
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    assert 1 <= rows.value(count, name) <= 8
    client.close()
    assert [list(each) for each in readers] == [[2]] * 20
    client.close()


def test_a_long_stream_is_read_fast_enough(world: World) -> None:
    """Chunks a second from the archive: a floor, not a figure."""
    place = world.place(Wire.V2, "archive")
    count = 20_000
    place.write("ai", [f'{{"type":"text-delta","id":"0","delta":"{number}"}}' for number in range(count)])
    place.archive("ai", sealed=True)
    with world.archiver.engine.begin() as connection:
        connection.execute(sa.text("ANALYZE tailrace.segments"))
    began = time.perf_counter()
    assert sum(1 for _ in read(place.run_id, "ai", **place.options)) == count
    took = time.perf_counter() - began
    sys.stdout.write(f"reading the archive, blocking: {count / took:,.0f} chunks/s, {count} in segments of 7\n")
    assert count / took > 200  # far below what any machine does; one that is quadratic is slower
