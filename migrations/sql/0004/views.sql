-- What people query, second edition: columns were added at the end of the views of 0001, and views are new. The rules
-- are those of 0001/views.sql: no column raises, whatever a chunk holds.
--
-- Functions that views call read tables that a reader may not. They run with their owner's rights (SECURITY DEFINER),
-- take no text that becomes SQL, and write every name with its schema. Each call unpacks a stream, so their COST tells
-- the planner to choose streams first.

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
CREATE OR REPLACE VIEW tailrace.chunks AS
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

COMMENT ON COLUMN tailrace.chunks.stream_id IS
    'Grows with the time at which the stream was found: stream_id >= tailrace.stream_id_at(''2026-11-01'') reads no '
    'older partition.';


-- The chunks of one stream between two indices, both included, in order. Reads only the segments that hold them:
-- within a generation, from the last one that begins at or before p_from to the last one that begins at or before
-- p_to.
CREATE OR REPLACE FUNCTION tailrace.chunks_range(p_run_id text, p_stream_key text, p_from bigint, p_to bigint)
RETURNS SETOF tailrace.chunks
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
BEGIN ATOMIC
    SELECT
        e.name, r.run_id, s.stream_key, g.generation, c.chunk_index, c.data, c.data_text, c.data_jsonb,
        c.type, c.text_delta, c.emitted_at, c.committed_at, g.stream_id
    FROM tailrace.runs r
    JOIN tailrace.environments e ON e.id = r.environment_id
    JOIN tailrace.streams s ON s.run = r.id
    -- As an array, because the planner takes it for 10 rows and a bare generate_series for 1000.
    CROSS JOIN LATERAL unnest(ARRAY(SELECT generate_series(0, s.generation))) AS every (generation)
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT h.first_index FROM tailrace.segments h
            WHERE h.stream_id = s.id AND h.generation = every.generation AND h.first_index <= p_from
            ORDER BY h.first_index DESC LIMIT 1
        ), 0) AS first_index
        OFFSET 0
    ) head
    CROSS JOIN LATERAL (
        SELECT * FROM tailrace.segments h
        WHERE h.stream_id = s.id AND h.generation = every.generation
          AND h.first_index BETWEEN head.first_index AND p_to
        OFFSET 0  -- keeps the lookup by primary key, whatever the statistics say
    ) g
    CROSS JOIN LATERAL tailrace.unpack(
        g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd,
        g.committed_at, g.committed, g.change_id, g.change_ids
    ) c
    WHERE r.run_id = p_run_id AND s.stream_key = p_stream_key AND c.chunk_index BETWEEN p_from AND p_to
    ORDER BY e.name, g.generation, c.chunk_index;
END;

ALTER FUNCTION tailrace.text_of_stream(bigint) STRICT SECURITY DEFINER COST 100000;

CREATE OR REPLACE VIEW tailrace.stream_text AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, coalesce(t.generation, s.generation) AS generation, t.text,
    s.id AS stream_id
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
-- A text of 1 GB is an error in Postgres, and the text is never longer than the chunks.
LEFT JOIN LATERAL tailrace.text_of_stream(CASE WHEN s.byte_count <= 536870912 THEN s.id END) t ON true;

CREATE OR REPLACE VIEW tailrace.gaps AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, h.generation, h.first_index, h.last_index,
    h.last_index - h.first_index + 1 AS lost, h.reason, h.detected_at, s.id AS stream_id
FROM tailrace.holes h
JOIN tailrace.streams s ON s.id = h.stream_id
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id
WHERE h.reason IN ('trimmed', 'expired', 'recreated');

CREATE OR REPLACE VIEW tailrace.quarantined AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, q.generation, q.chunk_index, q.reason, q.raw, q.detected_at,
    s.id AS stream_id
FROM tailrace.quarantine q
JOIN tailrace.streams s ON s.id = q.stream_id
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id;


