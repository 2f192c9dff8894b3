"""What looks at many streams together passes over nothing that the functions for one stream find, whatever is broken."""

from __future__ import annotations

import random
from collections import Counter

import psycopg
import pytest
import sqlalchemy as sa

from tailrace.store.statements import Statements
from tailrace.store.verify import checked_range
from tests.integration.schema_rows import Archive

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
DAMAGES = 200

UNCHECKED = """
ALTER TABLE tailrace.segments DROP CONSTRAINT segments_data_check, DROP CONSTRAINT segments_count_check,
    DROP CONSTRAINT segments_offsets_check, DROP CONSTRAINT segments_range_check;
ALTER TABLE tailrace.holes DROP CONSTRAINT holes_range_check;
ALTER TABLE tailrace.streams DROP CONSTRAINT streams_checkpoint_check;
"""

DAMAGE = {
    "streams": [
        *(
            f"UPDATE tailrace.streams SET {column} = {column} + {{by}} WHERE {{row}}"
            for column in (
                "generation",
                "last_chunk_index",
                "chunk_count",
                "byte_count",
                "hole_count",
                "lost_count",
                "quarantine_count",
            )
        ),
        "UPDATE tailrace.streams SET digest = sha256(coalesce(digest, '')) WHERE {row}",
        "DELETE FROM tailrace.streams WHERE {row}",
    ],
    "segments": [
        *(
            f"UPDATE tailrace.segments SET {column} = {column} + {{by}} WHERE {{row}}"
            for column in ("first_index", "last_index", "chunk_count", "generation")
        ),
        "DELETE FROM tailrace.segments WHERE {row}",
        "UPDATE tailrace.segments SET odd = NOT odd WHERE {row}",
        "UPDATE tailrace.segments SET index_offsets = NULL WHERE {row}",
        "UPDATE tailrace.segments SET index_offsets = '{{0,1,1}}' WHERE {row}",
        "UPDATE tailrace.segments SET index_offsets = '{{0,2,1}}' WHERE {row}",
        "UPDATE tailrace.segments SET index_offsets = '{{0,NULL,2}}' WHERE {row}",
        "UPDATE tailrace.segments SET index_offsets = '{{0,2,3}}' WHERE {row}",
        "UPDATE tailrace.segments SET data = '[]' WHERE {row}",
        "UPDATE tailrace.segments SET data = '[1, \"\\ud800\" ,{{}}]' WHERE {row}",
        "UPDATE tailrace.segments SET data = replace(data::text, ',', ' , ')::json WHERE {row}",
        "UPDATE tailrace.segments SET data = replace(data::text, '1', '7')::json WHERE {row}",
        "UPDATE tailrace.segments SET data = replace(data::text, '1', '1e9999')::json WHERE {row}",
        "UPDATE tailrace.segments SET data = ('[0,' || substr(data::text, 2))::json WHERE {row}",
        """INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
           SELECT stream_id, generation, last_index + {by}, last_index + {by}, 1, '[1]', '{{1}}'
           FROM tailrace.segments WHERE {row}""",
    ],
    "holes": [
        *(
            f"UPDATE tailrace.holes SET {column} = {column} + {{by}} WHERE {{row}}"
            for column in ("first_index", "last_index", "generation")
        ),
        "UPDATE tailrace.holes SET last_index = NULL WHERE {row}",
        "DELETE FROM tailrace.holes WHERE {row}",
        """INSERT INTO tailrace.holes SELECT stream_id, generation + 1, 0, 0, 'control' FROM tailrace.holes WHERE {row}""",
        """WITH gone AS (DELETE FROM tailrace.holes WHERE {row} RETURNING *)
           INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
           SELECT stream_id, generation, first_index, first_index, 1, '[1]', '{{1}}' FROM gone""",
        *(
            f"UPDATE tailrace.holes SET reason = '{reason}' WHERE {{row}}"
            for reason in ("recreated", "command", "repeat", "missing")
        ),
    ],
    "quarantine": [
        "DELETE FROM tailrace.quarantine WHERE {row}",
        "UPDATE tailrace.quarantine SET chunk_index = chunk_index + {by} WHERE {row}",
        "UPDATE tailrace.quarantine SET stream_id = stream_id + 1 WHERE {row}",
    ],
}


