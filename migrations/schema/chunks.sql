-- Chunks as people query them. Columns of the views, here and in text.sql, messages.sql, overviews.sql and losses.sql,
-- are a contract: none may go away or change its meaning without a release that says so, and none raises, whatever a
-- chunk holds.
--
-- Functions that views call read tables that a reader may not. They run with their owner's rights (SECURITY DEFINER),
-- take no text that becomes SQL, and write every name with its schema. Only roles that are granted it may call them:
-- the schema is open to those too who only ask for runs. Each call unpacks a stream, so their COST tells the planner to
-- choose streams first.

-- A segment's chunks with their derived columns, in order. The planner puts this into the query that calls it, so
-- columns that are not asked for cost nothing. All arrays are unpacked side by side: a subscript for each element
-- would detoast the array each time.
CREATE FUNCTION tailrace.unpack(
    p_first_index bigint, p_data json, p_emitted_ms bigint[], p_index_offsets int[], p_odd boolean
) RETURNS TABLE (
    chunk_index bigint, data json, data_text text, data_jsonb jsonb, type text, text_delta text, emitted_at timestamptz
)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 500
BEGIN ATOMIC
    SELECT
        p_first_index + coalesce(c.index_offset, c.n - 1),
        c.data,
        c.data::text,
        CASE WHEN p_odd
            THEN CASE WHEN tailrace.fits_jsonb(tailrace.mended(c.data::text))
                     THEN tailrace.mended(c.data::text)::jsonb
                 END
            ELSE c.data::jsonb
        END,
        CASE WHEN p_odd
            THEN tailrace.type_of(tailrace.mended(c.data::text)::json)
            ELSE tailrace.type_of(c.data)
        END,
        CASE WHEN p_odd
            THEN tailrace.text_delta_of(tailrace.mended(c.data::text)::json)
            ELSE tailrace.text_delta_of(c.data)
        END,
        CASE WHEN c.emitted_ms BETWEEN -62135596800000 AND 253402300799999
            THEN to_timestamp(c.emitted_ms::double precision / 1000)
        END
    FROM ROWS FROM (json_array_elements(p_data), unnest(p_emitted_ms), unnest(p_index_offsets))
        WITH ORDINALITY AS c (data, emitted_ms, index_offset, n);
END;


-- As the function of the same name, with the time and the change of each chunk.
CREATE FUNCTION tailrace.unpack(
    p_first_index bigint, p_data json, p_emitted_ms bigint[], p_index_offsets int[], p_odd boolean,
    p_committed_at timestamptz, p_committed timestamptz[], p_change_id bigint, p_change_ids bigint[]
) RETURNS TABLE (
    chunk_index bigint, data json, data_text text, data_jsonb jsonb, type text, text_delta text, emitted_at timestamptz,
    committed_at timestamptz, change_id bigint
)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 500
BEGIN ATOMIC
    SELECT
        p_first_index + coalesce(c.index_offset, c.n - 1),
        c.data,
        c.data::text,
        CASE WHEN p_odd
            THEN CASE WHEN tailrace.fits_jsonb(tailrace.mended(c.data::text))
                     THEN tailrace.mended(c.data::text)::jsonb
                 END
            ELSE c.data::jsonb
        END,
        CASE WHEN p_odd
            THEN tailrace.type_of(tailrace.mended(c.data::text)::json)
            ELSE tailrace.type_of(c.data)
        END,
        CASE WHEN p_odd
            THEN tailrace.text_delta_of(tailrace.mended(c.data::text)::json)
            ELSE tailrace.text_delta_of(c.data)
        END,
        CASE WHEN c.emitted_ms BETWEEN -62135596800000 AND 253402300799999
            THEN to_timestamp(c.emitted_ms::double precision / 1000)
        END,
        coalesce(c.committed, p_committed_at),
        coalesce(c.change_id, p_change_id, 0)
    FROM ROWS FROM (
        json_array_elements(p_data), unnest(p_emitted_ms), unnest(p_index_offsets), unnest(p_committed),
        unnest(p_change_ids)
    ) WITH ORDINALITY AS c (data, emitted_ms, index_offset, committed, change_id, n);
