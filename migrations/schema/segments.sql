-- Segments: the chunks themselves. partitions.sql makes their daily partitions.

-- What is added to this server's transaction ids so that changes have greater numbers than those before them: not 0
-- where the archive came from another server (`follow_server`, which writes it anew).
CREATE FUNCTION tailrace.changes_base() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN 0::bigint;

-- For which server that number is right; no row: nobody has looked yet.
CREATE TABLE tailrace.counted_on (
    one               boolean PRIMARY KEY DEFAULT true,
    system_identifier bigint NOT NULL,
    CONSTRAINT counted_on_one_check CHECK (one)
);


-- One row is one batch: `data` holds the chunks' JSON texts as they were sent, `emitted_ms` upstream's time of each. A
-- compacted segment keeps the time and the change of each chunk: `committed` and `change_ids` are as long as
-- emitted_ms, or null when committed_at and change_id hold for all of the segment.
--
-- Partitioned by days of stream_id; no foreign key, so that old partitions can be dropped.
CREATE TABLE tailrace.segments (
    stream_id     bigint NOT NULL,
    generation    int NOT NULL,
    first_index   bigint NOT NULL,
    last_index    bigint NOT NULL,
    chunk_count   int NOT NULL,
    data          json NOT NULL,
    emitted_ms    bigint[] NOT NULL,
    index_offsets int[],
    odd           boolean NOT NULL DEFAULT false,
    fingerprints  bytea,
    cursor        json,
    committed_at  timestamptz NOT NULL DEFAULT now(),
    committed     timestamptz[],
    change_id     bigint DEFAULT (pg_current_xact_id()::text)::bigint + tailrace.changes_base(),
    change_ids    bigint[],
    CONSTRAINT segments_pkey PRIMARY KEY (stream_id, generation, first_index),
    CONSTRAINT segments_range_check CHECK (generation >= 0 AND first_index >= 0 AND last_index >= first_index),
    CONSTRAINT segments_count_check CHECK (
        chunk_count BETWEEN 1 AND 2000 AND cardinality(emitted_ms) = chunk_count
        AND array_position(emitted_ms, NULL) IS NULL
    ),
    -- The last line of defence against a text that is more than one chunk.
    CONSTRAINT segments_data_check CHECK (json_array_length(data) = chunk_count),
    CONSTRAINT segments_offsets_check CHECK (
        CASE WHEN index_offsets IS NULL
            THEN last_index - first_index = chunk_count - 1
            ELSE cardinality(index_offsets) = chunk_count
                 AND index_offsets[1] = 0 AND index_offsets[chunk_count] = last_index - first_index
        END
    )
) PARTITION BY RANGE (stream_id);

COMMENT ON COLUMN tailrace.segments.data IS 'A JSON array; its elements are the chunks, byte for byte.';
COMMENT ON COLUMN tailrace.segments.index_offsets IS
    'Each chunk''s index less first_index, ascending; null: the indices have no holes.';
COMMENT ON COLUMN tailrace.segments.odd IS
    'Some chunk holds what ->> or jsonb may refuse (function is_odd says what); the views then read with care.';
COMMENT ON COLUMN tailrace.segments.fingerprints IS
    'Of each chunk''s record, packed (v2), by which a repeat of it is known; null when compacted.';
COMMENT ON COLUMN tailrace.segments.cursor IS
    'The stream''s resume position after it, of a commit that left the row of the stream as it was; else null.';
COMMENT ON COLUMN tailrace.segments.committed IS 'Compacted: when each chunk was committed; null: all at committed_at.';
COMMENT ON COLUMN tailrace.segments.change_id IS 'The transaction that wrote it (the last one, when compacted), plus changes_base().';
COMMENT ON COLUMN tailrace.segments.change_ids IS 'Compacted: the change_id of each chunk; null: all change_id.';

-- lz4 unpacks several times faster than pglz. Servers built without it keep their default.
DO $$
BEGIN
    ALTER TABLE tailrace.segments ALTER COLUMN data SET COMPRESSION lz4, ALTER COLUMN emitted_ms SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL;
END
$$;


-- The first and the last change of a compacted segment whose chunks have several; null for null.
CREATE FUNCTION tailrace.span_of_changes(p_change_ids bigint[]) RETURNS int8range
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (SELECT int8range(min(c), max(c), '[]') FROM unnest(p_change_ids) c);

-- What changed after a cursor: by the segment's last change, and within compacted segments by their first and last.
CREATE INDEX segments_change_id_idx ON tailrace.segments (change_id);
CREATE INDEX segments_changes_idx ON tailrace.segments USING gist (tailrace.span_of_changes(change_ids))
    WHERE change_ids IS NOT NULL;
