-- Compaction of sealed streams: their digest, large segments and facts. Each function is one statement to its caller,
-- so no lock is held across a round trip; a reader sees either the segments before or those after.

-- What a stream holds, as 32 bytes: sha256 of the sha256 of every 10 000 chunks' sha256, in order. A chunk's is that of
-- its generation (4 bytes), its index (8 bytes, both big-endian) and its text in UTF-8. How the chunks are spread over
-- segments plays no part. No chunk: sha256 of nothing.
CREATE FUNCTION tailrace.stream_digest(p_stream_id bigint) RETURNS bytea
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH chunk AS (
        SELECT
            row_number() OVER (ORDER BY g.generation, c.chunk_index) - 1 AS n,
            sha256(int4send(g.generation) || int8send(c.chunk_index) || convert_to(c.data_text, 'UTF8')) AS hash
        FROM tailrace.segments g
        CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
        WHERE g.stream_id = p_stream_id
    ), block AS (
        SELECT c.n / 10000 AS block, sha256(string_agg(c.hash, ''::bytea ORDER BY c.n)) AS hash
        FROM chunk c GROUP BY c.n / 10000
    )
    SELECT sha256(coalesce(string_agg(b.hash, ''::bytea ORDER BY b.block), ''::bytea)) FROM block b;
END;

COMMENT ON FUNCTION tailrace.stream_digest(bigint) IS
    'A digest of the indices and texts of a stream''s chunks. For a sealed stream it must equal streams.digest.';


-- Make one segment of those of a stream and generation that begin between two indices, both included. Their texts are
-- put together as they are; each chunk keeps its index, its times and its change. Fingerprints are dropped.
CREATE FUNCTION tailrace.merge_segments(p_stream_id bigint, p_generation int, p_first bigint, p_last bigint)
RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH part AS MATERIALIZED (
        SELECT * FROM tailrace.segments g
        WHERE g.stream_id = p_stream_id AND g.generation = p_generation AND g.first_index BETWEEN p_first AND p_last
    ), chunk AS MATERIALIZED (
        SELECT
            p.first_index, c.n, c.emitted_ms,
            p.first_index + coalesce(c.index_offset, c.n - 1) - p_first AS index_offset,
            coalesce(c.committed, p.committed_at) AS committed, coalesce(c.change_id, p.change_id, 0) AS change_id
        FROM part p
        CROSS JOIN LATERAL ROWS FROM (
            unnest(p.emitted_ms), unnest(p.index_offsets), unnest(p.committed), unnest(p.change_ids)
        ) WITH ORDINALITY AS c (emitted_ms, index_offset, committed, change_id, n)
    ), merged AS (
        SELECT
            max(p.last_index) AS last_index,
            sum(p.chunk_count)::int AS chunk_count,
            -- [a,b] and [c] become [a,b,c]. The brackets are the first and the last character: the Writer puts
            -- nothing around them.
            ('[' || string_agg(substr(p.data::text, 2, length(p.data::text) - 2), ',' ORDER BY p.first_index)
                || ']')::json AS data,
            bool_or(p.odd) AS odd
        FROM part p
    ), arrays AS (
        SELECT
            array_agg(c.emitted_ms ORDER BY c.first_index, c.n) AS emitted_ms,
            array_agg(c.index_offset::int ORDER BY c.first_index, c.n) AS index_offsets,
            array_agg(c.committed ORDER BY c.first_index, c.n) AS committed,
            array_agg(c.change_id ORDER BY c.first_index, c.n) AS change_ids,
            min(c.committed) AS committed_first, max(c.committed) AS committed_last,
            min(c.change_id) AS change_first, max(c.change_id) AS change_last
        FROM chunk c
    )
    UPDATE tailrace.segments g SET
        last_index = m.last_index,
        chunk_count = m.chunk_count,
        data = m.data,
        emitted_ms = a.emitted_ms,
        index_offsets = CASE WHEN m.last_index - p_first + 1 > m.chunk_count THEN a.index_offsets END,
        odd = m.odd,
        fingerprints = NULL,
        cursor = NULL,
        committed_at = a.committed_last,
        committed = CASE WHEN a.committed_first < a.committed_last THEN a.committed END,
        change_id = a.change_last,
        change_ids = CASE WHEN a.change_first < a.change_last THEN a.change_ids END
    FROM merged m, arrays a
    WHERE g.stream_id = p_stream_id AND g.generation = p_generation AND g.first_index = p_first;

    DELETE FROM tailrace.segments g
    WHERE g.stream_id = p_stream_id AND g.generation = p_generation AND g.first_index > p_first
      AND g.first_index <= p_last;
