"""`verify_accounts` finds every way in which an archive's books can be wrong, and nothing in one that is right."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from tailrace.store.statements import Statements
from tailrace.store.verify import checked_range
from tests.integration.schema_rows import Archive


@pytest.fixture
def stream(archive: Archive) -> int:
    """A stream with everything in it that may be there, in order.

    Generation 0: chunks 0-2, a command 3, a loss of unknown size before 4, chunks 4-7 without the quarantined 6, then
    re-created. Generation 1: trimmed 0-9, chunks 10-11, a repeat 12, chunk 13.
    """
    stream = archive.stream()
    archive.segment(stream, ['"zero"', "[ 1 ]", '"\\u0000"'])
    archive.hole(stream, 3, 3, "command")
    archive.hole(stream, 4, None, "trimmed")
    archive.segment(stream, ["4", "5", "7"], first=4, offsets=[0, 1, 3])
    archive.hole(stream, 6, 6, "quarantined")
    archive.quarantine(stream, 6)
    archive.hole(stream, 8, None, "recreated")
    archive.hole(stream, 0, 9, "trimmed", generation=1)
    archive.segment(stream, ["10", "11"], first=10, generation=1)
    archive.hole(stream, 12, 12, "repeat", generation=1)
    archive.quarantine(stream, 12, generation=1)
    archive.segment(stream, ["13"], first=13, generation=1)
    texts = ['"zero"', "[ 1 ]", '"\\u0000"', "4", "5", "7", "10", "11", "13"]
    archive.settle(stream, 13, texts, generation=1)
    archive.whole_stream(["1", "2"], key="another")
    archive.stream(key="empty")
    return stream


def violations(archive: Archive, stream: int | None = None) -> list[tuple[object, ...]]:
    return archive.rows(
        """SELECT violation, generation, first_index, last_index FROM tailrace.verify_accounts(%s::bigint)
           ORDER BY 1, 2, 3""",
        stream,
    )


def by_steps(engine: sa.Engine) -> list[tuple[object, ...]]:
    """What `tailrace verify` finds, which looks at many streams together first."""
    checked = checked_range(Statements(engine), -(1 << 63), (1 << 63) - 1)
    found = [(each.violation, each.generation, each.first_index, each.last_index) for each in checked.violations]
    return sorted(found, key=lambda each: [(value is None, value) for value in each])


def test_an_archive_in_order_has_no_violation(archive: Archive, stream: int, engine: sa.Engine) -> None:
    assert violations(archive) == []
    assert violations(archive, stream) == []
    assert by_steps(engine) == []


BROKEN = {
    "chunks deleted": (
        "DELETE FROM tailrace.segments WHERE stream_id = {s} AND generation = 1 AND first_index = 10",
        [("count", None, None, None), ("count", None, None, None), ("missing", 1, 10, 11)],
    ),
    "the first chunks deleted": (
        "DELETE FROM tailrace.segments WHERE stream_id = {s} AND generation = 0 AND first_index = 0",
        [("count", None, None, None), ("count", None, None, None), ("missing", 0, 0, 2)],
    ),
    "a hole deleted": (
        "DELETE FROM tailrace.holes WHERE stream_id = {s} AND reason = 'command'",
        [("count", None, None, None), ("missing", 0, 3, 3)],
    ),
    "the hole inside a segment deleted": (
        "DELETE FROM tailrace.holes WHERE stream_id = {s} AND reason = 'quarantined'",
        [("count", None, None, None), ("missing", 0, 6, 6)],
    ),
    "a checkpoint ahead": (
        "UPDATE tailrace.streams SET last_chunk_index = 15 WHERE id = {s}",
        [("missing", 1, 14, 15)],
    ),
    "a checkpoint behind": (
        "UPDATE tailrace.streams SET last_chunk_index = 12 WHERE id = {s}",
        [("beyond_checkpoint", 1, 13, 13)],
    ),
    "a hole behind the checkpoint": (
        """INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
           VALUES ({s}, 1, 14, 20, 'control');
           UPDATE tailrace.streams SET hole_count = hole_count + 1 WHERE id = {s}""",
        [("beyond_checkpoint", 1, 14, 20)],
    ),
    "a generation too early": (
        """INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
           VALUES ({s}, 2, 0, 3, 'control');
           UPDATE tailrace.streams SET hole_count = hole_count + 1 WHERE id = {s}""",
        [("beyond_checkpoint", 2, 0, 3)],
    ),
    "an index that is chunk and hole": (
        """INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
           VALUES ({s}, 1, 11, 11, 'command');
           UPDATE tailrace.streams SET hole_count = hole_count + 1 WHERE id = {s}""",
        [("twice", 1, 11, 11)],
    ),
    "an index in two holes": (
        """INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
           VALUES ({s}, 0, 3, 3, 'control');
           UPDATE tailrace.streams SET hole_count = hole_count + 1 WHERE id = {s}""",
        [("twice", 0, 3, 3)],
    ),
    "a chunk stored twice": (
        """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
           VALUES ({s}, 1, 11, 11, 1, '[1]', '{{1}}');
           UPDATE tailrace.streams SET chunk_count = chunk_count + 1, byte_count = byte_count + 1 WHERE id = {s}""",
        [("segment", 1, 11, 11), ("twice", 1, 11, 11)],
    ),
    "offsets out of order": (
        """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms,
               index_offsets) VALUES ({s}, 1, 14, 16, 4, '[1,2,3,4]', '{{1,2,3,4}}', '{{0,1,1,2}}');
           UPDATE tailrace.streams SET chunk_count = chunk_count + 4, byte_count = byte_count + 4, last_chunk_index = 16
           WHERE id = {s}""",
        [("segment", 1, 14, 16), ("twice", 1, 15, 15)],
    ),
    "no hole at the end of a generation": (
        """DELETE FROM tailrace.holes WHERE stream_id = {s} AND reason = 'recreated';
           UPDATE tailrace.streams SET hole_count = hole_count - 1, lost_count = lost_count - 1 WHERE id = {s}""",
        [("recreated", 0, 8, None)],
    ),
    "chunks after the end of a generation": (
        """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
           VALUES ({s}, 0, 8, 8, 1, '[1]', '{{1}}');
           UPDATE tailrace.streams SET chunk_count = chunk_count + 1, byte_count = byte_count + 1 WHERE id = {s}""",
        [("recreated", 0, 8, None)],
    ),
    "indices missing at the end of a generation": (
        "UPDATE tailrace.holes SET first_index = 10 WHERE stream_id = {s} AND reason = 'recreated'",
        [("recreated", 0, 10, None)],
    ),
    "an end in the current generation": (
        """INSERT INTO tailrace.holes (stream_id, generation, first_index, last_index, reason)
           VALUES ({s}, 1, 14, NULL, 'recreated');
           UPDATE tailrace.streams SET hole_count = hole_count + 1, lost_count = lost_count + 1 WHERE id = {s}""",
        [("recreated", 1, 14, None)],
    ),
    "counts": (
        """UPDATE tailrace.streams SET chunk_count = 1, byte_count = 1, hole_count = 1, lost_count = 1,
           quarantine_count = 1 WHERE id = {s}""",
        [("count", None, None, None)] * 5,
    ),
    "bytes": (
        "UPDATE tailrace.streams SET byte_count = byte_count - 2 WHERE id = {s}",
        [("count", None, None, None)],
    ),
    "an odd segment not marked": (
        "UPDATE tailrace.segments SET odd = false WHERE stream_id = {s} AND odd",
        [("odd", 0, 0, 2)],
    ),
    "nothing kept of a quarantined record": (
        """DELETE FROM tailrace.quarantine WHERE stream_id = {s} AND chunk_index = 6;
           UPDATE tailrace.streams SET quarantine_count = 1 WHERE id = {s}""",
        [("quarantine", 0, 6, 6)],
    ),
    "a segment that holds more than it says": (
        """ALTER TABLE tailrace.segments DROP CONSTRAINT segments_data_check;
           UPDATE tailrace.segments SET data = '[10,1,1]' WHERE stream_id = {s} AND first_index = 10""",
        [("count", None, None, None), ("segment", 1, 10, 11)],
    ),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_is_broken_is_found(archive: Archive, stream: int, engine: sa.Engine, name: str) -> None:
    statements, expected = BROKEN[name]
    archive.connection.execute(statements.format(s=stream))  # type: ignore[arg-type]
    assert violations(archive, stream) == expected
    assert violations(archive) == expected
    assert by_steps(engine) == expected


def test_rows_of_no_stream_are_orphans(archive: Archive, stream: int, engine: sa.Engine) -> None:
    archive.run("DELETE FROM tailrace.streams WHERE id = %s", stream)
    assert violations(archive) == [("orphan", None, None, None)] * 3
    assert violations(archive, stream) == [("orphan", None, None, None)] * 3
    assert by_steps(engine) == [("orphan", None, None, None)] * 3
