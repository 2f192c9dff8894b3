-- Everything that 0004 made, newest first; the views of 0001 come back after it (0004_keeping_views.py).
DROP FUNCTION tailrace.note_backfill_page(bigint, bigint, json, text, double precision);
DROP FUNCTION tailrace.request_listed(text, json, int);
DROP FUNCTION tailrace.traces_of(text, text, bigint[]), tailrace.forget_run(text, text);
DROP FUNCTION tailrace.drop_day(date), tailrace.clear_day(date, int), tailrace.partition_days();
DROP FUNCTION tailrace.search_text(text), tailrace.index_text(bigint), tailrace.compact_stream(bigint);
DROP FUNCTION tailrace.merge_segments(bigint, int, bigint, bigint), tailrace.stream_digest(bigint);
DROP FUNCTION tailrace.changes_since(bigint, int), tailrace.changes_until();
DROP VIEW tailrace.message_parts, tailrace.run_overview, tailrace.stream_stats;
DROP FUNCTION tailrace.parts_of_stream(bigint), tailrace.facts_of_stream(bigint);
DROP VIEW tailrace.quarantined, tailrace.gaps, tailrace.stream_text;
DROP FUNCTION tailrace.text_of_stream(bigint), tailrace.chunks_range(text, text, bigint, bigint);
DROP VIEW tailrace.chunks;
DROP FUNCTION tailrace.unpack(
    bigint, json, bigint[], int[], boolean, timestamptz, timestamptz[], bigint, bigint[]
);