-- What `facts` holds of a sealed stream, worked out from its chunks. One row; none for null, without any work.
-- A pause is measured between neighbours in a generation, by upstream's times.
CREATE FUNCTION tailrace.facts_of_stream(p_stream_id bigint) RETURNS SETOF tailrace.facts
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 1
BEGIN ATOMIC
    WITH chunk AS (
        SELECT g.generation, c.chunk_index, left(c.type, 100) AS type, length(c.text_delta) AS characters, c.emitted_at
        FROM tailrace.segments g
        CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
        WHERE g.stream_id = p_stream_id
    ), paused AS (
        SELECT
            c.*,
            extract(epoch FROM c.emitted_at - lag(c.emitted_at) OVER (
                PARTITION BY c.generation ORDER BY c.chunk_index
            ))::double precision AS pause_s
        FROM chunk c
    ), known_type AS (
        SELECT DISTINCT p.type FROM paused p WHERE p.type IS NOT NULL ORDER BY p.type LIMIT 100
    )
    SELECT
        p_stream_id, min(p.emitted_at), max(p.emitted_at), min(p.emitted_at) FILTER (WHERE p.characters > 0),
        max(p.pause_s), (array_agg(p.chunk_index ORDER BY p.pause_s DESC NULLS LAST, p.chunk_index)
                         FILTER (WHERE p.pause_s IS NOT NULL))[1],
        count(*) FILTER (WHERE p.characters > 0), coalesce(sum(p.characters), 0)::bigint,
        coalesce((SELECT array_agg(k.type ORDER BY k.type) FROM known_type k), '{}')
    FROM paused p;
END;

-- How each stream went. Of sealed streams the figures are kept (table facts); of others they are worked out.
CREATE VIEW tailrace.stream_stats AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, r.task_identifier, s.state, s.verdict,
    s.chunk_count AS chunks, s.byte_count AS bytes,
    coalesce(kept.first_emitted_at, live.first_emitted_at) AS first_chunk_at,
    coalesce(kept.last_emitted_at, live.last_emitted_at) AS last_chunk_at,
    extract(epoch FROM coalesce(kept.first_emitted_at, live.first_emitted_at)
                       - coalesce(r.started_at, r.created_at))::double precision AS first_chunk_s,
    extract(epoch FROM coalesce(kept.first_text_at, live.first_text_at)
                       - coalesce(r.started_at, r.created_at))::double precision AS first_text_s,
    span.seconds AS duration_s,
    CASE WHEN span.seconds > 0 THEN s.chunk_count / span.seconds END AS chunks_per_s,
    coalesce(kept.longest_stall_s, live.longest_stall_s) AS longest_stall_s,
    coalesce(kept.stalled_before, live.stalled_before) AS stalled_before,
    coalesce(kept.text_chunks, live.text_chunks, 0) AS text_chunks,
    coalesce(kept.text_characters, live.text_characters, 0) AS text_characters,
    coalesce(kept.chunk_types, live.chunk_types, '{}') AS chunk_types,
    s.lag, s.last_error, s.id AS stream_id
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
LEFT JOIN tailrace.facts kept ON kept.stream_id = s.id
LEFT JOIN LATERAL tailrace.facts_of_stream(
    CASE WHEN kept.stream_id IS NULL AND s.chunk_count > 0 THEN s.id END
) live ON kept.stream_id IS NULL AND s.chunk_count > 0
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM coalesce(kept.last_emitted_at, live.last_emitted_at)
                              - coalesce(kept.first_emitted_at, live.first_emitted_at))::double precision AS seconds
) span;

COMMENT ON VIEW tailrace.stream_stats IS
    'One row for each stream. Times are upstream''s. first_chunk_s and first_text_s count from the run''s start (else '
    'its creation); longest_stall_s is the longest pause between two chunks, the second of which is stalled_before; '
    'chunk_types are up to 100 different types. Sealed streams cost a lookup, others are unpacked.';


