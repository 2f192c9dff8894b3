"""Compaction changes where chunks lie and nothing else, whoever reads, writes or reopens at the same time."""

from __future__ import annotations

import hashlib
import random
import struct
import threading

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.store.keeping.compaction import Compacted, Compaction, KeepFailed
from tests.integration.schema_rows import EPOCH_MS, Archive
from tests.integration.test_views_chunks import CHUNKS

EVERYTHING = """SELECT generation, chunk_index, convert_to(data_text, 'UTF8'), type, text_delta, data_jsonb::text,
                       emitted_at, committed_at FROM tailrace.chunks ORDER BY stream_id, generation, chunk_index"""


@pytest.fixture
def compaction(engine: sa.Engine) -> Compaction:
    return Compaction(engine)


def seal(archive: Archive, stream: int) -> None:
    archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s AND state <> 'active'", stream)
    archive.run("UPDATE tailrace.streams SET state = 'sealed', sealed_at = now() WHERE id = %s", stream)


def small_segments(archive: Archive, texts: list[str], sizes: list[int], key: str = "ai") -> int:
    """A sealed stream whose chunks lie in segments of these sizes, used over and over."""
    stream = archive.stream(key=key)
    at = n = 0
    while at < len(texts):
        size = sizes[n % len(sizes)]
        archive.segment(
            stream,
            texts[at : at + size],
            first=at,
            emitted_ms=[EPOCH_MS + at + i for i in range(size)][: len(texts) - at],
        )
        at += size
        n += 1
    archive.settle(stream, len(texts) - 1, texts)
    archive.run("UPDATE tailrace.segments SET fingerprints = 'some' WHERE stream_id = %s", stream)
    seal(archive, stream)
    return stream


def digest_of(chunks: list[tuple[int, int, bytes]]) -> bytes:
    """The digest as docs/keeping.md describes it, without SQL."""
    hashes = [
        hashlib.sha256(struct.pack("!iq", generation, index) + text).digest() for generation, index, text in chunks
    ]
    blocks = [b"".join(hashes[at : at + 10_000]) for at in range(0, len(hashes), 10_000)]
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).digest()


def test_contents_are_equal_and_segments_few(archive: Archive, compaction: Compaction) -> None:
    texts = [str(n) for n in range(4_500)]
    stream = small_segments(archive, texts, [1, 2, 7, 30])
    before = archive.rows(EVERYTHING)
    assert compaction.due(10) == [stream]
    done = compaction.compact(stream)
    assert done is not None
    assert done.segments_before == 452
    assert done.segments_after == 3
    assert archive.rows(EVERYTHING) == before
    assert archive.value("SELECT bool_and(chunk_count <= 2000 AND fingerprints IS NULL) FROM tailrace.segments") is True
    assert archive.value("SELECT digest FROM tailrace.streams") == digest_of(
        [(0, n, t.encode()) for n, t in enumerate(texts)]
    )
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []


def test_every_odd_chunk_stays_byte_for_byte(archive: Archive, compaction: Compaction) -> None:
    stream = small_segments(archive, list(CHUNKS), [3, 1, 5])
    before = archive.rows(EVERYTHING)
    assert compaction.compact(stream) is not None
    assert archive.rows(EVERYTHING) == before
    assert archive.value("SELECT count(*) FROM tailrace.segments") == 1
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []


def test_holes_generations_and_large_chunks(archive: Archive, compaction: Compaction) -> None:
    stream = archive.stream()
    big = '"' + "x" * 700_000 + '"'
    texts = ["0", "1", "5", "9", big, big, "12", "20"]
    archive.segment(stream, ["0", "1"])
    archive.segment(stream, ["5", "9"], first=5, offsets=[0, 4])
    archive.segment(stream, [big], first=10)
    archive.segment(stream, [big], first=11)
    archive.segment(stream, ["12"], first=12)
    archive.segment(stream, ["20"], first=1, generation=1)
    for first, last in ((2, 4), (6, 8)):
        archive.hole(stream, first, last, "command")
    archive.hole(stream, 13, None, "recreated")
    archive.hole(stream, 0, 0, "command", generation=1)
    archive.settle(stream, 1, texts, generation=1)
    seal(archive, stream)
    before = archive.rows(EVERYTHING)
    assert compaction.compact(stream) == Compacted(6, 3)
    assert archive.rows(EVERYTHING) == before
    assert archive.rows(
        "SELECT generation, first_index, last_index, chunk_count, index_offsets FROM tailrace.segments ORDER BY 1, 2"
    ) == [(0, 0, 10, 5, [0, 1, 5, 9, 10]), (0, 11, 12, 2, None), (1, 1, 1, 1, None)]
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []
    for first, last in ((0, 3), (5, 5), (7, 10), (11, 40)):
        whole = """SELECT data_text FROM tailrace.chunks WHERE chunk_index BETWEEN %s AND %s
                   ORDER BY generation, chunk_index"""
        ranged = "SELECT data_text FROM tailrace.chunks_range('run_1', 'ai', %s, %s)"
        assert archive.rows(ranged, first, last) == archive.rows(whole, first, last)