END
$$;


-- Compact a sealed stream, and note its digest and facts. Returns how many segments it had and has; no row when it is
-- not sealed, leased, locked by somebody else or gone. In one transaction: lock the stream's row, check, put
-- neighbours together up to 2 000 chunks and 1 MiB, compare the digests, bump rev. Raises, and so changes nothing,
-- when the digest is not what it was.
CREATE FUNCTION tailrace.compact_stream(p_stream_id bigint) RETURNS TABLE (segments_before int, segments_after int)
LANGUAGE plpgsql AS $$
DECLARE
    stream        tailrace.streams;
    segment       record;
    digest_before bytea;
    digest_after  bytea;
    group_generation int;
    group_first   bigint;
    group_last    bigint;
    group_end     bigint;
    group_size    int := 0;
    group_chunks  bigint := 0;
    group_bytes   bigint := 0;
    firsts        bigint[] := '{}';
    lasts         bigint[] := '{}';
    generations   int[] := '{}';
    i             int;
BEGIN
    SELECT * INTO stream FROM tailrace.streams s
    WHERE s.id = p_stream_id AND s.state = 'sealed' AND s.worker_id IS NULL
    FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;

    digest_before := tailrace.stream_digest(p_stream_id);
    IF stream.digest IS NOT NULL AND stream.digest <> digest_before THEN
        RAISE EXCEPTION 'the contents of stream % are not what they were when it was sealed', p_stream_id
            USING ERRCODE = 'data_corrupted';
    END IF;

    segments_before := 0;
    segments_after := 0;
    FOR segment IN
        SELECT g.generation, g.first_index, g.last_index, g.chunk_count, octet_length(g.data::text) AS bytes
        FROM tailrace.segments g WHERE g.stream_id = p_stream_id
        ORDER BY g.generation, g.first_index
    LOOP
        segments_before := segments_before + 1;
        IF group_size > 0 AND segment.generation = group_generation
            AND group_chunks + segment.chunk_count <= 2000
            AND group_bytes + segment.bytes <= 1048576
            AND segment.last_index - group_first < 2147483647
        THEN
            group_size := group_size + 1;
            group_last := segment.first_index;
            group_chunks := group_chunks + segment.chunk_count;
            group_bytes := group_bytes + segment.bytes;
        ELSE
            IF group_size > 1 THEN
                generations := generations || group_generation;
                firsts := firsts || group_first;
                lasts := lasts || group_last;
            END IF;
            segments_after := segments_after + 1;
            group_size := 1;
            group_generation := segment.generation;
            group_first := segment.first_index;
            group_last := segment.first_index;
            group_chunks := segment.chunk_count;
            group_bytes := segment.bytes;
        END IF;
    END LOOP;
    IF group_size > 1 THEN
        generations := generations || group_generation;
        firsts := firsts || group_first;
        lasts := lasts || group_last;
    END IF;

    FOR i IN 1 .. cardinality(firsts) LOOP
        PERFORM tailrace.merge_segments(p_stream_id, generations[i], firsts[i], lasts[i]);
    END LOOP;
    UPDATE tailrace.segments g SET fingerprints = NULL WHERE g.stream_id = p_stream_id AND g.fingerprints IS NOT NULL;

    IF cardinality(firsts) > 0 THEN
        digest_after := tailrace.stream_digest(p_stream_id);
        IF digest_after <> digest_before THEN
            RAISE EXCEPTION 'compaction would change the contents of stream %', p_stream_id
                USING ERRCODE = 'data_corrupted';
        END IF;
    END IF;

    INSERT INTO tailrace.facts AS f SELECT * FROM tailrace.facts_of_stream(p_stream_id)
    ON CONFLICT (stream_id) DO UPDATE SET
        first_emitted_at = excluded.first_emitted_at, last_emitted_at = excluded.last_emitted_at,
        first_text_at = excluded.first_text_at, longest_stall_s = excluded.longest_stall_s,
        stalled_before = excluded.stalled_before, text_chunks = excluded.text_chunks,
        text_characters = excluded.text_characters, chunk_types = excluded.chunk_types;

    UPDATE tailrace.streams s
    SET rev = s.rev + 1, digest = digest_before, compacted_at = now()
    WHERE s.id = p_stream_id;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION tailrace.compact_stream(bigint) IS
    'Makes large segments of a sealed stream''s small ones; contents provably equal. Safe at any time.';