-- One row for each run, however many streams it has.
CREATE VIEW tailrace.run_overview AS
SELECT
    e.name AS environment, r.run_id, r.task_identifier, r.status, r.tags, r.created_at, r.started_at, r.finished_at,
    r.state,
    CASE
        WHEN r.pruned_at IS NOT NULL AND t.streams = 0 THEN 'pruned'
        -- Upstream's list named it, and nothing else of upstream's knows it any more.
        WHEN r.state = 'failed' AND t.streams = 0 AND r.status IS NOT NULL THEN 'gone'
        WHEN r.state = 'failed' OR t.failed > 0 THEN 'failed'
        WHEN r.state <> 'sealed' OR t.open > 0 THEN 'open'
        WHEN t.truncated > 0 THEN 'possibly_truncated'
        WHEN t.gaps > 0 THEN 'complete_with_gaps'
        ELSE 'complete'
    END AS verdict,
    t.streams, t.sealed, t.chunks, t.bytes, t.gaps, t.quarantined, t.lag, t.last_chunk_at AS last_committed_at,
    r.requested_at, r.sealed_at, r.pruned_at, coalesce(r.last_error, t.last_error) AS last_error, r.id AS run
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
CROSS JOIN LATERAL (
    SELECT
        count(*) AS streams,
        count(*) FILTER (WHERE s.state = 'sealed') AS sealed,
        count(*) FILTER (WHERE s.state IN ('pending', 'active', 'parked')) AS open,
        count(*) FILTER (WHERE s.state = 'failed' OR s.verdict = 'failed') AS failed,
        count(*) FILTER (WHERE s.verdict = 'possibly_truncated') AS truncated,
        coalesce(sum(s.chunk_count), 0)::bigint AS chunks,
        coalesce(sum(s.byte_count), 0)::bigint AS bytes,
        coalesce(sum(s.lost_count), 0)::bigint AS gaps,
        coalesce(sum(s.quarantine_count), 0)::bigint AS quarantined,
        max(s.lag) FILTER (WHERE s.state IN ('pending', 'active', 'parked')) AS lag,
        max(s.last_chunk_at) AS last_chunk_at,
        max(s.last_error) AS last_error
    FROM tailrace.streams s WHERE s.run = r.id
) t;

COMMENT ON VIEW tailrace.run_overview IS
    'One row for each run. verdict is the worst of its streams: failed, open, possibly_truncated, complete_with_gaps, '
    'complete; pruned when retention dropped them; gone when upstream listed the run and no longer serves it. gaps counts losses; lag is that of the stream furthest behind.';