@pytest.mark.parametrize("seed", range(8))
def test_random_streams_keep_their_contents(archive: Archive, compaction: Compaction, seed: int) -> None:
    chance = random.Random(seed)
    stream = archive.stream()
    index, texts = 0, []
    for generation in range(2):
        index = 0
        for _ in range(chance.randrange(1, 40)):
            if chance.random() < 0.3:
                archive.hole(stream, index, index, "command", generation)
                index += 1
            count = chance.randrange(1, 400)
            offsets, at = [0], 0
            for _ in range(count - 1):
                at += 1
                if chance.random() < 0.02:
                    archive.hole(stream, index + at, index + at, "control", generation)
                    at += 1
                offsets.append(at)
            mine = [chance.choice(list(CHUNKS)) for _ in range(count)]
            texts += mine
            archive.segment(
                stream, mine, first=index, generation=generation, offsets=offsets if at > count - 1 else None
            )
            index += at + 1
        if generation == 0:
            archive.hole(stream, index, None, "recreated")
    archive.settle(stream, index - 1, texts, generation=1)
    seal(archive, stream)
    before = archive.rows(EVERYTHING)
    digest = compaction.digest(stream)
    assert compaction.compact(stream) is not None
    assert archive.rows(EVERYTHING) == before
    assert archive.value("SELECT digest FROM tailrace.streams") == digest == compaction.digest(stream)
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []


def test_a_second_time_changes_nothing(archive: Archive, compaction: Compaction) -> None:
    stream = small_segments(archive, [str(n) for n in range(100)], [10])
    compaction.compact(stream)
    rows = archive.rows("SELECT ctid, first_index FROM tailrace.segments")
    assert compaction.compact(stream) == Compacted(1, 1)
    assert archive.rows("SELECT ctid, first_index FROM tailrace.segments") == rows


@pytest.mark.parametrize("change", ["state = 'active'", "state = 'active', worker_id = gen_random_uuid()"])
def test_an_open_stream_is_left_alone(archive: Archive, compaction: Compaction, change: str) -> None:
    stream = small_segments(archive, ["1", "2"], [1])
    archive.run(f"UPDATE tailrace.streams SET {change} WHERE id = %s", stream)
    assert compaction.compact(stream) is None
    assert compaction.index(stream) is None
    assert archive.value("SELECT count(*) FROM tailrace.segments") == 2


def test_a_stream_that_somebody_has_locked_is_left_for_later(
    archive: Archive, compaction: Compaction, database_url: str
) -> None:
    stream = small_segments(archive, ["1", "2"], [1])
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM tailrace.streams WHERE id = %s FOR UPDATE", [stream])
        assert compaction.compact(stream) is None
    assert compaction.compact(stream) == Compacted(2, 1)


def test_it_bumps_rev_so_that_a_writer_with_an_old_one_is_fenced(archive: Archive, compaction: Compaction) -> None:
    stream = small_segments(archive, ["1", "2"], [1])
    before = archive.value("SELECT rev FROM tailrace.streams")
    compaction.compact(stream)
    assert archive.value("SELECT rev FROM tailrace.streams") == before + 1


def test_reopening_makes_the_digest_void_and_sealing_again_compacts_again(
    archive: Archive, compaction: Compaction
) -> None:
    stream = small_segments(archive, ["1", "2"], [1])
    compaction.compact(stream)
    compaction.index(stream)
    assert compaction.due(10) == []
    archive.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
    assert archive.row("SELECT digest, compacted_at, indexed_at FROM tailrace.streams") == (None, None, None)
    assert archive.value("SELECT count(*) FROM tailrace.facts") == 0
    archive.segment(stream, ["3"], first=2)
    archive.settle(stream, 2, ["1", "2", "3"])
    seal(archive, stream)
    assert compaction.due(10) == [stream]
    assert compaction.compact(stream) == Compacted(2, 1)
    assert archive.rows("SELECT data_text FROM tailrace.chunks ORDER BY chunk_index") == [("1",), ("2",), ("3",)]


