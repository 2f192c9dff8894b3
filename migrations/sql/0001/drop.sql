-- Everything that 0001 made, newest first. Deletes the archive.
DROP FUNCTION tailrace.verify_accounts(bigint);
DROP VIEW tailrace.quarantined, tailrace.gaps, tailrace.stream_text;
DROP FUNCTION tailrace.text_of_stream(bigint);
DROP FUNCTION tailrace.chunks_range(text, text, bigint, bigint);
DROP VIEW tailrace.chunks;
DROP FUNCTION tailrace.unpack(bigint, json, bigint[], int[], boolean);
DROP FUNCTION
    tailrace.text_delta_of(json), tailrace.type_of(json), tailrace.mended(text), tailrace.is_odd(text),
    tailrace.fits_jsonb(text);
DROP FUNCTION tailrace.request_ingest(text, text[], text, int);
DROP TABLE tailrace.quarantine, tailrace.holes;
DROP TABLE tailrace.segments;
DROP FUNCTION tailrace.ensure_partitions(int, int), tailrace.stream_id_at(timestamptz);
DROP TABLE tailrace.streams;
DROP FUNCTION tailrace.check_stream_move();
DROP TABLE tailrace.runs, tailrace.workers, tailrace.environments;
DROP FUNCTION tailrace.next_id();
DROP SEQUENCE tailrace.id_bits;