-- The parts of the AI SDK messages (UI message stream) of one stream. See the comment on view message_parts.
CREATE FUNCTION tailrace.parts_of_stream(p_stream_id bigint) RETURNS TABLE (
    generation int, message int, superseded boolean, step int, first_index bigint, last_index bigint, kind text,
    part_id text, text text, tool_call_id text, tool_name text, state text, input json, output json, error_text text,
    data json, first_at timestamptz, last_at timestamptz
)
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 20
BEGIN ATOMIC
    WITH readable AS (
        SELECT
            g.generation, c.chunk_index, c.emitted_at,
            CASE WHEN g.odd THEN tailrace.mended(c.data_text)::json ELSE c.data END AS data
        FROM tailrace.segments g
        CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
        WHERE g.stream_id = p_stream_id
    ), chunk AS MATERIALIZED (
        -- Only chunks that say their type as a string; a part of any other shape has none.
        SELECT d.generation, d.chunk_index, d.emitted_at, d.data, tailrace.type_of(d.data) AS type
        FROM readable d WHERE json_typeof(d.data) = 'object' AND tailrace.type_of(d.data) IS NOT NULL
    ), placed AS (
        SELECT
            c.*,
            (count(*) FILTER (WHERE c.type = 'start') OVER upto)::int AS message,
            count(*) FILTER (WHERE c.type = 'start') OVER (PARTITION BY c.generation) AS messages,
            (count(*) FILTER (WHERE c.type = 'start-step') OVER upto)::int AS step,
            CASE
                WHEN c.type IN ('text-start', 'text-delta', 'text-end') THEN 'text'
                WHEN c.type IN ('reasoning-start', 'reasoning-delta', 'reasoning-end') THEN 'reasoning'
                WHEN c.type LIKE 'tool-%' THEN 'tool'
                WHEN c.type = 'error' THEN 'error'
                WHEN c.type IN ('source-url', 'source-document', 'file', 'custom') OR c.type LIKE 'data-%' THEN c.type
            END AS kind
        FROM chunk c
        WINDOW upto AS (PARTITION BY c.generation ORDER BY c.chunk_index)
    ), reset AS (
        SELECT p.generation, p.message, p.step, max(p.chunk_index) AS chunk_index
        FROM placed p WHERE p.type = 'reset-step' GROUP BY 1, 2, 3
    ), part AS (
        SELECT
            p.*,
            CASE WHEN p.kind IN ('text', 'reasoning') THEN p.data ->> 'id' END AS block_id,
            CASE WHEN p.kind = 'tool' THEN p.data ->> 'toolCallId' END AS call_id,
            coalesce(p.chunk_index < r.chunk_index, false) AS taken_back
        FROM placed p
        LEFT JOIN reset r ON r.generation = p.generation AND r.message = p.message AND r.step = p.step
        WHERE p.kind IS NOT NULL
    ), block AS (
        -- Text and reasoning: a block begins at each start, and ids are used again. A tool call is what has one id.
        -- Everything else stands alone.
        SELECT
            p.*,
            CASE p.kind
                WHEN 'text' THEN count(*) FILTER (WHERE p.type = 'text-start') OVER same
                WHEN 'reasoning' THEN count(*) FILTER (WHERE p.type = 'reasoning-start') OVER same
                WHEN 'tool' THEN CASE WHEN p.call_id IS NULL THEN p.chunk_index ELSE -1 END
                ELSE p.chunk_index
            END AS use_of_id
        FROM part p
        WINDOW same AS (PARTITION BY p.generation, p.message, p.kind, p.block_id ORDER BY p.chunk_index)
    )
    SELECT
        b.generation, b.message, b.message < max(b.messages) OR bool_and(b.taken_back), max(b.step),
        min(b.chunk_index), max(b.chunk_index), b.kind, b.block_id,
        CASE WHEN b.kind IN ('text', 'reasoning') THEN string_agg(
            CASE json_typeof(coalesce(b.data -> 'delta', b.data -> 'text'))
                WHEN 'string' THEN coalesce(b.data ->> 'delta', b.data ->> 'text')
            END, '' ORDER BY b.chunk_index
        ) END,
        b.call_id,
        (array_agg(b.data ->> 'toolName' ORDER BY b.chunk_index)
            FILTER (WHERE b.kind = 'tool' AND b.data -> 'toolName' IS NOT NULL))[1],
        CASE WHEN b.kind IN ('text', 'reasoning', 'tool')
            THEN (array_agg(b.type ORDER BY b.chunk_index DESC))[1]
        END,
        (array_agg(b.data -> 'input' ORDER BY b.chunk_index DESC)
            FILTER (WHERE b.kind = 'tool' AND b.data -> 'input' IS NOT NULL))[1],
        (array_agg(b.data -> 'output' ORDER BY b.chunk_index DESC)
            FILTER (WHERE b.kind = 'tool' AND b.data -> 'output' IS NOT NULL))[1],
        (array_agg(b.data ->> 'errorText' ORDER BY b.chunk_index DESC)
            FILTER (WHERE b.kind IN ('tool', 'error') AND b.data -> 'errorText' IS NOT NULL))[1],
        CASE WHEN b.kind NOT IN ('text', 'reasoning', 'tool')
            THEN (array_agg(b.data ORDER BY b.chunk_index))[1]
        END,
        min(b.emitted_at), max(b.emitted_at)
    FROM block b
    GROUP BY b.generation, b.message, b.kind, b.block_id, b.call_id, b.use_of_id;