def test_contents_that_are_not_what_was_sealed_are_noticed_and_left(archive: Archive, compaction: Compaction) -> None:
    stream = small_segments(archive, ["1", "2"], [1])
    compaction.compact(stream)
    archive.run("UPDATE tailrace.segments SET data = '[1,3]'")
    archive.run("UPDATE tailrace.streams SET compacted_at = NULL")
    with pytest.raises(KeepFailed, match="not what they were"):
        compaction.compact(stream)
    assert archive.value("SELECT keep_error FROM tailrace.streams").startswith("the contents of stream")
    assert compaction.due(10) == []
    assert compaction.retry_failed() == 1
    assert compaction.due(10) == [stream]


def test_a_failure_of_the_search_changes_nothing_else(archive: Archive, compaction: Compaction) -> None:
    stream = small_segments(archive, ['"one"', '"two"'], [1])
    archive.run("ALTER TABLE tailrace.search ADD CONSTRAINT full_disk CHECK (piece < 0)")
    compaction.compact(stream)
    with pytest.raises(KeepFailed):
        compaction.index(stream)
    state, compacted = archive.row("SELECT state, compacted_at IS NOT NULL FROM tailrace.streams")
    assert (state, compacted) == ("sealed", True)
    assert compaction.due(10) == []


def test_search_finds_phrases_across_the_cuts_of_long_texts(archive: Archive, compaction: Compaction) -> None:
    words = " ".join(f"w{n}" for n in range(600_000))  # 4.1 million characters, more than a block of pieces
    stream = archive.stream()
    pieces = [words[at : at + 500_000] for at in range(0, len(words), 500_000)]
    texts = [f'"{piece}"' for piece in pieces]
    for n, text in enumerate(texts):
        archive.segment(stream, [text], first=n)
    archive.settle(stream, len(texts) - 1, texts)
    seal(archive, stream)
    made = compaction.index(stream)
    assert made is not None
    assert made > 100
    for at in (0, 29_498, 29_600, 295_000, 410_000, 599_990):
        phrase = f"W{at}, w{at + 1} w{at + 2}"
        assert archive.rows("SELECT DISTINCT run_id FROM tailrace.search_text(%s)", phrase) == [("run_1",)], phrase
    for cut in range(29_400, 31_000, 7):  # every character around the first cut
        begin = words.index(" ", cut) + 1
        phrase = words[begin : words.index(" ", begin + 40)]
        assert archive.rows("SELECT 1 FROM tailrace.search_text(%s)", phrase), phrase
    assert archive.rows("SELECT * FROM tailrace.search_text('w1 w3')") == []


def test_readers_see_the_same_chunks_all_the_time(archive: Archive, compaction: Compaction, database_url: str) -> None:
    streams = [small_segments(archive, [str(n) for n in range(300)], [3], key=f"k{k}") for k in range(20)]
    expected = (20 * 300, 20 * sum(range(300)))
    ended = threading.Event()
    seen: list[tuple[object, ...]] = []

    def read() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not ended.is_set():
                row = connection.execute("SELECT count(*), sum(data_text::int) FROM tailrace.chunks").fetchone()
                assert row is not None
                seen.append(row)

    reader = threading.Thread(target=read)
    reader.start()
    for stream in streams:
        assert compaction.compact(stream) == Compacted(100, 1)
    ended.set()
    reader.join(10)
    assert len(seen) > 1
    assert set(seen) == {expected}


def test_many_compact_and_reopen_at_once_and_nothing_is_lost(
    archive: Archive, engine: sa.Engine, database_url: str
) -> None:
    """Whoever comes first: a stream is compacted or reopened, never half of both, and no chunk goes."""
    streams = [small_segments(archive, [str(n) for n in range(40)], [1], key=f"k{k}") for k in range(12)]
    failures: list[BaseException] = []

    def compact() -> None:
        try:
            mine = Compaction(engine)
            for _ in range(3):
                for stream in mine.due(100):
                    mine.compact(stream)
        except BaseException as error:
            failures.append(error)
            raise

    def reopen() -> None:
        try:
            other = Archive(database_url)
            for n, stream in enumerate(streams):
                with other.connection.transaction():
                    other.run("UPDATE tailrace.streams SET state = 'active' WHERE id = %s", stream)
                    other.segment(stream, ['"late"'], first=40)
                    other.run(
                        """UPDATE tailrace.streams SET last_chunk_index = 40, chunk_count = 41,
                               byte_count = byte_count + 6
                           WHERE id = %s""",
                        stream,
                    )
                if n % 2:
                    seal(other, stream)
            other.connection.close()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=each) for each in (compact, compact, compact, reopen)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert archive.value("SELECT count(*) FROM tailrace.chunks") == 12 * 41
    assert archive.rows("SELECT * FROM tailrace.verify_accounts()") == []