@pytest.fixture
def varied(archive: Archive) -> Archive:
    """Streams of all kinds, in order; no constraint protects them any more."""
    sealed = [
        archive.whole_stream(["1", "[ 11 ]", '{"a": 1}'], key="one segment"),
        archive.whole_stream([f'"{n:1000}"' for n in range(20)], key="long texts"),
        archive.whole_stream(['"\\u0000"', "1", "2"], key="odd"),
        archive.stream(key="empty"),
    ]
    several = archive.stream(key="several segments")
    for first in range(0, 9, 3):
        archive.segment(several, ["1", "21", "3"], first=first)
    archive.settle(several, 8, ["1", "21", "3"] * 3)
    with_holes = archive.stream(key="holes")
    archive.segment(with_holes, ["1", "12", "3"], offsets=[0, 1, 3])
    archive.hole(with_holes, 2, 2, "command")
    archive.hole(with_holes, 4, 6, "trimmed")
    archive.hole(with_holes, 7, None, "expired")
    archive.segment(with_holes, ["1", "2"], first=7)
    archive.settle(with_holes, 8, ["1", "12", "3", "1", "2"])
    kept_raw = archive.stream(key="quarantine")
    archive.segment(kept_raw, ["1"])
    archive.hole(kept_raw, 1, 1, "quarantined")
    archive.quarantine(kept_raw, 1)
    archive.settle(kept_raw, 1, ["1"])
    recreated = archive.stream(key="re-created")
    archive.segment(recreated, ["1"])
    archive.hole(recreated, 1, None, "recreated")
    archive.segment(recreated, ["1", "2"], generation=1)
    archive.settle(recreated, 1, ["1", "1", "2"], generation=1)
    for stream in (*sealed, several, with_holes, kept_raw, recreated):
        for state in ("active", "sealed"):
            archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
        archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
    archive.whole_stream(["1", "2", "3"], key="open")
    behind = archive.whole_stream(["1"], key="its row is behind")
    archive.segment(behind, ["2", "13"], first=1)
    archive.run("""UPDATE tailrace.segments SET cursor = '"3"' WHERE stream_id = %s AND first_index = 1""", behind)
    archive.connection.execute(UNCHECKED)  # type: ignore[arg-type]
    return archive


WRONG = """
SELECT v.stream_id FROM tailrace.verify_accounts() v
UNION SELECT s.id FROM tailrace.streams s WHERE s.digest <> tailrace.stream_digest(s.id)
"""


# So that only what lies deeper is wrong.
AGREEING = """
UPDATE tailrace.streams s SET
    chunk_count = (SELECT count(*) FROM tailrace.segments g CROSS JOIN json_array_elements(g.data)
                   WHERE g.stream_id = s.id),
    byte_count = (SELECT coalesce(sum(octet_length(c::text)), 0)
                  FROM tailrace.segments g CROSS JOIN json_array_elements(g.data) c WHERE g.stream_id = s.id),
    hole_count = (SELECT count(*) FROM tailrace.holes h WHERE h.stream_id = s.id),
    lost_count = (SELECT count(*) FROM tailrace.holes h
                  WHERE h.stream_id = s.id AND h.reason IN ('trimmed', 'expired', 'recreated', 'missing')),
    digest = tailrace.stream_digest(s.id)
WHERE s.state = 'sealed'
"""


def damage(archive: Archive, chance: random.Random) -> str:
    """Break one thing; return what."""
    table = chance.choice(list(DAMAGE))
    rows = archive.rows(f"SELECT ctid::text FROM tailrace.{table} ORDER BY tableoid, ctid")
    if not rows:
        return ""
    (row,) = chance.choice(rows)
    statement = chance.choice(DAMAGE[table])
    archive.run(statement.format(row=f"ctid = '{row}'", by=chance.choice([-2, -1, 1, 2])))
    return statement


