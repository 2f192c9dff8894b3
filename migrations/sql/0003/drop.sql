-- Everything that 0003 made, newest first. The views of 0001 were made again on the wider tables, so they go and come
-- back once more (0003_keeping.py).
DROP VIEW tailrace.quarantined, tailrace.gaps, tailrace.stream_text;
DROP FUNCTION tailrace.text_of_stream(bigint), tailrace.chunks_range(text, text, bigint, bigint);
DROP VIEW tailrace.chunks;
DROP TRIGGER runs_forgotten ON tailrace.runs;
DROP FUNCTION tailrace.check_not_forgotten(), tailrace.run_hash(text);
DROP TABLE tailrace.discoveries, tailrace.backfills, tailrace.exported, tailrace.forgotten, tailrace.search,
    tailrace.facts;
ALTER TABLE tailrace.runs DROP COLUMN pruned_at;
ALTER TABLE tailrace.streams DROP COLUMN compacted_at, DROP COLUMN indexed_at, DROP COLUMN keep_error;
-- Compacted segments keep the time of their last chunk only.
ALTER TABLE tailrace.segments DROP COLUMN committed, DROP COLUMN change_id, DROP COLUMN change_ids;