END;

CREATE VIEW tailrace.message_parts AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, p.generation, p.message, p.superseded, p.step, p.first_index,
    p.last_index, p.kind, p.part_id, p.text, p.tool_call_id, p.tool_name, p.state, p.input, p.output, p.error_text,
    p.data, p.first_at, p.last_at, s.id AS stream_id
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
-- As in stream_text: no text of a part may reach Postgres' limit of 1 GB.
CROSS JOIN LATERAL tailrace.parts_of_stream(CASE WHEN s.byte_count <= 536870912 THEN s.id END) p;

COMMENT ON VIEW tailrace.message_parts IS
    'The parts of AI SDK UI messages: one row for each text, reasoning, tool call, error, source, file or data part. '
    'superseded: of an attempt that a later "start" replaced, or of a step that was reset. kind: text, reasoning, tool, '
    'error, source-url, source-document, file, custom or data-...; state: the type of the part''s last chunk, for a '
    'tool call for example tool-output-available or tool-output-error. input, output and data are JSON with U+FFFD in '
    'the place of \u0000 and of halves of surrogate pairs.';


-- Which changes are certainly all visible: those below this number. A transaction that is still open holds it back.
CREATE FUNCTION tailrace.changes_until() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint;

-- What was archived after a cursor. See the comment on function changes_since.
CREATE FUNCTION tailrace.changes_since(p_cursor bigint DEFAULT 0, p_segments int DEFAULT NULL) RETURNS TABLE (
    change_id bigint, environment text, run_id text, stream_key text, generation int, chunk_index bigint, data json,
    data_text text, data_jsonb jsonb, type text, text_delta text, emitted_at timestamptz, committed_at timestamptz,
    stream_id bigint
)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10000
BEGIN ATOMIC
    WITH bound AS (
        -- The last change that is looked at: the newest that is safe, or the one of the p_segments-th segment.
        SELECT coalesce((
            SELECT g.change_id FROM tailrace.segments g
            WHERE p_segments IS NOT NULL AND g.change_id > p_cursor AND g.change_id < tailrace.changes_until()
            ORDER BY g.change_id OFFSET greatest(p_segments, 1) - 1 LIMIT 1
        ), tailrace.changes_until() - 1) AS change_id
    )
    SELECT
        c.change_id, e.name, r.run_id, s.stream_key, g.generation, c.chunk_index, c.data, c.data_text, c.data_jsonb,
        c.type, c.text_delta, c.emitted_at, c.committed_at, g.stream_id
    FROM bound
    CROSS JOIN tailrace.segments g
    JOIN tailrace.streams s ON s.id = g.stream_id
    JOIN tailrace.runs r ON r.id = s.run
    JOIN tailrace.environments e ON e.id = r.environment_id
    CROSS JOIN LATERAL tailrace.unpack(
        g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd,
        g.committed_at, g.committed, g.change_id, g.change_ids
    ) c
    -- Segments from before 0003 have no change_id: they are change 0, which cursor -1 asks for.
    WHERE (g.change_id > p_cursor OR (g.change_id IS NULL AND p_cursor < 0))
      AND c.change_id > p_cursor AND c.change_id <= bound.change_id
    ORDER BY c.change_id, g.stream_id, g.generation, c.chunk_index;
END;

COMMENT ON FUNCTION tailrace.changes_since(bigint, int) IS
    'The chunks that were committed after a cursor, in the order of their change_id. Keep the largest change_id that '
    'you have processed and ask with it again: no chunk is missed, whatever the order of commits, and none comes twice, '
    'compaction or not. Begin with -1. p_segments: stop after the change that holds the so manieth segment. A '
    'transaction that stays open anywhere on the server holds newer changes back.';