def test_no_damage_is_passed_over(varied: Archive) -> None:
    """Of one or two kinds, with counts that agree or not; each is undone afterwards."""
    assert varied.rows(WRONG) == []
    told: Counter[bool] = Counter()
    for seed in range(DAMAGES):
        chance = random.Random(seed)
        with varied.connection.transaction(force_rollback=True):
            try:
                done = [damage(varied, chance) for _ in range(chance.choice([1, 1, 2]))]
                if chance.random() < 0.5:
                    done.append(AGREEING)
                    varied.run(AGREEING)
            except (psycopg.errors.IntegrityError, psycopg.errors.DataError):  # it can't be done
                continue
            wrong = {row[0] for row in varied.rows(WRONG)}
            suspects = {row[0] for row in varied.rows("SELECT tailrace.suspects(%s, %s)", LOWEST, HIGHEST)}
            assert wrong <= suspects, (seed, done)
            told[bool(wrong)] += 1
    assert told[True] > DAMAGES * 0.6, told
    assert told[False] > 0, told


def test_a_segment_inside_another_is_not_passed_over(varied: Archive) -> None:
    """Every index is accounted for once, and all counts agree."""
    varied.run(
        """WITH gone AS (DELETE FROM tailrace.holes WHERE reason = 'command' RETURNING *)
           INSERT INTO tailrace.segments (stream_id, generation, first_index, last_index, chunk_count, data, emitted_ms)
           SELECT stream_id, generation, first_index, first_index, 1, '[1]', '{1}' FROM gone"""
    )
    varied.run(AGREEING)
    varied.run("UPDATE tailrace.streams SET digest = NULL")  # as before compaction
    ((stream, violation),) = varied.rows("SELECT stream_id, violation FROM tailrace.verify_accounts()")
    assert violation == "segment"
    assert (stream,) in varied.rows("SELECT tailrace.suspects(%s, %s)", LOWEST, HIGHEST)


ODD = ['"\\u0000"', '"\\\\\\u0000"', '"\\ud83d"', '"\\ude00"', '{"a": [1e1000]}', "-1E+9999", '"x\\ud83d\\u0041"']


def test_what_is_odd_in_a_part_is_odd_in_the_whole(archive: Archive) -> None:
    """Also between halves of surrogate pairs that only seem to belong together."""
    for text in ODD:
        for whole in (text, f"[{text}]", f'["\\ud83d",{text},"\\ude00"]', f'["\\\\",{text},"\\\\"]'):
            assert archive.value("SELECT tailrace.is_odd(%s)", whole), whole


def test_what_is_in_order_is_no_suspect_but_for_what_is_rare(varied: Archive) -> None:
    """Else each would be asked about alone, and that is slow."""
    keys = varied.rows(
        """SELECT s.stream_key FROM tailrace.suspects(%s, %s) x JOIN tailrace.streams s ON s.id = x ORDER BY 1""",
        LOWEST,
        HIGHEST,
    )
    assert keys == [("quarantine",), ("re-created",)]


def test_the_digest_of_a_long_stream_is_compared(archive: Archive) -> None:
    """Above 10 000 chunks a digest has several blocks."""
    stream = archive.stream()
    for first in range(0, 10_002, 1_667):
        archive.segment(stream, [str(n) for n in range(1_667)], first=first)
    archive.settle(stream, 10_001, [str(n) for n in range(1_667)] * 6)
    for state in ("active", "sealed"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
    assert archive.rows("SELECT tailrace.suspects(%s, %s)", LOWEST, HIGHEST) == []
    archive.run("UPDATE tailrace.segments SET data = replace(data::text, '3,4', '4,3')::json WHERE first_index = 0")
    assert archive.rows("SELECT tailrace.suspects(%s, %s)", LOWEST, HIGHEST) == [(stream,)]


def test_what_postgres_cannot_read_is_a_violation_of_its_stream_alone(archive: Archive, engine: sa.Engine) -> None:
    """As a damaged page is."""
    streams = [archive.whole_stream(["1", "2"], key=str(n)) for n in range(5)]
    archive.connection.execute("ALTER TABLE tailrace.segments DROP CONSTRAINT segments_data_check")
    archive.run("UPDATE tailrace.segments SET data = '{}' WHERE stream_id = %s", streams[3])
    archive.run("UPDATE tailrace.streams SET lost_count = 1 WHERE id = %s", streams[4])
    checked = checked_range(Statements(engine), LOWEST, HIGHEST)
    found = [(each.stream_id, each.stream_key, each.violation) for each in checked.violations]
    assert (checked.streams, found) == (5, [(streams[3], "3", "unreadable"), (streams[4], "4", "count")])
