"""Archives of several days for tests of what verifies them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from tests.integration.schema_rows import Archive

TODAY = datetime.now(UTC).date()


def day(days_ago: int) -> date:
    return TODAY - timedelta(days=days_ago)


def fill(archive: Archive, days: dict[int, int], *, compacted: bool = True) -> dict[int, list[int]]:
    """Make so many sealed streams on each of these days (how many days ago), with digests if ``compacted``; return their
    ids."""
    made: dict[int, list[int]] = {}
    for days_ago, count in days.items():
        archive.value("SELECT tailrace.ensure_partition(%s)", day(days_ago))
        for n in range(count):
            run = archive.value("SELECT tailrace.request_ingest(%s)", f"run_{days_ago}_{n}")
            stream = archive.value(
                """INSERT INTO tailrace.streams (id, run, stream_key)
                   VALUES (tailrace.stream_id_at(%s::timestamp AT TIME ZONE 'UTC' + interval '5 h') + %s, %s, 'ai')
                   RETURNING id""",
                day(days_ago),
                n,
                run,
            )
            archive.segment(stream, ['"one"', '"two"'])
            archive.settle(stream, 1, ['"one"', '"two"'])
            for state in ("active", "sealed"):
                archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
            if compacted:
                archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
            made.setdefault(days_ago, []).append(stream)
    return made


def change(archive: Archive, stream: int) -> None:
    """Change what a sealed stream holds; a second time undoes it."""
    archive.run(
        """UPDATE tailrace.segments
           SET data = CASE data->>0 WHEN 'one' THEN '["two","one"]' ELSE '["one","two"]' END::json
           WHERE stream_id = %s""",
        stream,
    )