END;


-- stream_id is the segment's: a range of it (stream_id_at) prunes partitions.
CREATE VIEW tailrace.chunks AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, g.generation, c.chunk_index, c.data, c.data_text, c.data_jsonb,
    c.type, c.text_delta, c.emitted_at, c.committed_at, g.stream_id
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
JOIN tailrace.segments g ON g.stream_id = s.id
CROSS JOIN LATERAL tailrace.unpack(
    g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd, g.committed_at, g.committed, g.change_id, g.change_ids
) c;

COMMENT ON VIEW tailrace.chunks IS
    'Every chunk of every stream. Order by generation, chunk_index. No column raises an error, whatever a chunk holds.';
COMMENT ON COLUMN tailrace.chunks.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.chunks.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.chunks.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.chunks.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.chunks.chunk_index IS 'Upstream''s index.';
COMMENT ON COLUMN tailrace.chunks.data IS 'The chunk as it was sent; operators of type json can raise on it.';
COMMENT ON COLUMN tailrace.chunks.data_text IS 'Its JSON text, byte for byte as it was sent.';
COMMENT ON COLUMN tailrace.chunks.data_jsonb IS
    'As jsonb, U+FFFD for \u0000 and halves of surrogate pairs; null where jsonb can''t hold it: above 16 MiB, '
    'exponents from 1000 up (100 above 1 MiB), numbers of 15 000 digits.';
COMMENT ON COLUMN tailrace.chunks.type IS 'Its type, when that is a string.';
COMMENT ON COLUMN tailrace.chunks.text_delta IS
    'The text it adds: a string chunk itself, or the delta of one of [these shapes](shapes.md).';
COMMENT ON COLUMN tailrace.chunks.emitted_at IS 'Upstream''s time.';
COMMENT ON COLUMN tailrace.chunks.committed_at IS 'When it was archived; compaction keeps it.';
COMMENT ON COLUMN tailrace.chunks.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';


-- The chunks of one stream between two indices, both included, in order. Reads only the segments that hold them:
-- within a generation, from the last one that begins at or before p_from to the last one that begins at or before
-- p_to.
--
-- Looks the stream up first, so that the planner knows its partition: to plan for all of them took ten times as long as
-- to read.
CREATE FUNCTION tailrace.chunks_range(p_run_id text, p_stream_key text, p_from bigint, p_to bigint)
RETURNS SETOF tailrace.chunks
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stream       record;
    v_generation int;
    v_first      bigint;
BEGIN
    FOR stream IN
        SELECT e.name, r.run_id, s.stream_key, s.id, s.generation
        FROM tailrace.runs r
        JOIN tailrace.environments e ON e.id = r.environment_id
        JOIN tailrace.streams s ON s.run = r.id
        WHERE r.run_id = p_run_id AND s.stream_key = p_stream_key
        ORDER BY e.name
    LOOP
        FOR v_generation IN 0 .. stream.generation LOOP
            -- The segment that holds p_from, if one does, begins there.
            SELECT max(h.first_index) INTO v_first FROM tailrace.segments h
            WHERE h.stream_id = stream.id AND h.generation = v_generation AND h.first_index <= p_from;
            RETURN QUERY
                SELECT
                    stream.name, stream.run_id, stream.stream_key, g.generation, c.chunk_index, c.data, c.data_text,
                    c.data_jsonb, c.type, c.text_delta, c.emitted_at, c.committed_at, g.stream_id
                FROM tailrace.segments g
                CROSS JOIN LATERAL tailrace.unpack(
                    g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd,
                    g.committed_at, g.committed, g.change_id, g.change_ids
                ) c
                WHERE g.stream_id = stream.id AND g.generation = v_generation
                  AND g.first_index BETWEEN coalesce(v_first, 0) AND p_to
                  AND c.chunk_index BETWEEN p_from AND p_to
                ORDER BY c.chunk_index;
        END LOOP;
    END LOOP;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.chunks_range(text, text, bigint, bigint) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.chunks_range(text, text, bigint, bigint) IS
    'Rows of view chunks of one stream with chunk_index from p_from to p_to, in order, of every generation.';
